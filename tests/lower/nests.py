"""Nests, places and programs of small graphs, as the tests of lowering want them. No cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tests.lower.native import graph
from tfc.compiler.lower.compose import Access, Composer, Nest, Output
from tfc.compiler.lower.group import Group
from tfc.compiler.lower.storage import Storage, index_iters, shape_of
from tfc.ir.arrays import Array
from tfc.ir.body import Load, Position, loads
from tfc.ir.build import GraphBuilder
from tfc.ir.core import Block, Module, Op, SymbolInfo, Value
from tfc.ir.dims import Dim, DimLike, symbol
from tfc.ir.dims import evaluate as evaluate_dim
from tfc.ir.evalexpr import evaluate
from tfc.ir.opdef import OPS
from tfc.ir.types import F32, I64, DType, TensorType

N = symbol("N")
FREE = {"N": SymbolInfo()}
Make = Callable[..., Value | Sequence[Value]]


def tensors(*shapes: Sequence[DimLike], dtype: DType = F32) -> list[TensorType]:
    return [TensorType(dtype, tuple(shape)) for shape in shapes]


def fused(b: GraphBuilder, make: Callable[..., Value], *args: Value) -> Value:
    """A fusion group that computes `make(builder, *args)`."""
    region = Block([arg.type for arg in args])
    inner = GraphBuilder(region, b.constants)
    inner.op("yield", make(inner, *region.args))
    return b.emit(OPS["fused"], args, OPS["fused"].attrs(), [region]).result


class Composed:
    """The nest of the last op before the return, and what it was composed by."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self.storage = Storage(module.main)
        op = module.main.block.terminator.operands[0].op
        assert op is not None
        self.of(op)

    def of(self, op: Op) -> Composed:
        """Compose another op of the graph from here on."""
        self.op = op
        self.group = Group.of(op)
        return self

    def access(self, value: Value) -> Access:
        place = self.storage.place(value)
        return Access(place.strides, place.lead)

    def compose(self, staged: Mapping[Value, Access] | None = None) -> tuple[Composer, Nest]:
        group = self.group
        composer = Composer(set(group.ops), group.outer, self.access, staged or {})
        iters = index_iters(shape_of(group.results[0][0]), composer)
        index = tuple(it.dim for it in iters)
        outputs = []
        for inside, outside in group.results:
            address: DimLike = 0
            for i, stride in zip(index, self.storage.place(outside).strides, strict=True):
                address = address + i * stride
            outputs.append(Output(outside, address, composer.element(inside, index)))
        return composer, Nest(tuple(iters), tuple(outputs))

    @property
    def nest(self) -> Nest:
        return self.compose()[1]


def nest_of(types: Sequence[TensorType], make: Make, symbolic: bool = False) -> Nest:
    return Composed(graph(types, make, FREE if symbolic else None)).nest


def extents(iters: Sequence[Any]) -> list[DimLike]:
    return [it.extent for it in iters]


def run_nest(nest: Nest, seed: int = 0, symbols: Mapping[str, int] | None = None) -> list[Array]:
    """Flat memory of each output, computed in numpy; inputs are numbers that their names seed."""
    values = {
        node.value: np.random.default_rng(len(node.value.name) + seed + i).uniform(-1, 1, 4000)
        for output in nest.outputs
        for i, node in enumerate({n.value: n for n in loads(output.expr)}.values())
    }
    values = {value: x.astype(np.float32) for value, x in values.items()}
    found = []
    sizes = {it.name: evaluate_dim(it.extent, symbols or {}) for it in nest.iters}
    for output in nest.outputs:
        element = evaluate(output.expr, sizes, values, symbols)
        at = evaluate(Position(output.address, I64), sizes, {}, symbols)
        shape = tuple(sizes.values())
        memory = np.zeros(4000, element.dtype)
        memory[np.broadcast_to(at, shape)] = np.broadcast_to(element, shape)
        found.append(memory)
    return found


def addresses(nest: Nest) -> list[DimLike]:
    """Where the first output's loads read."""
    return [dim for load in loads(nest.outputs[0].expr) for dim in _dims(load)]


def _dims(load: Load) -> list[DimLike]:
    return [entry for entry in load.index if isinstance(entry, (int, Dim))]
