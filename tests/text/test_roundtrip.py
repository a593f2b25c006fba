"""Whatever prints parses back to the same module and prints as the same bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tfc.ir.ops  # noqa: F401
from tests.text.same import assert_same
from tfc.ir import arrays
from tfc.ir.attrs import ConstRef, Dense, attr_text
from tfc.ir.build import GraphBuilder
from tfc.ir.constants import ConstantStore
from tfc.ir.core import Block, DataEntry, Function, Module, Op, SymbolInfo
from tfc.ir.dims import Dim, DimLike, ceildiv, floordiv, maximum, minimum, mod, symbol
from tfc.ir.errors import ModelError
from tfc.ir.location import Location
from tfc.ir.loop.build import LoopBuilder
from tfc.ir.opdef import OPS, OpDef
from tfc.ir.text import parse_module, print_function, print_module
from tfc.ir.text.reader import Reader
from tfc.ir.types import BF16, DTYPES, F32, Encoding, TensorType, VectorType, buffer


def roundtrip(module: Module, locations: bool = False) -> Module:
    text = print_module(module, locations)
    back = parse_module(text, ConstantStore())
    assert_same(module, back)
    assert print_module(back, locations) == text
    return back


def module_of(function: Function, level: str = "graph") -> Module:
    module = Module(level)
    module.add(function)
    return module


def sample_modules(defn: OpDef) -> Iterator[Module]:
    for sample in defn.samples():
        operands = [np.asarray(operand) for operand in sample.operands]
        names = [f"x{i}" for i in range(len(operands))]
        block = Block([arrays.type_of(operand) for operand in operands], names)
        builder = GraphBuilder(block, ConstantStore())
        op = builder.op(defn.name, *block.args, **sample.attrs)
        builder.op("return", *op.results)
        outputs = tuple(f"y{i}" for i in range(len(op.results)))
        yield module_of(Function("main", block, output_names=outputs))


@pytest.mark.parametrize("name", sorted(OPS))
def test_every_sample_of_every_op_survives_text(name: str) -> None:
    for module in sample_modules(OPS[name]):
        roundtrip(module)


def leaves() -> st.SearchStrategy[DimLike]:
    return st.one_of(st.integers(-9, 9), st.sampled_from([symbol("N"), symbol("S"), symbol("x_1")]))


def grow(inner: st.SearchStrategy[DimLike]) -> st.SearchStrategy[DimLike]:
    pair = st.tuples(inner, inner)
    divided = st.tuples(inner, st.one_of(st.integers(1, 7), st.just(symbol("S"))))
    return st.one_of(
        pair.map(lambda p: p[0] + p[1]),
        pair.map(lambda p: p[0] - p[1]),
        pair.map(lambda p: p[0] * p[1]),
        pair.map(lambda p: minimum(*p)),
        pair.map(lambda p: maximum(*p)),
        divided.map(lambda p: floordiv(*p)),
        divided.map(lambda p: mod(*p)),
        st.tuples(inner, st.integers(1, 5)).map(lambda p: ceildiv(*p)),
    )


dims = st.recursive(leaves(), grow, max_leaves=6)


@given(dims)
def test_every_dim_reads_back_as_itself(dim: DimLike) -> None:
    reader = Reader(str(dim))
    assert reader.dim() == dim
    assert reader.tokens[reader.at] == ""


numbers = st.one_of(st.integers(-(2**70), 2**70), st.floats(allow_nan=True))
scalars = st.one_of(
    st.none(),
    st.booleans(),
    numbers,
    st.text(),
    st.sampled_from(list(DTYPES.values())),
    dims,
    st.builds(ConstRef, st.text("0123456789abcdef", min_size=1)),
    st.builds(Dense, st.lists(st.one_of(numbers, st.complex_numbers())).map(tuple)),
    st.builds(TensorType, st.just(F32), st.lists(dims, max_size=3).map(tuple)),
    st.builds(VectorType, st.just(BF16), st.integers(1, 64)),
)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=5)


@given(values)
def test_every_attribute_value_reads_back_as_itself(value: Any) -> None:
    text = attr_text(value)
    reader = Reader(text)
    back = reader.attr()
    assert repr(back) == repr(value)
    assert reader.tokens[reader.at] == ""


@given(st.lists(st.text(), min_size=1, max_size=4, unique=True))
def test_any_names_of_inputs_and_outputs_survive(names: list[str]) -> None:
    block = Block([TensorType(F32, ())] * len(names), names)
    GraphBuilder(block, ConstantStore()).op("return", *block.args)
    back = roundtrip(module_of(Function("main", block, output_names=tuple(names))))
    assert [arg.name for arg in back.main.args] == names


def test_equal_attributes_of_another_kind_are_not_taken_for_the_default() -> None:
    @dataclass(frozen=True)
    class Attrs:
        number: int | float | bool = 1

    def text(number: float) -> str:
        block = Block()
        block.append(Op(OpDef("probe", None, None, None, ""), (), Attrs(number), ()))  # type: ignore[arg-type]
        return print_function(Function("main", block)).splitlines()[1]

    assert text(1) == "  probe()"
    assert text(1.0) == "  probe() {number = 1.0}"
    assert text(True) == "  probe() {number = true}"


def test_locations_print_only_when_asked_and_parse_back() -> None:
    block = Block([TensorType(F32, (2,))], ["x"])
    loc = Location('dir/model "a".onnx', ("node 1", "n\n2"))
    builder = GraphBuilder(block, ConstantStore(), loc=loc)
    builder.op("return", builder.relu(block.args[0]))
    module = module_of(Function("main", block, output_names=("y",)))
    module.source = "model.onnx"
    assert "loc(" not in print_module(module)
    assert "model" not in print_module(module)
    back = roundtrip(module, locations=True)
    assert [op.loc for op in back.main.block] == [loc, loc]
    assert back.source == "model.onnx"


def test_symbols_keep_their_order_bounds_and_hints() -> None:
    symbols = {"S": SymbolInfo(), "N": SymbolInfo(1, 64, 8), "A": SymbolInfo(hint=0)}
    symbols["B"] = SymbolInfo(-2)
    block = Block([TensorType(F32, (symbol("N"), symbol("S")))], ["x"])
    GraphBuilder(block, ConstantStore()).op("return", *block.args)
    function = Function("main", block, symbols=symbols, output_names=("y",))
    roundtrip(module_of(function))


def test_encodings_of_arguments_and_results_survive() -> None:
    block = Block([TensorType(F32, (2, 3))], ["x"])
    block.args[0].encoding = Encoding((1, 0))
    builder = GraphBuilder(block, ConstantStore())
    y = builder.relu(block.args[0])
    y.encoding = Encoding((0, 1))
    builder.op("return", y)
    roundtrip(module_of(Function("main", block, output_names=("y",))))


def test_loop_module_survives() -> None:
    n = symbol("N")
    block = Block([buffer(F32, n, 8), buffer(F32, 8, n * 2, space="stack")], ["x", "y"])
    b = LoopBuilder(block)
    with b.parallel(n, name="i") as (i, _), b.for_(0, n + 1, step=2) as loop:
        value = b.vload(block.args[0], (i, loop.index), 8, mask=b.tail_mask(loop.index, i, 8))
        with b.if_(b.lt(i, loop.index)):
            b.vstore(b.exp(value), block.args[1], (0, i), axis=0)
    b.table((1.0, -0.0), F32)
    b.emit("return")
    kernel = Function("k.1", block, "kernel", {"N": SymbolInfo(1)})
    module = module_of(kernel, "loop")
    module.data["conv/w"] = DataEntry(ConstRef("00ff"), buffer(F32, 4))
    main = Block([buffer(F32, n)], ["in0"])
    LoopBuilder(main).emit("return")
    attrs = {"inputs": (("x", TensorType(F32, (n,))),), "outputs": (), "workspace": n * 64}
    module.add(Function("main", main, "main", {"N": SymbolInfo(1)}, (), attrs))
    roundtrip(module)


def test_values_of_two_functions_may_have_the_same_names() -> None:
    text = """tfc 1 loop

kernel @a(%x: f32) {
  %y = neg(%x) : f32
  return()
}

kernel @b(%x: f32) {
  %y = neg(%x) : f32
  return()
}
"""
    assert print_module(parse_module(text, ConstantStore())) == text


def test_dims_beyond_the_limits_are_refused_and_not_computed() -> None:
    wide = "(" + " + ".join(f"a{i}" for i in range(200)) + ")"
    for text in (wide + "*" + wide, "*".join("N" * 500), "(" * 5000, "9" * 500, "min(" * 400):
        source = f"tfc 1 graph\nfunc @main(%x: f32[{text}]) -> () {{"
        with pytest.raises(ModelError):
            parse_module(source, ConstantStore())


def test_dim_of_one_symbol_is_a_dim() -> None:
    assert isinstance(Reader("N").attr(), Dim)
