"""Verifies modules of the loop level: op types, regions, calls, memory.

Numbers are not checked here (the interpreter checks every access), only what types can say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tfc.ir.attrs import attr_text
from tfc.ir.core import Function, Module, Op
from tfc.ir.dims import Dim, symbols_of
from tfc.ir.inplace import IN_PLACE, faults
from tfc.ir.loop.nodes import LOOP_OPS, TILE, LoopOp, LoopTypeError
from tfc.ir.structure import Checker
from tfc.ir.symbols import bound_by, dims_in, run_time_symbols
from tfc.ir.types import (
    BOOL,
    INDEX,
    PREDICATE,
    BufferType,
    ScalarType,
    TensorType,
    Type,
    VectorType,
    row_major,
    scalar_of,
)

THREADS = "threads"
PROGRAM_OPS = frozenset(("bind", "call", "check", "workspace", "constant"))
# What one machine has of tiles, and the size of each.
MOST_TILES, TILE_ROWS, TILE_BYTES = 8, 16, 64
REDUCTIONS = ("add", "mul", "min", "max", "and", "or")


def verify_loop(module: Module, after: str = "") -> None:
    """Check every invariant of a loop-level module. Raises VerifyError."""
    checker = LoopChecker(module, after)
    if module.level != "loop":
        checker.fail(f"the module is of level {module.level!r}, not loop")
    for name, function in module.functions.items():
        if function.name != name:
            checker.fail(f"@{function.name} is listed as @{name}")
        checker.loop_function(function)


def verify_function(module: Module, function: Function, after: str = "") -> None:
    """Check one function of a loop-level module that need not be complete. Raises VerifyError."""
    LoopChecker(module, after).loop_function(function)


class LoopChecker(Checker):
    """The rules of the loop level."""

    program = False

    def loop_function(self, function: Function) -> None:
        if function.kind not in ("kernel", "main"):
            self.fail(f"@{function.name} is a {function.kind}, not a kernel or main")
        if THREADS in function.symbols:
            self.fail(f"@{function.name} declares {THREADS!r}, which every function has")
        self.program = function.kind == "main"
        types = [arg.type for arg in function.args]
        buffers = sum(isinstance(type, BufferType) for type in types)
        for i, type in enumerate(types):
            wanted = BufferType if i < buffers else ScalarType
            if not isinstance(type, wanted):
                self.fail(f"@{function.name}: argument {i} is {type}; buffers stand before scalars")
        if self.program:
            self._signature(function)
        self.function(function)
        if function.block.terminator.operands:
            self.fail("a function returns nothing", function.block.terminator)

    def _signature(self, function: Function) -> None:
        """Compare the buffers of `main` with the tensors that its attributes announce."""
        inputs, outputs = (self._tensors(function, key) for key in ("inputs", "outputs"))
        announced = (*inputs, *outputs)
        if len(announced) != len(function.args):
            what = f"{len(function.args)} arguments, but {len(announced)} inputs and outputs"
            self.fail(f"@{function.name} has {what}")
        for arg, (name, tensor) in zip(function.args, announced, strict=True):
            type = arg.type
            if not isinstance(type, BufferType) or type.dtype != tensor.dtype:
                self.fail(f"@{function.name}: {name} is {tensor}, but the argument is {type}")
        types = [[type for _, type in tensors] for tensors in (inputs, outputs)]
        fault = faults(function.attrs.get(IN_PLACE, ()), *types)
        if fault:
            self.fail(f"@{function.name}: {fault}")
        for dim in dims_in(tuple(function.attrs.values())):
            unknown = symbols_of(dim) - {*function.symbols, THREADS}
            if unknown:
                named = ", ".join(sorted(unknown))
                self.fail(f"@{function.name}: {dim} speaks of undeclared {named}")
        workspace = function.attrs.get("workspace", 0)
        if not isinstance(workspace, (int, Dim)):
            self.fail(f"@{function.name}: the workspace is not a number of bytes")
        own = {bound_by(op) for op in function.block}
        for name, dims, known in (
            ("an input's type", dims_in(function.attrs["inputs"]), set()),
            ("the workspace", dims_in(workspace), set()),
            ("an output's type", dims_in(function.attrs["outputs"]), own),
        ):
            late = {symbol for dim in dims for symbol in symbols_of(dim)} - known
            late &= run_time_symbols(function).keys()
            if late:
                named = ", ".join(sorted(late))
                self.fail(f"@{function.name}: {name} speaks of {named}, which is not known then")

    def _tensors(self, function: Function, key: str) -> list[tuple[str, TensorType]]:
        """Return the names and types that `main` announces as inputs or outputs."""
        found: list[tuple[str, TensorType]] = []
        entries = function.attrs.get(key, ())
        for entry in entries if isinstance(entries, tuple) else (entries,):
            match entry:
                case (str() as name, TensorType() as type):
                    found.append((name, type))
                case _:
                    self.fail(f"@{function.name}: {attr_text(entry)} in {key} is no name and type")
        return found

    def inputs(self, function: Function) -> list[tuple[str, Type]]:
        return list(function.attrs.get("inputs", ()))

    def _symbols(self, function: Function) -> None:
        super()._symbols(function)
        self.declared.add(THREADS)

    def check_op(self, op: Op) -> None:
        defn, name = op.defn, op.name
        if LOOP_OPS.get(name) is not defn or not isinstance(defn, LoopOp):
            self.fail("is not an op of the loop level", op)
        if not self.program and name in PROGRAM_OPS:
            self.fail("stands in a kernel", op)
        if len(op.regions) != defn.regions:
            self.fail(f"has {len(op.regions)} regions, not {defn.regions}", op)
        if not isinstance(op.attrs, defn.attrs):
            self.fail(f"has attributes {op.attrs!r}", op)
        found = tuple([value.type for value in op.results])
        wanted = self._inferred(op, defn)
        rule = _RULES.get(name)
        if defn.regions != 2 and found != wanted:
            self.fail(f"has results {_list(found)}, its rule says {_list(wanted)}", op)
        if rule is not None:
            rule(self, op)

    def _inferred(self, op: Op, defn: LoopOp) -> tuple[Type, ...]:
        try:
            return defn.infer(tuple([value.type for value in op.operands]), op.attrs)
        except LoopTypeError as err:
            self.fail(str(err), op)
        except Exception as err:
            # Too few operands, or attributes that no builder would make.
            self.fail(f"its rule failed: {type(err).__name__}: {err}", op)

    def need(self, condition: bool, message: str, op: Op) -> None:
        if not condition:
            self.fail(message, op)


def _yields(op: Op, region: int) -> list[Type]:
    return [value.type for value in op.regions[region].terminator.operands]


def _for(checker: LoopChecker, op: Op) -> None:
    carried = [value.type for value in op.results]
    _takes(checker, op, [INDEX, *carried])
    yields = _yields(op, 0)
    if yields != carried:
        checker.fail(f"yields {_list(yields)}, but carries {_list(carried)}", op)


def _while(checker: LoopChecker, op: Op) -> None:
    carried = [value.type for value in op.results]
    _takes(checker, op, carried)
    wanted = [PREDICATE, *carried]
    yields = _yields(op, 0)
    if yields != wanted:
        checker.fail(f"yields {_list(yields)}, not {_list(wanted)}", op)


def _takes(checker: LoopChecker, op: Op, wanted: list[Type]) -> None:
    args = [arg.type for arg in op.regions[0].args]
    if args != wanted:
        checker.fail(f"the region takes {_list(args)}, not {_list(wanted)}", op)


def _parallel(checker: LoopChecker, op: Op) -> None:
    _takes(checker, op, [INDEX, INDEX])
    checker.need(not _yields(op, 0), "a parallel region yields nothing", op)


def _if(checker: LoopChecker, op: Op) -> None:
    results = [value.type for value in op.results]
    for i, region in enumerate(op.regions):
        checker.need(not region.args, "a region of an if takes nothing", op)
        yields = _yields(op, i)
        if yields != results:
            listed = f"{_list(results)}, but region {i} yields {_list(yields)}"
            checker.fail(f"has results {listed}", op)


def _tiles(checker: LoopChecker, op: Op) -> None:
    """Tiles of one machine: their number, rows and bytes are limited, and no task shares them."""
    (region,) = op.regions
    checker.need(len(region.args) == len(op.operands), "a tile has no number of rows", op)
    checker.need(len(region.args) <= MOST_TILES, f"there are only {MOST_TILES} tiles", op)
    for arg in region.args:
        type = arg.type
        known = isinstance(type, BufferType) and type.space == TILE
        checker.need(known, f"{type} is not a tile", op)
        assert isinstance(type, BufferType)
        fits = (
            len(type.shape) == 2
            and type.strides == row_major(type.shape)
            and all(isinstance(dim, int) and dim > 0 for dim in type.shape)
            and type.shape[0] <= TILE_ROWS
            and type.shape[1] * type.dtype.bytes in range(4, TILE_BYTES + 1, 4)
        )
        checker.need(fits, f"{type} is no tile of up to {TILE_ROWS}x{TILE_BYTES} bytes", op)
    inside = {inner.name for inner in region.walk()} & {"parallel", "tiles"}
    checker.need(not inside, f"{', '.join(inside)} inside tiles", op)


def _call(checker: LoopChecker, op: Op) -> None:
    module = checker.module
    callee = module.functions.get(op.attrs.callee)
    if callee is None or callee.kind != "kernel":
        checker.fail(f"there is no kernel @{op.attrs.callee}", op)
    given = [_anywhere(value.type) for value in op.operands]
    taken = [_anywhere(arg.type) for arg in callee.args]
    checker.need(
        given == taken, f"passes {_list(given)}, but @{callee.name} takes {_list(taken)}", op
    )
    missing = ", ".join(name for name in callee.symbols if name not in checker.declared)
    checker.need(not missing, f"@{callee.name} needs the symbols {missing}", op)


def _anywhere(type: Type) -> Type:
    """A buffer's type without its memory space, which a callee need not know."""
    if isinstance(type, BufferType):
        return BufferType(type.dtype, type.shape, type.strides)
    return type


