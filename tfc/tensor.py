"""Graph values in Python: constants, placeholders, and what operators and ops make of them.

Nothing is computed until a value is asked for (`print`, `numpy()`): then the expression is
compiled, its kernels taken from the cache where they are there. Start at `Tensor`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

import tfc.ir.ops  # noqa: F401  registers the ops
from tfc.ir import arrays
from tfc.ir.build import GraphBuilder, freeze
from tfc.ir.constants import ConstantStore
from tfc.ir.core import Block, Function, Module, Op, SymbolInfo, Value
from tfc.ir.dims import DimLike, symbol, symbols_of
from tfc.ir.errors import UsageError
from tfc.ir.opdef import OPS, Kind, OpDef, TypeRefusal
from tfc.ir.types import BF16, BOOL, C64, DTYPES, F16, F32, I64, DType, TensorType

Array = npt.NDArray[Any]
Number: TypeAlias = bool | int | float
Like: TypeAlias = "Tensor | Array | Number | Sequence[Any] | np.generic[Any]"

_INTERNAL = ("return", "yield", "fused", "constant", "dims")
_MIXED = ("select", "gather", "gather_nd", "gather_elements")
_RANKS = {"b": 0, "u": 1, "i": 1, "f": 2, "c": 3}


class _Node:
    """One op on tensors, a constant, or a placeholder (which has neither op nor array)."""

    __slots__ = ("array", "attrs", "defn", "name", "operands", "types")

    def __init__(
        self,
        types: Sequence[TensorType],
        defn: OpDef | None = None,
        operands: Sequence[Tensor] = (),
        attrs: Any = None,
        array: Array | None = None,
        name: str = "",
    ) -> None:
        self.types, self.defn, self.operands = types, defn, tuple(operands)
        self.attrs, self.array, self.name = attrs, array, name


class Tensor:
    """A graph value: type and shape are known at once, its elements when they are asked for.

    Operators are elementwise and broadcast; `==` gives a tensor too. Element types: Python ints
    are i64 and floats f32, bools bool; next to a tensor a Python number takes its type, unless
    that would lose the kind (an int tensor and a float give f32). Of two types the wider of the
    higher kind is taken: bool, int, float, complex.
    """

    __slots__ = ("_index", "_node", "_value")
    __array_priority__ = 100

    def __init__(self, node: _Node, index: int = 0) -> None:
        self._node = node
        self._index = index
        self._value: Array | None = node.array

    @property
    def type(self) -> TensorType:
        return self._node.types[self._index]

    @property
    def dtype(self) -> DType:
        return self.type.dtype

    @property
    def shape(self) -> tuple[DimLike, ...]:
        return self.type.shape

    @property
    def ndim(self) -> int:
        return self.type.rank

    def numpy(self) -> Array:
        """Compile and run the expression, once; bf16 comes as raw uint16 bits.

        Raises UsageError where it depends on a placeholder.
        """
        if self._value is None:
            self._value = _evaluate(self)
        return self._value

    def item(self) -> Any:
        """Return the only element as a Python number."""
        return arrays.decode(self.numpy(), self.dtype).item()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        array = self.numpy()
        return np.array(array, dtype) if copy else np.asarray(array, dtype)

    def __repr__(self) -> str:
        shape = "()" if not self.shape else f"({', '.join(map(str, self.shape))},)"
        shape = shape if len(self.shape) == 1 else shape.replace(",)", ")")
        facts = f"shape={shape}, dtype={self.dtype}"
        if self._needs_inputs():
            what = self._node.name or (self._node.defn.name if self._node.defn else "placeholder")
            return f"Tensor({what}, {facts})"
        shown = arrays.decode(self.numpy(), self.dtype)
        return f"Tensor({np.array2string(shown, separator=', ', prefix='Tensor(')}, {facts})"

    def _needs_inputs(self) -> bool:
        return any(node.defn is None and node.array is None for node in _ordered([self]))

    def __bool__(self) -> bool:
        return bool(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __index__(self) -> int:
        if not self.dtype.is_int:
            raise TypeError(f"a tensor of {self.dtype} is no index")
        return int(self.item())

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a tensor of rank 0 has no length")
        size = self.shape[0]
        if not isinstance(size, int):
            raise TypeError(f"the length {size} is known at run time only")
        return size

    # -- operators ------------------------------------------------------------------------------

    def __add__(self, other: Like) -> Tensor:
        return _apply("add", self, other)

    def __radd__(self, other: Like) -> Tensor:
        return _apply("add", other, self)

    def __sub__(self, other: Like) -> Tensor:
        return _apply("sub", self, other)

    def __rsub__(self, other: Like) -> Tensor:
        return _apply("sub", other, self)

    def __mul__(self, other: Like) -> Tensor:
        return _apply("mul", self, other)

    def __rmul__(self, other: Like) -> Tensor:
        return _apply("mul", other, self)

    def __truediv__(self, other: Like) -> Tensor:
        return _apply("div", *_as_floats(self, other))

    def __rtruediv__(self, other: Like) -> Tensor:
        return _apply("div", *_as_floats(other, self))

    def __floordiv__(self, other: Like) -> Tensor:
        return _floordiv(self, other)

    def __rfloordiv__(self, other: Like) -> Tensor:
        return _floordiv(other, self)

    def __mod__(self, other: Like) -> Tensor:
        return _apply("mod", self, other)

    def __rmod__(self, other: Like) -> Tensor:
        return _apply("mod", other, self)

    def __pow__(self, other: Like) -> Tensor:
        return _apply("pow", self, other)

    def __rpow__(self, other: Like) -> Tensor:
        return _apply("pow", other, self)

    def __matmul__(self, other: Like) -> Tensor:
        return _apply("matmul", self, other)

    def __rmatmul__(self, other: Like) -> Tensor:
        return _apply("matmul", other, self)

    def __neg__(self) -> Tensor:
        return _apply("neg", self)

    def __abs__(self) -> Tensor:
        return _apply("abs", self)

    def __invert__(self) -> Tensor:
        return _apply("not" if self.dtype == BOOL else "bitwise_not", self)

    def __and__(self, other: Like) -> Tensor:
        return _bitwise("and", self, other)

    def __or__(self, other: Like) -> Tensor:
        return _bitwise("or", self, other)

    def __xor__(self, other: Like) -> Tensor:
        return _bitwise("xor", self, other)

    def __lshift__(self, other: Like) -> Tensor:
        return _apply("shl", self, other)

    def __rshift__(self, other: Like) -> Tensor:
        return _apply("shr", self, other)

    def __eq__(self, other: object) -> Tensor:  # type: ignore[override]
        return _apply("eq", self, other)

    def __ne__(self, other: object) -> Tensor:  # type: ignore[override]
        return _apply("ne", self, other)

    def __lt__(self, other: Like) -> Tensor:
        return _apply("lt", self, other)

    def __le__(self, other: Like) -> Tensor:
        return _apply("le", self, other)

    def __gt__(self, other: Like) -> Tensor:
        return _apply("gt", self, other)

    def __ge__(self, other: Like) -> Tensor:
        return _apply("ge", self, other)

    __hash__ = object.__hash__

    def __getitem__(self, key: Any) -> Tensor:
        return _subscript(self, key if isinstance(key, tuple) else (key,))

    # -- as arrays of numpy ---------------------------------------------------------------------

    def astype(self, dtype: Any) -> Tensor:
        wanted = dtype_from(dtype)
        return self if wanted == self.dtype else _apply("cast", self, dtype=wanted)

    def reshape(self, *shape: Any) -> Tensor:
        """As numpy's: one dim may be -1."""
        dims = list(shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape)
        if -1 in dims:
            known: DimLike = 1
            for dim in dims:
                known = known if dim == -1 else known * dim
            dims[dims.index(-1)] = self.type.size // known
        return _apply("reshape", self, shape=tuple(dims))

    def transpose(self, *axes: int) -> Tensor:
        return _apply("transpose", self, perm=axes or tuple(reversed(range(self.ndim))))

    @property
    def T(self) -> Tensor:
        return self.transpose()

    def sum(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return self._reduce("reduce_sum", axis, keepdims)

    def prod(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return self._reduce("reduce_prod", axis, keepdims)

    def mean(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return self._reduce("reduce_mean", axis, keepdims)

    def max(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return self._reduce("reduce_max", axis, keepdims)

    def min(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return self._reduce("reduce_min", axis, keepdims)

    def any(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return self._reduce("reduce_any", axis, keepdims)

    def all(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return self._reduce("reduce_all", axis, keepdims)

    def _reduce(self, name: str, axis: Any, keepdims: bool) -> Tensor:
        given = range(self.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
        axes = tuple(sorted(_axis(one, self.ndim) for one in given))
        return _apply(name, self, axes=axes, keepdims=keepdims)


# -- making tensors -----------------------------------------------------------------------------


def constant(value: Any, dtype: Any = None) -> Tensor:
    """Return a constant. Python ints are i64, floats f32; numpy arrays keep their type.

    >>> constant(5) * constant(6)
    Tensor(30, shape=(), dtype=i64)
    """
    own = getattr(value, "dtype", None)
    array = np.array(value)
    if dtype is not None:
        kind = dtype_from(dtype)
        array = arrays.make(array, kind)
    elif own is None and array.dtype == np.float64:
        kind, array = F32, array.astype(np.float32)
    elif own is None and array.dtype == np.complex128:
        kind, array = C64, array.astype(np.complex64)
    else:
        try:
            kind = arrays.dtype_of(array)
        except TypeError as error:
            raise UsageError(
                f"no constant can be made of {type(value).__name__}: {error}"
            ) from None
        array = arrays.encode(array, kind)
    array.flags.writeable = False
    return Tensor(_Node((TensorType(kind, array.shape),), array=array))


def placeholder(shape: Sequence[DimLike | str], dtype: Any = "f32", name: str = "") -> Tensor:
    """Return an input. A dim is an int, or a string that names a dim known at run time."""
    dims = tuple(symbol(dim) if isinstance(dim, str) else dim for dim in shape)
    for dim in dims:
        if isinstance(dim, int) and dim < 0:
            raise UsageError(f"placeholder {name}: dim {dim} is negative")
    return Tensor(_Node((TensorType(dtype_from(dtype), dims),), name=name))


def dtype_from(given: Any) -> DType:
    """Return the element type that a name of tfc or numpy, or a numpy dtype, stands for."""
    if isinstance(given, DType):
        return given
    if isinstance(given, str) and given in DTYPES:
        return DTYPES[given]
    if given in ("bfloat16", "bf16"):
        return BF16
    try:
        return arrays.dtype_of(np.empty(0, given))
    except TypeError as error:
        raise UsageError(f"no element type {given!r}: {error}") from None


def op_function(name: str) -> Any:
    """Return the function on tensors that graph op `name` is; AttributeError where there is none.

    It takes the operands, anything that `constant` takes, and the attributes by keyword.
    """
    defn = OPS.get(name)
    if defn is None or name in _INTERNAL:
        raise AttributeError(f"module 'tfc' has no attribute {name!r}")

    def function(*operands: Like, **attrs: Any) -> Any:
        results = _results(name, operands, attrs)
        return results[0] if len(results) == 1 else results

    function.__name__ = function.__qualname__ = name
    function.__doc__ = defn.doc
    return function


# -- applying ops -------------------------------------------------------------------------------


def _apply(name: str, *operands: Any, **attrs: Any) -> Tensor:
    """Apply an op that has one result."""
    (result,) = _results(name, operands, attrs)
    return result


def _results(name: str, operands: Sequence[Any], attrs: dict[str, Any]) -> tuple[Tensor, ...]:
    """Apply an op. Raises UsageError with the reason where it does not take what is given."""
    defn = OPS[name]
    values = _promoted(defn, operands)
    known = {field.name for field in fields(defn.attrs)}
    for key in attrs.keys() - known:
        raise UsageError(f"{name} has no attribute {key!r} (it has: {', '.join(known) or 'none'})")
    if "dtype" in attrs:
        attrs["dtype"] = dtype_from(attrs["dtype"])
    try:
        made = defn.attrs(**{key: freeze(value) for key, value in attrs.items()})
        types = defn.check([value.type for value in values], made)
    except (TypeRefusal, TypeError) as error:
        given = ", ".join(str(value.type) for value in values)
        raise UsageError(f"{name}({given}): {error}") from None
    node = _Node(types, defn, values, made)
    return tuple(Tensor(node, i) for i in range(len(types)))


def _promoted(defn: OpDef, operands: Sequence[Any]) -> list[Tensor]:
    """Return the operands as tensors; those of elementwise ops and products of one type."""
    start = 1 if defn.name == "select" else 0
    mixes = defn.kind in (Kind.ELEMENTWISE, Kind.CONTRACTION) or defn.name == "concat"
    if defn.name in _MIXED[1:] or not mixes:
        return [_tensor(operand) for operand in operands]
    free = [_tensor(operand) for operand in operands[:start]]
    rest = [x if isinstance(x, (bool, int, float)) else _tensor(x) for x in operands[start:]]
    if not rest:
        return free
    dtype = _common([x.dtype for x in rest if isinstance(x, Tensor)], rest)
    return free + [x.astype(dtype) if isinstance(x, Tensor) else constant(x, dtype) for x in rest]


def _tensor(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else constant(value)


def _common(dtypes: list[DType], values: Sequence[Any]) -> DType:
    """Return the type for operands: that of the tensors, or of numbers of a higher kind."""
    numbers = [value for value in values if not isinstance(value, Tensor)]
    weak = [BOOL if isinstance(n, bool) else I64 if isinstance(n, int) else F32 for n in numbers]
    if not dtypes:
        return _widest(weak)
    dtype = _widest(dtypes)
    higher = [other for other in weak if _RANKS[other.kind] > _RANKS[dtype.kind]]
    return _widest(higher) if higher else dtype


def _widest(dtypes: Sequence[DType]) -> DType:
    top = max(_RANKS[dtype.kind] for dtype in dtypes)
    found = {dtype for dtype in dtypes if _RANKS[dtype.kind] == top}
    if len(found) == 1:
        return found.pop()
    if found == {F16, BF16}:
        return F32
    if {dtype.kind for dtype in found} == {"i", "u"}:
        unsigned = max(dtype.bits for dtype in found if dtype.kind == "u")
        signed = max(dtype.bits for dtype in found if dtype.kind == "i")
        if unsigned >= 64:
            raise UsageError("u64 and signed integers have no common type: cast one of them")
        return DTYPES[f"i{max(signed, 2 * unsigned)}"]
    return max(found, key=lambda dtype: dtype.bits)


def _as_floats(*operands: Any) -> list[Any]:
    """Return the operands of a true division: integers become f32."""
    values = [x if isinstance(x, (bool, int, float)) else _tensor(x) for x in operands]
    dtype = _common([x.dtype for x in values if isinstance(x, Tensor)], values)
    if dtype.kind in "fc":
        return values
    return [_tensor(value).astype(F32) for value in values]


def _floordiv(left: Any, right: Any) -> Tensor:
    x, y = _promoted(OPS["div"], (left, right))
    if x.dtype.kind in "fc":
        return _apply("floor", _apply("div", x, y))
    # Integer division truncates; without its remainder it is exact.
    return _apply("div", x - _apply("mod", x, y), y)


def _bitwise(name: str, left: Tensor, right: Any) -> Tensor:
    logical = left.dtype == BOOL
    return _apply(name if logical else f"bitwise_{name}", left, right)


def _axis(axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise UsageError(f"axis {axis} of a tensor of rank {rank}")
    return axis % rank


def _subscript(x: Tensor, key: tuple[Any, ...]) -> Tensor:
    """Basic indexing as in numpy: ints, slices, None and one ellipsis."""
    used = sum(item is not None and item is not Ellipsis for item in key)
    if used > x.ndim:
        raise UsageError(f"{used} indices into a tensor of rank {x.ndim}")
    if sum(item is Ellipsis for item in key) > 1:
        raise UsageError("an index has one ellipsis at most")
    fill = (slice(None),) * (x.ndim - used)
    at = next((i for i, item in enumerate(key) if item is Ellipsis), len(key))
    items = (*key[:at], *fill, *key[at + 1 :])
    starts: list[DimLike] = []
    sizes: list[DimLike] = []
    steps: list[int] = []
    shape: list[DimLike] = []
    axis = 0
    for item in items:
        if item is None:
            shape.append(1)
            continue
        start, size, step, kept = _range(item, x.shape[axis])
        starts.append(start)
        sizes.append(size)
        steps.append(step)
        shape += [size] if kept else []
        axis += 1
    part = _apply("slice", x, starts=tuple(starts), sizes=tuple(sizes), steps=tuple(steps))
    return _apply("reshape", part, shape=tuple(shape))


def _range(item: Any, extent: DimLike) -> tuple[DimLike, DimLike, int, bool]:
    """Return start, size and step of one index, and whether its axis stays."""
    if isinstance(item, slice):
        if item == slice(None):
            return 0, extent, 1, True
        if not isinstance(extent, int):
            raise UsageError(f"a slice of an axis of unknown size {extent}: use tfc.slice")
        start, stop, step = item.indices(extent)
        return start, len(range(start, stop, step)), step, True
    if isinstance(item, (int, np.integer)) and not isinstance(item, bool):
        if isinstance(extent, int) and not -extent <= item < extent:
            raise IndexError(f"index {item} into an axis of size {extent}")
        return (int(item) + extent if item < 0 else int(item)), 1, 1, False
    raise UsageError(f"{type(item).__name__} is no index: use tfc.gather")


# -- tensors to modules -------------------------------------------------------------------------


def _ordered(tensors: Iterable[Tensor]) -> list[_Node]:
    """Return the nodes that the tensors depend on, operands first."""
    done: dict[_Node, None] = {}
    stack = [(tensor._node, False) for tensor in reversed(list(tensors))]
    while stack:
        node, visited = stack.pop()
        if node in done:
            continue
        if visited:
            done[node] = None
            continue
        stack.append((node, True))
        stack.extend((operand._node, False) for operand in reversed(node.operands))
    return list(done)


def module_of(
    outputs: Tensor | Sequence[Tensor] | Mapping[str, Tensor], inputs: Sequence[Tensor] | None
) -> Module:
    """Return the graph that computes the outputs; inputs: all placeholders, by default found."""
    named = _named(outputs)
    nodes = _ordered([*named.values(), *(inputs or ())])
    arguments = [node for node in nodes if node.defn is None and node.array is None]
    if inputs is not None:
        given = [tensor._node for tensor in inputs]
        missing = [node for node in arguments if node not in given]
        if missing or len(given) != len(arguments):
            what = missing[0].name or str(missing[0].types[0]) if missing else "twice the same"
            raise UsageError(f"inputs must be all placeholders of the outputs: {what}")
        arguments = given
    store = ConstantStore()
    names = _input_names(arguments)
    block = Block([node.types[0] for node in arguments], names)
    builder = GraphBuilder(block, store)
    values: dict[_Node, Sequence[Value]] = {
        node: (arg,) for node, arg in zip(arguments, block.args, strict=True)
    }
    for node in nodes:
        if node.array is not None:
            attrs = arrays.constant_attrs(node.array, store, node.types[0].dtype)
            values[node] = builder.op("constant", **attrs).results
        elif node.defn is not None:
            operands = [values[x._node][x._index] for x in node.operands]
            values[node] = builder.emit(node.defn, operands, node.attrs).results
    results = [values[tensor._node][tensor._index] for tensor in named.values()]
    block.append(Op(OPS["return"], results, OPS["return"].attrs(), ()))
    found = {name for arg in arguments for dim in arg.types[0].shape for name in symbols_of(dim)}
    symbols = {name: SymbolInfo() for name in sorted(found)}
    module = Module("graph", constants=store)
    module.add(Function("main", block, "func", symbols, tuple(named)))
    return module


def _named(outputs: Tensor | Sequence[Tensor] | Mapping[str, Tensor]) -> dict[str, Tensor]:
    if isinstance(outputs, Mapping):
        return dict(outputs)
    tensors = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    return {f"output{i}": tensor for i, tensor in enumerate(tensors)}


def _input_names(arguments: Sequence[_Node]) -> list[str]:
    names = [node.name or f"input{i}" for i, node in enumerate(arguments)]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two placeholders are called {name!r}")
    return names


def _evaluate(tensor: Tensor) -> Array:
    """Compile and run a tensor that depends on no placeholder."""
    from tfc.compiler.build import Options
    from tfc.compiler.codegen.host import host_target
    from tfc.inprocess import compile_in_process

    if tensor._needs_inputs():
        raise UsageError("the value depends on a placeholder: compile it, then call the result")
    options = Options(host_target(), threads=False)
    result: Array = compile_in_process(lambda: module_of(tensor, None), options, 1)()
    return result.view(np.uint16) if tensor.dtype == BF16 else result
