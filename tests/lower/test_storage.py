"""Places: views share memory, parts and outputs are produced where they belong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from tests.lower.native import Code, graph, lowered
from tests.lower.nests import FREE, N, tensors
from tfc.compiler.codegen.host import host_target
from tfc.compiler.lower.storage import Place, RootKind, Storage
from tfc.ir.build import GraphBuilder
from tfc.ir.core import Module, Value
from tfc.ir.dims import DimLike
from tfc.ir.interp import evaluate
from tfc.ir.types import Encoding

VIEWS: list[tuple[str, Callable[..., Value], DimLike, tuple[DimLike, ...]]] = [
    ("transpose", lambda b, x: b.transpose(x, perm=(2, 0, 1)), 0, (1, 20, 5)),
    ("reshape of neighbours", lambda b, x: b.reshape(x, shape=(12, 5)), 0, (5, 1)),
    ("reshape that splits", lambda b, x: b.reshape(x, shape=(3, 2, 2, 5)), 0, (20, 10, 5, 1)),
    ("slice", lambda b, x: b.slice(x, starts=(1, 0, 2), sizes=(2, 4, 3), steps=(1, 1, 1)),
     22, (20, 5, 1)),
    ("slice with steps", lambda b, x: b.slice(x, starts=(0, 1, 0), sizes=(3, 2, 3),
                                              steps=(1, 2, 2)), 5, (20, 10, 2)),
    ("slice backwards", lambda b, x: b.slice(x, starts=(2, 0, 0), sizes=(3, 4, 5),
                                             steps=(-1, 1, 1)), 40, (-20, 5, 1)),
    ("repeated", lambda b, x: b.broadcast(x, shape=(2, 3, 4, 5)), 0, (0, 20, 5, 1)),
    ("slice of a transpose", lambda b, x: b.slice(b.transpose(x, perm=(1, 0, 2)),
     starts=(1, 1, 0), sizes=(3, 2, 5), steps=(1, 1, 1)), 25, (5, 20, 1)),
]  # fmt: skip


def _storage(module: Module) -> tuple[Storage, list[Place]]:
    storage = Storage(module.main)
    return storage, [storage.place(value) for value in module.main.outputs]


@pytest.mark.parametrize(("make", "offset", "strides"), [v[1:] for v in VIEWS],
                         ids=[v[0] for v in VIEWS])  # fmt: skip
def test_views_are_the_operand_under_other_strides(
    make: Callable[..., Value], offset: DimLike, strides: tuple[DimLike, ...]
) -> None:
    module = graph(tensors((3, 4, 5)), lambda b, x: b.relu(make(b, x)))
    value = module.main.outputs[0].op.operands[0]  # type: ignore[union-attr]
    place = Storage(module.main).place(value)
    assert place.root.kind is RootKind.INPUT
    assert (place.offset + place.lead, place.strides) == (offset, strides)


def test_views_of_symbolic_shapes_have_symbolic_strides() -> None:
    module = graph(tensors((2, N, 4)), lambda b, x: b.relu(b.transpose(x, perm=(1, 0, 2))), FREE)
    value = module.main.outputs[0].op.operands[0]  # type: ignore[union-attr]
    assert Storage(module.main).place(value).strides == (4, 4 * N, 1)


def test_flattening_a_transpose_is_a_kernel_of_its_own() -> None:
    module = graph(
        tensors((3, 4)), lambda b, x: b.reshape(b.transpose(x, perm=(1, 0)), shape=(12,))
    )
    storage, _ = _storage(module)
    assert storage.is_kernel(module.main.outputs[0])


def test_what_is_returned_is_produced_in_the_output() -> None:
    _, places = _storage(graph(tensors((3, 4)), lambda b, x: [b.relu(x), b.neg(x)]))
    assert [place.root.kind for place in places] == [RootKind.OUTPUT] * 2
    assert [place.root.position for place in places] == [0, 1]


def test_a_reshaped_result_is_produced_in_the_output() -> None:
    _, (place,) = _storage(graph(tensors((3, 4)), lambda b, x: b.reshape(b.relu(x), shape=(2, 6))))
    assert (place.root.kind, place.strides) == (RootKind.OUTPUT, (6, 1))


def test_operands_of_a_concat_are_produced_in_its_parts() -> None:
    module = graph(tensors((2, 3), (2, 4)), lambda b, x, y: b.concat(b.relu(x), b.neg(y), axis=1))
    storage, (whole,) = _storage(module)
    first, second = (storage.place(v) for v in module.main.outputs[0].op.operands)  # type: ignore[union-attr]
    assert first.root is second.root is whole.root
    assert (first.offset, first.strides) == (0, (7, 1))
    assert (second.offset, second.strides) == (3, (7, 1))


def test_the_operand_of_a_zero_pad_is_produced_inside_it() -> None:
    def make(b: GraphBuilder, x: Value) -> Value:
        return b.pad(b.relu(x), lo=(1, 2), hi=(0, 3), mode="constant")

    module = graph(tensors((2, 3)), make)
    storage, (whole,) = _storage(module)
    inner = storage.place(module.main.outputs[0].op.operands[0])  # type: ignore[union-attr]
    assert inner.root is whole.root
    assert (inner.offset, inner.strides) == (10, (8, 1))


def test_an_encoding_orders_a_temporary_but_not_an_output() -> None:
    module = graph(tensors((2, 3, 4)), lambda b, x: b.exp(b.relu(x)))
    (result,) = module.main.outputs
    inner = result.op.operands[0]  # type: ignore[union-attr]
    inner.encoding = result.encoding = Encoding((0, 2, 1))
    storage = Storage(module.main)
    assert storage.place(inner).strides == (12, 1, 3)
    assert storage.place(inner).root.kind is RootKind.TEMP
    assert storage.place(result).root.kind is RootKind.TEMP


# -- programs that return awkward things ----------------------------------------------------------


def _awkward() -> dict[str, Callable[..., Value | Sequence[Value]]]:
    def twice(b: Any, x: Any) -> Any:
        y = b.relu(x)
        return [y, y]

    def value_and_view(b: Any, x: Any) -> Any:
        y = b.relu(x)
        return [b.transpose(y, perm=(1, 0)), y, b.reshape(y, shape=(6, 2))]

    def used_on(b: Any, x: Any) -> Any:
        y = b.relu(x)
        return [y, b.exp(y)]

    def concat_twice(b: Any, x: Any) -> Any:
        y = b.relu(x)
        return b.concat(y, x, y, axis=0)

    def two_concats(b: Any, x: Any) -> Any:
        y, z = b.relu(x), b.neg(x)
        return [b.concat(y, z, axis=0), b.concat(z, y, axis=1), y]

    def nested(b: Any, x: Any) -> Any:
        inner = b.concat(b.relu(x), b.neg(x), axis=1)
        return b.pad(b.concat(inner, b.exp(inner), axis=0), lo=(1, 0), hi=(0, 2), mode="constant")

    return {
        "an input": lambda b, x: x,
        "a view of an input": lambda b, x: b.transpose(x, perm=(1, 0)),
        "an input twice and its opposite": lambda b, x: [x, b.neg(x), x],
        "a constant": lambda b, x: b.constant(np.arange(5, dtype=np.float32)),
        "one value twice": twice,
        "a value and its views": value_and_view,
        "a value that is used on": used_on,
        "a concat with an operand twice": concat_twice,
        "two concats of the same": two_concats,
        "concats in a pad": nested,
        "a padded input": lambda b, x: b.pad(x, lo=(0, 1), hi=(2, 0), mode="constant"),
        "a concat of an input": lambda b, x: b.concat(x, x, axis=1),
    }


@pytest.mark.parametrize("name", list(_awkward()))
def test_returned(name: str) -> None:
    module = graph(tensors((3, 4)), _awkward()[name])
    inputs = {"x0": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)}
    want = evaluate(module, inputs, module.constants)
    target = host_target()
    program = lowered(module, target)
    found = Code([program], target).run(program, inputs)
    for key, array in want.items():
        np.testing.assert_allclose(found[key], array, rtol=1e-6)
