"""Ops with regions in the IR: what is refused, what text keeps, what passes make of them."""

from __future__ import annotations

import numpy as np
import pytest

from tests.control.support import copy_of, graph, inputs
from tests.ir.support import graph as from_text
from tests.text.same import assert_same
from tfc.compiler.passes.flow import flow
from tfc.compiler.passman import PassContext
from tfc.ir.build import GraphBuilder
from tfc.ir.control import Next, Round, Scanned, branch, loop
from tfc.ir.core import Block, Function, Module, Value
from tfc.ir.errors import VerifyError
from tfc.ir.interp import evaluate
from tfc.ir.loop.build import LoopBuilder
from tfc.ir.loop.verify import verify_loop
from tfc.ir.opdef import TypeRefusal
from tfc.ir.types import BOOL, F32, I64, TensorType
from tfc.ir.verify import verify

ROW, TABLE = TensorType(F32, (3,)), TensorType(F32, (4, 3))
FLAG, COUNT = TensorType(BOOL, ()), TensorType(I64, ())


def names(module: Module) -> list[str]:
    return [op.name for op in module.main.block.walk()]


def after_flow(module: Module) -> Module:
    """The module after the pass, checked to compute the same."""
    verify(module)
    types = [arg.type for arg in module.main.args]
    random = np.random.default_rng(0)
    arrays = [
        np.asarray(True) if t == FLAG else random.standard_normal(t.shape).astype(np.float32)
        for t in types
        if isinstance(t, TensorType)
    ]
    want = evaluate(module, inputs(*arrays), module.constants)
    flow(module, PassContext())
    verify(module, "flow")
    for name, found in evaluate(module, inputs(*arrays), module.constants).items():
        np.testing.assert_array_equal(found, want[name])
    return module


def test_text_keeps_regions_of_all_kinds() -> None:
    def make(b: GraphBuilder, c: Value, n: Value, x: Value, rows: Value) -> list[Value]:
        def body(r: Round) -> Next:
            y = b.add(r.carried[0], r.slices[0])
            return Next([y], [y], again=c)

        found = loop(
            b, body, [x], [Scanned(rows, True)], backward=(False,), trips=4, limit=n, start=c
        )
        return [*found.carried, *branch(b, c, lambda: [x], lambda: list(found.carried))]

    module = graph([FLAG, COUNT, ROW, TABLE], make)
    verify(module)
    assert_same(module, copy_of(module))


IF = """
  %r = if(%c) {
    %a = neg(%x) : f32[3]
    yield(%a)
  } {
    yield(%x)
  } : f32[3]
"""
LOOP = """
  %r, %s = loop(%x, %rows) {trips = 4, scanned = [false], stacked = [true]} {
    ^(%i: i64[], %y: f32[3], %row: f32[3]):
    %z = add(%y, %row) : f32[3]
    yield(%z, %z)
  } : f32[3], f32[4, 3]
"""
HEAD = "%c: bool[], %n: i64[], %x: f32[3], %rows: f32[4, 3]"


@pytest.mark.parametrize("text", [IF, LOOP])
def test_well_formed_text_verifies(text: str) -> None:
    verify(from_text(text + "return(%r)", head=HEAD, outputs="r"))


@pytest.mark.parametrize(
    ("text", "old", "new", "message"),
    [
        (IF, "if(%c)", "if(%n)", "the condition is i64"),
        (IF, "yield(%x)", "yield(%rows)", "branches yield f32"),
        (IF, "yield(%x)", "yield()", "branches yield 1 and 0 values"),
        (IF, "} {\n    yield(%x)", "} {\n    ^(%q: f32[3]):\n    yield(%x)", "takes no arguments"),
        (IF, "} : f32[3]", "} : f32[4]", "inference says"),
        (IF, "yield(%x)", "yield(%a)", "not defined here"),
        (LOOP, "trips = 4, ", "", "nothing ends the loop"),
        (LOOP, "trips = 4", "trips = 5", "not taken apart in 5 rounds"),
        (LOOP, "trips = 4", "limited = true", "no known extent"),
        (LOOP, "^(%i: i64[]", "^(%i: i32[]", "the region takes"),
        (LOOP, "yield(%z, %z)", "yield(%z)", "yields 1 values, not 2"),
        (LOOP, "yield(%z, %z)", "yield(%i, %z)", "carries f32"),
        (LOOP, "scanned = [false]", "limited = true, scanned = [false]", "the limit is f32"),
        (LOOP, "scanned = [false]", "conditional = true, scanned = [false]", "the condition is"),
    ],
)
def test_regions_that_do_not_fit_are_refused(text: str, old: str, new: str, message: str) -> None:
    assert old in text
    with pytest.raises(Exception, match=message) as caught:
        verify(from_text(text.replace(old, new) + "return(%r)", head=HEAD, outputs="r"))
    assert type(caught.value).__name__ in ("VerifyError", "ModelError")