def _constant(checker: LoopChecker, op: Op) -> None:
    name = op.attrs.name
    checker.need(name in checker.module.data, f"there is no data @{name}", op)


def _alloca(checker: LoopChecker, op: Op) -> None:
    type = op.attrs.type
    fixed = all(isinstance(dim, int) and dim >= 0 for dim in (*type.shape, *type.strides))
    checker.need(fixed, f"{type} on the stack is not of fixed size", op)
    checker.need(type.space != TILE, "tiles are made by the op of that name", op)


def _access(checker: LoopChecker, op: Op) -> None:
    buffers = [value.type for value in op.operands if isinstance(value.type, BufferType)]
    rank = len(buffers[0].shape)
    axis = op.attrs.axis
    if not -rank <= axis < rank:
        checker.fail(f"axis {axis} is out of range for rank {rank}", op)
    if op.attrs.lanes <= 0:
        checker.fail(f"accesses {op.attrs.lanes} lanes", op)


def _lanes(checker: LoopChecker, op: Op) -> None:
    if op.attrs.lanes <= 0:
        checker.fail(f"makes {op.attrs.lanes} lanes", op)


def _lane(checker: LoopChecker, op: Op) -> None:
    vector = op.operands[-1].type
    assert isinstance(vector, VectorType)
    lane = op.attrs.lane
    if not 0 <= lane < vector.lanes:
        checker.fail(f"lane {lane} of {vector}", op)
    if len(op.operands) == 2:
        given = op.operands[0].type
        if given != scalar_of(vector.dtype):
            checker.fail(f"inserts {given} into {vector}", op)


def _reduce(checker: LoopChecker, op: Op) -> None:
    kind, vector = op.attrs.kind, op.operands[0].type
    assert isinstance(vector, VectorType)
    checker.need(kind in REDUCTIONS, f"unknown reduction {kind!r}", op)
    logical = kind in ("and", "or")
    fits = not vector.dtype.is_float if logical else vector.dtype != BOOL or kind in ("min", "max")
    checker.need(fits, f"{kind} of {vector}", op)


_RULES: dict[str, Callable[[LoopChecker, Op], None]] = {
    "for": _for,
    "while": _while,
    "parallel": _parallel,
    "if": _if,
    "tiles": _tiles,
    "call": _call,
    "constant": _constant,
    "alloca": _alloca,
    "vload": _access,
    "vstore": _access,
    "splat": _lanes,
    "iota": _lanes,
    "extract": _lane,
    "insert": _lane,
    "reduce": _reduce,
}


def _list(types: Sequence[Type]) -> str:
    return f"({', '.join(map(str, types))})"
