"""Runs graph-level modules in numpy by the ops' references: the oracle of every test.

Not fast and not lowered: what an op computes is its `ref`, nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any, TypeAlias

import numpy as np

from tfc.ir import arrays
from tfc.ir.arrays import Array
from tfc.ir.attrs import ConstRef
from tfc.ir.build import tensor_type
from tfc.ir.constants import ConstantStore
from tfc.ir.core import Block, Function, Module, Op, SymbolInfo, Value
from tfc.ir.dims import DimLike
from tfc.ir.dims import evaluate as evaluate_dim
from tfc.ir.errors import CompileError, UsageError
from tfc.ir.opdef import OpDef
from tfc.ir.symbols import (
    ASSUMES,
    BIND,
    bind_elements,
    bind_shapes,
    check_assumed,
    check_bounds,
    define,
    type_symbols,
    with_symbols,
)
from tfc.ir.types import BF16, TensorType

Visit: TypeAlias = Callable[[Value, Array], None]


def evaluate(
    what: Module | Function, inputs: Mapping[str, Any], constants: ConstantStore
) -> dict[str, Array]:
    """Return the outputs by name. bf16 arrays are raw bits, in and out.

    Raises UsageError for inputs that do not fit, naming the input.
    """
    return evaluate_ops(what, inputs, constants, lambda value, array: None)


def evaluate_ops(
    what: Module | Function, inputs: Mapping[str, Any], constants: ConstantStore, visit: Visit
) -> dict[str, Array]:
    """As `evaluate`, and give every result of every op to `visit`, those in regions too."""
    function = what.main if isinstance(what, Module) else what
    types = {arg.name: arg.type for arg in function.args}
    arguments = check_inputs(types, inputs)
    symbols = bind_inputs(types, arguments, function.symbols)
    check_bounds(function.symbols, symbols)
    check_assumed(function.attrs.get(ASSUMES, ()), symbols)
    interpreter = Interpreter(constants, symbols, visit)
    with np.errstate(all="ignore"):
        outputs = interpreter.block(function.block, list(arguments.values()), {})
    return dict(zip(function.output_names, outputs, strict=True))


def check_inputs(types: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Array]:
    """Return the inputs in the order of `types`, in memory form; sizes are not checked yet."""
    unknown = [name for name in inputs if name not in types]
    if unknown:
        raise UsageError(f"there is no input {unknown[0]!r} (inputs: {', '.join(types)})")
    found: dict[str, Array] = {}
    for name, type in types.items():
        if name not in inputs:
            raise UsageError(f"input {name!r} is missing (it is {type})")
        found[name] = _memory_form(name, np.asarray(inputs[name]), type)
    return found


def _memory_form(name: str, array: Array, type: TensorType) -> Array:
    found = arrays.memory_form(array, type.dtype)
    if found is None:
        held = " (as raw uint16 bits)" if type.dtype == BF16 else ""
        raise UsageError(f"input {name!r} is {array.dtype}, not {type.dtype}{held}")
    if found.ndim != type.rank:
        raise UsageError(f"input {name!r} has rank {found.ndim}, not {type.rank}: it is {type}")
    return found


def bind_inputs(
    types: Mapping[str, Any], inputs: Mapping[str, Array], symbols: Mapping[str, SymbolInfo]
) -> dict[str, int]:
    """Return the symbols' values that the inputs' shapes and contents give. Raises UsageError."""
    shapes = [(f"input {name!r}", type.shape, inputs[name].shape) for name, type in types.items()]
    values = bind_shapes(shapes, bind_elements(symbols, inputs))
    define(symbols, values)
    return values


class Interpreter:
    """Runs blocks. `symbols` grows where an op's result decides a size."""

    def __init__(self, constants: ConstantStore, symbols: dict[str, int], visit: Visit) -> None:
        self.constants = constants
        self.symbols = symbols
        self.visit = visit

    def block(self, block: Block, args: list[Array], outer: Mapping[Value, Array]) -> list[Array]:
        """Return what the block's terminator hands out. Values are dropped after their last use."""
        values = dict(outer)
        values.update(zip(block.args, args, strict=True))
        dead_after = _last_uses(block)
        for op in block:
            operands = [values[value] for value in op.operands]
            if op is block.last:
                return operands
            for value, array in zip(op.results, self.op(op, operands, values), strict=True):
                values[value] = array
                self.visit(value, array)
            for value in dead_after.get(op, ()):
                values.pop(value, None)
        raise CompileError("a block without a terminator")

    def op(self, op: Op, operands: list[Array], values: Mapping[Value, Array]) -> list[Array]:
        assert isinstance(op.defn, OpDef)
        if op.regions:
            return self._with_regions(op, op.defn, operands, values)
        if op.defn.assumes is not None:
            types = [tensor_type(value) for value in op.operands]
            assumed = op.defn.assumes(types, op.attrs)
            check_assumed([(a.zero, a.message) for a in assumed], self.symbols)
        attrs = with_symbols(op.attrs, self.symbols)
        if any(isinstance(getattr(attrs, field.name), ConstRef) for field in fields(attrs)):
            return [arrays.constant_array(attrs, self.constants)]
        wide = [
            arrays.decode(array, value.type.dtype)
            for array, value in zip(operands, op.operands, strict=True)
        ]
        found = op.defn.ref(attrs, *wide)
        if op.name == BIND:
            self.symbols[attrs.symbol] = int(operands[0])
        results = found if isinstance(found, tuple) else (found,)
        if len(results) != len(op.results):
            self._broken(op, f"the reference gave {len(results)} results")
        return [
            self._result(op, value, np.asarray(array))
            for value, array in zip(op.results, results, strict=True)
        ]

    def _with_regions(
        self, op: Op, defn: OpDef, operands: list[Array], values: Mapping[Value, Array]
    ) -> list[Array]:
        if defn.infer_regions is None:
            (region,) = op.regions
            return self.block(region, operands, values)
        lists = getattr(op.attrs, "assumes", ((),) * len(op.regions))
        regions = [
            _Region(self, region, values, assumed)
            for region, assumed in zip(op.regions, lists, strict=True)
        ]
        found = defn.ref(with_symbols(op.attrs, self.symbols), *operands, regions=regions)
        for value, array in zip(op.results, found, strict=True):
            self._check(op, value, array)
        return list(found)

    def _check(self, op: Op, value: Value, array: Array) -> None:
        """Refuse a result in memory form that is not what inference said."""
        type = value.type
        assert isinstance(type, TensorType)
        shape = tuple(evaluate_dim(dim, self.symbols) for dim in type.shape)
        if array.dtype != arrays.numpy_dtype(type.dtype) or array.shape != shape:
            self._broken(op, f"the reference gave {array.dtype}{list(array.shape)} for {type}")

    def _result(self, op: Op, value: Value, array: Array) -> Array:
        """Return a result in memory form, once it is what inference said."""
        type = value.type
        assert isinstance(type, TensorType)
        wanted = np.dtype(np.float32) if type.dtype == BF16 else arrays.numpy_dtype(type.dtype)
        if array.dtype != wanted or array.ndim != type.rank:
            self._broken(op, f"the reference gave {array.dtype}{list(array.shape)} for {type}")
        if type_symbols(type) - self.symbols.keys():
            self.symbols = bind_shapes([(op.name, type.shape, array.shape)], self.symbols)
        shape = tuple(evaluate_dim(dim, self.symbols) for dim in type.shape)
        if array.shape != shape:
            self._broken(op, f"the reference gave {list(array.shape)} for {type} {list(shape)}")
        return arrays.encode(array, type.dtype)

    def _broken(self, op: Op, message: str) -> None:
        raise CompileError(f"{op.name}: {message}", where=str(op.loc) or None)


