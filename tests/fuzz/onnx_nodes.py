"""Operators of random ONNX graphs: element by element, sums, movement and creation. No tests.

A row of a table is an operator and how its node is made; to add an operator is to add a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import numpy_helper

from tests.fuzz.onnx_graphs import Graph, Maker, Picks, Value, code, fit, need
from tests.fuzz.onnx_values import DTYPES, Array, is_float

# -- elementwise --------------------------------------------------------------------------------

Choices = Mapping[str, Sequence[Any]]
"""Of an attribute: values to choose from; None leaves it out."""

SLOPES = (None, 0.5, -0.3, 2.0, 0.0, 1e-3)


def attributes(g: Graph, p: Picks, op: str, choices: Choices) -> dict[str, Any]:
    """Some of the attributes, of those that the operator has in this opset."""
    known = g.schema(op).attributes
    return {name: p.of(values) for name, values in choices.items() if name in known}


def unary(op: str, **choices: Sequence[Any]) -> Maker:
    def make(g: Graph, p: Picks) -> None:
        x = g.x(p, op)
        g.one(op, x, **attributes(g, p, op, choices))

    return make


def binary(op: str, **choices: Sequence[Any]) -> Maker:
    def make(g: Graph, p: Picks) -> None:
        x = g.x(p, op)
        y = g.like(p, x, x.shape, same=True)
        pair = (x, y) if p.next(2) == 0 or op == "PRelu" else (y, x)
        need(op != "PRelu" or np.broadcast_shapes(x.shape, y.shape) == x.shape)
        g.one(op, *pair, **attributes(g, p, op, choices))

    return make


def variadic(op: str) -> Maker:
    def make(g: Graph, p: Picks) -> None:
        x = g.x(p, op)
        more = [g.like(p, x, x.shape, same=True) for _ in range(p.of((1, 2, 0, 3)))]
        g.one(op, x, *more)

    return make


def power(g: Graph, p: Picks) -> None:
    x = g.x(p, "Pow")
    if p.one_in(2):
        exponent, dtype = p.of((2, 3, 0.5, -1, 0, 1)), g.some_dtype(p, g.dtypes("Pow", 1))
        need(exponent >= 0 or dtype.kind != "u")
        y = g.constant(exponent, dtype)
    else:
        y = g.like(p, x, x.shape, same=True)
    g.one("Pow", x, y)


def where(g: Graph, p: Picks) -> None:
    x = g.x(p, "Where", 1)
    y = g.like(p, x, x.shape, same=True)
    conditions = [v for v in g.values if v.dtype == np.bool_ and fit(v.shape, x.shape)]
    if conditions and not p.one_in(4):
        c = p.of(conditions[::-1])
    else:
        c = g.leaf(p, np.dtype(bool), x.shape[p.next(x.rank + 1) :])
    g.one("Where", c, *((x, y) if p.next(2) == 0 else (y, x)))


def clip(g: Graph, p: Picks) -> None:
    x = g.x(p, "Clip")
    lo, hi = p.of(((-1, 1), (0, 6), (None, 2), (0, None), (2, 1), (None, None)))
    if g.opset < 11:
        bounds = {"min": lo, "max": hi}
        g.one("Clip", x, **{k: None if v is None else float(v) for k, v in bounds.items()})
        return
    need(x.dtype.kind != "u" or (lo or 0) >= 0)
    ends = [None if v is None else g.given(p, np.array(v, x.dtype)) for v in (lo, hi)]
    g.one("Clip", x, *ends)


def cast(g: Graph, p: Picks) -> None:
    x = g.x(p, "Cast")
    g.one("Cast", x, to=code(g.some_dtype(p, list(DTYPES.values()))))


def cast_like(g: Graph, p: Picks) -> None:
    x = g.x(p, "CastLike")
    g.one("CastLike", x, g.x(p, "CastLike", 1))


def bit_cast(g: Graph, p: Picks) -> None:
    x = g.x(p, "BitCast", fits=lambda v: v.dtype.kind in "iu")
    same = [d for d in DTYPES.values() if d.itemsize == x.dtype.itemsize and d != np.bool_]
    g.one("BitCast", x, to=code(p.of(same)))


def bit_shift(g: Graph, p: Picks) -> None:
    x = g.x(p, "BitShift")
    y = g.like(p, x, x.shape, same=True)
    g.one("BitShift", x, y, direction=p.of(("LEFT", "RIGHT")))


def mod(g: Graph, p: Picks) -> None:
    x = g.x(p, "Mod")
    y = g.like(p, x, x.shape, same=True)
    g.one("Mod", x, y, fmod=1 if is_float(x.dtype) else p.of((None, 1)))


def dropout(g: Graph, p: Picks) -> None:
    g.emit("Dropout", [g.x(p, "Dropout")], outputs=1 if g.opset < 12 else p.of((1, 2)))


PLAIN = (
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Ceil", "Cos", "Cosh", "Erf", "Exp",
    "Floor", "HardSwish", "Identity", "IsNaN", "Log", "Mish", "Neg", "Not", "Reciprocal", "Relu",
    "Round", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Tan", "Tanh",
    "BitwiseNot",
)  # fmt: skip
ELEMENTWISE: dict[str, Maker] = {
    **{op: unary(op) for op in PLAIN},
    **{op: unary(op, alpha=SLOPES) for op in ("Elu", "LeakyRelu", "ThresholdedRelu", "Swish")},
    "Celu": unary("Celu", alpha=(None, 0.5, 2.0)),
    "Selu": unary("Selu", alpha=SLOPES, gamma=(None, 1.5)),
    "HardSigmoid": unary("HardSigmoid", alpha=SLOPES, beta=(None, 0.3, -1.0)),
    "Gelu": unary("Gelu", approximate=(None, "tanh", "none")),
    "Shrink": unary("Shrink", lambd=(None, 1.0, 0.0), bias=(None, 0.5)),
    "IsInf": unary("IsInf", detect_negative=(None, 0, 1), detect_positive=(None, 0)),
    **{
        op: binary(op)
        for op in (
            "Add", "Sub", "Mul", "Div", "And", "Or", "Xor", "BitwiseAnd", "BitwiseOr",
            "BitwiseXor", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "PRelu",
        )
    },
    **{op: variadic(op) for op in ("Max", "Min", "Mean", "Sum")},
    "Pow": power, "Where": where, "Clip": clip, "Cast": cast, "CastLike": cast_like,
    "BitCast": bit_cast, "BitShift": bit_shift, "Mod": mod, "Dropout": dropout,
}  # fmt: skip


# -- sums and the like --------------------------------------------------------------------------


def some_axis(p: Picks, rank: int) -> int:
    need(rank > 0)
    return p.next(2 * rank) - rank


def some_axes(p: Picks, rank: int, none: bool = True) -> list[int] | None:
    """A few axes, from either end; None for all of them."""
    if none and p.one_in(4):
        return None
    found = [axis for axis in range(rank) if p.next(2)] or list(range(min(rank, 1)))
    return [axis - rank if p.one_in(3) else axis for axis in found]


def with_axes(
    g: Graph, op: str, x: Value, axes: list[int] | None, since: int, **attrs: Any
) -> None:
    """A node whose axes are an operand from opset `since` on, and an attribute before."""
    if g.opset < since:
        g.one(op, x, axes=axes or None, **attrs)
    else:
        g.one(op, x, None if axes is None else g.ints(*axes), **attrs)


def reduction(op: str) -> Maker:
    def make(g: Graph, p: Picks) -> None:
        x = g.x(p, op)
        since = 13 if op == "ReduceSum" else 18
        attrs: dict[str, Any] = {"keepdims": p.of((None, 0, 1))}
        axes = some_axes(p, x.rank)
        if g.opset >= since:
            attrs["noop_with_empty_axes"] = p.of((None, None, 1))
        with_axes(g, op, x, axes, since, **attrs)

    return make


def arg(op: str) -> Maker:
    def make(g: Graph, p: Picks) -> None:
        x = g.x(p, op)
        axis = some_axis(p, x.rank)
        need(x.shape[axis] > 0)
        last = p.of((None, 1)) if g.opset >= 12 else None
        g.one(op, x, axis=axis, keepdims=p.of((None, 0)), select_last_index=last)

    return make


def running(op: str) -> Maker:
    def make(g: Graph, p: Picks) -> None:
        x = g.x(p, op)
        axis = g.constant(some_axis(p, x.rank), p.of((np.int64, np.int32)))
        g.one(op, x, axis, exclusive=p.of((None, 1)), reverse=p.of((None, 1)))

    return make


REDUCTIONS: dict[str, Maker] = {
    **{
        f"Reduce{name}": reduction(f"Reduce{name}")
        for name in (
            "Sum", "Max", "Min", "Mean", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare",
        )
    },
    **{op: arg(op) for op in ("ArgMax", "ArgMin")},
    **{op: running(op) for op in ("CumSum", "CumProd")},
}  # fmt: skip


# -- movement -----------------------------------------------------------------------------------


def split_dim(p: Picks, dim: int) -> list[int]:
    parts = [n for n in range(2, dim) if dim % n == 0]
    return [dim] if not parts else [(n := p.of(parts)), dim // n]


def new_shape(p: Picks, x: Value) -> list[int]:
    """A shape to give x, in the ways that ONNX can state one."""
    shape = list(x.shape)
    match p.next(6):
        case 0:
            shape = [-1] if x.size else [0]
        case 1:
            need(x.rank > 1)
            at = p.next(x.rank - 1)
            shape[at : at + 2] = [shape[at] * shape[at + 1]]
        case 2:
            need(x.rank > 0)
            at = p.next(x.rank)
            shape[at : at + 1] = split_dim(p, shape[at])
        case 3:
            shape.insert(p.next(x.rank + 1), 1)
        case 4:
            shape = [0] * x.rank
        case _:
            shape.reverse()
    if x.size and shape and -1 not in shape and p.one_in(2):
        shape[p.next(len(shape))] = -1
    return shape


def reshape(g: Graph, p: Picks) -> None:
    x = g.x(p, "Reshape")
    shape = new_shape(p, x)
    copied = all(dim or x.shape[at : at + 1] == (0,) for at, dim in enumerate(shape))
    if shape == [0] * x.rank or copied:
        allow = p.of((None, 1)) if g.opset >= 14 and copied else None
    else:
        need(g.opset >= 14)
        allow = 1
    g.one("Reshape", x, g.ints(*shape), allowzero=allow)


def reshape_by_dims(g: Graph, p: Picks) -> None:
    """A shape computed of dims: Shape, Gather, Concat, Reshape."""
    x = g.x(p, "Reshape", fits=lambda v: v.rank > 0 and v.size > 0)
    shape = g.one("Shape", x)
    at = p.next(x.rank)
    dim = g.one("Gather", shape, g.constant(at, np.int64), axis=0)
    if p.one_in(3):
        dim = g.one("Mul", dim, g.constant(1, np.int64))
    one = g.one("Unsqueeze", dim, g.ints(0)) if g.opset >= 13 else None
    if one is None:
        one = g.one("Unsqueeze", dim, axes=[0])
    parts = [one, g.ints(-1)] if p.next(2) else [g.ints(-1), one]
    wanted = g.one("Concat", *parts, axis=0)
    known = [x.shape[at] if part is one else x.size // x.shape[at] for part in parts]
    computed = Value(wanted.name, wanted.dtype, wanted.shape, np.array(known, np.int64))
    g.one("Reshape", x, computed)


def expand_by_dims(g: Graph, p: Picks) -> None:
    """The shape of one value for another: Shape, Expand or ConstantOfShape."""
    y = g.x(p, "Shape")
    shape = g.one("Shape", y)
    computed = Value(shape.name, shape.dtype, shape.shape, np.array(y.shape, np.int64))
    if p.one_in(3):
        g.one("ConstantOfShape", computed)
        return
    x = g.x(p, "Expand", fits=lambda v: v.rank <= y.rank and fit(v.shape, y.shape),
            shape=lambda: list(y.shape[p.next(y.rank + 1):]))  # fmt: skip
    g.one("Expand", x, computed)


def slice_by_dims(g: Graph, p: Picks) -> None:
    """The second half of an axis, or all but its first elements, by its computed extent."""
    x = g.x(p, "Slice", fits=lambda v: v.rank > 0 and v.size > 0)
    at = p.next(x.rank)
    dim = g.one("Gather", g.one("Shape", x), g.ints(at), axis=0)
    end = Value(dim.name, dim.dtype, dim.shape, np.array([x.shape[at]], np.int64))
    start = g.ints(p.of((0, 1)))
    if p.next(2):
        half = g.one("Div", end, g.ints(2))
        start = Value(half.name, half.dtype, half.shape, np.array([x.shape[at] // 2], np.int64))
    g.one("Slice", x, start, end, g.ints(at))


def flatten(g: Graph, p: Picks) -> None:
    x = g.x(p, "Flatten")
    g.one("Flatten", x, axis=p.of((None, *range(x.rank + 1))))


def squeeze(g: Graph, p: Picks) -> None:
    x = g.x(p, "Squeeze", fits=lambda v: 1 in v.shape)
    ones = [axis for axis, dim in enumerate(x.shape) if dim == 1]
    with_axes(g, "Squeeze", x, p.of(([p.of(ones)], ones, None)), 13)


def unsqueeze(g: Graph, p: Picks) -> None:
    x = g.x(p, "Unsqueeze")
    axes = sorted({p.next(x.rank + 2), *((p.next(x.rank + 2),) if p.next(2) else ())})
    need(max(axes) < x.rank + len(axes))
    if g.opset >= 11 and p.one_in(3):
        axes = [axis - x.rank - len(axes) for axis in axes]
    with_axes(g, "Unsqueeze", x, axes, 13)


def transpose(g: Graph, p: Picks) -> None:
    x = g.x(p, "Transpose")
    left = list(range(x.rank))
    perm = [left.pop(p.next(len(left))) for _ in range(x.rank)]
    g.one("Transpose", x, perm=None if not perm or p.one_in(3) else perm)


def expand(g: Graph, p: Picks) -> None:
    x = g.x(p, "Expand")
    shape = [p.of((3, 2, 1, 0)) if dim == 1 and p.next(2) else dim for dim in x.shape]
    shape = [1 if p.one_in(4) else dim for dim in shape]
    if p.one_in(3):
        shape = [2, *shape]
    g.one("Expand", x, g.ints(*shape))


def tile(g: Graph, p: Picks) -> None:
    x = g.x(p, "Tile")
    g.one("Tile", x, g.ints(*(p.of((1, 2, 1, 3, 0)) for _ in range(x.rank))))


def concat(g: Graph, p: Picks) -> None:
    x = g.x(p, "Concat", fits=lambda v: v.rank > 0)
    axis = some_axis(p, x.rank)

    def rest(shape: tuple[int, ...]) -> tuple[int, ...]:
        found = list(shape)
        del found[axis]
        return tuple(found)

    parts = [x]
    for _ in range(p.of((1, 2, 0))):
        fitting = [
            v
            for v in g.values
            if v.dtype == x.dtype and v.rank == x.rank and rest(v.shape) == rest(x.shape)
        ]
        if p.one_in(3):
            shape = list(x.shape)
            shape[axis] = p.of((2, 1, 0, 5))
            parts.append(g.leaf(p, x.dtype, shape))
        else:
            parts.append(p.of(fitting[::-1]))
    g.one("Concat", *parts, axis=axis)


def split(g: Graph, p: Picks) -> None:
    x = g.x(p, "Split", fits=lambda v: v.rank > 0)
    axis = some_axis(p, x.rank)
    dim, count = x.shape[axis], p.of((2, 3, 1))
    sizes = None
    if p.next(2):
        cuts = sorted(p.next(dim + 1) for _ in range(count - 1))
        sizes = [b - a for a, b in zip([0, *cuts], [*cuts, dim], strict=True)]
    elif g.opset < 18:
        need(dim % count == 0)
    attrs: dict[str, Any] = {"axis": axis}
    inputs: list[Value | None] = [x]
    if g.opset < 13:
        attrs["split"] = sizes
    elif sizes is not None:
        inputs.append(g.ints(*sizes))
    elif g.opset >= 18:
        need(dim >= count)
        attrs["num_outputs"] = count
    g.emit("Split", inputs, attrs, outputs=count)


def slice_(g: Graph, p: Picks) -> None:
    x = g.x(p, "Slice", fits=lambda v: v.rank > 0)
    axes = sorted({p.next(x.rank) for _ in range(1 + p.next(2))})
    starts: list[int] = []
    ends: list[int] = []
    steps: list[int] = []
    for axis in axes:
        dim = x.shape[axis]
        step = p.of((1, 1, 2, 3)) if g.opset < 10 or p.next(2) else p.of((-1, -2, -3))
        start = p.of((0, 1, dim // 2, -1, -dim, dim, -dim - 3))
        end = p.of((dim, 1 << 40, dim - 1, -1, 1, 0, -dim - 2))
        if step < 0:
            start, end = end, start
        starts, ends, steps = [*starts, start], [*ends, end], [*steps, step]
    if g.opset < 10:
        need(steps == [1] * len(axes))
        g.one("Slice", x, starts=starts, ends=ends, axes=axes)
        return
    if p.one_in(3):
        axes = [axis - x.rank for axis in axes]
    dtype = p.of((np.int64, np.int64, np.int32))
    need(dtype == np.int64 or max(map(abs, starts + ends)) < 1 << 31)
    operands = [g.given(p, np.array(v, dtype)) for v in (starts, ends)]
    g.one("Slice", x, *operands, g.constant(axes, dtype), g.constant(steps, dtype))


def pad(g: Graph, p: Picks) -> None:
    x = g.x(p, "Pad", fits=lambda v: v.rank > 0)
    mode = p.of((None, "constant", "edge", "reflect", "wrap"))
    need(mode != "wrap" or g.opset >= 19)
    most = {None: 3, "constant": 3, "edge": 3}
    lo, hi = (
        [p.next(min(most.get(mode, dim - 1), 3) + 1) if dim or mode in (None, "constant") else 0
         for dim in x.shape]
        for _ in "ab"
    )  # fmt: skip
    if mode in (None, "constant") and p.one_in(4):
        at = p.next(x.rank)
        lo[at] = -min(1, x.shape[at])
    if g.opset < 11:
        need(is_float(x.dtype))
        g.one("Pad", x, mode=mode, pads=[*lo, *hi], value=p.of((None, 1.5)))
        return
    value = None
    if p.next(2) and mode in (None, "constant"):
        value = g.given(p, np.array(p.of((1, 0, 3)), x.dtype))
    if g.opset >= 18 and p.one_in(3):
        axes = sorted({p.next(x.rank), p.next(x.rank)})
        pads = [side[axis] for side in (lo, hi) for axis in axes]
        g.one("Pad", x, g.ints(*pads), value, g.ints(*axes), mode=mode)
    else:
        g.one("Pad", x, g.ints(*lo, *hi), value, mode=mode)


def blocks(op: str) -> Maker:
    def make(g: Graph, p: Picks) -> None:
        size = p.of((2, 3, 1))
        deep = op == "DepthToSpace"

        def fits(v: Value) -> bool:
            if v.rank != 4:
                return False
            return (
                v.shape[1] % size**2 == 0 if deep else not (v.shape[2] % size or v.shape[3] % size)
            )

        def shape() -> list[int | str]:
            a, b, c = p.of((2, 1)), p.of((1, 2, 3)), p.of((2, 3))
            return [p.of((1, 2, "N")), *((a * size**2, b, c) if deep else (a, b * size, c * size))]

        x = g.x(p, op, fits=fits, shape=shape)
        mode = p.of((None, "CRD", "DCR")) if deep and g.opset >= 11 else None
        g.one(op, x, blocksize=size, mode=mode)

    return make


def shape_of(g: Graph, p: Picks) -> None:
    x = g.x(p, "Shape")
    if g.opset < 15:
        g.one("Shape", x)
    else:
        g.one("Shape", x, start=p.of((None, 1, -2)), end=p.of((None, -1, 2)))


def trilu(g: Graph, p: Picks) -> None:
    x = g.x(p, "Trilu", fits=lambda v: v.rank >= 2)
    k = g.constant(p.of((0, 1, -1, 3, -40)), np.int64) if p.next(2) else None
    g.one("Trilu", x, k, upper=p.of((None, 0, 1)))


def eye_like(g: Graph, p: Picks) -> None:
    x = g.x(p, "EyeLike", fits=lambda v: v.rank == 2)
    dtypes = [d for d in g.dtypes("EyeLike") if p.one_in(2)]
    dtype = code(g.some_dtype(p, dtypes)) if dtypes else None
    g.one("EyeLike", x, dtype=dtype, k=p.of((None, 1, -1, 9)))


def constant_of_shape(g: Graph, p: Picks) -> None:
    shape = [p.of((2, 3, 1, 0, 4)) for _ in range(p.next(4))]
    value: Array | None = None
    if p.next(2):
        dtype = g.some_dtype(p, list(DTYPES.values()))
        value = np.array([p.of((1, 0, 2))], dtype)
    need(value is None or value.dtype in g.dtypes_of_result("ConstantOfShape"))
    tensor = None if value is None else numpy_helper.from_array(value)
    g.one("ConstantOfShape", g.ints(*shape), value=tensor)


def range_(g: Graph, p: Picks) -> None:
    dtype = g.some_dtype(p, g.dtypes("Range"))
    start, limit, delta = p.of(((0, 5, 1), (3, -4, -2), (1, 2, 3), (2, 2, 1), (0, 17, 4)))
    g.one("Range", *(g.constant(v, dtype) for v in (start, limit, delta)))


MOVEMENT: dict[str, Maker] = {
    "Reshape": reshape, "Reshape by dims": reshape_by_dims, "Expand by dims": expand_by_dims,
    "Slice by dims": slice_by_dims, "Flatten": flatten, "Squeeze": squeeze,
    "Unsqueeze": unsqueeze, "Transpose": transpose, "Expand": expand, "Tile": tile,
    "Concat": concat, "Split": split, "Slice": slice_, "Pad": pad,
    "DepthToSpace": blocks("DepthToSpace"), "SpaceToDepth": blocks("SpaceToDepth"),
    "Shape": shape_of, "Size": unary("Size"), "Trilu": trilu, "EyeLike": eye_like,
    "ConstantOfShape": constant_of_shape, "Range": range_,
}  # fmt: skip
