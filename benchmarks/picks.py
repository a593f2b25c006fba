"""Times of operators that order, select and scatter: `python -m benchmarks.picks [WORD ...]`.

Microseconds of tfc and ONNX Runtime, whose results are compared first. Only cases whose name has
one of the words are run.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.models import Array, Arrays
from benchmarks.peers import TFC, OnnxRuntime
from benchmarks.timing import side_by_side

ENGINES = (TFC, OnnxRuntime())
INT64 = ("i", "inverse", "counts", "selected")


@dataclass(frozen=True)
class Case:
    """One node: its inputs by name in order, of which `fixed` are constants of the model."""

    name: str
    operator: str
    feeds: Arrays
    fixed: Arrays = field(default_factory=dict)
    outputs: tuple[str, ...] = ("y",)
    attributes: dict[str, Any] = field(default_factory=dict)


def cases() -> Iterator[Case]:
    rng = np.random.default_rng(0)

    def numbers(*shape: int) -> Array:
        return rng.random(shape, np.float32)

    rising: Array = np.sort(numbers(1, 8400))
    for name, x, k in (
        ("300 of [1, 8400]", numbers(1, 8400), 300),
        ("300 of [1, 8400], rising", rising, 300),
        ("5 of [64, 1000]", numbers(64, 1000), 5),
        ("100 of [1, 1000000]", numbers(1, 1_000_000), 100),
    ):
        yield Case(f"TopK {name}", "TopK", {"x": x}, {"k": np.array([k])}, ("y", "i"), {"axis": 1})
    for shape in ((1_000_000,), (1000, 1000)):
        mask = numbers(*shape) < 0.5
        yield Case(f"NonZero {list(shape)}", "NonZero", {"x": mask}, outputs=("i",))
    feeds = {
        "x": numbers(1_000_000),
        "at": rng.integers(0, 1_000_000, 100_000),
        "u": numbers(100_000),
    }
    added = {"reduction": "add"}
    yield Case("ScatterElements 100k in 1M", "ScatterElements", feeds, attributes=added)
    tuples = {**feeds, "at": feeds["at"][:, np.newaxis]}
    yield Case("ScatterND 100k in 1M", "ScatterND", tuples, attributes=added)
    for shape, axis in (((1_000_000,), 0), ((1000, 1000), 0), ((1000, 1000), 1)):
        name = f"CumSum {list(shape)} along {axis}"
        yield Case(name, "CumSum", {"x": numbers(*shape)}, {"axis": np.array(axis)})
    x = rng.integers(0, 50_000, 100_000).astype(np.float32)
    yield Case("Unique [100000]", "Unique", {"x": x}, outputs=("y", "i", "inverse", "counts"))
    for side in (0.1, 0.5):
        boxes = numbers(1, 1000, 4)
        boxes[..., 2:] = boxes[..., :2] + side * boxes[..., 2:] + 0.02
        fixed = {
            "most": np.array([1000]),
            "iou": np.array([0.5], np.float32),
            "score": np.array([0.1], np.float32),
        }
        feeds = {"boxes": boxes, "scores": numbers(1, 20, 1000)}
        name = f"NonMaxSuppression 1000 x 20, {side}"
        yield Case(name, "NonMaxSuppression", feeds, fixed, ("selected",))


def write_model(case: Case, path: Path) -> None:
    """Write the case as an ONNX model whose outputs have no declared shapes."""
    import onnx
    from onnx import helper

    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
        for name, x in case.feeds.items()
    ]
    outputs = [
        helper.make_tensor_value_info(
            name, onnx.TensorProto.INT64 if name in INT64 else onnx.TensorProto.FLOAT, None
        )
        for name in case.outputs
    ]
    node = helper.make_node(
        case.operator, [*case.feeds, *case.fixed], case.outputs, name="op", **case.attributes
    )
    constants = [onnx.numpy_helper.from_array(x, name) for name, x in case.fixed.items()]
    graph = helper.make_graph([node], "picks", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)


def measure(case: Case, threads: int, rounds: int, seconds: float) -> dict[str, float]:
    """Return the microseconds of every engine that is there."""
    calls: dict[str, Callable[[], object]] = {}
    found: list[list[Array]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "op.onnx"
        write_model(case, path)
        for engine in ENGINES:
            if engine.version() is None:
                continue
            run = engine.load(path, threads)
            result = run(case.feeds)
            found.append(_arrays(result))
            calls[engine.name] = partial(run, case.feeds)
        for other in found[1:]:
            for x, y in zip(found[0], other, strict=True):
                np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5, err_msg=case.name)
        times = side_by_side(calls, rounds, seconds)
    return {name: spread.median * 1e6 for name, spread in times.items()}


def _arrays(result: Any) -> list[Array]:
    """What a call gave, one array or several, named or in order."""
    if isinstance(result, dict):
        return list(result.values())
    return list(result) if isinstance(result, tuple) else [result]


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.picks", description=__doc__)
    parser.add_argument("words", nargs="*", metavar="WORD")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.1, help="length of a timed loop")
    arguments = parser.parse_args(argv)
    names = [engine.name for engine in ENGINES]
    print(f"| {'us a call':<34} | {' | '.join(name.rjust(11) for name in names)} |")
    print(f"|{'-' * 36}|{'|'.join(['-' * 12 + ':'] * len(names))}|")
    for case in cases():
        if arguments.words and not any(word in case.name for word in arguments.words):
            continue
        found = measure(case, arguments.threads, arguments.rounds, arguments.seconds)
        cells = [f"{found[n]:11.1f}" if n in found else "-".rjust(11) for n in names]
        print(f"| {case.name:<34} | {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