class _Region:
    """A region to be run with the values around it."""

    def __init__(
        self,
        interpreter: Interpreter,
        region: Block,
        values: Mapping[Value, Array],
        assumed: Iterable[tuple[DimLike, str]],
    ) -> None:
        self._interpreter = interpreter
        self._assumed = assumed
        self._region = region
        self._values = values

    def __call__(self, *args: Array) -> list[Array]:
        check_assumed(self._assumed, self._interpreter.symbols)
        return self._interpreter.block(self._region, list(args), self._values)

    def none_of(self, position: int) -> Array:
        type = self._region.terminator.operands[position].type
        assert isinstance(type, TensorType)
        shape = [evaluate_dim(dim, self._interpreter.symbols) for dim in type.shape]
        return np.empty((0, *shape), arrays.numpy_dtype(type.dtype))


def _last_uses(block: Block) -> dict[Op, list[Value]]:
    """Return, for each op of the block, the block's values that nothing uses behind it."""
    last: dict[Value, Op] = {}
    for op in block:
        for inner in op.walk():
            for value in inner.operands:
                last[value] = op
        for value in op.results:
            last.setdefault(value, op)
    dead: dict[Op, list[Value]] = {}
    for value, op in last.items():
        dead.setdefault(op, []).append(value)
    return dead
