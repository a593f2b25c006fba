"""Layout: contractions lie with the columns of their kernels innermost."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.lower.native import Code, graph, lowered
from tests.lower.nests import FREE, N, tensors
from tfc.compiler.codegen.host import host_target
from tfc.compiler.passes.layout import layout
from tfc.compiler.passman import PassContext
from tfc.compiler.pipeline import run
from tfc.compiler.target import parse_target
from tfc.ir.core import Module, Op
from tfc.ir.interp import evaluate
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


def _turned_heads(b: Any, x: Any, w: Any) -> Any:
    """The product of all keys by each other, whose heads are merged with the batch for a while."""
    heads = b.transpose(b.reshape(b.matmul(x, w), shape=(N, 5, 4, 16)), perm=(0, 2, 1, 3))
    turned = b.transpose(b.reshape(heads, shape=(N * 4, 5, 16)), perm=(0, 2, 1))
    keys = b.exp(b.reshape(turned, shape=(N, 4, 16, 5)))
    return b.matmul(b.transpose(keys, perm=(0, 1, 3, 2)), keys)


def test_axes_that_were_merged_and_split_are_those_of_the_product() -> None:
    target = host_target()
    module, plain = (graph(tensors((N, 5, 24), (24, 64)), _turned_heads, FREE) for _ in range(2))
    run(module, PassContext(target=target))
    keys = next(op.result for op in module.main.block if op.name == "fused")
    assert keys.encoding is not None
    assert keys.encoding.perm == (0, 3, 1, 2)
    program = lowered(module, target)
    code = Code([program], target)
    rng = np.random.default_rng(0)
    for batch in (0, 1, 3):
        inputs = {
            name: rng.uniform(-0.3, 0.3, shape).astype(np.float32)
            for name, shape in (("x0", (batch, 5, 24)), ("x1", (24, 64)))
        }
        found = code.run(program, inputs)["y0"]
        np.testing.assert_allclose(found, evaluate(plain, inputs, {})["y0"], rtol=1e-5)


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


def _returned(
    size: int, channels: int, columns: int, kernel: int = 3, stride: int = 1, target: Any = None
) -> Any:
    """What lies how of a convolution by constants of an input, which is returned."""
    w = np.random.default_rng(0).uniform(-1, 1, (columns, channels, kernel, kernel))
    pads = (((kernel - 1) // 2, (kernel - 1) // 2),) * 2

    def make(b: Any, x: Any) -> Any:
        return b.conv(x, b.constant(w.astype(np.float32)), strides=(stride,) * 2, pads=pads,
                      dilations=(1, 1), groups=1)  # fmt: skip

    module = graph(_types((1, channels, size, size)), make)
    run(module, PassContext(target=target or parse_target("avx512")))
    return module


def _orders(module: Module) -> list[tuple[int, ...] | None]:
    results = [op.result for op in module.main.block if op.name in ("pad", "fused")]
    return [value.encoding.perm if value.encoding else None for value in results]


def test_padded_copy_of_an_input_has_channels_last_where_they_fill_vectors() -> None:
    last = (0, 2, 3, 1)
    assert _orders(_returned(28, 64, 64)) == [last, last]
    assert _orders(_returned(28, 64, 64, kernel=5, stride=2)) == [last, last]
    assert _orders(_returned(28, 3, 64, stride=2)) == [None, last]


def test_returned_pictures_of_short_sums_are_computed_as_they_are_returned() -> None:
    assert _orders(_returned(64, 3, 64)) == [None, None]
    # Turning around is nothing beside sums of many products, and Winograd's algorithm wins.
    assert _orders(_returned(64, 256, 64, kernel=5)) == [(0, 2, 3, 1)] * 2
    assert _orders(_returned(64, 64, 64)) == [(0, 2, 3, 1)] * 2


def test_pictures_are_the_same_in_either_order() -> None:
    target = host_target()
    for options in ((20, 3, 8), (19, 16, 17), (13, 40, 33), (9, 33, 40, 1), (17, 20, 24, 5, 2)):
        module, plain = (_returned(*options, target=target) for _ in range(2))
        x = np.random.default_rng(1).uniform(-1, 1, (1, options[1], options[0], options[0]))
        inputs = {"x0": x.astype(np.float32)}
        wanted = evaluate(plain, inputs, plain.constants)["y0"]
        program = lowered(module, target)
        found = Code([program], target).run(program, inputs)["y0"]
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * float(np.abs(wanted).max()))
