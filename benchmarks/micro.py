"""Sweeps over sizes of single ops: `python -m benchmarks.micro [matmul|conv ...]`.

GFLOP/s of tfc, numpy (matrix products) and ONNX Runtime, and their share of the measured peak.
Convolutions count the multiply-adds of the definition: with Winograd more than 100 % is possible.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.models import Array, Arrays
from benchmarks.peak import fma_peak
from benchmarks.peers import TFC, OnnxRuntime
from benchmarks.timing import side_by_side

ENGINES = (TFC, OnnxRuntime())


@dataclass(frozen=True)
class Op:
    """One op with its sizes. weight: the right side, a constant of the model where `fixed`."""

    name: str
    kind: str
    x: tuple[int, ...]
    weight: tuple[int, ...]
    out: tuple[int, ...]
    fixed: bool = True
    stride: int = 1
    groups: int = 1

    @property
    def flops(self) -> int:
        depth = self.x[-1] if self.kind == "MatMul" else int(np.prod(self.weight[1:]))
        return 2 * int(np.prod(self.out)) * depth


def matmul(m: int, n: int, k: int, batch: tuple[int, ...] = (), fixed: bool = True) -> Op:
    lead = "x".join(map(str, (*batch, "")))
    right = (k, n) if fixed else (*batch, k, n)
    return Op(f"{lead}{m}x{n}x{k}", "MatMul", (*batch, m, k), right, (*batch, m, n), fixed)


def conv(size: int, c: int, oc: int, kernel: int, stride: int = 1, groups: int = 1) -> Op:
    """A convolution that keeps size / stride, on a square picture of `size`."""
    name = f"{kernel}x{kernel}{f's{stride}' if stride > 1 else ''} {size}x{size} {c}->{oc}"
    out = -(-size // stride)
    weight = (oc, c // groups, kernel, kernel)
    return Op(name, "Conv", (1, c, size, size), weight, (1, oc, out, out), True, stride, groups)


SWEEPS: dict[str, tuple[Op, ...]] = {
    "matmul": (
        *(matmul(n, n, n) for n in (64, 128, 256, 384, 512, 1024)),
        *(matmul(m, 768, 768) for m in (1, 3, 12, 37, 128)),
        matmul(128, 3072, 768),
        matmul(128, 768, 3072),
        matmul(49, 2048, 512),
        matmul(196, 256, 1024),
        matmul(3136, 64, 256),
    ),
    "batched": (
        matmul(128, 128, 64, (12,), fixed=False),
        matmul(128, 64, 128, (12,), fixed=False),
        matmul(384, 384, 64, (12,), fixed=False),
        matmul(512, 512, 512, fixed=False),
    ),
    "conv": (
        conv(224, 3, 64, 7, 2),
        conv(224, 3, 32, 3, 2),
        conv(56, 64, 64, 3),
        conv(28, 128, 128, 3),
        conv(14, 256, 256, 3),
        conv(7, 512, 512, 3),
        conv(56, 128, 128, 3, 2),
        conv(14, 512, 512, 3, 2),
        conv(56, 64, 256, 1),
        conv(56, 256, 64, 1),
        conv(14, 1024, 256, 1),
        conv(7, 512, 2048, 1),
    ),
    "depthwise": (
        conv(112, 64, 64, 3, groups=64),
        conv(56, 128, 128, 3, groups=128),
        conv(14, 512, 512, 3, groups=512),
        conv(112, 96, 96, 3, 2, groups=96),
    ),
}


def write_model(op: Op, weight: Array, path: Path) -> None:
    """Write the op as an ONNX model with input x, input w unless it is fixed, and output y."""
    import onnx
    from onnx import helper

    real = onnx.TensorProto.FLOAT
    inputs = [helper.make_tensor_value_info("x", real, op.x)]
    if not op.fixed:
        inputs.append(helper.make_tensor_value_info("w", real, op.weight))
    attributes = (
        {"auto_pad": "SAME_UPPER", "strides": [op.stride] * 2, "group": op.groups}
        if op.kind == "Conv"
        else {}
    )
    graph = helper.make_graph(
        [helper.make_node(op.kind, ["x", "w"], ["y"], name="op", **attributes)],
        "micro",
        inputs,
        [helper.make_tensor_value_info("y", real, op.out)],
        [onnx.numpy_helper.from_array(weight, "w")] if op.fixed else [],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)


def measure(op: Op, threads: int, rounds: int, seconds: float) -> dict[str, float]:
    """Return GFLOP/s of every engine that is there."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal(op.x, np.float32)
    weight = rng.standard_normal(op.weight, np.float32)
    feeds: Arrays = {"x": x} if op.fixed else {"x": x, "w": weight}
    calls: dict[str, Callable[[], object]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "op.onnx"
        write_model(op, weight, path)
        for engine in ENGINES:
            if engine.version() is None:
                continue
            try:
                calls[engine.name] = partial(engine.load(path, threads), feeds)
            except Exception as error:  # an engine may raise anything; the others are measured
                print(f"{op.name}: {engine.name} failed: {error}", file=sys.stderr)
        if op.kind == "MatMul":
            calls["numpy"] = partial(np.matmul, x, weight, np.empty(op.out, np.float32))
        times = side_by_side(calls, rounds, seconds)
    return {name: op.flops / spread.median / 1e9 for name, spread in times.items()}


def line(op: Op, found: dict[str, float], peak: float) -> str:
    cells = []
    for name in (*(engine.name for engine in ENGINES), "numpy"):
        speed = found.get(name)
        share = "" if speed is None or not peak else f" {speed / peak:4.0%}"
        cells.append("-".rjust(11) if speed is None else f"{speed:6.1f}{share}".rjust(11))
    return f"| {op.name:<22} | {' | '.join(cells)} |"


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.micro", description=__doc__)
    parser.add_argument("sweeps", nargs="*", metavar="SWEEP", help=f"of {', '.join(SWEEPS)}")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.1, help="length of a timed loop")
    arguments = parser.parse_args(argv)
    unknown = [name for name in arguments.sweeps if name not in SWEEPS]
    if unknown:
        parser.error(f"no sweep is called {unknown[0]!r}; known: {', '.join(SWEEPS)}")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Print one table for each sweep."""
    arguments = _arguments(argv)
    peak = fma_peak() * arguments.threads
    print(f"f32 FMA peak of {arguments.threads} core(s): {peak:.0f} GFLOP/s")
    for name in arguments.sweeps or SWEEPS:
        heads = (*(engine.name for engine in ENGINES), "numpy")
        print(f"\n| {name:<22} | {' | '.join(head.rjust(11) for head in heads)} |")
        print(f"|{'-' * 24}|{'|'.join(['-' * 12 + ':'] * len(heads))}|")
        for op in SWEEPS[name]:
            found = measure(op, arguments.threads, arguments.rounds, arguments.seconds)
            print(line(op, found, peak), flush=True)
    return 0


def _same_threads(wanted: str) -> None:
    """Start again with numpy's BLAS held to as many threads; it reads this when it is loaded."""
    if os.environ.get("OPENBLAS_NUM_THREADS") != wanted:
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": wanted, "MKL_NUM_THREADS": wanted}
        command = [sys.executable, "-m", "benchmarks.micro", *sys.argv[1:]]
        os.execve(sys.executable, command, environment)


if __name__ == "__main__":
    _same_threads(str(_arguments(None).threads))
    sys.exit(main())
