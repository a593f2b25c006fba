"""Small graphs whose every bit is known, many of them compiled as one. Not test cases.

A probe runs by the interpreter, and compiled without optimisation on two threads and with it on
one. NaN equals NaN; the sign of a zero counts, unless a probe leaves it open.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import tfc
from tests.lower.native import graph
from tfc.graph import Graph
from tfc.ir import arrays
from tfc.ir.arrays import Array
from tfc.ir.build import GraphBuilder, tensor_type
from tfc.ir.core import Module, SymbolInfo, Value
from tfc.ir.dims import symbol
from tfc.ir.interp import evaluate
from tfc.ir.types import BF16, F16, F32, F64, I16, I64, U8, U32, DType, TensorType

FLOAT_TYPES = (F32, F64, F16, BF16)
LATER = (F64, I16, I64, U8, U32)
"""Types that behave as a neighbour does, for the slow tests."""
WAYS = ((0, 2), (2, 1))
"""Optimisation levels and threads."""
INF, NAN = float("inf"), float("nan")
N = symbol("N")
SIZES = (1, 7, 16, 33)
"""Of one element, within a vector, whole vectors, and whole ones with a rest."""


@dataclass(frozen=True)
class Limits:
    """The edges of a float type."""

    dtype: DType
    max: float
    normal: float
    tiny: float
    eps: float


LIMITS = {
    F64: Limits(F64, np.finfo(np.float64).max.item(), 2.0**-1022, 2.0**-1074, 2.0**-52),
    F32: Limits(F32, np.finfo(np.float32).max.item(), 2.0**-126, 2.0**-149, 2.0**-23),
    F16: Limits(F16, 65504.0, 2.0**-14, 2.0**-24, 2.0**-10),
    BF16: Limits(BF16, 2.0**127 * (2 - 2.0**-7), 2.0**-126, 2.0**-133, 2.0**-7),
}


def each(*dtypes: DType) -> Any:
    """A test for each element type, some of them slow ones."""
    slow = pytest.mark.slow
    marked = [pytest.param(d, marks=slow if d in LATER else ()) for d in dtypes]
    return pytest.mark.parametrize("dtype", marked, ids=str)


@dataclass(frozen=True)
class Probe:
    """inputs: in memory form. want: decoded, None where the interpreter is the judge."""

    label: str
    make: Callable[..., Any]
    inputs: tuple[Array, ...]
    dtypes: tuple[DType, ...]
    want: Array | None = None
    any_zero: bool = False
    tol: float = 0.0


def probe(
    label: str,
    make: Callable[..., Any],
    inputs: Sequence[Any],
    want: Any = None,
    *,
    dtype: DType | Sequence[DType] = F32,
    **more: Any,
) -> Probe:
    """A probe of numbers: in `dtype`, or one for each input; `want` is compared as float64."""
    dtypes = (dtype,) * len(inputs) if isinstance(dtype, DType) else tuple(dtype)
    with np.errstate(over="ignore"):
        given = tuple(make_array(x, d) for x, d in zip(inputs, dtypes, strict=True))
    return Probe(label, make, given, dtypes, None if want is None else np.asarray(want), **more)


def make_array(values: Any, dtype: DType) -> Array:
    return arrays.make(values, dtype)


def module_of(probes: Sequence[Probe], free: bool = False) -> Module:
    """One graph of all probes, each with one output. free: the extents are left to a run."""
    types = [
        TensorType(dtype, (N,) if free else x.shape)
        for p in probes
        for x, dtype in zip(p.inputs, p.dtypes, strict=True)
    ]

    def make(b: GraphBuilder, *args: Value) -> list[Value]:
        found, at = [], 0
        for p in probes:
            found.append(p.make(b, *args[at : at + len(p.inputs)]))
            at += len(p.inputs)
        return found

    return graph(types, make, {"N": SymbolInfo()} if free else {})


def check(probes: Sequence[Probe]) -> None:
    """Run all probes in every way, and compare each with what it wants."""
    _check(module_of(probes), [probes])


def check_sizes(sizes: Sequence[Sequence[Probe]]) -> None:
    """The same for lists of the same probes at other sizes, which one program serves."""
    _check(module_of(sizes[0], free=True), sizes)


def _check(module: Module, lists: Sequence[Sequence[Probe]]) -> None:
    dtypes = [tensor_type(value).dtype for value in module.main.outputs]
    failed: list[str] = []
    judged = []
    for probes in lists:
        named = {f"x{i}": x for i, x in enumerate(_inputs(probes))}
        found = list(evaluate(module, named, module.constants).values())  # type: ignore[arg-type]
        failed += _compare("interpreted", probes, dtypes, found, found)
        judged.append(found)
    for level, threads in WAYS:
        call = tfc.compile(Graph(module), opt=level, threads=threads)
        for probes, judge in zip(lists, judged, strict=True):
            results = call(*_inputs(probes))
            found = [results] if len(probes) == 1 else list(results)
            failed += _compare(f"-O{level}", probes, dtypes, found, judge)
    assert not failed, "\n".join(failed[:20])


def _inputs(probes: Sequence[Probe]) -> list[Array]:
    return [x for p in probes for x in p.inputs]


def _compare(
    way: str,
    probes: Sequence[Probe],
    dtypes: Sequence[DType],
    found: Sequence[Any],
    interpreted: Sequence[Array],
) -> list[str]:
    failed = []
    for p, dtype, raw, judge in zip(probes, dtypes, found, interpreted, strict=True):
        got = arrays.decode(arrays.encode(np.asarray(raw), dtype), dtype)
        want = arrays.decode(judge, dtype) if p.want is None else p.want
        bad = ~agree(got, np.broadcast_to(want, got.shape), p.tol, p.any_zero)
        if bad.any():
            at = np.argwhere(bad)[0]
            where = tuple(int(i) for i in at)
            failed.append(f"{way}, {p.label}, {dtype}: {got[where]}, not {want[where]} at {where}")
    return failed


def agree(got: Array, want: Array, tol: float = 0.0, any_zero: bool = False) -> Any:
    """Where two arrays hold the same numbers; `tol` is relative."""
    if got.dtype.kind != "f":
        return got == want
    wide, exact = got.astype(np.float64), want.astype(np.float64)
    with np.errstate(all="ignore"):
        same = (wide == exact) | (np.isnan(wide) & np.isnan(exact))
        if not any_zero:
            same &= (np.signbit(wide) == np.signbit(exact)) | np.isnan(exact)
        near = np.abs(wide - exact) <= tol * np.abs(exact)
    return same | (near & np.isfinite(exact) & (tol > 0))
