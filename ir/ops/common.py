"""What op families share: broadcasting, axes, sample data, and the elementwise op constructor.

Not an op family itself. Start at `elementwise`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt

from tfc.ir.body import Expr, ExprBuilder, Index
from tfc.ir.build import GraphBuilder, tensor_type
from tfc.ir.core import Op, Value
from tfc.ir.dims import Dim, DimLike, maximum, minimum
from tfc.ir.opdef import (
    Assumption,
    Grad,
    Kind,
    NoAttrs,
    NoGrad,
    OpDef,
    Reject,
    Sample,
    Trait,
    register,
    require,
)
from tfc.ir.types import BOOL, F32, I64, DType, TensorType

Array = npt.NDArray[Any]
Samples = Callable[[], Sequence[Sample]]

PURE = frozenset({Trait.PURE})
# Relative tolerances of compiled code that rounds more than once: a few units in the last place.
CLOSE = {"f64": 4e-15, "f32": 1e-6, "f16": 2e-3, "bf16": 1.6e-2}
FLAT = NoGrad("constant almost everywhere")
# Reverse mode decomposes such composites first.
THROUGH = NoGrad("through its decomposition")
KIND_NAMES = {"f": "floats", "i": "signed integers", "u": "unsigned integers", "b": "bool"}


# -- shapes -------------------------------------------------------------------------------------


def broadcast_dims(a: DimLike, b: DimLike) -> DimLike:
    """Return the dim that `a` and `b` broadcast to: 1 gives way, an int beats a symbol.

    Two different symbolic dims give their maximum: at run time they are equal, or one is 1.
    """
    if a == b or b == 1:
        return a
    if a == 1:
        return b
    if isinstance(a, int) and isinstance(b, int):
        require(False, f"dims {a} and {b} do not broadcast")
    if isinstance(a, int):
        return a
    return b if isinstance(b, int) else maximum(a, b)


def broadcast_shapes(*shapes: tuple[DimLike, ...]) -> tuple[DimLike, ...]:
    """Return the shape that `shapes` broadcast to, aligned at the last axis. May refuse."""
    rank = max((len(shape) for shape in shapes), default=0)
    result: list[DimLike] = [1] * rank
    for shape in shapes:
        for axis, dim in enumerate(shape, rank - len(shape)):
            result[axis] = broadcast_dims(result[axis], dim)
    return tuple(result)


def unify_dims(a: DimLike, b: DimLike) -> DimLike | None:
    """Return the dim that a and b both are, the number if one is; None where they differ.

    Where their normal forms do not settle it, `equal_dims` says what has to be checked.
    """
    difference = a - b
    if isinstance(difference, int):
        return a if difference == 0 else None
    return b if isinstance(b, int) else a


def equal_dims(a: DimLike, b: DimLike, what: str) -> list[Assumption]:
    """What `unify_dims(a, b)` takes for granted."""
    zero = a - b
    return [] if isinstance(zero, int) else [Assumption(zero, f"{what} {a} and {b} are equal")]


def broadcast_assumptions(types: Sequence[TensorType], attrs: object) -> list[Assumption]:
    """What broadcasting takes for granted: dims that are not known to be equal are, or are 1."""
    found: list[Assumption] = []
    shape = broadcast_shapes(*(type.shape for type in types))
    for axis in range(1, len(shape) + 1):
        dims = [t.shape[-axis] for t in types if len(t.shape) >= axis and t.shape[-axis] != 1]
        for dim in dict.fromkeys(dims):
            if dim != dims[0]:
                zero = (dim - dims[0]) * (dim - 1) * (dims[0] - 1)
                message = f"dims {dims[0]} and {dim} broadcast"
                found.append(Assumption(zero, message, (dims[0], dim)))
                if isinstance(dim, int) or isinstance(dims[0], int):
                    continue
                # The result is as long as the longer one, so none may be there beside one.
                none = 1 - minimum(dim, dims[0], 1)
                message += ", and none is not stretched to one"
                found.append(Assumption(maximum(dim, dims[0]) * none, message))
    return found


def broadcast_index(
    b: ExprBuilder,
    shape: tuple[DimLike, ...],
    result_shape: tuple[DimLike, ...],
    index: tuple[Index, ...],
) -> tuple[Index, ...]:
    """Return where an operand of `shape` is read for element `index` of a broadcast result."""
    skip = len(result_shape) - len(shape)
    out: list[Index] = []
    for dim, wanted, i in zip(shape, result_shape[skip:], index[skip:], strict=True):
        if dim == wanted:
            out.append(i)
        elif dim == 1:
            out.append(0)
        else:
            out.append(clip_index(b, i, dim))
    return tuple(out)


def clip_index(b: ExprBuilder, i: Index, dim: DimLike) -> Index:
    """Return min(i, dim - 1)."""
    if isinstance(i, (int, Dim)):
        return minimum(i, dim - 1)
    return b.min(i, b.position(dim - 1, I64))


def index_expr(b: ExprBuilder, i: Index) -> Expr:
    """Return an index as an i64 expression."""
    if isinstance(i, int):
        return b.const(i, I64)
    return b.position(i, I64) if isinstance(i, Dim) else i


def normalize_axis(axis: int, rank: int) -> int:
    """Return `axis` counted from the front. Refuses one that is out of range."""
    require(-rank <= axis < rank, f"axis {axis} is out of range for rank {rank}")
    return axis % rank


def normalize_axes(axes: Sequence[int], rank: int) -> tuple[int, ...]:
    """Return axes counted from the front, sorted. Refuses duplicates."""
    found = sorted(normalize_axis(axis, rank) for axis in axes)
    require(len(set(found)) == len(found), f"axes {list(axes)} name an axis twice")
    return tuple(found)


# -- types --------------------------------------------------------------------------------------


def require_kind(type: TensorType, kinds: str) -> None:
    """Refuse an element type whose kind is not one of the letters of `kinds`."""
    allowed = ", ".join(KIND_NAMES[kind] for kind in kinds)
    require(type.dtype.kind in kinds, f"takes {allowed}, not {type.dtype}")


def require_same_dtype(types: Sequence[TensorType]) -> DType:
    """Refuse operands of different element types; return the one they have."""
    names = ", ".join(str(type.dtype) for type in types)
    require(len({type.dtype for type in types}) == 1, f"operands differ in element type: {names}")
    return types[0].dtype


def is_narrow(dtype: DType) -> bool:
    """Whether arithmetic on `dtype` is done in f32: f16 and bf16 are storage types."""
    return dtype.is_float and dtype.bits < 32


def widen(b: ExprBuilder, x: Expr) -> Expr:
    """Return `x` in the type that arithmetic on it uses."""
    return b.cast(x, F32) if is_narrow(x.dtype) else x


def compute_dtype(dtype: DType) -> DType:
    """Return the element type that sums over `dtype` use."""
    return F32 if is_narrow(dtype) else dtype


# -- gradients ----------------------------------------------------------------------------------


def like(b: GraphBuilder, value: float, x: Value) -> Value:
    """A scalar constant of the element type of `x`; it broadcasts."""
    return b.constant(value, tensor_type(x).dtype)


def zeros_like(b: GraphBuilder, x: Value) -> Value:
    type = tensor_type(x)
    return b.full(type.shape, 0, type.dtype)


def unbroadcast(b: GraphBuilder, g: Value, target: Value) -> Value:
    """Sum gradient `g` over the axes along which `target` was broadcast."""
    have, want = tensor_type(g).shape, tensor_type(target).shape
    skip = len(have) - len(want)
    axes = list(range(skip))
    for axis, (h, w) in enumerate(zip(have[skip:], want, strict=True), skip):
        if w == 1 != h:
            axes.append(axis)
        elif h != w:
            g = _sum_if_one(b, g, axis, w)
    have = tensor_type(g).shape
    if axes:
        g = b.reduce_sum(g, axes=tuple(axes), keepdims=False)
        if tensor_type(g).shape != want:
            g = b.reshape(g, shape=want)
    elif have != want:
        g = b.reshape(g, shape=want)
    return g


def _sum_if_one(b: GraphBuilder, g: Value, axis: int, dim: DimLike) -> Value:
    """Bring an axis to the extent `dim`, which a run knows to be the axis' own or 1: then a sum."""
    shape = list(tensor_type(g).shape)
    shape[axis] = dim
    starts, steps = (0,) * len(shape), (1,) * len(shape)
    own = b.slice(g, starts=starts, sizes=tuple(shape), steps=steps)
    total = b.broadcast(b.reduce_sum(g, axes=(axis,), keepdims=True), shape=tuple(shape))
    is_one = b.eq(b.dims(values=(dim,), rank=0), b.constant(1, I64))
    return b.select(is_one, total, own)  # type: ignore[no-any-return]


