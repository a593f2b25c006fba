"""Random ONNX graphs from lists of numbers, so that a failure shrinks. Not test cases.

What may come next is in the tables of `onnx_nodes` and its neighbours; types come from the schemas
of ONNX, and shapes from its shape inference, so that nothing of tfc says what a valid graph is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from math import prod
from typing import Any

import numpy as np
from onnx import TensorProto, TypeProto, checker, defs, helper, numpy_helper, shape_inference

from tests.fuzz.onnx_values import (
    DTYPES,
    FLAVOURS,
    OFTEN,
    SELDOM,
    TYPE_NAMES,
    Array,
    numbers,
)

OPSETS = (17, 13, 21, 18, 11, 20, 9, 23, 7, 8, 10, 12, 14, 15, 16, 19, 22, 24)
NEWEST = (25, 26, 27, 28)
LEARNING = "ai.onnx.ml"
LEARNING_OPSETS = (3, 5, 2, 1, 4)
DIMS: tuple[int | str, ...] = (3, 2, 4, 1, 5, "N", "M", 8, 7, 16, 17, 0, 6, 33)
SIZES = (("N", 3, "M", 4), ("N", 4, "M", 3), ("N", 1, "M", 2), ("N", 5, "M", 16), ("N", 17, "M", 1),
         ("N", 2, "M", 2), ("N", 8, "M", 0), ("N", 16, "M", 5))  # fmt: skip
MAX_ELEMENTS = 6000
MAX_RANK = 5
MAX_DEPTH = 2
"""Of graphs in graphs."""
IR_VERSION = 10

Step = tuple[int, Sequence[int]]
Numbers = tuple[Sequence[int], Sequence[Step]]


class Unfit(Exception):
    """The operator does not fit the values picked: leave it out."""


def need(condition: bool) -> None:
    if not condition:
        raise Unfit


class Picks:
    """Choices that a list of numbers makes; 0, the simplest choice, where the list has ended."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self._numbers = list(reversed(numbers))

    def next(self, below: int) -> int:
        return self._numbers.pop() % below if self._numbers else 0

    def of(self, choices: Sequence[Any]) -> Any:
        need(len(choices) > 0)
        return choices[self.next(len(choices))]

    def one_in(self, count: int) -> bool:
        """Whether to do the rarer of two things."""
        return self.next(count) == count - 1


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor of the graph. data: its content, where it is the same for all inputs."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    data: Array | None = None

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True)
class Leaf:
    """An input. fixed: its content, if not any will do."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str, ...]
    flavour: str
    seed: int
    fixed: Array | None = None

    def array(self, sizes: Mapping[str, int]) -> Array:
        if self.fixed is not None:
            return self.fixed
        shape = [sizes[dim] if isinstance(dim, str) else dim for dim in self.shape]
        return numbers(shape, self.dtype, self.flavour, self.seed)


Maker = Callable[["Graph", Picks], None]


@dataclass
class Graph:
    """What has been built so far.

    values: what more may be built of. stored: initialisers. around: those of the outermost graph,
    which has the floats of inner ones, too, so that nothing is computed of them beforehand.
    unsized: tensors whose sizes the data decides. whole: what
    is no tensor. depth: how many graphs are around this one.
    """

    opset: int
    sizes: dict[str, int]
    learning: int = LEARNING_OPSETS[0]
    nodes: list[Any] = field(default_factory=list)
    leaves: list[Leaf] = field(default_factory=list)
    stored: dict[str, Array] = field(default_factory=dict)
    around: dict[str, Array] = field(default_factory=dict)
    values: list[Value] = field(default_factory=list)
    unsized: dict[str, np.dtype[Any]] = field(default_factory=dict)
    whole: set[str] = field(default_factory=set)
    depth: int = 0
    count: Iterator[int] = field(default_factory=lambda: count(1))

    def inner(self) -> Graph:
        """A graph for an attribute of a node: it may use what is here, and has no inputs yet."""
        need(self.depth < MAX_DEPTH)
        return Graph(
            self.opset, self.sizes, self.learning,
            values=list(self.values), depth=self.depth + 1, count=self.count,
            around=self.around if self.depth else self.stored,
        )  # fmt: skip

    def parameter(self, dtype: Any, shape: Sequence[int]) -> Value:
        """A new input of an inner graph."""
        return self._add(Value(self._new("p"), np.dtype(dtype), tuple(shape)))

    def proto(self, parameters: Sequence[Value], outputs: Sequence[Value]) -> Any:
        """The inner graph as an attribute; outputs that are not made here are copied."""
        made = {name for node in self.nodes for name in node.output}
        results = []
        for x in outputs:
            own = x.name in made and x.name not in {y.name for y in results}
            results.append(x if own else self._copy(x))
        return helper.make_graph(
            self.nodes,
            "body",
            [helper.make_tensor_value_info(x.name, code(x.dtype), x.shape) for x in parameters],
            [_output_info(x.name, x.dtype) for x in results],
            [numpy_helper.from_array(array, name) for name, array in self.stored.items()],
        )

    def _copy(self, x: Value) -> Value:
        return self.emit("Identity", [x], known=[(x.dtype, x.shape)])[0]

    # -- operands -------------------------------------------------------------------------------

    def schema(self, op: str) -> Any:
        """The operator at the graph's opset; Unfit where it has none or it is deprecated.

        op: its name, that of another domain after the domain's.
        """
        domain, _, name = op.rpartition(".")
        try:
            found = defs.get_schema(name, self.learning if domain else self.opset, domain)
        except defs.SchemaError:
            raise Unfit from None
        need(not found.deprecated)
        return found

    def dtypes(self, op: str, position: int = 0) -> list[np.dtype[Any]]:
        """The element types that an operand of the operator may have."""
        formal = self.schema(op).inputs
        types = formal[min(position, len(formal) - 1)].types
        return [dtype for name, dtype in DTYPES.items() if name in types]

    def dtypes_of_result(self, op: str, position: int = 0) -> list[np.dtype[Any]]:
        types = self.schema(op).outputs[position].types
        return [dtype for name, dtype in DTYPES.items() if name in types]

    def x(
        self,
        p: Picks,
        op: str,
        position: int = 0,
        fits: Callable[[Value], bool] = lambda value: True,
        shape: Callable[[], Sequence[int | str]] | None = None,
    ) -> Value:
        """An operand: mostly a value that is there, the later the likelier, or else a leaf.

        fits: what is asked of its shape. shape: makes that of a new leaf.
        """
        dtypes = self.dtypes(op, position)
        fitting = [v for v in self.values if v.dtype in dtypes and fits(v)]
        if fitting and not p.one_in(5):
            back = p.next(2 * len(fitting))
            return fitting[-1 - (back if back < len(fitting) else back % 2 % len(fitting))]
        found = self.leaf(p, self.some_dtype(p, dtypes), shape() if shape else self.some_shape(p))
        need(fits(found))
        return found

    @staticmethod
    def some_dtype(p: Picks, dtypes: Sequence[np.dtype[Any]]) -> np.dtype[Any]:
        need(bool(dtypes))
        weighted = [d for d in dtypes for _ in range(OFTEN.get(TYPE_NAMES[d], SELDOM))]
        found: np.dtype[Any] = p.of(weighted)
        return found

    @staticmethod
    def some_shape(p: Picks, least: int = 0, most: int = 4) -> list[int | str]:
        ranks = [r for r in (2, 3, 1, 4, 2, 3, 0, 4, 1, 5) if least <= r <= max(most, least)]
        return [p.of(DIMS) for _ in range(p.of(ranks))]

    def leaf(self, p: Picks, dtype: np.dtype[Any], shape: Sequence[int | str]) -> Value:
        """A new input, or a constant; that where the graph is an inner one."""
        concrete = tuple(self.sizes[dim] if isinstance(dim, str) else dim for dim in shape)
        need(prod(concrete) <= MAX_ELEMENTS and len(concrete) <= MAX_RANK)
        constant, flavour, seed = p.one_in(3), p.of(FLAVOURS), p.next(1000)
        if constant or self.depth:
            return self.constant(numbers(concrete, dtype, flavour, seed))
        leaf = Leaf(self._new("x"), dtype, tuple(shape), flavour, seed)
        self.leaves.append(leaf)
        return self._add(Value(leaf.name, dtype, concrete))

    def constant(self, array: Any, dtype: Any = None) -> Value:
        """A new initialiser."""
        array = np.asarray(array, dtype)
        name = self._new("c")
        of_root = self.depth > 0 and array.dtype.kind not in "iub"
        (self.around if of_root else self.stored)[name] = array
        return self._add(Value(name, array.dtype, array.shape, array))

    def ints(self, *values: int) -> Value:
        return self.constant(np.array(values, np.int64))

    def given(self, p: Picks, array: Array) -> Value:
        """The array as a constant or, less often, as an input."""
        if not p.one_in(3) or self.depth:
            return self.constant(array)
        leaf = Leaf(self._new("x"), array.dtype, array.shape, "", 0, array)
        self.leaves.append(leaf)
        return self._add(Value(leaf.name, array.dtype, array.shape))

    def like(self, p: Picks, x: Value, shape: Sequence[int], same: bool = False) -> Value:
        """A value of x's element type and of a shape, one that is there or a new leaf.

        same: or any that broadcasts with it.
        """
        wanted = tuple(shape)
        fitting = [
            v
            for v in self.values
            if v.dtype == x.dtype and (v.shape == wanted if not same else fit(v.shape, wanted))
        ]
        if fitting and not p.one_in(3):
            found: Value = p.of(fitting[::-1])
            return found
        if same and wanted and p.one_in(2):
            keep = p.next(len(wanted) + 1)
            wanted = tuple(1 if p.one_in(3) else dim for dim in wanted[keep:])
        return self.leaf(p, x.dtype, self._named(p, wanted))

    def _named(self, p: Picks, shape: Sequence[int]) -> list[int | str]:
        """The shape, some of its dims as symbols of the size."""
        found: list[int | str] = []
        for dim in shape:
            names = [name for name, size in self.sizes.items() if size == dim]
            found.append(names[0] if names and p.one_in(3) else dim)
        return found

    def _new(self, letter: str) -> str:
        return f"{letter}{next(self.count)}"

    def _add(self, value: Value) -> Value:
        self.values.append(value)
        return value

    # -- nodes ----------------------------------------------------------------------------------

    def emit(
        self,
        op: str,
        inputs: Sequence[Value | None],
        attrs: Mapping[str, Any] | None = None,
        outputs: int = 1,
        known: Sequence[tuple[np.dtype[Any], tuple[int, ...]]] = (),
        checked: bool = True,
    ) -> list[Value]:
        """Add a node. Unfit where ONNX does not allow it, or its results are too large.

        known: the types of its results where ONNX's inference cannot tell. checked: whether its
        operands are tensors, so that their types are checked.
        """
        schema = self.schema(op)
        if checked:
            _check_types(schema, inputs)
        node = self._node(op, inputs, attrs, len(known) or outputs)
        names = node.output
        if known:
            results = [Value(n, *type) for n, type in zip(names, known, strict=True)]
        else:
            results = self._infer(schema, node, [x for x in inputs if x is not None])
        need(all(v.size <= MAX_ELEMENTS and v.rank <= MAX_RANK for v in results))
        self.nodes.append(node)
        self.values += results
        return results

    def _node(
        self, op: str, inputs: Sequence[Value | None], attrs: Mapping[str, Any] | None, outputs: int
    ) -> Any:
        attrs = {name: value for name, value in (attrs or {}).items() if value is not None}
        need(self.schema(op).attributes.keys() >= attrs.keys())
        operands = ["" if x is None else x.name for x in inputs]
        while operands and not operands[-1]:
            operands.pop()
        domain, _, name = op.rpartition(".")
        names = [self._new("v") for _ in range(outputs)]
        return helper.make_node(name, operands, names, name=self._new("n"), domain=domain, **attrs)

    def open(
        self,
        op: str,
        inputs: Sequence[Value | None],
        attrs: Mapping[str, Any] | None,
        dtypes: Sequence[np.dtype[Any]],
    ) -> list[Value]:
        """Add a node whose results have sizes that the data decides. Nothing is checked."""
        node = self._node(op, inputs, attrs, len(dtypes))
        self.nodes.append(node)
        self.unsized |= dict(zip(node.output, dtypes, strict=True))
        return [Value(name, dtype, ()) for name, dtype in zip(node.output, dtypes, strict=True)]

    def sequence(
        self, op: str, inputs: Sequence[Value | None], attrs: Mapping[str, Any] | None = None
    ) -> Value:
        """Add a node that makes a sequence or an optional. Nothing is checked."""
        node = self._node(op, inputs, attrs, 1)
        self.nodes.append(node)
        self.whole.add(node.output[0])
        return Value(node.output[0], np.dtype(bool), ())

    def one(self, op: str, *inputs: Value | None, **attrs: Any) -> Value:
        return self.emit(op, inputs, attrs)[0]

    def _infer(self, schema: Any, node: Any, inputs: Sequence[Value]) -> list[Value]:
        types = {v.name: _type_proto(v) for v in inputs}
        data = {
            v.name: numpy_helper.from_array(v.data, v.name) for v in inputs if v.data is not None
        }
        try:
            found = shape_inference.infer_node_outputs(
                schema, node, types, data,
                opset_imports=self.opsets(), ir_version=IR_VERSION,
            )  # fmt: skip
        except (shape_inference.InferenceError, checker.ValidationError, RuntimeError):
            raise Unfit from None
        return [_value(name, found.get(name)) for name in node.output]

    def opsets(self) -> list[Any]:
        return [helper.make_opsetid("", self.opset), helper.make_opsetid(LEARNING, self.learning)]

    def made(self) -> list[str]:
        """All tensors that nodes make."""
        names = [name for node in self.nodes for name in node.output]
        return [name for name in names if name not in self.whole]

    def attempt(self, maker: Maker, p: Picks) -> bool:
        """Let a maker add nodes; take back what it has added where they do not fit."""
        marks = len(self.nodes), len(self.leaves), len(self.stored), len(self.values)
        try:
            maker(self, p)
        except Unfit:
            for name in list(self.stored)[marks[2] :]:
                del self.stored[name]
            del self.nodes[marks[0] :], self.leaves[marks[1] :], self.values[marks[3] :]
            return False
        return True


def fit(a: Sequence[int], b: Sequence[int]) -> bool:
    """Whether two shapes broadcast."""
    return all(x == y or 1 in (x, y) for x, y in zip(reversed(a), reversed(b), strict=False))


def _check_types(schema: Any, inputs: Sequence[Value | None]) -> None:
    bound: dict[str, np.dtype[Any]] = {}
    formals = schema.inputs
    need(schema.min_input <= len(inputs) <= schema.max_input)
    for position, value in enumerate(inputs):
        formal = formals[min(position, len(formals) - 1)]
        if value is None:
            need(formal.option == defs.OpSchema.FormalParameterOption.Optional)
            continue
        need(TYPE_NAMES[value.dtype] in formal.types)
        if formal.is_homogeneous:
            need(bound.setdefault(formal.type_str, value.dtype) == value.dtype)


def _type_proto(value: Value) -> Any:
    return helper.make_tensor_type_proto(code(value.dtype), value.shape)


def code(dtype: np.dtype[Any]) -> int:
    found: int = helper.np_dtype_to_tensor_dtype(dtype)
    return found


def _value(name: str, type: TypeProto | None) -> Value:
    need(type is not None and type.tensor_type.HasField("shape"))
    assert type is not None
    dims = type.tensor_type.shape.dim
    need(all(dim.HasField("dim_value") for dim in dims))
    element = type.tensor_type.elem_type
    need(element not in (TensorProto.UNDEFINED, TensorProto.STRING))
    dtype = helper.tensor_dtype_to_np_dtype(element)
    need(dtype in TYPE_NAMES)
    return Value(name, dtype, tuple(dim.dim_value for dim in dims))


# -- whole models -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """A model with two sets of inputs: the sizes that it was made for, and others."""

    graph: Graph
    outputs: tuple[str, ...]

    def model(self, outputs: Sequence[str] | None = None) -> Any:
        """The model, with other outputs where they are given."""
        g = self.graph
        dtypes = {value.name: value.dtype for value in g.values} | g.unsized
        graph = helper.make_graph(
            g.nodes,
            "g",
            [helper.make_tensor_value_info(x.name, code(x.dtype), x.shape) for x in g.leaves],
            [_output_info(name, dtypes[name]) for name in outputs or self.outputs],
            [numpy_helper.from_array(array, name) for name, array in g.stored.items()],
        )
        return helper.make_model(graph, opset_imports=g.opsets(), ir_version=IR_VERSION)

    @property
    def all_outputs(self) -> tuple[str, ...]:
        return tuple(self.graph.made())

    @property
    def symbols(self) -> list[str]:
        """The dims that are open."""
        dims = [dim for x in self.graph.leaves for dim in x.shape]
        return sorted({dim for dim in dims if isinstance(dim, str)})

    def feeds(self, sizes: Mapping[str, int] | None = None) -> dict[str, Array]:
        return {x.name: x.array(sizes or self.graph.sizes) for x in self.graph.leaves}


def _output_info(name: str, dtype: np.dtype[Any]) -> Any:
    # Sizes follow those of the inputs, so they are not stated.
    return helper.make_tensor_value_info(name, code(dtype), None)


def build(numbers: Numbers, makers: Sequence[Maker]) -> Sample | None:
    """The model that the numbers say, or None where no operator fits."""
    head, steps = numbers
    p = Picks(head)
    opset = p.of(OPSETS) if not p.one_in(8) else p.of(NEWEST)
    _, n, _, m = p.of(SIZES)
    graph = Graph(min(opset, defs.onnx_opset_version()), {"N": n, "M": m}, p.of(LEARNING_OPSETS))
    for kind, picks in steps:
        graph.attempt(makers[kind % len(makers)], Picks(picks))
    made = graph.made()
    if not made:
        return None
    used = {name for node in graph.nodes for name in node.input}
    outputs = [name for name in made if name not in used]
    outputs += [made[p.next(len(made))] for _ in range(p.next(3))]
    return Sample(graph, tuple(dict.fromkeys(outputs)))
