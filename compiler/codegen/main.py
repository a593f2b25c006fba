"""The `main` of a loop-level program as LLVM text: calls with offsets into one workspace.

`i32 @PREFIX_main(ptr ctx, ptr workspace, ptr constants, ptr buffers..., i64 symbols...)`, and
where outputs' dims are known only then, an array behind them that gets these symbols' values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from string import Template

from tfc.compiler.codegen.builder import THREADS
from tfc.compiler.codegen.kernel import RULES, Emitter
from tfc.compiler.codegen.llvm_types import register
from tfc.compiler.codegen.values import Linear
from tfc.compiler.target import Target
from tfc.ir.core import Function, Module, Op
from tfc.ir.dims import symbols_of
from tfc.ir.errors import CompileError
from tfc.ir.symbols import dims_in, run_time_symbols, start_symbols

_CYCLES = Template("""\
define i64 @${P}_cycles() #0 {
  %now = call i64 @llvm.readcyclecounter()
  ret i64 %now
}""")
WORKSPACE, CONSTANTS, TOLD = "%workspace", "%constants", "%told"


def main_text(
    module: Module,
    target: Target,
    prefix: str,
    constant_offsets: Mapping[str, int],
    *,
    profile: bool = False,
) -> str:
    """Return the program's main. constant_offsets: byte offset of each entry of `module.data`.

    profile: `PREFIX_profile` is a table of i64 pairs, one for each `call` in order: how often it
    was made, and the cycles that it took; `i64 PREFIX_cycles()` is the counter. Calls of main
    must then not overlap.
    """
    emitter = MainEmitter(module, target, prefix, constant_offsets, profile)
    emitter.emit_main(module.main)
    return emitter.module()


def main_signature(main: Function) -> list[str]:
    """Return the parameter types of `@PREFIX_main`."""
    numbers = ["ptr"] if told_symbols(main) else []
    return ["ptr"] * (3 + len(main.args)) + ["i64"] * len(start_symbols(main)) + numbers


def told_symbols(main: Function) -> tuple[str, ...]:
    """Return the symbols that outputs' dims speak of and that only a run gives values.

    `@PREFIX_main` writes their values to its last argument, which is there if any is.
    """
    named = {name for dim in dims_in(main.attrs["outputs"]) for name in symbols_of(dim)}
    return tuple(name for name in run_time_symbols(main) if name in named)


class MainEmitter(Emitter):
    """Emits `main`: the ops of kernels, and those of programs."""

    def __init__(
        self,
        module: Module,
        target: Target,
        prefix: str,
        offsets: Mapping[str, int],
        profile: bool = False,
    ) -> None:
        super().__init__(target, f"{prefix}_main")
        self.program = module
        self.offsets = offsets
        self.prefix = prefix
        self.table = f"@{prefix}_profile" if profile else ""
        self.calls = 0
        self.told = told_symbols(module.main)

    def rule(self, name: str) -> Callable[[Emitter, Op], None] | None:
        return PROGRAM_RULES.get(name) or RULES.get(name)

    def emit_main(self, main: Function) -> None:
        with self.function() as text:
            params = [f"ptr {self.param(name, 'ptr')}" for name in ("%ctx", WORKSPACE, CONSTANTS)]
            for i, arg in enumerate(main.args):
                self.values[arg] = self.param(f"%a{i}", "ptr")
                params.append(f"ptr %a{i}")
            params += self.symbol_params(start_symbols(main))
            if self.told:
                params.append(f"ptr {self.param(TOLD, 'ptr')}")
            self.emit_block(main.block)
            self.ret("i32 0")
        if self.table:
            self.declare("i64", "@llvm.readcyclecounter", [])
            size = max(2 * self.calls, 1)
            self.globals.append(f"{self.table} = global [{size} x i64] zeroinitializer, align 8")
            self.functions.append(_CYCLES.substitute(P=self.prefix))
        self.functions.append(
            f"define hidden i32 @{self.function_name}({', '.join(params)}) #0 {{\n{text.body()}\n}}"
        )

    def timed(self, call: str) -> None:
        """Emit a call between two readings of the cycle counter, and add it to the table."""
        start = self.effect("i64", "call i64 @llvm.readcyclecounter()")
        self.line(call)
        end = self.effect("i64", "call i64 @llvm.readcyclecounter()")
        cycles = self.effect("i64", f"sub i64 {end}, {start}")
        for word, more in ((2 * self.calls, "1"), (2 * self.calls + 1, cycles)):
            at = f"getelementptr (i64, ptr {self.table}, i64 {word})"
            before = self.effect("i64", f"load i64, ptr {at}, align 8")
            after = self.effect("i64", f"add i64 {before}, {more}")
            self.line(f"store i64 {after}, ptr {at}, align 8")
        self.calls += 1


def _workspace(e: Emitter, op: Op) -> None:
    offset = e.linear(op.operands[0])
    e.values[op.result] = e.place(WORKSPACE, "i8", offset)


def _constant(e: Emitter, op: Op) -> None:
    assert isinstance(e, MainEmitter)
    offset = e.offsets.get(op.attrs.name)
    if offset is None:
        raise CompileError(f"constant {op.attrs.name} has no offset", where=str(op.loc) or None)
    e.values[op.result] = e.place(CONSTANTS, "i8", Linear((), offset))


def _call(e: Emitter, op: Op) -> None:
    assert isinstance(e, MainEmitter)
    callee = e.program.functions.get(op.attrs.callee)
    if callee is None or callee.kind != "kernel":
        raise CompileError(f"no kernel {op.attrs.callee}", where=str(op.loc) or None)
    args = ["ptr %ctx"]
    kinds = ["ptr"]
    for value in op.operands:
        kind = register(value.type)
        attribute = " zeroext" if kind == "i1" else ""
        kinds.append(kind + attribute)
        args.append(f"{kind}{attribute} {e.value(value)}")
    for symbol in callee.symbols:
        kinds.append("i64")
        args.append(f"i64 {_symbol(e, symbol)}")
    e.declare("hidden void", f"@{callee.name}", kinds)
    call = f"call void @{callee.name}({', '.join(args)})"
    if e.table:
        e.timed(call)
    else:
        e.line(call)


def _symbol(e: Emitter, name: str) -> str:
    value = e.symbols.get(name)
    if value is None:
        if name != THREADS:
            raise CompileError(f"main lacks symbol {name} of a kernel that it calls")
        value = e.symbols[name] = e.special_symbol(name)
    return value


def _check(e: Emitter, op: Op) -> None:
    if e.worker:
        raise CompileError("a check inside a parallel loop", where=str(op.loc) or None)
    failed, passed = e.new_block("failed"), e.new_block("passed")
    e.branch(e.value(op.operands[0]), passed, failed)
    failed.terminator = f"ret i32 {op.attrs.code}"
    e.scope.function.blocks.append(failed)
    e.enter(passed)


def _bind(e: Emitter, op: Op) -> None:
    assert isinstance(e, MainEmitter)
    symbol = op.attrs.symbol
    value = e.symbols[symbol] = e.value(op.operands[0])
    if symbol in e.told:
        at = e.let("ptr", f"getelementptr i64, ptr {TOLD}, i64 {e.told.index(symbol)}", TOLD)
        e.line(f"store i64 {value}, ptr {at}, align 8")


PROGRAM_RULES: Mapping[str, Callable[[Emitter, Op], None]] = {
    "workspace": _workspace,
    "constant": _constant,
    "bind": _bind,
    "call": _call,
    "check": _check,
}
