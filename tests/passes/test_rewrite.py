"""The greedy driver: what it counts, refuses and cleans up."""

from __future__ import annotations

import pytest

from tests.passes.graphs import module_of, op_names
from tfc.compiler.passman import PassContext
from tfc.compiler.pipeline import SIMPLIFICATIONS
from tfc.compiler.rewrite import Fp, Rewriter, RewriteSet, Rule, Var, apply, apply_greedily, rewrite
from tfc.ir.core import Op
from tfc.ir.errors import CompileError
from tfc.ir.location import Location
from tfc.ir.text import print_module
from tfc.ir.verify import verify

x = Var("x")
DOUBLE_NEG = "%a = neg(%x) : f32[2]\n%y = neg(%a) : f32[2]\nreturn(%y)"
NEG_OF_NEG = Rule("neg-of-neg", apply("neg", -x), x)


def test_hits_are_counted_by_rule_and_dead_ops_are_erased() -> None:
    module = module_of(DOUBLE_NEG, "%x: f32[2]")
    context = PassContext()
    apply_greedily(module, RewriteSet([NEG_OF_NEG]), context)
    verify(module)
    assert context.hits == {"neg-of-neg": 1}
    assert op_names(module) == ["return"]


def test_a_disabled_rule_does_not_fire() -> None:
    module = module_of(DOUBLE_NEG, "%x: f32[2]")
    context = PassContext(disabled={"neg-of-neg"})
    apply_greedily(module, RewriteSet([NEG_OF_NEG]), context)
    assert op_names(module) == ["neg", "neg", "return"]
    assert not context.hits


def test_rewriting_without_end_fails_with_the_last_ten_rules() -> None:
    back = Rule("back", apply("sin", x), apply("cos", x))
    forth = Rule("forth", apply("cos", x), apply("sin", x))
    module = module_of("%y = sin(%x) : f32[2]\nreturn(%y)", "%x: f32[2]")
    with pytest.raises(CompileError, match=r"does not end; the last ten: (forth|back)(, \w+){9}"):
        apply_greedily(module, RewriteSet([back, forth]), PassContext())


def test_a_function_that_changes_and_returns_false_is_refused() -> None:
    @rewrite("neg")
    def sneaky(op: Op, rw: Rewriter) -> bool:
        rw.replace(op, op.operands[0])
        return False

    module = module_of(DOUBLE_NEG, "%x: f32[2]")
    with pytest.raises(CompileError, match="sneaky returned False but changed something"):
        apply_greedily(module, RewriteSet(functions=[sneaky]), PassContext())


def test_a_function_that_only_says_it_changed_is_refused() -> None:
    @rewrite("neg")
    def boastful(op: Op, rw: Rewriter) -> bool:
        return True

    module = module_of(DOUBLE_NEG, "%x: f32[2]")
    with pytest.raises(CompileError, match="boastful returned True but changed nothing"):
        apply_greedily(module, RewriteSet(functions=[boastful]), PassContext())


def test_a_rule_that_would_change_the_type_does_not_fire() -> None:
    body = """
      %c = constant() {value = dense(0.0, 0.0), dtype = f32, shape = [2]} : f32[2]
      %y = add(%x, %c) : f32[2]
      return(%y)"""
    module = module_of(body, "%x: f32[]")
    context = PassContext()
    apply_greedily(module, RewriteSet([Rule("add-zero", x + 0, x)]), context)
    assert not context.hits
    assert op_names(module) == ["constant", "add", "return"]


def test_the_replacement_comes_from_all_that_it_replaces() -> None:
    rule = Rule("swap", apply("sin", apply("cos", x)), apply("tan", x), fp=Fp.FAST)
    module = module_of("%a = cos(%x) : f32[2]\n%y = sin(%a) : f32[2]\nreturn(%y)", "%x: f32[2]")
    for op in module.main.block:
        op.loc = Location("m.onnx", (op.name,))
    apply_greedily(module, RewriteSet([rule]), PassContext(fast_math=True))
    op = module.main.outputs[0].op
    assert op is not None
    assert op.loc == Location("m.onnx", ("sin", "cos"))


def test_a_variable_stands_for_one_value() -> None:
    rule = Rule("same", apply("max", x, x), x)
    module = module_of("%y = max(%x, %z) : f32[2]\nreturn(%y)", "%x: f32[2], %z: f32[2]")
    context = PassContext()
    apply_greedily(module, RewriteSet([rule]), context)
    assert not context.hits


def test_two_rewrites_with_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two rewrites have one name"):
        RewriteSet([NEG_OF_NEG, NEG_OF_NEG])


def test_a_rewrite_three_ops_deep_is_tried_again_when_its_leaf_changes() -> None:
    deep = Rule("deep", apply("sin", apply("cos", apply("tan", x))), x)
    late = Rule("late", apply("abs", x), apply("tan", x))
    body = """
      %a = abs(%x) : f32[2]
      %b = cos(%a) : f32[2]
      %y = sin(%b) : f32[2]
      return(%y)"""
    module = module_of(body, "%x: f32[2]")
    apply_greedily(module, RewriteSet([deep, late]), PassContext())
    assert op_names(module) == ["return"]


def test_simplifying_twice_is_simplifying_once() -> None:
    body = """
      %c = constant() {value = dense(2.0), dtype = f32, shape = []} : f32[]
      %a = transpose(%x) {perm = [1, 0]} : f32[3, 2]
      %b = mul(%c, %a) : f32[3, 2]
      %d = mul(%b, %c) : f32[3, 2]
      %e = transpose(%d) {perm = [1, 0]} : f32[2, 3]
      %y = reshape(%e) {shape = [6]} : f32[6]
      return(%y)"""
    module = module_of(body, "%x: f32[2, 3]")
    apply_greedily(module, SIMPLIFICATIONS, PassContext())
    once = print_module(module)
    context = PassContext()
    apply_greedily(module, SIMPLIFICATIONS, context)
    assert print_module(module) == once
    assert not context.hits
