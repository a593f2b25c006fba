"""Runs loop-level kernels and programs one op at a time, with every access checked.

Slow: it is there to test schedules without LLVM. Scalars are numpy scalars, vectors are arrays of
lanes, bf16 is held as exact float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from tfc.ir import arrays
from tfc.ir.core import Block, Function, Module, Op, Value
from tfc.ir.dims import evaluate
from tfc.ir.errors import UsageError, VerifyError
from tfc.ir.extent import highest, room
from tfc.ir.inplace import Shared, shared_memory
from tfc.ir.loop import numeric, tiles
from tfc.ir.loop.memory import GARBAGE, AccessError, Array, Buffer, flat, fresh, make_buffer
from tfc.ir.symbols import bind_elements, bind_shapes, check_bounds, define, run_time_symbols
from tfc.ir.types import BF16, U8, BufferType, DType, ScalarType, TensorType, Type, VectorType

THREADS = "threads"
Values: TypeAlias = dict[Value, Any]


def run_kernel(
    function: Function,
    args: Sequence[Any],
    symbols: Mapping[str, int],
    module: Module | None = None,
) -> None:
    """Run a kernel on contiguous numpy arrays, which it changes in place, and numbers.

    symbols: values of the function's symbols; `threads`, 1 unless given, numbers the workers.
    Raises VerifyError for an access out of bounds.
    """
    Machine(module, symbols).function(function, args)


def run_program(
    module: Module, inputs: Mapping[str, Any], symbols: Mapping[str, int] | None = None
) -> dict[str, Array]:
    """Run `main` and return the outputs by name. bf16 arrays are raw bits.

    symbols: values that shapes do not tell, such as `threads`. Raises UsageError for inputs that
    do not fit and for a failed `check`.
    """
    main = module.main
    wanted: dict[str, TensorType] = dict(main.attrs["inputs"])
    unknown = [name for name in inputs if name not in wanted]
    if unknown:
        raise UsageError(f"there is no input {unknown[0]!r} (inputs: {', '.join(wanted)})")
    given: list[Array] = []
    for name, type in wanted.items():
        if name not in inputs:
            raise UsageError(f"input {name!r} is missing (it is {type})")
        given.append(np.array(inputs[name], order="C"))
        if given[-1].ndim != type.rank:
            raise UsageError(f"input {name!r} has rank {given[-1].ndim}: it is {type}")
    shapes = [
        (f"input {name!r}", type.shape, array.shape)
        for (name, type), array in zip(wanted.items(), given, strict=True)
    ]
    own = bind_elements(main.symbols, dict(zip(wanted, given, strict=True)))
    machine = Machine(module, bind_shapes(shapes, {**own, **(symbols or {})}))
    define(main.symbols, machine.symbols)
    check_bounds(main.symbols, machine.symbols)
    limits = highest(main)
    outputs: list[Array] = [
        fresh(evaluate(room(type.shape, limits), machine.symbols), type.dtype)
        for _, type in main.attrs["outputs"]
    ]
    shared = {one.output: one for one in shared_memory(main)}
    for one in shared.values():
        given[one.input] = outputs[one.output] = _with_room(given[one.input], one)
    machine.function(main, [*given, *outputs])
    results = {}
    for position, (name, type) in enumerate(main.attrs["outputs"]):
        whole = outputs[position].view(arrays.numpy_dtype(type.dtype))
        shape = [evaluate(dim, machine.symbols) for dim in type.shape]
        if position in shared:
            results[name] = _filled(whole, shared[position], shape).copy()
        else:
            results[name] = whole[: math.prod(shape)].reshape(shape)
    return results


def _with_room(array: Array, shared: Shared) -> Array:
    """Return flat memory with room for more, which begins with an array."""
    whole = np.full(math.prod(_sizes(shared, array.shape)), GARBAGE, array.dtype)
    _filled(whole, shared, array.shape)[...] = array
    return whole


def _filled(whole: Array, shared: Shared, shape: Sequence[int]) -> Array:
    """The tensor of `shape` in memory that has room for more."""
    return whole.reshape(_sizes(shared, shape))[tuple(slice(size) for size in shape)]


def _sizes(shared: Shared, shape: Sequence[int]) -> list[int]:
    return [evaluate(size, {}) for size in shared.shape(shape)]


class Machine:
    """Runs functions of one module with fixed values of the symbols."""

    def __init__(self, module: Module | None, symbols: Mapping[str, int]) -> None:
        self.module = module
        self.symbols: dict[str, int] = {THREADS: 1, **symbols}
        self.workspace = np.zeros(0, np.uint8)

    def function(self, function: Function, args: Sequence[Any]) -> None:
        """Run a function on arrays and numbers."""
        if len(args) != len(function.args):
            raise UsageError(f"@{function.name} takes {len(function.args)} arguments")
        bound = run_time_symbols(function) if function.kind == "main" else ()
        missing = [name for name in function.symbols if name not in (*self.symbols, *bound)]
        if missing:
            raise UsageError(f"@{function.name} needs the symbols {', '.join(missing)}")
        values: Values = {}
        for position, (arg, given) in enumerate(zip(function.args, args, strict=True)):
            try:
                values[arg] = self.argument(arg.type, given)
            except ValueError as err:
                name = arg.name or str(position)
                raise UsageError(f"@{function.name}: argument {name} {err}") from None
        size = function.attrs.get("workspace")
        if size is not None:
            self.workspace = np.full(evaluate(size, self.symbols), 0xFF, np.uint8)
        with np.errstate(all="ignore"):
            self.block(function.block, values)

    def argument(self, type: Type, given: Any) -> Any:
        if not isinstance(type, BufferType):
            assert isinstance(type, (ScalarType, VectorType))
            return numeric.number(given, type.dtype)[()]
        if isinstance(given, Buffer):
            return make_buffer(given.data, given.base, type, self.symbols)
        return make_buffer(flat(given, type.dtype), 0, type, self.symbols)

    def block(self, block: Block, values: Values) -> list[Any]:
        """Run the ops of a block and return the operands of its terminator."""
        for op in block:
            args = [values[value] for value in op.operands]
            if op is block.last:
                return args
            try:
                results = RULES[op.name](self, op, args, values)
            except AccessError as err:
                raise VerifyError(f"{op.name}: {err}", where=str(op.loc) or None) from None
            if op.results:
                values.update(zip(op.results, results, strict=True))
        return []

    def region(self, block: Block, args: Sequence[Any], values: Values) -> list[Any]:
        values.update(zip(block.args, args, strict=True))
        return self.block(block, values)

    def evaluate(self, dim: Any) -> np.int64:
        return np.int64(evaluate(dim, self.symbols))


Rule: TypeAlias = Callable[[Machine, Op, list[Any], Values], Sequence[Any]]


def _element(type: Type) -> DType:
    assert isinstance(type, (ScalarType, VectorType))
    return type.dtype


# -- values -------------------------------------------------------------------------------------


def _scalar(machine: Machine, op: Op, args: list[Any], values: Values) -> Sequence[Any]:
    dtype = _element(op.result.type)
    if op.name == "bitcast":
        # A bf16 is its upper half of a float32 in registers and 16 bits on its own.
        raw = arrays.encode(np.asarray(args[0]), _element(op.operands[0].type))
        return (arrays.decode(raw.view(arrays.numpy_dtype(dtype)), dtype)[()],)
    if op.name == "cast":
        return (numeric.convert(args[0], dtype)[()],)
    found = numeric.FUNCTIONS[op.name](*args)
    if dtype == BF16:
        found = numeric.convert(found, BF16)
    return (found[()],)


def _const(machine: Machine, op: Op, args: list[Any], values: Values) -> Sequence[Any]:
    value = numeric.number(op.attrs.value, op.attrs.dtype)
    return (np.broadcast_to(value, op.attrs.lanes) if op.attrs.lanes else value[()],)


def _dim(machine: Machine, op: Op, args: list[Any], values: Values) -> Sequence[Any]:
    return (machine.evaluate(op.attrs.expr),)


def _splat(machine: Machine, op: Op, args: list[Any], values: Values) -> Sequence[Any]:
    return (np.broadcast_to(args[0], op.attrs.lanes),)


def _iota(machine: Machine, op: Op, args: list[Any], values: Values) -> Sequence[Any]:
    return (np.arange(op.attrs.lanes).astype(numeric.register_dtype(op.attrs.dtype)),)


def _extract(machine: Machine, op: Op, args: list[Any], values: Values) -> Sequence[Any]:
    return (args[0][op.attrs.lane],)


def _insert(machine: Machine, op: Op, args: list[Any], values: Values) -> Sequence[Any]:
    out = np.array(args[1])
    out[op.attrs.lane] = args[0]
    return (out,)


def _shuffle(machine: Machine, op: Op, args: list[Any], values: Values) -> Sequence[Any]:
    return (np.concatenate(args)[list(op.attrs.mask)],)


def _dot(machine: Machine, op: Op, args: list[Any], values: Values) -> Sequence[Any]:
    x, y, total = args
    dtype = total.dtype
    products = x.astype(dtype).reshape(total.size, -1) * y.astype(dtype).reshape(total.size, -1)
    return (total + products.sum(axis=1, dtype=dtype),)


def _lookup(machine: Machine, op: Op, args: list[Any], values: Values) -> Sequence[Any]:
    return (numeric.lookup(op.attrs.values, op.attrs.dtype, args[0])[()],)


def _reduce(machine: Machine, op: Op, args: list[Any], values: Values) -> Sequence[Any]:
    """Halves meet lane by lane; lanes left over by odd halves are joined last."""
    dtype = _element(op.result.type)

    def join(x: Any, y: Any) -> Any:
        found = numeric.FUNCTIONS[op.attrs.kind](x, y)
        return numeric.convert(found, BF16) if dtype == BF16 else found

    x, odd = args[0], None
    while x.size > 1:
        half = x.size // 2
        if x.size % 2:
            odd = x[-1] if odd is None else join(x[-1], odd)
        x = join(x[:half], x[half : 2 * half])
    return (x[0] if odd is None else join(x[0], odd),)


# -- memory -------------------------------------------------------------------------------------


def _load(machine: Machine, op: Op, args: list[Any], values: Values) -> Sequence[Any]:
    return (args[0].read(args[1:])[()],)


def _store(machine: Machine, op: Op, args: list[Any], values: Values) -> Sequence[Any]:
    args[1].write(args[0], args[2:])
    return ()


def _mask(op: Op, args: list[Any]) -> Array | None:
    """Take the mask off the end of the operands, where there is one."""
    return args.pop() if op.attrs.masked else None


def _along(op: Op, index: list[Any]) -> list[Any]:
    """The index of a vector access: it runs over the lanes along one axis."""
    index[op.attrs.axis] = index[op.attrs.axis] + np.arange(op.attrs.lanes)
    return index


def _vload(machine: Machine, op: Op, args: list[Any], values: Values) -> Sequence[Any]:
    active = _mask(op, args)
    return (args[0].read(_along(op, args[1:]), active),)


def _vstore(machine: Machine, op: Op, args: list[Any], values: Values) -> Sequence[Any]:
    active = _mask(op, args)
    args[1].write(args[0], _along(op, args[2:]), active)
    return ()


def _gather(machine: Machine, op: Op, args: list[Any], values: Values) -> Sequence[Any]:
    active = _mask(op, args)
    return (args[0].read(args[1:], active),)


def _scatter(machine: Machine, op: Op, args: list[Any], values: Values) -> Sequence[Any]:
    active = _mask(op, args)
    args[1].write(args[0], args[2:], active)
    return ()


def _prefetch(machine: Machine, op: Op, args: list[Any], values: Values) -> Sequence[Any]:
    """Nothing: a prefetch may reach outside."""
    return ()


def _alloca(machine: Machine, op: Op, args: list[Any], values: Values) -> Sequence[Any]:
    type = op.attrs.type
    span = 1 + sum((dim - 1) * stride for dim, stride in zip(type.shape, type.strides, strict=True))
    count = 0 if 0 in type.shape else span
    return (make_buffer(fresh(count, type.dtype), 0, type, machine.symbols),)


def _view(machine: Machine, op: Op, args: list[Any], values: Values) -> Sequence[Any]:
    return (args[0].view(int(args[1]), op.attrs.type, machine.symbols),)


def _table(machine: Machine, op: Op, args: list[Any], values: Values) -> Sequence[Any]:
    data = arrays.make(list(op.attrs.values.values), op.attrs.dtype)
    data.flags.writeable = False
    type = op.result.type
    assert isinstance(type, BufferType)
    return (make_buffer(flat(data, op.attrs.dtype), 0, type, machine.symbols),)


# -- control ------------------------------------------------------------------------------------


def _for(machine: Machine, op: Op, args: list[Any], values: Values) -> Sequence[Any]:
    carried: Sequence[Any] = args[2:]
    for index in range(int(args[0]), int(args[1]), op.attrs.step):
        carried = machine.region(op.regions[0], [np.int64(index), *carried], values)
    return carried


def _while(machine: Machine, op: Op, args: list[Any], values: Values) -> Sequence[Any]:
    again, *carried = args
    while again:
        again, *carried = machine.region(op.regions[0], carried, values)
    return carried


def _parallel(machine: Machine, op: Op, args: list[Any], values: Values) -> Sequence[Any]:
    """Backwards: the order is not promised, and code that needs one shall show."""
    threads = machine.symbols[THREADS]
    for index in reversed(range(int(args[0]))):
        worker = np.int64(index % threads)
        machine.region(op.regions[0], [np.int64(index), worker], values)
    return ()


def _if(machine: Machine, op: Op, args: list[Any], values: Values) -> Sequence[Any]:
    return machine.region(op.regions[0 if args[0] else 1], (), values)


# -- tiles --------------------------------------------------------------------------------------


def _tiles(machine: Machine, op: Op, args: list[Any], values: Values) -> Sequence[Any]:
    registers = []
    for arg, rows in zip(op.regions[0].args, args, strict=True):
        assert isinstance(arg.type, BufferType)
        most, columns = arg.type.shape
        if not 1 <= rows <= machine.evaluate(most):
            raise AccessError(f"a tile of {rows} rows, not of 1 to {most}")
        shape = int(rows), int(machine.evaluate(columns))
        data = fresh(shape[0] * shape[1], arg.type.dtype)
        registers.append(Buffer(data, 0, shape, (shape[1], 1), arg.type.dtype))
    machine.region(op.regions[0], registers, values)
    return ()


def _whole(tile: Buffer) -> list[Array]:
    """The index of all elements of a tile."""
    return list(np.indices(tile.shape))


def _elements(tile: Buffer) -> Array:
    return tile.read(_whole(tile))


def _tile_zero(machine: Machine, op: Op, args: list[Any], values: Values) -> Sequence[Any]:
    args[0].data[:] = 0
    return ()


def _tile_rows(tile: Buffer, offset: Any, step: Any) -> Array:
    row, column = np.indices(tile.shape)
    return np.asarray(offset + row * step + column)


def _tile_load(machine: Machine, op: Op, args: list[Any], values: Values) -> Sequence[Any]:
    tile, buf, offset, step = args
    tile.write(buf.read([_tile_rows(tile, offset, step)]), _whole(tile))
    return ()


def _tile_store(machine: Machine, op: Op, args: list[Any], values: Values) -> Sequence[Any]:
    tile, buf, offset, step = args
    buf.write(_elements(tile), [_tile_rows(tile, offset, step)])
    return ()


def _tile_dot(machine: Machine, op: Op, args: list[Any], values: Values) -> Sequence[Any]:
    x, y, total = args
    group = y.shape[1] // total.shape[1]
    if x.shape != (total.shape[0], y.shape[0] * group):
        raise AccessError(f"tiles of {x.shape} by {y.shape} to {total.shape}")
    found = tiles.dot(_elements(x), _elements(y), _elements(total))
    total.write(found, _whole(total))
    return ()


# -- programs -----------------------------------------------------------------------------------


def _module(machine: Machine) -> Module:
    if machine.module is None:
        raise UsageError("a function that calls or reads constants is run with its module")
    return machine.module


def _call(machine: Machine, op: Op, args: list[Any], values: Values) -> Sequence[Any]:
    machine.function(_module(machine).functions[op.attrs.callee], args)
    return ()


def _check(machine: Machine, op: Op, args: list[Any], values: Values) -> Sequence[Any]:
    if not args[0]:
        where = str(op.loc) or None
        raise UsageError(f"check failed: {op.attrs.message} (code {op.attrs.code})", where=where)
    return ()


def _bind(machine: Machine, op: Op, args: list[Any], values: Values) -> Sequence[Any]:
    most = machine.evaluate(op.attrs.hi)
    if not 0 <= args[0] <= most:
        raise VerifyError(f"{op.attrs.symbol} is {args[0]}, which no check kept from 0..{most}")
    machine.symbols[op.attrs.symbol] = int(args[0])
    return ()


def _workspace(machine: Machine, op: Op, args: list[Any], values: Values) -> Sequence[Any]:
    type = op.attrs.type
    memory = Buffer(machine.workspace, 0, machine.workspace.shape, (1,), U8)
    return (memory.view(int(args[0]), type, machine.symbols),)


def _constant(machine: Machine, op: Op, args: list[Any], values: Values) -> Sequence[Any]:
    module = _module(machine)
    entry = module.data[op.attrs.name]
    data = np.ascontiguousarray(module.constants.get(entry.ref)).view()
    data.flags.writeable = False
    whole = make_buffer(flat(data, entry.type.dtype), 0, entry.type, machine.symbols)
    return (whole.view(0, op.attrs.type, machine.symbols),)


RULES: dict[str, Rule] = {
    **dict.fromkeys((*numeric.FUNCTIONS, "cast", "bitcast"), _scalar),
    "const": _const,
    "dim": _dim,
    "splat": _splat,
    "iota": _iota,
    "extract": _extract,
    "insert": _insert,
    "shuffle": _shuffle,
    "dot": _dot,
    "lookup": _lookup,
    "reduce": _reduce,
    "load": _load,
    "store": _store,
    "vload": _vload,
    "vstore": _vstore,
    "gather": _gather,
    "scatter": _scatter,
    "prefetch": _prefetch,
    "alloca": _alloca,
    "view": _view,
    "table": _table,
    "for": _for,
    "while": _while,
    "parallel": _parallel,
    "if": _if,
    "tiles": _tiles,
    "tile_zero": _tile_zero,
    "tile_load": _tile_load,
    "tile_store": _tile_store,
    "tile_dot": _tile_dot,
    "call": _call,
    "bind": _bind,
    "check": _check,
    "workspace": _workspace,
    "constant": _constant,
}
