"""Helpers for tests of passes: modules from text, running them, comparing results. No cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tfc.compiler.passman import PassContext
from tfc.compiler.pipeline import PASSES
from tfc.ir import arrays
from tfc.ir.arrays import Array
from tfc.ir.build import tensor_type
from tfc.ir.constants import ConstantStore
from tfc.ir.core import Function, Module
from tfc.ir.interp import evaluate
from tfc.ir.text import parse_module
from tfc.ir.types import BF16, DType
from tfc.ir.verify import verify

STEPS = {row.name: row for row in PASSES}
EPSILON = {"f64": 2.0**-52, "f32": 2.0**-23, "f16": 2.0**-10, "bf16": 2.0**-7}


def module_of(body: str, args: str, outputs: str = "y", symbols: str = "") -> Module:
    """A graph module from the text of its ops, the last of which is the return."""
    head = f"tfc 1 graph\nfunc @main({args}) -> ({outputs})"
    if symbols:
        head += f" symbols {{{symbols}}}"
    module = parse_module(f"{head} {{\n{body}\n}}\n", ConstantStore())
    verify(module)
    return module


def apply_passes(module: Module, *names: str, context: PassContext | None = None) -> PassContext:
    """Run passes by name, each followed by the verifier."""
    context = context or PassContext()
    for name in names:
        STEPS[name].fn(module, context)
        verify(module, name)
    return context


def run_graph(module: Module, inputs: Mapping[str, Array]) -> list[Array]:
    """The outputs, in order."""
    return list(evaluate(module, inputs, module.constants).values())


def op_names(module: Module) -> list[str]:
    """The names of all ops in order, those in regions after the op that has them."""
    return [op.name for op in module.main.block.walk()]


def random_inputs(
    function: Function, seed: int, sizes: Mapping[str, int] | None = None
) -> dict[str, Array]:
    """Numbers for every input; `sizes` gives the symbols' values."""
    generator = np.random.default_rng(seed)
    found: dict[str, Array] = {}
    for arg in function.args:
        type = tensor_type(arg)
        shape = [dim if isinstance(dim, int) else (sizes or {})[str(dim)] for dim in type.shape]
        numbers = generator.uniform(-2, 2, shape)
        if type.dtype.is_int:
            numbers = np.round(numbers * 4) if type.dtype.kind == "i" else np.round(numbers**2)
        elif not type.dtype.is_float:
            numbers = numbers > 0
        found[arg.name] = arrays.make(numbers, type.dtype)
    return found


def assert_same_bits(
    found: Sequence[Array], wanted: Sequence[Array], dtype: DType | None = None, note: str = ""
) -> None:
    """Equal in every bit, NaN payloads and signs aside. dtype: of the arrays, if it is bf16."""
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == b.dtype, note
        if dtype == BF16 and a.dtype == np.uint16:
            a, b = arrays.decode(a, BF16), arrays.decode(b, BF16)
        np.testing.assert_array_equal(a, b, note)
        if a.dtype.kind == "f":
            number = ~np.isnan(a)
            np.testing.assert_array_equal(np.signbit(a)[number], np.signbit(b)[number], note)


def assert_close(
    found: Sequence[Array], wanted: Sequence[Array], dtype: DType, units: float, note: str = ""
) -> None:
    """Within `units` units in the last place of the largest number; the same NaN and infinities."""
    for a, b in zip(found, wanted, strict=True):
        if dtype == BF16:
            a, b = arrays.decode(a, dtype), arrays.decode(b, dtype)
        if a.dtype.kind != "f":
            np.testing.assert_array_equal(a, b, note)
            continue
        finite = np.isfinite(b)
        np.testing.assert_array_equal(a[~finite], b[~finite], note)
        scale = max(1.0, float(np.max(np.abs(b[finite]), initial=0)))
        error = np.abs(a[finite].astype(np.float64) - b[finite])
        assert np.all(error <= units * EPSILON[dtype.name] * scale), f"{note}: off by {error.max()}"
