"""Operators of the domain ai.onnx.ml on tensors of numbers. Strings and maps are refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfc.compiler.frontends.onnx.context import Array, Context, Results, Rule
from tfc.ir import arrays
from tfc.ir.build import tensor_type
from tfc.ir.core import Value
from tfc.ir.types import F32, F64, I64, DType

# -- lookups --------------------------------------------------------------------------------------


def _table(ctx: Context, prefix: str) -> tuple[Array, DType] | None:
    """The attributes called `prefix`: a tensor, integers or floats. Strings are refused."""
    strings, ints, floats = (f"{prefix}_{kind}s" for kind in ("string", "int64", "float"))
    tensor = ctx.tensor(f"{prefix}_tensor")
    if tensor is not None:
        return tensor[0].reshape(-1), tensor[1]
    if ctx.has_attr(ints):
        return np.array(ctx.integers(ints), np.int64), I64
    if ctx.has_attr(floats):
        return np.array(ctx.reals(floats), np.float32), F32
    if ctx.has_attr(strings):
        raise ctx.unsupported(f"attribute {strings!r} is of strings; numbers are supported")
    return None


def _label_encoder(ctx: Context) -> Results:
    """A sorted table of keys, searched by halving."""
    keys, values = _table(ctx, "keys"), _table(ctx, "values")
    if keys is None or values is None:
        raise ctx.unsupported("labels that are strings")
    if len(keys[0]) != len(values[0]):
        raise ctx.malformed(f"{len(keys[0])} keys for {len(values[0])} values")
    if keys[1] != ctx.type().dtype:
        raise ctx.malformed(f"keys of {keys[1]} for {ctx.type().dtype}")
    dtype = values[1]
    other: Value = ctx.b.constant(_missing(ctx, dtype), dtype)
    result: Value = ctx.b.broadcast(other, shape=ctx.shape())
    pairs = list(zip(keys[0].tolist(), values[0].tolist(), strict=True))
    # Of a key that is there twice the last value counts.
    plain = sorted({k: v for k, v in pairs if not np.isnan(k)}.items())
    if plain:
        table = [np.array(column) for column in zip(*plain, strict=True)]
        result = _looked_up(ctx, ctx.x(), table[0], (table[1], dtype), other)
    of_nan = [v for k, v in pairs if np.isnan(k)]
    if of_nan:
        found = ctx.b.constant(of_nan[-1], dtype)
        result = ctx.b.select(ctx.b.isnan(ctx.x()), found, result)
    return result


def _missing(ctx: Context, dtype: DType) -> Any:
    """What stands for a key that is not there: of several defaults that of the values' type."""
    given = ctx.tensor("default_tensor")
    of_integers, of_floats = ctx.integer("default_int64", -1), ctx.real("default_float", -0.0)
    ctx.has_attr("default_string")
    if given is not None:
        return given[0].reshape(-1)[0]
    return of_floats if dtype.is_float else of_integers


def _looked_up(
    ctx: Context, x: Value, keys: Array, values: tuple[Array, DType], other: Value
) -> Value:
    """The value at the place of x among sorted keys; `other` where it is none of them."""
    b, count = ctx.b, len(keys)
    stored = _stored(ctx, keys, tensor_type(x).dtype)
    at: Value = b.broadcast(b.constant(0, I64), shape=tensor_type(x).shape)
    step = 1 << max(count - 1, 0).bit_length()
    while step := step // 2:
        further = b.add(at, b.constant(step, I64))
        inside = b.lt(further, b.constant(count, I64))
        before = b.le(b.gather(stored, further, axis=0), x)
        at = b.select(getattr(b, "and")(inside, before), further, at)
    found = b.gather(_stored(ctx, *values), at, axis=0)
    hit = b.eq(b.gather(stored, at, axis=0), x)
    result: Value = b.select(hit, found, other)
    return result


def _stored(ctx: Context, array: Array, dtype: DType) -> Value:
    made = arrays.make(array, dtype)
    return ctx.b.op("constant", **arrays.constant_attrs(made, ctx.b.constants, dtype)).result


def _one_hot(ctx: Context) -> Results:
    categories = ctx.integers("cats_int64s")
    if categories is None:
        raise ctx.unsupported("categories that are strings")
    if not ctx.flag("zeros", True):
        raise ctx.unsupported("zeros=0, by which an unknown category fails the run")
    x = ctx.cast(ctx.x(), I64)
    rows = ctx.reshape(x, (*ctx.shape(), 1))
    return ctx.cast(ctx.b.eq(rows, ctx.b.constant(categories, I64)), F32)


def _features(ctx: Context) -> Results:
    x, indices = ctx.x(0), ctx.x(1)
    flat = ctx.reshape(indices, (tensor_type(indices).size,))
    found: Value = ctx.b.gather(x, flat, axis=-1)
    shape = tensor_type(found).shape
    return ctx.reshape(found, (1, *shape)) if len(shape) == 1 else found


# -- arithmetic -----------------------------------------------------------------------------------


def _binarizer(ctx: Context) -> Results:
    x = ctx.x()
    above = ctx.b.gt(x, ctx.scalar(ctx.real("threshold", 0.0), x))
    return ctx.cast(above, ctx.type().dtype)


