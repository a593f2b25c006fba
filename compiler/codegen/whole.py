"""A program's modules as one: its LLVM text and its assembly, for people to read."""

from __future__ import annotations

from collections.abc import Sequence

import llvmlite
import llvmlite.binding as llvm

from tfc.compiler.codegen.emit import emit_assembly, initialise
from tfc.compiler.target import Target
from tfc.ir.errors import CompileError

LLVMLITE_VERSION: str = llvmlite.__version__


def whole_text(texts: Sequence[str]) -> str:
    """Return one LLVM module with all that the modules define."""
    initialise()
    context = llvm.create_context()
    try:
        whole = llvm.parse_assembly(texts[0], context)
        for text in texts[1:]:
            whole.link_in(llvm.parse_assembly(text, context))
    except RuntimeError as error:
        raise CompileError(f"LLVM cannot join the generated modules: {error}") from error
    whole.name = "tfc"
    return str(whole)


def whole_assembly(texts: Sequence[str], target: Target, opt: int = 2) -> str:
    """Return the assembly of the modules, one behind the other."""
    return emit_assembly(whole_text(texts), target, opt)
