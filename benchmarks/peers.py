"""The engines that are compared: tfc and its peers, each behind the same small protocol.

A peer that is not installed has no version and is left out.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.compilers import Iree, Tvm, Xla
from benchmarks.engine import Engine, Run, installed
from benchmarks.models import Arrays
from benchmarks.pytorch import Torch


class Tfc:
    """The compiler of this repository. dtype: what operands of products are rounded to."""

    def __init__(self, dtype: str = "f32") -> None:
        self.name = "tfc" if dtype == "f32" else f"tfc-{dtype}"
        self.dtype = dtype

    def version(self) -> str | None:
        return installed("tfc-compiler") or "checkout"

    def load(self, path: Path, threads: int) -> Run:
        import tfc

        executable: Run = tfc.compile(path, threads=threads, dtype=self.dtype)
        return executable


class OnnxRuntime:
    """ONNX Runtime's CPU provider, operators one after another."""

    name = "onnxruntime"

    def version(self) -> str | None:
        return installed("onnxruntime")

    def load(self, path: Path, threads: int) -> Run:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        names = [output.name for output in session.get_outputs()]

        def run(feeds: Arrays) -> Arrays:
            return dict(zip(names, session.run(names, feeds), strict=True))

        return run


class OpenVino:
    """OpenVINO's CPU plugin, one stream. `precise`: f32 stays f32; the default may use bf16."""

    def __init__(self, precise: bool) -> None:
        self.name = "openvino" if precise else "openvino-default"
        self.precise = precise

    def version(self) -> str | None:
        return installed("openvino")

    def load(self, path: Path, threads: int) -> Run:
        import openvino

        config: dict[str, str | int] = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads,
        }
        if self.precise:
            config["INFERENCE_PRECISION_HINT"] = "f32"
            config["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 0
        compiled = openvino.Core().compile_model(str(path), "CPU", config)
        request = compiled.create_infer_request()
        names = [output.get_any_name() for output in compiled.outputs]

        def run(feeds: Arrays) -> Arrays:
            # Without sharing, every call would copy its inputs and outputs once more.
            found = request.infer(feeds, share_inputs=True, share_outputs=True)
            return {name: np.asarray(found[i]) for i, name in enumerate(names)}

        return run


TFC = Tfc()
# What is compared, by its precision, and with whom unless others are named.
SUBJECTS: dict[str, Engine] = {each.dtype: each for each in (TFC, Tfc("bf16"))}
PEERS: tuple[Engine, ...] = (
    OnnxRuntime(),
    OpenVino(True),
    OpenVino(False),
    Torch(False),
    Torch(True),
    Iree(),
    Tvm(),
    Xla(),
    TFC,
)
DEFAULT_PEERS = {
    "f32": ("onnxruntime", "openvino"),
    "bf16": ("openvino-default", "tfc"),
}


def engine(name: str) -> Engine:
    """Return the engine called `name`."""
    return next(each for each in (*SUBJECTS.values(), *PEERS) if each.name == name)