# -- references ---------------------------------------------------------------------------------


def in_f64(fn: Callable[..., Any]) -> Callable[..., Array]:
    """Wrap a numpy function so that floats are computed in float64 and rounded once."""

    def run(*arrays: Array, **attrs: Any) -> Array:
        dtype = next(a.dtype for a in arrays if a.dtype.kind == "f")
        wide = [a.astype(np.float64) if a.dtype.kind == "f" else a for a in arrays]
        with np.errstate(all="ignore"):
            out = np.asarray(fn(*wide, **attrs))
            return out.astype(dtype) if out.dtype.kind == "f" else out

    return run


# -- samples ------------------------------------------------------------------------------------


def rng(*seed: object) -> np.random.Generator:
    """A generator that depends on nothing but `seed`."""
    return np.random.default_rng(zlib.crc32(repr(seed).encode()))


def floats(
    shape: Sequence[int], lo: float = -2.0, hi: float = 2.0, dtype: Any = np.float32, seed: int = 0
) -> Array:
    """Uniform numbers between lo and hi, the same ones on each call."""
    return rng(tuple(shape), lo, hi, seed).uniform(lo, hi, tuple(shape)).astype(dtype)


def integers(
    shape: Sequence[int], lo: int = -9, hi: int = 9, dtype: Any = np.int64, seed: int = 0
) -> Array:
    """Uniform integers lo <= n <= hi, the same ones on each call."""
    numbers = rng(tuple(shape), lo, hi, seed).integers(lo, hi, tuple(shape), endpoint=True)
    return numbers.astype(dtype)


