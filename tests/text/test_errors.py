"""Text that is not a module is refused with its place, whatever it is."""

from __future__ import annotations

import re
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tfc.ir.ops  # noqa: F401
from tests.support import ROOT
from tfc.ir.constants import ConstantStore
from tfc.ir.errors import ModelError, VerifyError
from tfc.ir.text import parse_module, print_module
from tfc.ir.text.lexer import tokens_of
from tfc.ir.verify import verify

HEAD = "tfc 1 graph\n"
F = HEAD + "func @main(%x: f32[2]) -> (y) {\n"

CASES = [
    ("", "1:1", "expected 'tfc 1 graph'"),
    ("tfc 2 graph", "1:5", "text version 2, this tfc reads version 1"),
    ("tfc 1 llvm", "1:7", "unknown level llvm"),
    (HEAD + "kernel @k() {}", "2:1", "expected func, found 'kernel'"),
    (HEAD + "func main", "2:6", "expected the name of a function, found 'main'"),
    (HEAD + "func @main(x", "2:12", "expected an argument like %x, found 'x'"),
    (HEAD + "func @main(%x: f33[2])", "2:16", "expected a type, found 'f33'"),
    (HEAD + "func @main(%x: f32[2, ])", "2:16", "expected a dim, found ']'"),
    (HEAD + "func @main(%x: f32[floordiv(N, 0)])", "2:16", "floordiv by 0"),
    (HEAD + "func @main(%x: f32[mod(N)])", "2:16", "mod takes two dims"),
    (HEAD + "func @main(%x: vec<8>)", "2:16", "expected a vector type like vec<8xf32>"),
    (HEAD + "func @main(%x: buf<f32[2], strides=[1, 2]>)", "2:16", "2 strides for 1 axes"),
    (HEAD + "func @main(%x: f32[], %x: f32[])", "2:23", "%x is defined twice"),
    (HEAD + "func @f() -> () symbols {f32} {}", "2:26", "f32 is a reserved word"),
    (HEAD + "func @f() -> () symbols {N, N} {}", "2:29", "N is declared twice"),
    (F + "return(%x) }\n" + F[len(HEAD) :] + "return(%x) }", "4:1", "@main is defined twice"),
    (F + "  %y = frobnicate(%x) : f32[2]", "3:8", "unknown op frobnicate"),
    (F + "  %y = relu(%z) : f32[2]", "3:13", "%z is not defined here"),
    (F + "  %y = relu(%x)\n", "3:3", "1 results are named, 0 types given"),
    (F + "  %y = relu(%x) {a = 1} : f32[2]", "3:8", "relu has no attribute 'a' (attributes: none)"),
    (F + "  %y = softmax(%x) {axis = 1.5} : f32[2]", "3:8", "attribute axis is 1.5, not int"),
    (F + "  %y = reshape(%x) : f32[2]", "3:8", "reshape needs attribute shape"),
    (F + "  %y = reshape(%x) {shape = [2], shape = [2]}", "3:34", "shape is given twice"),
    (F + "  %y = relu(%x) { return() } : f32[2]", "3:8", "relu has 0 regions, not 1"),
    (F + "  %y = constant() {value = dense(N)}", "3:34", "expected a number, found 'N'"),
    (F + '  return(%x) loc("a\\q")', "3:18", "bad string: unknown escape \\q"),
    (F + "  return(%x)\n", "4:1", "expected an op, found the end of the text"),
    (F + '  return(%"x)', "3:10", "expected an operand like %x, found '%'"),
    ("tfc 1 loop\ndata {@a: f32 = @0}", "2:11", "@a is f32, not a buffer"),
]


@pytest.mark.parametrize(("text", "place", "message"), CASES)
def test_refusal_names_the_place_and_the_reason(text: str, place: str, message: str) -> None:
    with pytest.raises(ModelError) as caught:
        parse_module(text, ConstantStore(), "file.tfc")
    assert caught.value.where == f"file.tfc:{place}"
    assert message in caught.value.message


SEEDS = [
    path.read_text(encoding="utf-8").partition("# ====\n")[0]
    for path in sorted((ROOT / "tests" / "golden" / "text").glob("*.tfc"))
]
TOKENS = sorted({token for seed in SEEDS for token in tokens_of(seed)})


def accept_or_refuse(text: str) -> None:
    """Parse, verify and print; only the two kinds of refusal may come out."""
    refusal = None
    try:
        module = parse_module(text, ConstantStore())
    except ModelError as error:
        refusal = error
    if refusal is not None:
        assert re.fullmatch(r"<text>:\d+:\d+", refusal.where or "")
        return
    printed = print_module(module)
    assert print_module(parse_module(printed, ConstantStore())) == printed
    with suppress(VerifyError):
        verify(module)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_changed_tokens_are_accepted_or_refused(data: st.DataObject) -> None:
    tokens = tokens_of(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(tokens) - 1))
        match data.draw(st.sampled_from(["drop", "swap", "insert", "copy"])):
            case "drop":
                del tokens[at]
            case "swap":
                tokens[at] = data.draw(st.sampled_from(TOKENS))
            case "insert":
                tokens.insert(at, data.draw(st.sampled_from(TOKENS)))
            case "copy":
                tokens[at:at] = tokens[at : at + data.draw(st.integers(1, 12))]
        if not tokens:
            return
    accept_or_refuse(" ".join(tokens))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_changed_characters_are_accepted_or_refused(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(SEEDS))
    at = data.draw(st.integers(0, len(text)))
    size = data.draw(st.integers(0, 5))
    accept_or_refuse(text[:at] + data.draw(st.text(max_size=4)) + text[at + size :])


@given(st.text())
def test_any_text_is_accepted_or_refused(text: str) -> None:
    accept_or_refuse("tfc 1 graph " + text)