def test_builders_refuse_what_the_verifier_does() -> None:
    b = GraphBuilder(Block([FLAG, ROW]), Module("graph").constants)
    c, x = b.block.args
    with pytest.raises(TypeRefusal, match="branches yield"):
        branch(b, c, lambda: [x], lambda: [c])
    with pytest.raises(TypeRefusal, match="nothing ends"):
        loop(b, lambda r: Next(r.carried), [x])


# -- passes -------------------------------------------------------------------------------------


def test_a_known_condition_leaves_one_branch() -> None:
    def make(b: GraphBuilder, x: Value) -> list[Value]:
        return list(branch(b, b.constant(False, BOOL), lambda: [x], lambda: [b.neg(x)]))

    assert names(after_flow(graph([ROW], make))) == ["constant", "neg", "return"]


def test_a_loop_of_one_round_is_no_loop() -> None:
    def make(b: GraphBuilder, x: Value, rows: Value) -> list[Value]:
        def body(r: Round) -> Next:
            y = b.add(r.carried[0], b.add(r.slices[0], b.cast(r.number, dtype=F32)))
            return Next([y], [y])

        found = loop(b, body, [x], [Scanned(rows)], backward=(False,), trips=1)
        return [*found.carried, *found.stacked]

    module = after_flow(graph([ROW, TensorType(F32, (1, 3))], make))
    assert "loop" not in names(module)


def test_what_is_the_same_each_round_comes_before_the_loop() -> None:
    def make(b: GraphBuilder, x: Value) -> list[Value]:
        def body(r: Round) -> Next:
            same = b.exp(b.neg(x))
            return Next([b.add(r.carried[0], same), r.carried[1]])

        found = loop(b, body, [x, x], trips=4).carried
        return [found[0], b.neg(found[1])]

    module = after_flow(graph([ROW], make))
    assert names(module) == ["neg", "exp", "loop", "add", "yield", "neg", "return"]
    (op,) = [op for op in module.main.block if op.name == "loop"]
    assert len(op.results) == 1
    assert module.main.outputs[1].op is not None
    assert module.main.outputs[1].op.operands == tuple(module.main.args)


def test_what_nobody_uses_is_not_carried_sliced_or_stacked() -> None:
    def make(b: GraphBuilder, x: Value, rows: Value) -> list[Value]:
        def body(r: Round) -> Next:
            y = b.add(r.carried[0], r.slices[1])
            return Next([y, b.neg(y)], [b.mul(y, y), y])

        scanned = [Scanned(rows), Scanned(b.neg(rows), True)]
        found = loop(b, body, [x, x], scanned, backward=(False, True), trips=4)
        return [found.stacked[1]]

    module = after_flow(graph([ROW, TABLE], make))
    (op,) = [op for op in module.main.block if op.name == "loop"]
    assert (op.attrs.scanned, op.attrs.stacked) == ((True,), (True,))
    assert len(op.operands) == 2


def test_checks_that_hold_go_and_others_stay_in_their_branch() -> None:
    def make(b: GraphBuilder, c: Value, x: Value) -> list[Value]:
        y = b.check(b.constant(True, BOOL), x, message="a")
        (z,) = branch(b, c, lambda: [b.check(c, y, message="b")], lambda: [y])

        def body(r: Round) -> Next:
            return Next([b.add(r.carried[0], b.check(c, x, message="c"))])

        return [z, *loop(b, body, [x], trips=0).carried]

    module = after_flow(graph([FLAG, ROW], make))
    assert names(module).count("check") == 2
    assert all(op.name != "check" for op in module.main.block)


# -- while --------------------------------------------------------------------------------------


def program(wrong: bool) -> Module:
    block = Block()
    b = LoopBuilder(block)
    one = b.index(1)
    with b.while_(b.lt(b.index(0), one), [one]) as loop:
        (n,) = loop.carried
        loop.again = b.lt(n, b.index(9))
        loop.yields = [loop.again if wrong else b.add(n, one)]
    b.emit("return")
    module = Module("loop")
    module.add(Function("k", block, "kernel"))
    return module


def test_while_yields_its_condition_and_what_it_carries() -> None:
    verify_loop(program(wrong=False))
    with pytest.raises(VerifyError, match="yields"):
        verify_loop(program(wrong=True))
