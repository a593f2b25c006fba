"""The text of both levels: `parse_module(print_module(m))` is `m`, and prints as the same bytes."""

from tfc.ir.text.parser import parse_module
from tfc.ir.text.printer import print_function, print_module

__all__ = ["parse_module", "print_function", "print_module"]
