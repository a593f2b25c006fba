"""Sample cases of the op registry, and what evaluates them without a compiler. Not test cases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import tfc.ir.ops  # noqa: F401  (fills the registry)
from tfc.ir import arrays
from tfc.ir.arrays import Array
from tfc.ir.body import ExprBuilder
from tfc.ir.build import GraphBuilder, freeze, tensor_type
from tfc.ir.constants import ConstantStore
from tfc.ir.core import Block, Module, Op, SymbolInfo, Value
from tfc.ir.dims import evaluate as evaluate_dim
from tfc.ir.dims import symbol
from tfc.ir.evalexpr import evaluate
from tfc.ir.loop.interp import run_kernel
from tfc.ir.loop.kernel import Memory, write_kernel
from tfc.ir.loop.memory import fresh
from tfc.ir.loop.verify import verify_loop
from tfc.ir.opdef import OPS, Kind, OpDef, Sample, TypeRefusal
from tfc.ir.types import BF16, F16, F32, F64, DType, TensorType

COMPUTING = sorted(name for name, op in OPS.items() if op.kind is not Kind.CONTROL)


@dataclass(frozen=True)
class Case:
    """One call of an op: decoded operands (bf16 as float32) with their types."""

    op: OpDef
    label: str
    attrs: Any
    operands: tuple[Array, ...]
    types: tuple[TensorType, ...]

    def __str__(self) -> str:
        return f"{self.op.name} {self.label} on {', '.join(map(str, self.types))} with {self.attrs}"


def make_attrs(op: OpDef, attrs: Mapping[str, Any]) -> Any:
    return op.attrs(**{name: freeze(value) for name, value in attrs.items()})


def _case(op: OpDef, label: str, sample: Sample, floats: DType) -> Case:
    """The sample with `floats` in place of f32."""
    operands, types = [], []
    for raw in sample.operands:
        array = np.asarray(raw)
        dtype = arrays.dtype_of(array)
        if dtype == F32:
            with np.errstate(over="ignore"):
                array = arrays.decode(arrays.encode(array, floats), floats)
            dtype = floats
        operands.append(array)
        types.append(TensorType(dtype, array.shape))
    attrs = make_attrs(op, sample.attrs)
    return Case(op, label, attrs, tuple(operands), tuple(types))


def cases(op: OpDef) -> Iterator[Case]:
    """Every sample, and every f32 one in the other float types that the op takes."""
    for i, sample in enumerate(op.samples()):
        yield _case(op, f"sample {i}", sample, F32)
        if any(np.asarray(x).dtype == np.float32 for x in sample.operands):
            for dtype in (F64, F16, BF16):
                case = _case(op, f"sample {i} as {dtype}", sample, dtype)
                try:
                    op.check(case.types, case.attrs)
                except TypeRefusal:
                    continue
                yield case


def cases_in_turn(op: OpDef) -> list[Case]:
    """The first sample in every float type, each other one in f32 and in one more type in turn."""
    found: list[Case] = []
    samples = forms = 0
    for case in cases(op):
        if " as " not in case.label:
            samples, forms = samples + 1, 0
        elif samples > 1 and (samples + (forms := forms + 1)) % 3:
            continue
        found.append(case)
    return found


def differentiable(op: OpDef) -> Iterator[Case]:
    """The samples that gradients are checked on, in f64."""
    for i, sample in enumerate(op.samples()):
        if sample.grad and any(np.asarray(x).dtype.kind == "f" for x in sample.operands):
            yield _case(op, f"sample {i}", sample, F64)


def rounded(array: Any, dtype: DType) -> Array:
    """A reference's result in the precision of its type."""
    with np.errstate(over="ignore"):
        return arrays.decode(arrays.encode(np.asarray(array), dtype), dtype)


def call(op: OpDef, attrs: Any, *operands: Array) -> tuple[Array, ...]:
    """What `ref` gives; overflow and the like are results, not warnings."""
    with np.errstate(all="ignore"):
        found = op.ref(attrs, *operands)
    return found if isinstance(found, tuple) else (found,)


def reference(case: Case, operands: Sequence[Array] | None = None) -> tuple[Array, ...]:
    """What `ref` gives, rounded to the result types."""
    found = call(case.op, case.attrs, *(operands or case.operands))
    types = case.op.check(case.types, case.attrs)
    return tuple(rounded(x, type.dtype) for x, type in zip(found, types, strict=True))


def build(case: Case) -> tuple[GraphBuilder, Op]:
    """The op in a block of its own, whose arguments are its operands."""
    builder = GraphBuilder(Block(case.types), ConstantStore())
    op = builder.emit(case.op, builder.block.args, case.attrs)
    return builder, op


