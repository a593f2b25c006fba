"""PyTorch as a peer: models are converted by onnx2torch, and called or compiled by Inductor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.engine import Run, installed
from benchmarks.models import Arrays

# onnx2torch lacks some operators of either; older ones than the model's are made where it can be.
VERSIONS = (17, 15)


class Torch:
    """PyTorch's eager mode, or what `torch.compile` makes: in the first call, which compiles.

    The number of threads is the process's, so that the last model loaded decides.
    """

    def __init__(self, compiled: bool) -> None:
        self.name = "inductor" if compiled else "torch"
        self.compiled = compiled

    def version(self) -> str | None:
        return installed("torch") if installed("onnx2torch") else None

    def load(self, path: Path, threads: int) -> Run:
        import onnx
        import torch

        torch.set_num_threads(threads)
        proto = onnx.load(path)
        constants = {each.name for each in proto.graph.initializer}
        inputs = [each.name for each in proto.graph.input if each.name not in constants]
        outputs = [each.name for each in proto.graph.output]
        module: Any = _converted(proto).eval()
        if self.compiled:
            module = torch.compile(module)

        def run(feeds: Arrays) -> Arrays:
            with torch.inference_mode():
                found = module(*(torch.from_numpy(feeds[name]) for name in inputs))
            results = found if isinstance(found, (list, tuple)) else [found]
            return {name: each.numpy() for name, each in zip(outputs, results, strict=True)}

        return run


def _converted(proto: Any) -> Any:
    """Return the module of a model, of its own version of operators or of an older one."""
    import onnx2torch
    from onnx.version_converter import convert_version

    _plain_reshapes(proto)
    faults: list[Exception] = []
    for version in (None, *VERSIONS):
        try:
            return onnx2torch.convert(proto if version is None else convert_version(proto, version))
        except (NotImplementedError, RuntimeError) as error:
            faults.append(error)
    raise faults[0]


def _plain_reshapes(proto: Any) -> None:
    """Drop what onnx2torch does not know and what says nothing where no size is written as 0."""
    from onnx.numpy_helper import to_array

    sizes = {each.name: to_array(each) for each in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            sizes[node.output[0]] = to_array(node.attribute[0].t)
        if node.op_type == "Reshape" and 0 not in sizes.get(node.input[1], [0]):
            kept = [each for each in node.attribute if each.name != "allowzero"]
            del node.attribute[:]
            node.attribute.extend(kept)