UNARY_SHAPES: tuple[tuple[tuple[int, ...], ...], ...] = (((3, 4),), ((),), ((0, 5),), ((17,),))
BINARY_SHAPES: tuple[tuple[tuple[int, ...], ...], ...] = (
    ((3, 4), (3, 4)),
    ((3, 4), (4,)),
    ((2, 1, 3), (4, 1)),
    ((), (5,)),
    ((), ()),
    ((0, 3), (1, 3)),
)
SPECIAL = (0.0, -0.0, 1.0, -1.0, 0.5, -2.5, np.inf, -np.inf, np.nan, 1e30, -1e30, 1e-30)


def special_values(arity: int) -> Sample:
    """Every pairing of the special numbers (for more than two operands: random ones)."""
    values = np.array(SPECIAL, np.float32)
    if arity <= 2:
        grids = np.meshgrid(*[values] * arity, indexing="ij")
        return Sample(tuple(g.reshape(-1) for g in grids), grad=False)
    picks = rng("special").integers(0, values.size, (arity, 64))
    return Sample(tuple(values[pick] for pick in picks), grad=False)


def domain_samples(
    kinds: str,
    arity: int,
    attrs: dict[str, Any],
    domain: tuple[float, float] = (-2.0, 2.0),
    int_domain: tuple[int, int] = (-9, 9),
) -> list[Sample]:
    """Samples for each kind of element type, over the usual shapes and special numbers."""
    found: list[Sample] = []
    lo, hi = int_domain
    dtypes: list[type[np.generic]] = [np.float32] if "f" in kinds else []
    if "i" in kinds:
        dtypes += [np.int64, np.int8]
    if "u" in kinds:
        dtypes += [np.uint8, np.uint32]
    if "b" in kinds:
        dtypes.append(np.bool_)
    for dtype in dtypes:
        for shapes in UNARY_SHAPES if arity == 1 else BINARY_SHAPES:
            operands = []
            for seed in range(arity):
                shape = shapes[min(seed, len(shapes) - 1)]
                if dtype is np.float32:
                    operands.append(floats(shape, *domain, seed=seed))
                elif dtype is np.bool_:
                    operands.append(integers(shape, 0, 1, dtype, seed))
                else:
                    low = max(lo, 0) if np.dtype(dtype).kind == "u" else lo
                    operands.append(integers(shape, low, hi, dtype, seed))
            found.append(Sample(tuple(operands), attrs))
    if "f" in kinds:
        special = special_values(arity)
        found.append(Sample(special.operands, attrs, grad=False))
    return found


# -- elementwise ops ----------------------------------------------------------------------------


def elementwise_infer(
    kinds: str, result: DType | None = None
) -> Callable[[Sequence[TensorType], Any], Sequence[TensorType]]:
    """The rule of ops whose operands have one element type and broadcast."""

    def infer(types: Sequence[TensorType], attrs: Any) -> Sequence[TensorType]:
        for type in types:
            require_kind(type, kinds)
        dtype = require_same_dtype(types)
        shape = broadcast_shapes(*(type.shape for type in types))
        return (TensorType(result or dtype, shape),)

    return infer


def fields_of(attrs: Any) -> dict[str, Any]:
    return {field.name: getattr(attrs, field.name) for field in fields(attrs)}