def by_body(case: Case, operands: Sequence[Array] | None = None) -> tuple[Array, ...]:
    """What the op's body says, element by element."""
    assert case.op.body is not None
    _, op = build(case)
    tensors: dict[Value, Array] = dict(zip(op.operands, operands or case.operands, strict=True))
    out = []
    for k, value in enumerate(op.results):
        type = tensor_type(value)
        if case.op.kind is Kind.CONSTANT:
            tensors[value] = reference(case)[k]
        names = [f"i{axis}" for axis in range(type.rank)]
        expr = case.op.body(ExprBuilder(), op, k, tuple(symbol(name) for name in names))
        assert expr.dtype == type.dtype, f"the body of {case} makes {expr.dtype}"
        iters = {name: int(dim) for name, dim in zip(names, type.shape, strict=True)}
        out.append(evaluate(expr, iters, tensors))
    return tuple(out)


def by_loops(case: Case, threads: int = 1) -> tuple[Array, ...]:
    """What the kernel that the op writes itself computes."""
    return run_loops(build(case)[1], case.operands, {"threads": threads})


def run_loops(op: Op, operands: Sequence[Array], symbols: Mapping[str, int]) -> tuple[Array, ...]:
    """Run the kernel that an op writes itself in the loop interpreter."""
    types = [tensor_type(value) for value in (*op.operands, *op.results)]
    written = write_kernel(op, op.name, [Memory.dense(type) for type in types])
    written.function.symbols = {name: SymbolInfo() for name in symbols if name != "threads"}
    module = Module("loop")
    module.add(written.function)
    verify_loop(module)
    given = [
        np.array(arrays.encode(x, type.dtype), order="C").reshape(-1)
        for x, type in zip(operands, types, strict=False)
    ]
    results = types[len(given) :]
    out = [fresh(evaluate_dim(type.size, symbols), type.dtype) for type in results]
    values = {"threads": 1, **symbols}
    scratch = [fresh(evaluate_dim(t.shape[0], values), t.dtype) for t in written.scratch]
    run_kernel(written.function, [*given, *out, *scratch], symbols)
    return tuple(
        arrays.decode(raw.view(arrays.numpy_dtype(type.dtype)), type.dtype).reshape(
            [evaluate_dim(dim, symbols) for dim in type.shape]
        )
        for raw, type in zip(out, results, strict=True)
    )


class GraphEvaluator:
    """Evaluates values of a block by the references of the ops behind them."""

    def __init__(self, constants: ConstantStore, known: Mapping[Value, Array]) -> None:
        self.constants = constants
        self.known = dict(known)

    def __call__(self, value: Value) -> Array:
        if value not in self.known:
            op = value.op
            assert op is not None, f"{value} has no value"
            for result, array in zip(op.results, self.run(op), strict=True):
                self.known[result] = array
        return self.known[value]

    def run(self, op: Op) -> tuple[Array, ...]:
        if op.name == "constant":
            raw = arrays.constant_array(op.attrs, self.constants)
            return (arrays.decode(raw, op.attrs.dtype),)
        assert isinstance(op.defn, OpDef)
        found = call(op.defn, op.attrs, *map(self, op.operands))
        return tuple(
            rounded(x, tensor_type(value).dtype) for x, value in zip(found, op.results, strict=True)
        )


def strided(array: Array) -> Array:
    """The same numbers at strides that no fresh array has."""
    if array.ndim == 0:
        return array
    order = tuple(reversed(range(array.ndim)))
    spread = np.zeros([2 * n for n in array.T.shape], array.dtype)
    view = spread[tuple(slice(None, None, 2) for _ in order)].transpose(order)
    view[...] = array
    return view


def assert_close(got: Array, want: Array, tol: float | None, what: str) -> None:
    """Equal, or where tol is given off by at most tol * (1 + |want|). NaN equals NaN."""
    assert got.shape == want.shape, f"{what}: shape {got.shape}, not {want.shape}"
    if tol is None or want.dtype.kind != "f":
        same = np.array_equal(got, want, equal_nan=want.dtype.kind == "f")
        assert same, f"{what}:\n{got}\nis not\n{want}"
        return
    wide, exact = got.astype(np.float64), want.astype(np.float64)
    with np.errstate(all="ignore"):
        near = np.abs(wide - exact) <= tol * (1 + np.abs(exact))
        equal = (wide == exact) | (np.isnan(wide) & np.isnan(exact))
    bad = ~(near | equal)
    assert not bad.any(), f"{what}: {got[bad][:5]} for {want[bad][:5]}"
