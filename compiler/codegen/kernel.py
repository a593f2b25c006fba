"""A kernel of the loop level as one LLVM module. `parallel` regions become functions beside it.

The text is final: loops are bottom-tested with phis, invariants are out of them, and no LLVM pass
needs to run on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from tfc.compiler.codegen import amx, tile_loops
from tfc.compiler.codegen.dots import dot
from tfc.compiler.codegen.llvm_types import element, register, suffix, vector
from tfc.compiler.codegen.lookups import lookup
from tfc.compiler.codegen.loops import LoopEmitter, phi
from tfc.compiler.codegen.memory import MEMORY
from tfc.compiler.codegen.saturate import saturates, to_bytes
from tfc.compiler.codegen.scalar_llvm import CORE_LLVM, Call, emit_scalar
from tfc.compiler.codegen.values import CTX_PARALLEL_FOR, CTX_USER, Linear
from tfc.compiler.target import Target
from tfc.ir.core import Block, Function, Op, Value
from tfc.ir.errors import CompileError
from tfc.ir.loop.nodes import ALIASED
from tfc.ir.loop.scalar import MATH
from tfc.ir.types import BOOL, I64, BufferType, DType, ScalarType, VectorType


def kernel_text(function: Function, target: Target) -> str:
    """Return a kernel as LLVM text: `void @NAME(ptr ctx, buffers..., scalars..., symbols...)`."""
    emitter = Emitter(target, function.name)
    emitter.emit_function(function)
    return emitter.module()


class Emitter(LoopEmitter):
    """Emits the ops of one function."""

    def __init__(self, target: Target, name: str) -> None:
        super().__init__(target)
        self.function_name = name
        self.aliased = False
        self.worker = ""  # inside a parallel body: its worker

    def rule(self, name: str) -> Callable[[Emitter, Op], None] | None:
        return RULES.get(name)

    def emit_function(self, function: Function) -> None:
        self._find_constant_arguments(function)
        self.aliased = ALIASED in function.attrs
        with self.function() as text:
            params = ["ptr noalias readonly " + self.param("%ctx", "ptr")]
            for i, arg in enumerate(function.args):
                params.append(self._argument(arg, f"%a{i}"))
            params += self.symbol_params(function.symbols)
            self.emit_block(function.block)
            self.ret("void")
        self.functions.append(
            f"define hidden void @{function.name}({', '.join(params)}) #0 {{\n{text.body()}\n}}"
        )

    def symbol_params(self, symbols: Iterable[str]) -> list[str]:
        params = []
        for i, symbol in enumerate(symbols):
            self.symbols[symbol] = self.param(f"%n{i}", "i64")
            params.append(f"i64 %n{i}")
        return params

    def _argument(self, arg: Value, name: str) -> str:
        type = register(arg.type)
        self.values[arg] = self.param(name, type)
        if not isinstance(arg.type, BufferType):
            return f"{type} {'zeroext ' if type == 'i1' else ''}{name}"
        # Memory that nobody writes may be reached through several noalias pointers.
        alone = "" if self.aliased else "noalias "
        return f"ptr {alone}{'readonly ' if arg in self.constant_arguments else ''}{name}"

    def _find_constant_arguments(self, function: Function) -> None:
        """Note the buffers whose memory nobody writes."""
        if ALIASED in function.attrs:
            return
        self.constant_arguments |= {
            arg for arg in function.args if isinstance(arg.type, BufferType)
        }
        for op in function.block.walk():
            if op.name in ("store", "vstore", "scatter", "tile_store"):
                buf = op.operands[1]
                while buf.op is not None and buf.op.name == "view":
                    buf = buf.op.operands[0]
                self.constant_arguments.discard(buf)

    def emit_block(self, block: Block) -> tuple[Value, ...]:
        """Emit all ops and return what the terminator hands out."""
        for op in block:
            if op.name in ("yield", "return"):
                return op.operands
            rule = self.rule(op.name)
            if rule is None:
                detail = (
                    "has to be expanded before code generation"
                    if op.name in MATH
                    else ("has no place in this function")
                )
                raise CompileError(f"loop op {op.name} {detail}", where=str(op.loc) or None)
            rule(self, op)
        raise CompileError(f"a block of {self.function_name} has no terminator")

    def bind_results(self, op: Op, values: Sequence[str]) -> None:
        self.values.update(zip(op.results, values, strict=True))


def _for(e: Emitter, op: Op) -> None:
    lo, hi, *carried = op.operands
    block = op.regions[0]

    def body(index: Linear, values: list[str]) -> Sequence[str]:
        e.sums[block.args[0]] = index
        e.values.update(zip(block.args[1:], values, strict=True))
        return e.values_of(e.emit_block(block))

    inits = [(register(value.type), e.value(value)) for value in carried]
    e.bind_results(op, e.loop(e.linear(lo), e.linear(hi), op.attrs.step, inits, body))


def _while(e: Emitter, op: Op) -> None:
    condition, *carried = op.operands
    (block,) = op.regions
    inits = e.values_of(carried)
    first = e.value(condition)
    header, end = e.new_block("while"), e.new_block("end")
    before = e.scope.block.label
    e.branch(first, header, end)
    with e.region(header) as scope:
        names = [e.name(register(value.type), scope.depth) for value in carried]
        e.values.update(zip(block.args, names, strict=True))
        again, *nexts = e.values_of(e.emit_block(block))
        latch = e.scope.block.label
        e.branch(again, header, end)
    e.enter(end)
    for value, name, init, after in zip(op.results, names, inits, nexts, strict=True):
        type = register(value.type)
        header.phis.append(phi(name, type, (init, before), (after, latch)))
        result = e.name(type, e.scope.depth)
        end.phis.append(phi(result, type, (init, before), (after, latch)))
        e.values[value] = result


def _if(e: Emitter, op: Op) -> None:
    condition = e.value(op.operands[0])
    blocks = [e.new_block("then"), e.new_block("else")]
    end = e.new_block("end")
    e.branch(condition, *blocks)
    sources = []
    for block, region in zip(blocks, op.regions, strict=True):
        with e.region(block):
            values = e.values_of(e.emit_block(region))
            sources.append((values, e.scope.block.label))
            e.jump(end)
    e.enter(end)
    for i, result in enumerate(op.results):
        type = register(result.type)
        name = e.name(type, e.scope.depth)
        end.phis.append(phi(name, type, *((values[i], label) for values, label in sources)))
        e.values[result] = name


def _parallel(e: Emitter, op: Op) -> None:
    """Hand the body to `parallel_for`; a parallel loop inside another stays with its worker."""
    block = op.regions[0]
    count = e.linear(op.operands[0])
    if e.worker:

        def body(index: Linear, _: list[str]) -> Sequence[str]:
            e.sums[block.args[0]] = index
            e.sums[block.args[1]] = Linear(((e.worker, 1),))
            e.emit_block(block)
            return ()

        e.loop(Linear(), count, 1, (), body)
        return
    name, captured = _outline(e, block)
    layout = "{ " + ", ".join(e.types[value] for value in captured) + " }"
    closure = e.stack(layout)
    for i, value in enumerate(captured):
        slot = e.here("ptr", f"getelementptr {layout}, ptr {closure}, i32 0, i32 {i}")
        e.line(f"store {e.types[value]} {value}, ptr {slot}")
    when = e.value(op.operands[1]) if len(op.operands) > 1 else "true"
    _call_parallel(e, name, closure, count, when)


def _outline(e: Emitter, block: Block) -> tuple[str, list[str]]:
    """Emit a parallel body as a function of (closure, index, worker); return what it captures."""
    depth = len(e.scopes)
    name = f"@{e.function_name}_body{e.number()}"
    with e.function() as text:
        closure, index, worker = (e.name(type, depth) for type in ("ptr", "i64", "i64"))
        e.sums[block.args[0]] = Linear(((index, 1),))
        e.sums[block.args[1]] = Linear(((worker, 1),))
        e.worker = worker
        e.emit_block(block)
        e.worker = ""
        e.ret("void")
        captured = e.captures(text.body(), depth)
    layout = "{ " + ", ".join(e.types[value] for value in captured) + " }"
    loads = []
    for i, value in enumerate(captured):
        slot = f"%slot{i}"
        loads += [
            f"  {slot} = getelementptr {layout}, ptr {closure}, i32 0, i32 {i}",
            f"  {value} = load {e.types[value]}, ptr {slot}",
        ]
    text.head += loads
    e.functions.append(
        f"define internal void {name}(ptr noalias readonly {closure}, i64 {index}, i64 {worker})"
        f" #0 {{\n{text.body()}\n}}"
    )
    return name, captured


def _tiles(e: Emitter, op: Op) -> None:
    """Run the region on registers, configured before and given back behind it, or on memory."""
    if e.target.uses_amx:
        amx.configure(e, op)
    elif e.target.emulates_tiles:
        tile_loops.allocate(e, op)
    else:
        raise CompileError("the target has no tiles", where=str(op.loc) or None)
    e.emit_block(op.regions[0])
    if e.target.uses_amx:
        amx.release(e)


def _tile_op(e: Emitter, op: Op) -> None:
    (amx.AMX if e.target.uses_amx else tile_loops.TILE_LOOPS)[op.name](e, op)


def _call_parallel(e: Emitter, name: str, closure: str, count: Linear, when: str) -> None:
    total = e.sum(count)
    function = e.context_field(CTX_PARALLEL_FOR, "ptr")
    there = e.compare("icmp ne", "ptr", function, "null")
    several = e.compare("icmp sgt", "i64", total, "1")
    wanted = e.op("and", "i1", e.op("and", "i1", there, several), when)
    shared, alone, end = (e.new_block(hint) for hint in ("shared", "alone", "end"))
    e.branch(wanted, shared, alone)
    with e.region(shared):
        user = e.context_field(CTX_USER, "ptr")
        status = e.effect(
            "i32", f"call i32 {function}(ptr {user}, ptr {name}, ptr {closure}, i64 {total})"
        )
        # Whoever could not run it says so, and then nothing has run.
        e.branch(e.compare("icmp eq", "i32", status, "0"), end, alone)
    with e.region(alone):

        def body(index: Linear, _: list[str]) -> Sequence[str]:
            e.line(f"call void {name}(ptr {closure}, i64 {e.sum(index)}, i64 0)")
            return ()

        e.loop(Linear(), count, 1, (), body)
        e.jump(end)
    e.enter(end)


# -- values -------------------------------------------------------------------------------------


def _scalar(e: Emitter, op: Op) -> None:
    if e.set_sum(op):
        return
    last = op.operands[-1].type
    result = op.result.type
    assert isinstance(last, (ScalarType, VectorType))
    assert isinstance(result, (ScalarType, VectorType))
    lanes = last.lanes if isinstance(last, VectorType) else 0
    numbers = tuple(e.number_of(value) for value in op.operands)
    call = Call(last.dtype, lanes, e.values_of(op.operands), numbers, result.dtype)
    e.values[op.result] = emit_scalar(e, op.name, call)


def _cast(e: Emitter, op: Op) -> None:
    if saturates(e, op):
        to_bytes(e, op)
    else:
        _scalar(e, op)


def _less(e: Emitter, op: Op) -> None:
    """Less than; the mask of a tail, `iota < splat(left)`, is compared in narrow lanes."""
    x, y = (value.op for value in op.operands)
    if x is None or y is None or x.name != "iota" or y.name != "splat" or x.attrs.dtype != I64:
        _scalar(e, op)
        return
    lanes = x.attrs.lanes
    bits = max(min(e.target.vector_bits // lanes, 64), 8)
    if lanes >= 1 << (bits - 1) or bits not in (8, 16, 32):
        _scalar(e, op)
        return
    left = e.value(y.operands[0])
    for name, limit in (("smax", 0), ("smin", lanes)):
        left = e.intrinsic(name, "i64", ("i64", left), ("i64", str(limit)))
    type = vector(f"i{bits}", lanes)
    few = e.splat(e.convert("trunc", "i64", left, f"i{bits}"), type)
    e.values[op.result] = e.compare("icmp slt", type, _counting(bits, lanes), few)


def _counting(bits: int, lanes: int) -> str:
    return "<" + ", ".join(f"i{bits} {lane}" for lane in range(lanes)) + ">"


def _const(e: Emitter, op: Op) -> None:
    e.set_constant(op.result, op.attrs.value)


def _dim(e: Emitter, op: Op) -> None:
    e.sums[op.result] = Linear((), op.attrs.expr)


def _splat(e: Emitter, op: Op) -> None:
    e.values[op.result] = e.splat(e.value(op.operands[0]), register(op.result.type))


def _iota(e: Emitter, op: Op) -> None:
    assert isinstance(op.result.type, VectorType)
    dtype, lanes = op.result.type.dtype, op.result.type.lanes
    if not dtype.is_int:
        raise CompileError(f"iota of {dtype}", where=str(op.loc) or None)
    e.values[op.result] = _counting(dtype.bits, lanes)


def _extract(e: Emitter, op: Op) -> None:
    (x,) = op.operands
    text = e.value(x)
    rhs = f"extractelement {register(x.type)} {text}, i64 {op.attrs.lane}"
    e.values[op.result] = e.let(register(op.result.type), rhs, text)


def _insert(e: Emitter, op: Op) -> None:
    value, x = op.operands
    one, all = e.value(value), e.value(x)
    type = register(x.type)
    rhs = f"insertelement {type} {all}, {register(value.type)} {one}, i64 {op.attrs.lane}"
    e.values[op.result] = e.let(type, rhs, one, all)


def _shuffle(e: Emitter, op: Op) -> None:
    x, y = op.operands
    e.values[op.result] = _shuffled(e, register(x.type), e.value(x), e.value(y), op.attrs.mask)


def _shuffled(e: Emitter, type: str, x: str, y: str, mask: Sequence[int]) -> str:
    of = type[type.index("x") + 2 : -1]
    lanes = ", ".join(f"i32 {lane}" for lane in mask)
    rhs = f"shufflevector {type} {x}, {type} {y}, <{len(mask)} x i32> <{lanes}>"
    return e.let(vector(of, len(mask)), rhs, x, y)


def _reduce(e: Emitter, op: Op) -> None:
    """Reduce: of integers by LLVM, of floats as a tree whose halves meet lane by lane."""
    (x,) = op.operands
    assert isinstance(x.type, VectorType)
    dtype, kind = x.type.dtype, op.attrs.kind
    if dtype.is_float:
        e.values[op.result] = _reduce_tree(e, kind, x)
        return
    name = kind
    if dtype == BOOL:
        name = {"min": "and", "max": "or"}.get(kind, kind)
    elif kind in ("min", "max"):
        name = ("s" if dtype.kind == "i" else "u") + kind
    type = register(x.type)
    value = e.value(x)
    e.values[op.result] = e.intrinsic(
        f"vector.reduce.{name}", element(dtype), (type, value), mangle=suffix(type)
    )


def _reduce_tree(e: Emitter, kind: str, x: Value) -> str:
    assert isinstance(x.type, VectorType)
    dtype, lanes = x.type.dtype, x.type.lanes
    value = e.value(x)
    of = element(dtype)
    odd = ""
    while lanes > 1:
        type, half = vector(of, lanes), lanes // 2
        if lanes % 2:
            last = e.let(of, f"extractelement {type} {value}, i64 {lanes - 1}", value)
            odd = last if not odd else _combine(e, kind, dtype, 0, last, odd)
        low = _shuffled(e, type, value, "poison", range(half))
        high = _shuffled(e, type, value, "poison", range(half, 2 * half))
        value = _combine(e, kind, dtype, half, low, high)
        lanes = half
    one = e.let(of, f"extractelement <1 x {of}> {value}, i64 0", value)
    return one if not odd else _combine(e, kind, dtype, 0, one, odd)


def _combine(e: Emitter, kind: str, dtype: DType, lanes: int, x: str, y: str) -> str:
    return emit_scalar(e, kind, Call(dtype, lanes, (x, y), (None, None), dtype))


RULES: Mapping[str, Callable[[Emitter, Op], None]] = {
    **dict.fromkeys(CORE_LLVM, _scalar),
    **MEMORY,
    "cast": _cast,
    "lt": _less,
    "const": _const,
    "dim": _dim,
    "splat": _splat,
    "iota": _iota,
    "extract": _extract,
    "insert": _insert,
    "shuffle": _shuffle,
    "dot": dot,
    "lookup": lookup,
    "reduce": _reduce,
    "for": _for,
    "while": _while,
    "if": _if,
    "parallel": _parallel,
    "tiles": _tiles,
    **dict.fromkeys(amx.AMX, _tile_op),
}
