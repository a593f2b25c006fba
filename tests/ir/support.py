"""Short ways to make modules from text. Not test cases."""

from __future__ import annotations

import tfc.ir.ops  # noqa: F401  registers the ops that the texts name
from tfc.ir.constants import ConstantStore
from tfc.ir.core import Function, Module, Op
from tfc.ir.text import parse_module


def graph(body: str, head: str = "%x: f32[2]", outputs: str = "y", symbols: str = "") -> Module:
    """Return a graph module whose main has `body`."""
    declared = f"symbols {{{symbols}}} " if symbols else ""
    text = f"tfc 1 graph\nfunc @main({head}) -> ({outputs}) {declared}{{\n{body}\n}}"
    return parse_module(text, ConstantStore())


def loop(text: str) -> Module:
    """Return a loop module of whole functions."""
    return parse_module("tfc 1 loop\n" + text, ConstantStore())


def kernel(head: str, body: str, symbols: str = "") -> Function:
    """Return the kernel @k."""
    declared = f"symbols {{{symbols}}} " if symbols else ""
    return loop(f"kernel @k({head}) {declared}{{\n{body}\nreturn()\n}}").functions["k"]


def find(module: Module, name: str) -> Op:
    """Return the first op of that name."""
    for function in module.functions.values():
        for op in function.block.walk():
            if op.name == name:
                return op
    raise LookupError(name)