def load_broadcast(b: ExprBuilder, op: Op, result: int, index: tuple[Index, ...]) -> list[Expr]:
    """The elements of all operands that element `index` of a result needs."""
    out = tensor_type(op.results[result]).shape
    return [b.load(x, broadcast_index(b, tensor_type(x).shape, out, index)) for x in op.operands]


def scalar_body(fn: Callable[..., Expr]) -> Callable[..., Expr]:
    """Make a body of a scalar function `fn(b, *elements, **attrs)`; f16 and bf16 go as f32."""

    def body(b: ExprBuilder, op: Op, result: int, index: tuple[Index, ...]) -> Expr:
        args = [widen(b, x) for x in load_broadcast(b, op, result, index)]
        dtype = tensor_type(op.results[result]).dtype
        return b.cast(fn(b, *args, **fields_of(op.attrs)), dtype)

    return body


def scalar_op(name: str) -> Callable[..., Expr]:
    """Return the scalar function `fn(b, *elements)` that is one scalar op."""
    return lambda b, *args: b.apply(name, *args)


def scalar_grad(fn: Callable[..., Any]) -> Grad:
    """Make a gradient of `fn(b, g, y, *operands, **attrs)`, which may leave sums to us.

    fn returns a gradient, None, or a tuple with one of these for each operand.
    """

    def grad(b: GraphBuilder, op: Op, gs: Sequence[Value]) -> Sequence[Value | None]:
        found = fn(b, gs[0], op.result, *op.operands, **fields_of(op.attrs))
        parts = found if isinstance(found, tuple) else (found,)
        return [
            None if g is None else unbroadcast(b, g, x)
            for g, x in zip(parts, op.operands, strict=True)
        ]

    return grad


def kind_rejects(kinds: str, arity: int, attrs: dict[str, Any]) -> list[Reject]:
    """What every elementwise op refuses: other kinds, mixed types, shapes that do not fit."""
    by_kind = {"f": F32, "i": I64, "b": BOOL}
    found = []
    for kind, dtype in by_kind.items():
        if kind not in kinds:
            found.append(Reject((TensorType(dtype, (2,)),) * arity, attrs, f"not {dtype}"))
    if arity > 1:
        dtype = next(by_kind[kind] for kind in kinds if kind in by_kind)
        x = TensorType(dtype, (2, 3))
        y = TensorType(dtype, (2, 4))
        found.append(Reject((x,) * (arity - 1) + (y,), attrs, "do not broadcast"))
    return found


def elementwise(
    name: str,
    *,
    ref: Callable[..., Array],
    body: Callable[..., Expr],
    doc: str,
    arity: int = 1,
    kinds: str = "f",
    attrs: type = NoAttrs,
    sample_attrs: Sequence[dict[str, Any]] = ({},),
    result: DType | None = None,
    grad: Callable[..., Any] | NoGrad = FLAT,
    traits: Sequence[Trait] = (),
    domain: tuple[float, float] = (-2.0, 2.0),
    int_domain: tuple[int, int] = (-9, 9),
    infer: Callable[[Sequence[TensorType], Any], Sequence[TensorType]] | None = None,
    samples: Samples | None = None,
    rejects: Sequence[Reject] = (),
    tol: dict[str, float] | None = None,
) -> OpDef:
    """Register an elementwise op.

    ref(*arrays, **attrs) works in numpy; body(b, *elements, **attrs) makes one element;
    grad(b, g, y, *operands, **attrs) gives gradients before sums over broadcast axes.
    Samples lie in `domain`; sample_attrs are the attributes that they are tried with.
    """

    def make_samples() -> Sequence[Sample]:
        return [
            sample
            for values in sample_attrs
            for sample in domain_samples(kinds, arity, values, domain, int_domain)
        ]

    def run(values: Any, *arrays: Array) -> Array:
        with np.errstate(all="ignore"):
            return np.asarray(ref(*arrays, **fields_of(values)))

    return register(
        OpDef(
            name=name,
            operands=(arity, arity),
            attrs=attrs,
            kind=Kind.ELEMENTWISE,
            infer=infer or elementwise_infer(kinds, result),
            assumes=broadcast_assumptions if arity > 1 else None,
            ref=run,
            body=scalar_body(body),
            grad=grad if isinstance(grad, NoGrad) else scalar_grad(grad),
            traits=PURE | frozenset(traits),
            samples=samples or make_samples,
            rejects=lambda: (
                *(kind_rejects(kinds, arity, sample_attrs[0]) if infer is None else ()),
                *rejects,
            ),
            tol={} if tol is None else tol,
            doc=doc,
        )
    )
