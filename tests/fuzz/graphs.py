"""Random typed graphs from lists of numbers, so that a failure shrinks. Not test cases.

Numbers are small multiples of a quarter. As long as a value is computed exactly, whatever the
order of additions, it may go into ops that jump, such as comparisons; after that it may not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

import tfc.ir.ops  # noqa: F401  (fills the registry)
from tfc.ir import arrays
from tfc.ir.arrays import Array
from tfc.ir.build import GraphBuilder, tensor_type
from tfc.ir.constants import ConstantStore
from tfc.ir.core import Block, Function, Module, SymbolInfo, Value
from tfc.ir.dims import DimLike, evaluate, symbol
from tfc.ir.opdef import TypeRefusal
from tfc.ir.types import BOOL, F16, F32, F64, I32, I64, DType, TensorType

N, M = symbol("N"), symbol("M")
DIMS: tuple[DimLike, ...] = (1, 2, 3, 4, 5, 8, 16, 17, 33, N, M, 0)
DTYPES = (F32, F32, F32, F64, F32, I32, I64, BOOL, F16)
DIGITS = {"f16": 10, "f32": 22, "f64": 50, "i32": 24, "i64": 50, "bool": 9}
MAX_SIZE = 40_000
LIKELY = {"N": 17, "M": 17}

Step = tuple[int, int, int, int]
Shape = tuple[DimLike, ...]


class Unfit(Exception):
    """The op does not fit the values picked: leave it out."""


@dataclass
class Graph:
    """What has been built. digits: bits that hold a value exactly; absent where it is rounded."""

    b: GraphBuilder
    values: list[Value]
    digits: dict[Value, int] = field(default_factory=dict)

    def exact(self, x: Value, less: int = 0) -> int:
        found = self.digits.get(x, 99)
        if found > DIGITS[tensor_type(x).dtype.name] - less:
            raise Unfit
        return found

    def constant(self, shape: Sequence[int], dtype: DType, pick: int) -> Value:
        value = self.b.constant(numbers(shape, dtype, pick), dtype)
        self.digits[value] = 5
        return value

    def partner(self, x: Value, pick: int) -> Value:
        """A value of the type's dtype that broadcasts with x: an earlier one or a constant."""
        type = tensor_type(x)
        fitting = [v for v in self.values if _broadcasts(tensor_type(v), type)]
        if pick % 3 and fitting:
            return fitting[pick // 3 % len(fitting)]
        axis = pick // 3 % (type.rank + 1)
        if axis == type.rank or not isinstance(type.shape[axis], int):
            return self.constant((), type.dtype, pick)
        shape = [1] * type.rank
        shape[axis] = type.shape[axis]
        return self.constant(shape[axis if pick % 2 else 0 :], type.dtype, pick)


Maker = Callable[[Graph, Value, int], Value]


def numbers(shape: Sequence[int], dtype: DType, seed: int) -> Array:
    quarters = np.random.default_rng(seed).integers(-12, 13, tuple(shape))
    if dtype == BOOL:
        return quarters > 0
    return arrays.make(quarters / 4 if dtype.is_float else quarters, dtype)


def _broadcasts(a: TensorType, b: TensorType) -> bool:
    return a.dtype == b.dtype and _fit(a.shape, b.shape)


def _fit(a: Shape, b: Shape) -> bool:
    return all(x == y or 1 in (x, y) for x, y in zip(reversed(a), reversed(b), strict=False))


def need(condition: bool) -> None:
    if not condition:
        raise Unfit


def shape_of(x: Value) -> Shape:
    return tensor_type(x).shape


def dtype_of(x: Value) -> DType:
    return tensor_type(x).dtype


def keep(g: Graph, y: Value, *sources: Value, more: int = 0) -> Value:
    """Note that y is as exact as its sources, with `more` digits."""
    known = [g.digits.get(source, 99) for source in sources]
    if max(known) + more <= DIGITS[dtype_of(y).name]:
        g.digits[y] = max(known) + more
    return y


# -- elementwise --------------------------------------------------------------------------------


def _binary(name: str, kinds: str, product: bool = False) -> Maker:
    def make(g: Graph, x: Value, pick: int) -> Value:
        need(dtype_of(x).kind in kinds)
        y = g.partner(x, pick)
        if not dtype_of(x).is_float:
            g.exact(x), g.exact(y)
        result = g.b.op(name, *((x, y) if pick % 2 else (y, x))).result
        more = min(g.digits.get(x, 99), g.digits.get(y, 99)) if product else 1
        return keep(g, result, x, y, more=more)

    return make


def _compare(name: str) -> Maker:
    def make(g: Graph, x: Value, pick: int) -> Value:
        need(dtype_of(x) != BOOL)
        y = g.partner(x, pick)
        g.exact(x), g.exact(y)
        result = g.b.op(name, x, y).result
        g.digits[result] = 1
        return result

    return make


def _plain(name: str, kinds: str = "fi") -> Maker:
    """An op that keeps digits."""

    def make(g: Graph, x: Value, pick: int) -> Value:
        need(dtype_of(x).kind in kinds)
        return keep(g, g.b.op(name, x).result, x)

    return make


def _jump(name: str) -> Maker:
    def make(g: Graph, x: Value, pick: int) -> Value:
        need(dtype_of(x).is_float)
        g.exact(x)
        return keep(g, g.b.op(name, x).result, x)

    return make


def _smooth(name: str, **attrs: object) -> Maker:
    def make(g: Graph, x: Value, pick: int) -> Value:
        need(dtype_of(x).is_float)
        return g.b.op(name, x, **attrs).result

    return make


def _above(name: str, least: float) -> Maker:
    """An op on |x| + least, which keeps it away from where it is steep."""

    def make(g: Graph, x: Value, pick: int) -> Value:
        need(dtype_of(x).is_float)
        return g.b.op(name, g.b.add(g.b.abs(x), g.b.constant(least, dtype_of(x)))).result

    return make


def _exp(g: Graph, x: Value, pick: int) -> Value:
    need(dtype_of(x).is_float)
    return g.b.exp(g.b.clamp(x, lo=-4.0, hi=4.0))


def _div(g: Graph, x: Value, pick: int) -> Value:
    need(dtype_of(x) != BOOL)
    y = g.partner(x, pick)
    if not dtype_of(x).is_float:
        g.exact(x), g.exact(y)
        name = ("div", "mod", "rem")[pick % 3]
        return keep(g, g.b.op(name, x, y).result, x, y)
    return g.b.div(x, g.b.add(g.b.abs(y), g.b.constant(0.5, dtype_of(x))))


def _cast(g: Graph, x: Value, pick: int) -> Value:
    dtype = (F32, F64, I32, I64, BOOL, F16)[pick % 6]
    if dtype_of(x).is_float and not dtype.is_float:
        g.exact(x)
    return keep(g, g.b.cast(x, dtype=dtype), x)


def _select(g: Graph, x: Value, pick: int) -> Value:
    y = g.partner(x, pick)
    conditions = [
        v
        for v in g.values
        if dtype_of(v) == BOOL and _broadcasts(TensorType(dtype_of(x), shape_of(v)), tensor_type(x))
    ]
    need(bool(conditions))
    condition = conditions[pick % len(conditions)]
    return keep(g, g.b.select(condition, x, y), x, y)


def _clamp(g: Graph, x: Value, pick: int) -> Value:
    need(dtype_of(x).is_float)
    return keep(g, g.b.clamp(x, lo=-1.0, hi=float(pick % 3)), x)


# -- movement -----------------------------------------------------------------------------------


def _transpose(g: Graph, x: Value, pick: int) -> Value:
    perm = np.random.default_rng(pick).permutation(len(shape_of(x))).tolist()
    return keep(g, g.b.transpose(x, perm=perm), x)


def _reshape(g: Graph, x: Value, pick: int) -> Value:
    shape = list(shape_of(x))
    match pick % 4:
        case 0:
            shape = [tensor_type(x).size]
        case 1:
            shape.insert(pick // 4 % (len(shape) + 1), 1)
        case 2:
            axis = pick // 4 % max(len(shape), 1)
            need(axis + 1 < len(shape))
            shape[axis : axis + 2] = [shape[axis] * shape[axis + 1]]
        case _:
            axis = pick // 4 % max(len(shape), 1)
            need(axis < len(shape))
            dim = shape[axis]
            need(isinstance(dim, int) and dim % 2 == 0)
            assert isinstance(dim, int)
            shape[axis : axis + 1] = [2, dim // 2] if pick % 8 < 4 else [dim // 2, 2]
    return keep(g, g.b.reshape(x, shape=shape), x)


def _slice(g: Graph, x: Value, pick: int) -> Value:
    shape = shape_of(x)
    starts: list[DimLike] = [0] * len(shape)
    sizes, steps = list(shape), [1] * len(shape)
    axis = pick % max(len(shape), 1)
    need(axis < len(shape))
    dim = shape[axis]
    match pick // 4 % 4:
        case 0:
            starts[axis], steps[axis] = dim - 1, -1
        case 1 if isinstance(dim, int):
            steps[axis], sizes[axis] = 2, (dim + 1) // 2
        case 2 if isinstance(dim, int) and dim > 1:
            starts[axis], sizes[axis] = dim // 2, dim - dim // 2
        case 3 if isinstance(dim, int) and dim > 1:
            sizes[axis] = dim - 1
        case _:
            raise Unfit
    return keep(g, g.b.slice(x, starts=starts, sizes=sizes, steps=steps), x)


def _concat(g: Graph, x: Value, pick: int) -> Value:
    type = tensor_type(x)
    axis = pick % max(type.rank, 1)
    need(type.rank > 0)

    def rest(shape: Shape) -> Shape:
        return (*shape[:axis], *shape[axis + 1 :])

    others = [
        v
        for v in g.values
        if dtype_of(v) == type.dtype
        and len(shape_of(v)) == type.rank
        and rest(shape_of(v)) == rest(type.shape)
    ]
    parts = [x, others[pick // 3 % len(others)], others[pick // 7 % len(others)]][: 2 + pick % 2]
    if pick % 5 == 0:
        parts.reverse()
    return keep(g, g.b.concat(*parts, axis=axis), *parts)


def _pad(g: Graph, x: Value, pick: int) -> Value:
    rank = len(shape_of(x))
    need(rank > 0 and dtype_of(x) != BOOL)
    mode = ("constant", "constant", "edge", "reflect", "wrap")[pick % 5]
    lo, hi = [0] * rank, [0] * rank
    lo[pick % rank], hi[pick // 2 % rank] = pick % 3, pick // 3 % 3
    for axis, dim in enumerate(shape_of(x)):
        need(mode == "constant" or (isinstance(dim, int) and dim > 2) or lo[axis] + hi[axis] == 0)
        if pick % 7 == 0 and mode == "constant" and isinstance(dim, int) and dim > 3:
            lo[axis] = -1
    value = [g.constant((), dtype_of(x), pick)] if mode == "constant" and pick % 2 else []
    return keep(g, g.b.pad(x, *value, lo=lo, hi=hi, mode=mode), x, *value)


def _broadcast(g: Graph, x: Value, pick: int) -> Value:
    shape = tuple(3 if dim == 1 else dim for dim in shape_of(x))
    return keep(g, g.b.broadcast(x, shape=(2, *shape) if pick % 3 == 0 else shape), x)


def _tile(g: Graph, x: Value, pick: int) -> Value:
    rank = len(shape_of(x))
    need(rank > 0)
    repeats = [1] * rank
    repeats[pick % rank] = 2 + pick % 2
    return keep(g, g.b.tile(x, repeats=repeats), x)


def _gather(g: Graph, x: Value, pick: int) -> Value:
    rank = len(shape_of(x))
    need(rank > 0)
    axis = pick % rank
    need(isinstance(shape_of(x)[axis], int) and shape_of(x)[axis] != 0)
    computed = [v for v in g.values if dtype_of(v) in (I32, I64) and len(shape_of(v)) < 3]
    if computed and pick % 2:
        indices = computed[pick // 2 % len(computed)]
        g.exact(indices)
    else:
        indices = g.constant((3,) if pick % 3 else (2, 2), I64, pick)
    return keep(g, g.b.gather(x, indices, axis=axis), x)


def _trilu(g: Graph, x: Value, pick: int) -> Value:
    return keep(g, g.b.trilu(x, upper=bool(pick % 2), k=pick % 5 - 2), x)


def _ordered(g: Graph, x: Value, pick: int) -> Value:
    """Elements in order, all or a few, or where they come from."""
    rank = len(shape_of(x))
    need(rank > 0 and dtype_of(x) != BOOL)
    g.exact(x)
    axis = pick % rank
    size = shape_of(x)[axis]
    if pick % 2 and isinstance(size, int):
        k = min(size, 1 + pick // 2 % 4)
        op = g.b.op("top_k", x, axis=axis, k=k, largest=bool(pick // 4 % 2))
    else:
        op = g.b.op("sort", x, axis=axis, descending=bool(pick // 4 % 2))
    if pick // 8 % 2:
        return keep(g, op.results[0], x)
    g.digits[op.results[1]] = 7
    return op.results[1]


def _scatter(g: Graph, x: Value, pick: int) -> Value:
    shape = shape_of(x)
    need(len(shape) > 0 and all(isinstance(dim, int) and dim > 0 for dim in shape))
    sizes = [dim for dim in shape if isinstance(dim, int)]
    axis = pick % len(sizes)
    sizes[axis] = 1 + pick // 4 % 5
    updates = g.constant(sizes, dtype_of(x), pick)
    indices = g.constant(sizes, I64, pick + 1)
    reduction = ("none", "add", "max", "min")[pick // 2 % 4] if dtype_of(x) != BOOL else "none"
    if not dtype_of(x).is_float or reduction in ("max", "min"):
        g.exact(x)
    y = g.b.scatter_elements(x, indices, updates, axis=axis, reduction=reduction)
    return keep(g, y, x, updates, more=3 if reduction == "add" else 0)


def _positions(g: Graph, x: Value, pick: int) -> Value:
    need(dtype_of(x) == BOOL)
    g.exact(x)
    y = g.b.positions(g.b.reshape(x, shape=(tensor_type(x).size,)), count=1 + pick % 20)
    g.digits[y] = 16
    return y


# -- folds --------------------------------------------------------------------------------------


def _axes(x: Value, pick: int) -> list[int]:
    rank = len(shape_of(x))
    chosen = [axis for axis in range(rank) if pick >> axis & 1]
    return chosen or list(range(rank))


def _grown(shape: Sequence[DimLike]) -> int:
    count = 1
    for dim in shape:
        count *= evaluate(dim, LIKELY)
    return max(count, 1).bit_length()


def _reduce(name: str, kinds: str = "fi") -> Maker:
    def make(g: Graph, x: Value, pick: int) -> Value:
        need(dtype_of(x).kind in kinds and len(shape_of(x)) > 0)
        axes = _axes(x, pick)
        if not dtype_of(x).is_float:
            g.exact(x)
        y = g.b.op(name, x, axes=axes, keepdims=bool(pick // 16 % 2)).result
        dims = [shape_of(x)[axis] for axis in axes]
        empty = any(not isinstance(dim, int) or dim == 0 for dim in dims)
        if name in ("reduce_max", "reduce_min", "reduce_any", "reduce_all"):
            need(not empty or dtype_of(x) == BOOL)
            return keep(g, y, x)
        more = _grown(dims)
        return keep(g, y, x, more=more) if name == "reduce_sum" else y

    return make


def _arg(name: str) -> Maker:
    def make(g: Graph, x: Value, pick: int) -> Value:
        need(len(shape_of(x)) > 0 and dtype_of(x) != BOOL)
        g.exact(x)
        axis = pick % len(shape_of(x))
        dim = shape_of(x)[axis]
        need(isinstance(dim, int) and dim > 0)
        attrs = {"axis": axis, "keepdims": bool(pick % 2), "last": bool(pick // 2 % 2)}
        y = g.b.op(name, x, **attrs).result
        g.digits[y] = 6
        return y

    return make


def _softmax(name: str) -> Maker:
    def make(g: Graph, x: Value, pick: int) -> Value:
        need(dtype_of(x).is_float and len(shape_of(x)) > 0)
        return g.b.op(name, g.b.clamp(x, lo=-8.0, hi=8.0), axis=pick % len(shape_of(x))).result

    return make


def _layer_norm(g: Graph, x: Value, pick: int) -> Value:
    need(dtype_of(x).is_float and len(shape_of(x)) > 0)
    last = shape_of(x)[-1]
    need(isinstance(last, int) and last > 0)
    return g.b.layer_norm(x, axis=-1, eps=0.5)


def _cumsum(g: Graph, x: Value, pick: int) -> Value:
    need(dtype_of(x).kind in "fi" and len(shape_of(x)) > 0)
    axis = pick % len(shape_of(x))
    if not dtype_of(x).is_float:
        g.exact(x)
    y = g.b.cumsum(x, axis=axis, exclusive=bool(pick // 2 % 2), reverse=bool(pick // 4 % 2))
    return keep(g, y, x, more=_grown([shape_of(x)[axis]]))


def _matmul(g: Graph, x: Value, pick: int) -> Value:
    need(dtype_of(x) in (F32, F64, F16, I32) and len(shape_of(x)) > 0)
    inner = shape_of(x)[-1]
    if pick % 3:
        fitting = [
            v
            for v in g.values
            if dtype_of(v) == dtype_of(x)
            and len(shape_of(v)) >= 1
            and (shape_of(v)[-2] if len(shape_of(v)) > 1 else shape_of(v)[0]) == inner
            and _fit(shape_of(v)[:-2], shape_of(x)[:-2])
        ]
        need(bool(fitting))
        y = fitting[pick // 3 % len(fitting)]
    else:
        need(isinstance(inner, int))
        assert isinstance(inner, int)
        columns = (1, 3, 8, 17, 40)[pick // 3 % 5]
        if pick % 2:
            y = g.constant((inner, columns), dtype_of(x), pick)
        else:
            y = g.b.transpose(g.constant((columns, inner), dtype_of(x), pick), perm=(1, 0))
            g.digits[y] = 5
    if not dtype_of(x).is_float:
        g.exact(x), g.exact(y)
    more = min(g.digits.get(x, 99), g.digits.get(y, 99)) + _grown([inner])
    return keep(g, g.b.matmul(x, y), x, y, more=more)


def _window(x: Value, pick: int) -> tuple[int, dict[str, tuple[object, ...]]]:
    rank = len(shape_of(x)) - 2
    need(1 <= rank <= 2 and dtype_of(x).is_float)
    need(all(isinstance(dim, int) and dim > 0 for dim in shape_of(x)[2:]))
    pads = tuple(((pick + i) % 2, (pick // 3 + i) % 2) for i in range(rank))
    strides = tuple(1 + (pick // (5 + i)) % 2 for i in range(rank))
    dilations = tuple(1 + (pick // (11 + i)) % 5 // 4 for i in range(rank))
    return rank, {"strides": strides, "pads": pads, "dilations": dilations}


def _conv(g: Graph, x: Value, pick: int) -> Value:
    rank, attrs = _window(x, pick)
    channels = shape_of(x)[1]
    need(isinstance(channels, int) and channels > 0)
    assert isinstance(channels, int)
    groups = channels if pick % 4 == 0 else 1
    out = groups * (1 + pick % 2) if groups > 1 else (1, 4, 8, 17)[pick // 2 % 4]
    kernel = tuple((1, 3, 2)[(pick // (7 + i)) % 3] for i in range(rank))
    w = g.constant((out, channels // groups, *kernel), dtype_of(x), pick)
    y = g.b.conv(x, w, groups=groups, **attrs)
    count = _grown([channels // groups, *kernel])
    # Products of f32 may be summed as rounded transforms of them.
    return y if dtype_of(x) == F32 else keep(g, y, x, more=5 + count)


def _pool(g: Graph, x: Value, pick: int) -> Value:
    rank, attrs = _window(x, pick)
    kernel = tuple((2, 3)[(pick // (7 + i)) % 2] for i in range(rank))
    if pick % 2:
        return keep(g, g.b.max_pool(x, kernel=kernel, **attrs), x)
    return g.b.avg_pool(x, kernel=kernel, count_include_pad=bool(pick // 2 % 2), **attrs)


MAKERS: tuple[Maker, ...] = (
    *(_binary(name, "fi") for name in ("add", "sub", "add")),
    *(_binary(name, "fib") for name in ("max", "min")),
    _binary("mul", "fi", product=True),
    *(_binary(name, "b") for name in ("and", "or", "xor")),
    *(_compare(name) for name in ("lt", "ge", "eq")),
    *(_plain(name) for name in ("neg", "abs")),
    _plain("relu", "f"),
    _plain("not", "b"),
    *(_jump(name) for name in ("floor", "ceil", "round", "sign")),
    *(_smooth(name) for name in ("tanh", "sigmoid", "erf", "sin", "softsign", "silu")),
    _smooth("gelu", approximate="none"),
    _above("sqrt", 1.0),
    _above("log", 0.5),
    _exp, _div, _cast, _cast, _select, _clamp,
    _transpose, _transpose, _reshape, _reshape, _slice, _slice, _concat, _concat, _pad, _pad,
    _broadcast, _tile, _gather, _trilu, _ordered, _ordered, _scatter, _positions,
    *(_reduce(name) for name in ("reduce_sum", "reduce_sum", "reduce_max", "reduce_min")),
    _reduce("reduce_mean", "f"),
    *(_reduce(name, "b") for name in ("reduce_any", "reduce_all")),
    *(_arg(name) for name in ("argmax", "argmin")),
    *(_softmax(name) for name in ("softmax", "log_softmax")),
    _layer_norm, _cumsum, _matmul, _matmul, _matmul, _conv, _conv, _conv, _pool, _pool,
)  # fmt: skip


def build(
    inputs: Sequence[tuple[int, Sequence[int]]],
    steps: Sequence[Step],
    outputs: Sequence[int],
    makers: Sequence[Maker] = MAKERS,
) -> Module:
    """The graph that the numbers say; steps that do not fit are left out."""
    types = [
        TensorType(DTYPES[kind % len(DTYPES)], tuple(DIMS[i % len(DIMS)] for i in shape))
        for kind, shape in inputs
    ]
    block = Block(types, [f"x{i}" for i in range(len(types))])
    store = ConstantStore()
    g = Graph(GraphBuilder(block, store), list(block.args), dict.fromkeys(block.args, 5))
    for kind, first, pick, _ in steps:
        last = block.last
        try:
            # Late values are the likelier ones, so that graphs grow deep.
            at = len(g.values) - 1 - first % len(g.values) if first % 3 else first % len(g.values)
            made = makers[kind % len(makers)](g, g.values[at], pick)
            need(_likely_size(made) <= MAX_SIZE and len(shape_of(made)) <= 5)
        except (Unfit, TypeRefusal):
            while block.last is not last and block.last is not None:
                block.last.erase()
            continue
        g.values.append(made)
    returned = [g.values[-1], *(g.values[i % len(g.values)] for i in outputs)]
    g.b.op("return", *returned)
    module = Module("graph", constants=store)
    names = tuple(f"y{i}" for i in range(len(returned)))
    used = {str(dim) for type in types for dim in type.shape if not isinstance(dim, int)}
    module.add(Function("main", block, symbols={n: SymbolInfo() for n in sorted(used)},
                        output_names=names))  # fmt: skip
    return module


def _likely_size(value: Value) -> int:
    return evaluate(tensor_type(value).size, LIKELY)


def inputs_of(module: Module, sizes: Mapping[str, int]) -> dict[str, Array]:
    found = {}
    for position, arg in enumerate(module.main.args):
        type = tensor_type(arg)
        shape = [evaluate(dim, sizes) for dim in type.shape]
        found[arg.name] = numbers(shape, type.dtype, position)
    return found
