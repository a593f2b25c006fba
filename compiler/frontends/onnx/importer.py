"""Turns a parsed ONNX model into a graph module, node by node. Operators are in `table`."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import tfc.ir.ops  # noqa: F401 (registers the graph ops)
from tfc.compiler.frontends.onnx.context import (
    Array,
    Context,
    Equated,
    FoldingBuilder,
    Missing,
    Results,
)
from tfc.compiler.frontends.onnx.functions import body_of
from tfc.compiler.frontends.onnx.lookup import Versions
from tfc.compiler.frontends.onnx.nested import (
    Given as Shapes,
)
from tfc.compiler.frontends.onnx.nested import (
    Item,
    OptionalItem,
    TensorSequence,
    from_shapes,
    is_nested,
    named_leaves,
)
from tfc.compiler.frontends.onnx.reader import Source
from tfc.compiler.frontends.onnx.schedule import reads, require_text, schedule, title
from tfc.compiler.frontends.onnx.symbols import Given, Symbols
from tfc.compiler.frontends.onnx.tensors import dtype_from
from tfc.ir import arrays
from tfc.ir.attrs import ConstRef
from tfc.ir.build import tensor_type
from tfc.ir.constants import ConstantStore
from tfc.ir.core import Block, Element, Function, Module, SymbolInfo, Value
from tfc.ir.dims import DimLike, UndecidableError, symbols_of
from tfc.ir.errors import CompileError, ModelError, TfcError, UnsupportedError, UsageError
from tfc.ir.graph import Content
from tfc.ir.location import UNKNOWN, Location
from tfc.ir.opdef import Trait, TypeRefusal
from tfc.ir.symbols import ASSUMES, bound_by
from tfc.ir.types import DType, TensorType

# How often an import starts again, another branch of a condition on dims taken.
MAX_TRIES = 32
# What an element of an input may be that stands for a dim: no memory holds more.
MOST_ELEMENTS = 1 << 48


@dataclass(frozen=True)
class Problem:
    """A node that tfc cannot compile, and why."""

    node: str
    op: str
    reason: str

    def __str__(self) -> str:
        return f"node {self.node!r} ({self.op}): {self.reason}"


@dataclass(frozen=True)
class Stored:
    """An initialiser that is not in the graph yet."""

    array: Array
    dtype: DType
    ref: ConstRef | None


def _check_declared(proto: Any, value: Value) -> None:
    """Refuse an output whose element type the model declares as another."""
    kind = proto.type
    while (name := kind.WhichOneof("value")) in ("sequence_type", "optional_type"):
        kind = getattr(kind, name).elem_type
    code = kind.tensor_type.elem_type
    have = tensor_type(value).dtype
    if code and dtype_from(code) != have:
        raise ModelError(f"is declared {dtype_from(code)} but is {have}")


class Importer:
    """One import. With `collect`, unsupported nodes are listed in `problems`, not raised."""

    def __init__(
        self,
        source: Source,
        dims: Mapping[str, Given] | None,
        collect: bool = False,
        values: Mapping[str, Array] | None = None,
        shapes: Mapping[str, Shapes] | None = None,
    ) -> None:
        self.source = source
        # Those of the nodes at hand: function bodies have their own.
        self.versions = Versions(source.opset, source.versions)
        self.symbols = Symbols(dims)
        self.constants = ConstantStore()
        # Inputs that rules would rather know the values of.
        self.wanted: set[str] = set()
        # What each output is made of, by its name in the model.
        self.results: dict[str, Item] = {}
        self._fixed = dict(values or {})
        self._shapes = dict(shapes or {})
        self._collect = collect
        self._reads: set[str] = set()
        self._values: MutableMapping[str, Item | Stored | None] = {}
        # Which way is built where only one can be: 0 or 1 for each such place, in their order.
        self._ways: list[int] = []
        self._tries = 0
        self._start({})

    def _start(self, values: Mapping[str, Item | Stored | None]) -> None:
        """Begin with an empty graph and what is known before any node is run."""
        self.block = Block()
        self.builder = FoldingBuilder(self.block, self.constants)
        self.problems: list[Problem] = []
        self._values = dict(values)
        # Numbers of the rounds of the loops around the node at hand, from the outside in.
        self.rounds: list[Value] = []
        self._random_nodes = 0
        # What is taken for granted where nodes are built, as dims that are 0, with messages; and
        # what is of dims that are known in a region alone, so that it is checked there.
        self.assumed: dict[DimLike, str] = {}
        self.assumed_inside: dict[DimLike, str] = {}
        # For parts of inputs' elements above 0 those below.
        self.below: dict[DimLike, DimLike] = {}
        # How many branches are around the nodes at hand, which a run may not take.
        self.conditional = 0
        self._places = 0

    def run(self) -> Module:
        """Import the whole model."""
        graph = self.source.graph
        outputs = self._output_names(graph)
        given = self._fixed.keys() | self._shapes.keys()
        for name in sorted(given - {proto.name for proto in graph.input}):
            raise UsageError(f"the model has no input {name!r}")
        with self._at():
            nodes = schedule(graph.node, outputs)
        self._note_reads(nodes, outputs)
        self._load_initialisers(graph)
        if not self._collect:
            self._refuse_unknown_ops(nodes)
        initial = self._values
        first: TfcError | None = None
        listed: list[Problem] | None = None
        while True:
            self._start(initial)
            try:
                module = self._build(graph, nodes)
                listed = self.problems if listed is None else listed
                if self.problems and self._turn_back():
                    continue
                self.problems = self.problems and listed
                return module
            except Equated as found:
                # Each turn has one symbol less.
                self.symbols.equate(found.name, found.dim)
                self._ways.clear()
            except (ModelError, UnsupportedError) as error:
                first = first or error
                if not self._turn_back():
                    raise first from first.__cause__

    def _turn_back(self) -> bool:
        """Go the other way at the last place where that was not tried; False if there is none."""
        del self._ways[self._places :]
        while self._ways and self._ways[-1]:
            self._ways.pop()
        self._tries += 1
        if not self._ways or self._tries > MAX_TRIES:
            return False
        self._ways[-1] = 1
        return True

    def _build(self, graph: Any, nodes: Sequence[Any]) -> Module:
        self._add_inputs(graph)
        for node in nodes:
            self._run_node(node)
        names = () if self.problems else self._finish(graph)
        module = Module("graph", constants=self.constants, source=self.source.file)
        symbols = self.symbols.finish()
        late = (bound_by(op) for op in self.block.walk())
        symbols |= {name: SymbolInfo() for name in late if name is not None}
        # What was built for a region may be gone again, with the symbols that it has bound.
        known = symbols.keys()
        entries = (self.assumed | self.assumed_inside).items()
        assumed = tuple(entry for entry in entries if symbols_of(entry[0]) <= known)
        attrs: dict[str, Any] = {ASSUMES: assumed} if assumed else {}
        module.add(Function("main", self.block, symbols=symbols, output_names=names, attrs=attrs))
        return module

    # -- what rules ask ---------------------------------------------------------------------------

    def elements(self, value: Value, signed: bool) -> Content | None:
        """Return the elements of a small integer input, as symbols; None for other values.

        Those that are not `signed` are never negative in a run; in branches, which a run may not
        take, they are as far as they are above 0, and `below` tells how far they are not.
        """
        type = tensor_type(value)
        if value.owner is not self.block or not type.dtype.is_int:
            return None
        size = type.size
        assert isinstance(size, int)
        found = np.empty(size, object)
        for i in range(size):
            label = value.name if size == 1 else f"{value.name}_{i}"
            whole = Element(value.name, i)
            if self.symbols.is_used(whole) or not (signed or self.conditional):
                found[i] = self.symbols.element(whole, label, MOST_ELEMENTS)
                continue
            above, below = (
                self.symbols.element(Element(value.name, i, part), f"{label}_{part}", None)
                for part in ("positive", "negative")
            )
            found[i] = above - below if signed else above
            self.below[above] = below
        return found.reshape(tuple(n for n in type.shape if isinstance(n, int)))

    def want(self, value: Value) -> None:
        """Note the inputs of which `value` is computed: a rule needs to know it."""
        stack, seen = [value], {value}
        while stack:
            found = stack.pop()
            if found.op is None:
                if found.owner is self.block:
                    self.wanted.add(found.name)
                continue
            new = [x for x in found.op.operands if x not in seen]
            seen.update(new)
            stack += new

    @contextmanager
    def in_round(self, number: Value) -> Iterator[None]:
        """Import what follows as a part of a loop's round."""
        self.rounds.append(number)
        try:
            yield
        finally:
            self.rounds.pop()

    def count_random(self) -> int:
        """Return how many nodes have asked this before."""
        self._random_nodes += 1
        return self._random_nodes - 1

    def way(self) -> int:
        """Return which of two ways is to be built here, 0 first.

        Where the rest of the model then cannot be built, the import starts again with the other.
        """
        if self._places == len(self._ways):
            self._ways.append(0)
        self._places += 1
        return self._ways[self._places - 1]

    def value(self, name: str) -> Value:
        """Return the tensor called `name`."""
        found = self.item(name)
        if not isinstance(found, Value):
            raise ModelError(f"{name!r} is {found}, where a tensor must be")
        return found

    def item(self, name: str) -> Item:
        """Return what is called `name`; an initialiser enters the graph when first asked for."""
        if name not in self._values:
            raise ModelError(f"reads {name!r}, which nothing defines")
        found = self._values[name]
        if found is None:
            raise Missing
        if isinstance(found, Stored):
            found = self._values[name] = self._constant(found, name)
        return found

    def declared(self, name: str) -> tuple[int | None, ...] | None:
        """Return the shape that the model states for `name`, None for a dim that is no number."""
        graph = self.source.graph
        for proto in (*graph.output, *graph.value_info):
            if proto.name == name and proto.type.tensor_type.HasField("shape"):
                dims = proto.type.tensor_type.shape.dim
                return tuple(
                    dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else None
                    for dim in dims
                )
        return None

    def needed(self, name: str) -> bool:
        """Whether a node that takes part, or an output, reads `name`."""
        return name in self._reads

    def inline(self, graph: Any, given: Mapping[str, Item] | None = None) -> list[Item]:
        """Compute a subgraph that reads our values in place; return its outputs.

        given: its inputs by name.
        """
        outputs = tuple(output.name for output in graph.output)
        nodes = schedule(graph.node, outputs)
        self._note_reads(nodes, outputs)
        outer = self._values
        self._values = ChainMap(dict(given or {}), outer)
        location = self.builder.loc
        try:
            self._load_initialisers(graph)
            for node in nodes:
                self._run_node(node)
            return [self.item(name) for name in outputs]
        finally:
            self._values = outer
            self.builder.loc = location

    def expand(self, node: Any) -> list[Item | None]:
        """Compute a node by the nodes of its operator's function body."""

        def types() -> list[TensorType | None]:
            return [tensor_type(self.value(name)) if name else None for name in node.input]

        with self._at(title(node)):
            body = body_of(node, self.versions.opset, types)
            if body is None:
                raise UnsupportedError(f"no rule for {node.op_type} with these operands")
            given = zip(body.inputs, node.input, strict=False)
            inputs = {own: self.item(name) for own, name in given if name}
        wanted = zip(body.outputs, node.output, strict=False)
        outputs = tuple(own for own, name in wanted if name and self.needed(name))
        nodes = schedule(body.nodes, outputs)
        outer, versions, location = self._values, self.versions, self.builder.loc
        self._values = dict(inputs)
        self.versions = replace(versions, opset=body.opset)
        try:
            self._note_reads(nodes, outputs)
            for inner in nodes:
                self._run_node(inner)
            return [self.item(own) if own in outputs else None for own in body.outputs]
        finally:
            self._values, self.versions, self.builder.loc = outer, versions, location

    # -- steps ------------------------------------------------------------------------------------

    def _output_names(self, graph: Any) -> tuple[str, ...]:
        names = tuple(output.name for output in graph.output)
        if not names:
            raise ModelError("the graph has no outputs", where=self.source.file)
        with self._at():
            require_text(*names, *(proto.name for proto in (*graph.input, *graph.initializer)))
        if len(set(names)) < len(names):
            raise ModelError("two outputs have one name", where=self.source.file)
        return names

    def _note_reads(self, nodes: Sequence[Any], outputs: Sequence[str]) -> None:
        self._reads.update(outputs)
        for node in nodes:
            self._reads.update(reads(node))

    def _load_initialisers(self, graph: Any) -> None:
        if graph.sparse_initializer:
            raise UnsupportedError("sparse initialisers", where=self.source.file)
        seen: set[str] = set()
        found: list[tuple[str, Array, DType]] = []
        for tensor in graph.initializer:
            with self._at(f"initialiser {tensor.name!r}"):
                if tensor.name in seen:
                    raise ModelError("is defined twice")
                seen.add(tensor.name)
                if self.needed(tensor.name):
                    found.append((tensor.name, *self.source.tensors.array(tensor)))
        self.constants.mapped = self.source.tensors.mappings
        # Hashing holds no interpreter lock.
        with ThreadPoolExecutor(2) as pool:
            refs = pool.map(self._store, found)
            for (name, array, dtype), ref in zip(found, refs, strict=True):
                self._values[name] = Stored(array, dtype, ref)

    def _store(self, entry: tuple[str, Array, DType]) -> ConstRef | None:
        _, array, dtype = entry
        large = array.size > arrays.INLINE_ELEMENTS
        return self.constants.add(array, dtype) if large else None

    def _constant(self, stored: Stored, name: str) -> Value:
        if stored.ref is None:
            attrs = arrays.constant_attrs(stored.array, self.constants, stored.dtype)
        else:
            shape = tuple(stored.array.shape)
            attrs = {"value": stored.ref, "dtype": stored.dtype, "shape": shape}
        location, self.builder.loc = self.builder.loc, UNKNOWN
        value = self.builder.op("constant", **attrs).result
        self.builder.loc = location
        value.name = name
        return value

    def _add_inputs(self, graph: Any) -> None:
        initialisers = {tensor.name for tensor in graph.initializer}
        for proto in graph.input:
            if proto.name in initialisers:
                continue
            with self._at(f"input {proto.name!r}"):
                if not proto.name or proto.name in self._values:
                    raise ModelError("has no name" if not proto.name else "is defined twice")
                if proto.name in self._fixed:
                    self._values[proto.name] = self._given(proto)
                    continue
                self._values[proto.name] = self._input(proto)

    def _given(self, proto: Any) -> Stored:
        """Take an input's value from the caller, as an initialiser."""
        dtype = dtype_from(proto.type.tensor_type.elem_type)
        given: Any = self._fixed[proto.name]
        array = arrays.memory_form(np.asarray(given), dtype)
        if array is None and not hasattr(given, "dtype") and dtype.kind != "s":
            # Plain numbers take the input's type.
            array = arrays.make(given, dtype)
        if array is None:
            raise UsageError(f"the value given has element type {given.dtype}, not {dtype}")
        return Stored(array, dtype, self._store((proto.name, array, dtype)))

    def _input(self, proto: Any) -> Item:
        if proto.name in self._shapes:
            return from_shapes(proto.name, proto.type, self._shapes[proto.name], self._shaped)
        if is_nested(proto):
            self.wanted.add(proto.name)
            raise UnsupportedError(
                f"a {proto.type.WhichOneof('value').removesuffix('_type')}, of which the model "
                "leaves open what is in it; name the shapes of its tensors with shapes"
            )
        kind = proto.type.WhichOneof("value")
        if kind != "tensor_type":
            raise UnsupportedError(f"a {kind or 'typeless'} input; tensors are supported")
        tensor_proto = proto.type.tensor_type
        dtype = dtype_from(tensor_proto.elem_type)
        if not tensor_proto.HasField("shape"):
            raise UnsupportedError("an input of unknown rank; name its shape with shapes")
        shape = tuple(
            self.symbols.dim(dim, proto.name, axis)
            for axis, dim in enumerate(tensor_proto.shape.dim)
        )
        return self.block.add_arg(TensorType(dtype, shape), proto.name)

    def _shaped(self, name: str, type: Any, given: Sequence[Any]) -> Value:
        """Add an input of a shape from the caller, which must fit the type in the model."""
        declared = [dim.dim_value for dim in type.shape.dim]
        fits = not type.HasField("shape") or (
            len(declared) == len(given)
            and all(want in (0, have) for want, have in zip(declared, given, strict=True))
        )
        if not fits:
            raise UsageError(f"{name}: shape {list(given)} is not that of the model, {declared}")
        shape = tuple(self.symbols.given(dim, name, axis) for axis, dim in enumerate(given))
        return self.block.add_arg(TensorType(dtype_from(type.elem_type), shape), name)

    def _refuse_unknown_ops(self, nodes: Sequence[Any]) -> None:
        unknown: dict[str, Any] = {}
        for node in nodes:
            reason = self.versions.why_unknown(node)
            if reason:
                unknown.setdefault(reason, node)
        if unknown:
            reason, node = next(iter(unknown.items()))
            more = [f"{other.op_type}" for other in list(unknown.values())[1:]]
            also = f"; nor for {', '.join(more)}" if more else ""
            raise UnsupportedError(reason + also, where=f"{self.source.file}: {title(node)}")

    def _run_node(self, node: Any) -> None:
        problem: str | None = self.versions.why_unknown(node)
        values: Sequence[Item | None] = ()
        try:
            if problem is None:
                values = self._apply(node)
        except Missing:
            pass
        except UnsupportedError as error:
            if not self._collect:
                raise
            problem = error.message
        if problem is not None:
            if not self._collect:
                raise UnsupportedError(problem, where=f"{self.source.file}: {title(node)}")
            name = node.name or next(iter(node.output), "")
            if not any(known.node == name for known in self.problems):
                self.problems.append(Problem(name, node.op_type, problem))
        for i, name in enumerate(node.output):
            if name:
                self._define(node, name, values[i] if i < len(values) else None)

    def _apply(self, node: Any) -> Sequence[Item | None]:
        rule = self.versions.rule(node)
        if rule is None:
            return self.expand(node)
        label = node.name or next((name for name in node.output if name), "")
        self.builder.loc = Location(self.source.file, (label,))
        with self._at(title(node)):
            context = Context(self, node)
            try:
                results: Results = rule.build(context)
            except TypeRefusal as error:
                if context.is_symbolic():
                    raise UnsupportedError(f"{error}; fix a dynamic dim with dims") from error
                if context.is_complex():
                    raise UnsupportedError(f"{error}; complex numbers are only moved") from error
                raise
            unread = context.unread(rule.ignores)
            if unread:
                raise UnsupportedError(f"attribute {unread[0]!r} is not known here")
            if isinstance(results, (Value, TensorSequence, OptionalItem)):
                return (results,)
            return results

    def _define(self, node: Any, name: str, value: Item | None) -> None:
        if name in self._values:
            with self._at(title(node)):
                raise ModelError(f"defines {name!r}, which is there already")
        if isinstance(value, Value) and not value.name:
            value.name = name
        elif value is None and not self._collect and self.needed(name):
            with self._at(title(node)):
                raise UnsupportedError(f"its result {name!r} is used")
        self._values[name] = value

    def _finish(self, graph: Any) -> tuple[str, ...]:
        """Hand out the outputs and drop what nothing uses. Return the outputs' names."""
        found: dict[str, Value] = {}
        for proto in graph.output:
            with self._at(f"output {proto.name!r}"):
                item = self.item(proto.name)
                for name, value in named_leaves(proto.name, item):
                    _check_declared(proto, value)
                    if name in found:
                        raise ModelError(f"two outputs would have the name {name!r}")
                    found[name] = value
                self.results[proto.name] = item
        if not found:
            raise UnsupportedError("the outputs hold no tensor", where=self.source.file)
        self.builder.loc = UNKNOWN
        self.builder.op("return", *found.values())
        for op in reversed(self.block):
            used = any(result.uses for result in op.results)
            if not used and Trait.PURE in op.defn.traits:  # type: ignore[attr-defined]
                op.erase()
        return tuple(found)

    @contextmanager
    def _at(self, place: str = "") -> Iterator[None]:
        """Give errors the place where they came up, and wrap those that are not ours."""
        where = f"{self.source.file}: {place}" if place else self.source.file
        try:
            yield
        except TypeRefusal as error:
            raise ModelError(str(error), where=where) from error
        except UndecidableError as error:
            raise UnsupportedError(f"{error}; fix one with dims", where=where) from error
        except TfcError as error:
            if error.where is not None:
                raise
            raise type(error)(error.message, where=where) from error
        except (Missing, Equated):
            raise
        except Exception as error:
            raise CompileError(f"{type(error).__name__}: {error}", where=where) from error
