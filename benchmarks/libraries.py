"""Libraries that single ops are compared with: calls of numpy and PyTorch, and engines of ONNX.

Each is given the op's operands and returns a call, or None for an op that it has not.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks.models import Array, Arrays
from benchmarks.ops import Op, Product, write_model
from benchmarks.peers import TFC, Engine, OnnxRuntime, OpenVino, installed

Call = Callable[[], object]
MANY_MULTIPLICATIONS = ("strassen", "winograd")


class Library(Protocol):
    """Something that computes single ops."""

    @property
    def name(self) -> str:
        """What it is called in tables and on the command line."""
        ...

    def version(self) -> str | None:
        """Return its version, or None where it is not installed."""
        ...

    def prepare(self, op: Op, x: Array, weight: Array, threads: int) -> Call | None:
        """Return a call that computes the op, its result an array or the only entry of a dict."""
        ...


class Compiled:
    """An engine that loads ONNX models."""

    def __init__(self, engine: Engine) -> None:
        self.name = engine.name
        self.engine = engine

    def version(self) -> str | None:
        return self.engine.version()

    def prepare(self, op: Op, x: Array, weight: Array, threads: int) -> Call:
        feeds: Arrays = {"x": x} if op.fixed else {"x": x, "w": weight}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "op.onnx"
            write_model(op, weight, path)
            return partial(self.engine.load(path, threads), feeds)


class PlainTfc:
    """tfc without Strassen's and Winograd's algorithms."""

    name = "tfc-plain"

    def version(self) -> str | None:
        return TFC.version()

    def load(self, path: Path, threads: int) -> Callable[[Arrays], Arrays]:
        import tfc
        from tfc.cli.main import group

        artifact = path.with_suffix(".so")
        disabled = [f"--disable-pass={name}" for name in MANY_MULTIPLICATIONS]
        with contextlib.redirect_stdout(None):
            group(["compile", str(path), "-o", str(artifact), *disabled], standalone_mode=False)
        executable: Callable[[Arrays], Arrays] = tfc.load(artifact, threads=threads)
        return executable


class Numpy:
    """numpy's matrix products: OpenBLAS in its wheels."""

    name = "numpy"

    def version(self) -> str | None:
        return np.__version__

    def prepare(self, op: Op, x: Array, weight: Array, threads: int) -> Call | None:
        if not isinstance(op, Product):
            return None
        left, right = sides(op, x, weight)
        return partial(np.matmul, left, right, np.empty(op.out, np.float32))


def sides(op: Product, x: Any, weight: Any) -> tuple[Any, Any]:
    """Return views of both sides as they are multiplied, of arrays or tensors."""
    return (x.T if "A" in op.turned else x), (weight.T if "B" in op.turned else weight)


def _tensors(x: Array, weight: Array, threads: int) -> tuple[Any, Any]:
    """Return both operands as PyTorch has them, which then uses so many threads."""
    import torch

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    return torch.from_numpy(x), torch.from_numpy(weight)


class Torch:
    """PyTorch's eager calls: MKL's products, oneDNN's convolutions with channels first."""

    name = "torch"

    def version(self) -> str | None:
        return installed("torch")

    def prepare(self, op: Op, x: Array, weight: Array, threads: int) -> Call | None:
        import torch

        data, filters = _tensors(x, weight, threads)
        if isinstance(op, Product):
            left, right = sides(op, data, filters)
            return partial(torch.matmul, left, right, out=torch.empty(op.out))
        functional = torch.nn.functional
        name = f"conv{'_transpose' if op.transposed else ''}{op.axes}d"
        options = {"output_padding": op.extra} if op.transposed else {}
        return partial(
            getattr(functional, name), data, filters, stride=op.stride, padding=op.pad,
            dilation=op.dilation, groups=op.groups, **options,
        )  # fmt: skip


class OneDnn:
    """oneDNN through PyTorch, with weights in the layout that it asks for.

    last: convolutions get and give pictures with channels last, which spares it to reorder them.
    """

    def __init__(self, last: bool) -> None:
        self.name = "onednn-last" if last else "onednn"
        self.last = last

    def version(self) -> str | None:
        return installed("torch")

    def prepare(self, op: Op, x: Array, weight: Array, threads: int) -> Call | None:
        import torch

        data, filters = _tensors(x, weight, threads)
        ops, own = torch.ops.mkldnn, torch._C._nn
        if isinstance(op, Product):
            if self.last or not op.fixed or op.batch:
                return None
            left, right = sides(op, data, filters)
            packed = ops._reorder_linear_weight(right.t().contiguous(), op.m)
            return partial(ops._linear_pointwise, left, packed, None, "none", [], "")
        if op.transposed or not op.fixed or (self.last and op.axes == 1):
            return None
        if self.last:
            order = torch.channels_last if op.axes == 2 else torch.channels_last_3d
            data = data.contiguous(memory_format=order)
        pads, strides, steps = ([n] * op.axes for n in (op.pad, op.stride, op.dilation))
        reorder = getattr(own, f"mkldnn_reorder_conv{op.axes}d_weight", None)
        if reorder is not None:
            filters = reorder(filters.to_mkldnn(), pads, strides, steps, op.groups, op.x)
        return partial(
            ops._convolution_pointwise, data, filters, None, pads, strides, steps, op.groups,
            "none", [], "",
        )  # fmt: skip


LIBRARIES: tuple[Library, ...] = (
    Compiled(TFC),
    Compiled(PlainTfc()),
    Numpy(),
    Torch(),
    OneDnn(False),
    OneDnn(True),
    Compiled(OnnxRuntime()),
    Compiled(OpenVino(True)),
)
DEFAULT = ("tfc", "tfc-plain", "numpy", "torch", "onednn", "onnxruntime")
