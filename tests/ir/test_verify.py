"""The graph verifier accepts what is right and finds each kind of fault."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.ir.support import find, graph
from tfc.ir.core import Module, Op, SymbolInfo
from tfc.ir.errors import VerifyError
from tfc.ir.location import Location
from tfc.ir.opdef import OPS, Kind, NoAttrs, OpDef
from tfc.ir.types import F32, Encoding, ScalarType, TensorType
from tfc.ir.verify import Seen, verify

BODY = """
  %a = relu(%x) : f32[2]
  %b = add(%a, %x) : f32[2]
  %c = fused(%b) {
    ^(%p: f32[2]):
    %d = neg(%p) : f32[2]
    yield(%d)
  } : f32[2]
  return(%c)
"""


def test_right_module_is_accepted() -> None:
    verify(graph(BODY))


def swap_uses(m: Module) -> None:
    op = find(m, "add")
    op.operands[0].uses.pop((op, 0))


def stray_use(m: Module) -> None:
    op = find(m, "add")
    m.main.args[0].uses[op, 5] = None


def reorder(m: Module) -> None:
    m.main.block.move(find(m, "add"), find(m, "relu"))


def detach_terminator(m: Module) -> None:
    find(m, "return").erase()


def second_terminator(m: Module) -> None:
    block = m.main.block
    block.insert(Op(find(m, "return").defn, (), NoAttrs(), ()), block.first)


def drop_yield(m: Module) -> None:
    fused = find(m, "fused")
    fused.regions[0].terminator.erase()


def wrong_type(m: Module) -> None:
    find(m, "relu").result.type = TensorType(F32, (3,))


def scalar_type(m: Module) -> None:
    m.main.args[0].type = ScalarType(F32)


def argument_type(m: Module) -> None:
    find(m, "fused").regions[0].args[0].type = TensorType(F32, (1,))


def fused_result(m: Module) -> None:
    find(m, "fused").result.type = TensorType(F32, (1,))


def wrong_attrs(m: Module) -> None:
    find(m, "relu").set_attrs({"alpha": 1})


def other_parent(m: Module) -> None:
    find(m, "fused").regions[0].parent = find(m, "relu")


def broken_link(m: Module) -> None:
    find(m, "add").prev = None


def wrong_count(m: Module) -> None:
    m.main.block.count += 1


def bad_perm(m: Module) -> None:
    find(m, "relu").result.encoding = Encoding((1,))


def encoded_input(m: Module) -> None:
    m.main.args[0].encoding = Encoding((1, 0))


def nameless_input(m: Module) -> None:
    m.main.args[0].name = ""


def output_names(m: Module) -> None:
    m.main.output_names = ("y", "z")


def bad_symbol(m: Module) -> None:
    m.main.symbols["a.b"] = SymbolInfo()


def threads_symbol(m: Module) -> None:
    m.main.symbols["threads"] = SymbolInfo()


def empty_bounds(m: Module) -> None:
    m.main.symbols["N"] = SymbolInfo(3, 2)


def renamed(m: Module) -> None:
    m.functions["other"] = m.functions["main"]


def no_main(m: Module) -> None:
    m.functions.clear()


def bad_level(m: Module) -> None:
    m.level = "tensor"


FAULTS: list[tuple[Callable[[Module], None], str]] = [
    (swap_uses, "operand 0 .* does not list this use"),
    (stray_use, "has 3 uses listed, but 2 in the function"),
    (reorder, "add: operand 0 .* is not defined before it is used"),
    (detach_terminator, "the block does not end in return"),
    (second_terminator, "return: stands in the middle of a block"),
    (drop_yield, "neg: the block does not end in yield"),
    (wrong_type, r"relu: has results \(f32\[3\]\), inference says \(f32\[2\]\)"),
    (scalar_type, "relu: takes tensors only"),
    (argument_type, r"fused: operands \(f32\[2\]\), but arguments \(f32\[1\]\)|neg: "),
    (fused_result, r"fused: results \(f32\[1\]\), but the region yields \(f32\[2\]\)"),
    (wrong_attrs, "relu: has attributes"),
    (other_parent, "fused: a region has another parent"),
    (broken_link, "add: the links between ops are broken"),
    (wrong_count, "the links between ops are broken"),
    (bad_perm, r"perm \[1\] does not order 1 axes"),
    (encoded_input, "is an input, but not row-major"),
    (nameless_input, "names .* are not distinct and non-empty"),
    (output_names, "1 outputs need distinct names, not"),
    (bad_symbol, "'a.b' cannot be the name of a symbol"),
    (threads_symbol, "'threads' is not free to be a shape symbol"),
    (empty_bounds, r"symbol N has bounds 3\.\.2"),
    (renamed, "@main is listed as @other"),
    (no_main, "the module has no @main"),
    (bad_level, "unknown level 'tensor'"),
]


@pytest.mark.parametrize(("spoil", "message"), FAULTS, ids=lambda x: getattr(x, "__name__", ""))
def test_fault_is_found(spoil: Callable[[Module], None], message: str) -> None:
    module = graph(BODY)
    spoil(module)
    with pytest.raises(VerifyError, match=message):
        verify(module)
    module, seen = graph(BODY), Seen()
    verify(module, seen=seen)
    spoil(module)
    with pytest.raises(VerifyError, match=message):
        verify(module, seen=seen)


def test_an_op_that_is_as_it_was_is_not_inferred_again(monkeypatch: pytest.MonkeyPatch) -> None:
    inferred: list[str] = []
    check = OpDef.check

    def noted(defn: OpDef, *args: Any) -> Any:
        inferred.append(defn.name)
        return check(defn, *args)

    monkeypatch.setattr(OpDef, "check", noted)
    module, seen = graph(BODY), Seen()
    verify(module, seen=seen)
    assert "relu" in inferred
    inferred.clear()
    verify(module, seen=seen)
    assert inferred == []
    relu = find(module, "relu")
    relu.result.type = TensorType(F32, (2,))
    verify(module, seen=seen)
    assert inferred == ["relu", "add"]


def test_undeclared_symbols_in_types_and_attributes_are_found() -> None:
    with pytest.raises(VerifyError, match=r"f32\[N\] speaks of undeclared N"):
        verify(graph("return(%x)", head="%x: f32[N]"))
    body = "%s = dims() {values = [2*N, S]} : i64[2]\nreturn(%x)"
    with pytest.raises(VerifyError, match="S speaks of undeclared S"):
        verify(graph(body, symbols="N"))
    verify(graph(body, symbols="N, S"))


def test_refusal_of_inference_is_the_message() -> None:
    with pytest.raises(VerifyError, match=r"add: .*differ in element type"):
        verify(graph("%a = add(%x, %k) : f32[2]\nreturn(%a)", head="%x: f32[2], %k: i64[2]"))


def test_crash_of_inference_is_a_verify_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def infer(types: Sequence[TensorType], attrs: object) -> Sequence[TensorType]:
        raise KeyError("axis")

    defn = OpDef("probe", infer, lambda attrs, x: x, Kind.OPAQUE, "Fails.")
    monkeypatch.setitem(OPS, "probe", defn)
    with pytest.raises(VerifyError, match="probe: inference failed: KeyError: 'axis'"):
        verify(graph("%a = probe(%x) : f32[2]\nreturn(%a)"))


def test_message_has_place_text_and_pass() -> None:
    module = graph(BODY)
    op = find(module, "relu")
    op.result.type = TensorType(F32, (3,))
    op.loc = Location("m.onnx", ("Relu_1",))
    with pytest.raises(VerifyError) as caught:
        verify(module, after="fold")
    assert caught.value.where == "m.onnx: node 'Relu_1'"
    assert ">   %a = relu(%x) : f32[3]" in caught.value.message
    assert caught.value.message.endswith("the pass that ran last: fold")
    assert len(caught.value.message.splitlines()) <= 12