def _row(ctx: Context, numbers: Sequence[float], dtype: DType, what: str) -> Value:
    """One number for all features, or one for each."""
    features = ctx.shape()[-1] if ctx.shape() else 1
    if len(numbers) not in (1, features):
        raise ctx.malformed(f"{what} has {len(numbers)} elements for {features} features")
    found: Value = ctx.b.constant(np.array(numbers), dtype)
    return ctx.as_scalar(found) if len(numbers) == 1 else found


def _wide(ctx: Context) -> Value:
    """The operand in the type that is computed in: f64 of f64 and of wide integers, else f32."""
    return ctx.cast(ctx.x(), F64 if ctx.type().dtype in (F64, I64) else F32)


def _scaler(ctx: Context) -> Results:
    x = _wide(ctx)
    dtype = tensor_type(x).dtype
    offset, scale = ctx.reals("offset"), ctx.reals("scale")
    if offset:
        x = ctx.b.sub(x, _row(ctx, offset, dtype, "offset"))
    if scale:
        x = ctx.b.mul(x, _row(ctx, scale, dtype, "scale"))
    return ctx.cast(x, F32)


def _normalizer(ctx: Context) -> Results:
    x, norm = _wide(ctx), ctx.string("norm", "MAX")
    over = {"axes": (ctx.type().rank - 1,), "keepdims": True}
    match norm:
        case "MAX":
            size = ctx.b.reduce_max(x, **over)
        case "L1":
            size = ctx.b.reduce_l1(x, **over)
        case "L2":
            size = ctx.b.reduce_l2(x, **over)
        case _:
            raise ctx.malformed(f"norm {norm!r} is not MAX, L1 or L2")
    safe = ctx.b.select(ctx.b.eq(size, ctx.scalar(0, x)), ctx.scalar(1, x), size)
    return ctx.cast(ctx.b.div(x, safe), F32)


def _imputer(ctx: Context) -> Results:
    x, dtype = ctx.x(), ctx.type().dtype
    numbers: Sequence[float] | None
    if dtype.is_float:
        numbers, replaced = ctx.reals("imputed_value_floats"), ctx.real("replaced_value_float", 0.0)
    else:
        numbers = ctx.integers("imputed_value_int64s")
        replaced = ctx.integer("replaced_value_int64", 0)
    for name in ("imputed_value_floats", "imputed_value_int64s"):
        ctx.has_attr(name)
    if not numbers:
        raise ctx.malformed(f"no values to put in of {dtype}")
    lost = ctx.b.isnan(x) if np.isnan(replaced) else ctx.b.eq(x, ctx.scalar(replaced, x))
    found: Value = ctx.b.select(lost, _row(ctx, numbers, dtype, "the values to put in"), x)
    return found


def _linear_regressor(ctx: Context) -> Results:
    x, targets = ctx.cast(ctx.x(), F32), ctx.integer("targets", 1)
    numbers, intercepts = ctx.reals("coefficients"), ctx.reals("intercepts")
    if ctx.string("post_transform", "NONE") != "NONE":
        raise ctx.unsupported("a post_transform; NONE is supported")
    if not numbers or targets < 1 or len(numbers) % targets:
        raise ctx.malformed(f"{len(numbers or ())} coefficients for {targets} targets")
    x = ctx.reshape(x, (1, *ctx.shape())) if ctx.type().rank == 1 else x
    weights = np.array(numbers, np.float32).reshape(targets, -1).T
    y: Value = ctx.b.matmul(x, ctx.b.constant(np.ascontiguousarray(weights)))
    if intercepts:
        if len(intercepts) != targets:
            raise ctx.malformed(f"{len(intercepts)} intercepts for {targets} targets")
        y = ctx.b.add(y, ctx.b.constant(np.array(intercepts, np.float32)))
    return y


def _vectorizer(ctx: Context) -> Results:
    """Features of all operands in a row, each cut or filled with zeros to its stated number."""
    wanted = ctx.integers("inputdimensions") or ()
    operands = ctx.operands()
    if len(wanted) != len(operands):
        raise ctx.malformed(f"{len(wanted)} dimensions for {len(operands)} operands")
    columns = []
    for x, count in zip(operands, wanted, strict=True):
        shape = tensor_type(x).shape
        if len(shape) == 1:
            shape = (1, *shape)
            x = ctx.reshape(x, shape)
        if len(shape) != 2 or shape[1] != count:
            raise ctx.unsupported(f"{shape} features where {count} are stated")
        columns.append(ctx.cast(x, F32))
    found: Value = ctx.b.concat(*columns, axis=1) if len(columns) > 1 else columns[0]
    return found


RULES: dict[str, tuple[Rule, ...]] = {
    "ArrayFeatureExtractor": (Rule(_features),),
    "Binarizer": (Rule(_binarizer),),
    "FeatureVectorizer": (Rule(_vectorizer),),
    "Imputer": (Rule(_imputer, ignores=("replaced_value_float", "replaced_value_int64")),),
    "LabelEncoder": (Rule(_label_encoder),),
    "LinearRegressor": (Rule(_linear_regressor),),
    "Normalizer": (Rule(_normalizer),),
    "OneHotEncoder": (Rule(_one_hot),),
    "Scaler": (Rule(_scaler),),
}
