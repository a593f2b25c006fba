"""From a module to a compiled program: graph passes, lowering, then `compiler.build`.

Knows no front end and no files; a module of either level may come in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tfc.compiler import collector
from tfc.compiler.build import Build, Options, finish, start
from tfc.compiler.cost.choice import Chooser
from tfc.compiler.lower.planes import FAST
from tfc.compiler.lower.program import ProgramBuilder
from tfc.compiler.passman import PassContext
from tfc.compiler.pipeline import run
from tfc.ir.core import Function, Module, SymbolInfo
from tfc.ir.errors import UsageError
from tfc.ir.loop.verify import verify_function
from tfc.ir.text.printer import print_module
from tfc.ir.verify import verify


def compile_module(module: Module, options: Options) -> Build:
    """Compile a module of either level; a graph is optimised in place."""
    with collector.paused(), start(options) as emission:
        program = lower_module(module, options, made=emission.kernel)
        return finish(program, options, emission)


def lower_module(
    module: Module,
    options: Options,
    *,
    optimised: bool = False,
    made: Callable[[Function], object] | None = None,
    chooser: Chooser | None = None,
) -> Module:
    """Return the loop-level program of a module, which may be one already.

    made: told each kernel as soon as it is lowered and verified. chooser: decides for the
    schedules; by default one that knows what was tuned.
    """
    if module.level == "loop":
        verify(module)
        return module
    if not optimised:
        optimise(module, options)
    options.progress("lower", 0, 1)

    def finished(program: Module, kernel: Function) -> None:
        if options.verify:
            verify_function(program, kernel)
        if made is not None:
            made(kernel)

    builder = builder_of(module, options, chooser or Chooser(options.tuned))
    builder.kernels.maker.made = finished
    program = builder.build()
    if options.verify:
        verify_function(program, program.main)
    return program


def builder_of(module: Module, options: Options, chooser: Chooser) -> ProgramBuilder:
    """Return what lowers an optimised graph."""
    fast = FAST.difference(options.passes.get("disabled", ()) if options.opt else FAST)
    return ProgramBuilder(module, options.target, hints(module.main.symbols), fast, chooser)


def optimise(module: Module, options: Options) -> None:
    """Run the graph passes in place."""
    options.progress("optimise", 0, 1)
    run(module, pass_context(options))


def pass_context(options: Options) -> PassContext:
    """Return what the pass manager is told."""
    settings = dict(options.passes)
    settings["disabled"] = set(settings.get("disabled", ())) - FAST
    return PassContext(
        options.target, options.opt, verify=options.verify, dtype=options.dtype, **settings
    )


def hints(symbols: Mapping[str, SymbolInfo]) -> dict[str, int]:
    """Return the symbols' values to optimise for, where they are known."""
    return {name: info.hint for name, info in symbols.items() if info.hint is not None}


def print_stage(module: Module, stage: str, options: Options) -> str:
    """Return the text of a module at a stage: graph, fused, loops, llvm or asm.

    A graph module is changed on the way.
    """
    if stage == "graph":
        if module.level != "graph":
            raise UsageError("the model is at the loop level: it has no graph")
        return print_module(module)
    if stage == "fused":
        optimise(module, options)
        return print_module(module)
    if stage == "loops":
        return print_module(lower_module(module, options))
    if stage in ("llvm", "asm"):
        compiled = compile_module(module, options)
        return compiled.llvm() if stage == "llvm" else compiled.assembly()
    raise UsageError(f"no stage {stage!r}: graph, fused, loops, llvm or asm")
