"""Layout: contractions lie with the columns of their kernels innermost."""

from __future__ import annotations

from typing import Any

from tests.lower.native import graph
from tfc.compiler.codegen.host import host_target
from tfc.compiler.passes.layout import layout
from tfc.compiler.passman import PassContext
from tfc.compiler.pipeline import run
from tfc.ir.core import Module, Op
from tfc.ir.types import F32, TensorType


def _laid_out(module: Module) -> dict[str, Any]:
    """The order in memory of each kind of op's result, None for row-major."""
    layout(module, PassContext(target=host_target()))
    ops: list[Op] = list(module.main.block)
    return {
        op.name: op.result.encoding.perm if op.result.encoding else None for op in ops if op.results
    }


def _types(*shapes: tuple[int, ...]) -> list[TensorType]:
    return [TensorType(F32, shape) for shape in shapes]


def _conv(b: Any, x: Any, w: Any) -> Any:
    return b.conv(x, w, strides=(2, 2), pads=((0, 0), (0, 0)), dilations=(1, 1), groups=1)


def test_convolution_that_is_transposed_later_has_channels_last() -> None:
    def make(b: Any, x: Any, w: Any) -> Any:
        rows = b.transpose(_conv(b, x, w), perm=(0, 2, 1, 3))
        return b.reshape(rows, shape=(1, 9, 64 * 9))

    found = _laid_out(graph(_types((1, 32, 19, 19), (64, 32, 3, 3)), make))
    assert found["conv"] == (0, 2, 3, 1)


def test_product_that_is_transposed_to_heads_lies_as_the_heads_do() -> None:
    def make(b: Any, x: Any, w: Any) -> Any:
        heads = b.reshape(b.matmul(x, w), shape=(1, 50, 4, 16))
        return b.transpose(heads, perm=(0, 2, 1, 3))

    assert _laid_out(graph(_types((1, 50, 32), (32, 64)), make))["matmul"] is None


def test_product_does_not_lie_as_what_is_added_to_it() -> None:
    def make(b: Any, w: Any, p: Any, q: Any) -> Any:
        mixed = b.relu(b.transpose(b.matmul(p, q), perm=(0, 2, 1)))
        added = b.add(b.matmul(b.exp(mixed), w), mixed)
        return b.matmul(b.exp(added), w)

    module = graph(_types((64, 64), (1, 64, 20), (20, 20)), make)
    run(module, PassContext(target=host_target()))
    groups = [op for op in module.main.block if any(o.name == "add" for o in _inside(op))]
    assert [group.result.encoding for group in groups] == [None]
    assert any(op.result.encoding for op in module.main.block if op.results)


def _inside(op: Op) -> list[Op]:
    return [inner for region in op.regions for inner in region]
