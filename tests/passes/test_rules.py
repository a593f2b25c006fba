"""Every rule of arithmetic: both sides agree in numpy, and the right side is the cheaper one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest

from tests.passes.graphs import assert_close, assert_same_bits, run_graph
from tfc.compiler.passman import PassContext
from tfc.compiler.rewrite import Const, Fp, Literal, Pattern, RewriteSet, Rule, Var, apply_greedily
from tfc.compiler.rewrite import variables as variables_of
from tfc.compiler.rules.algebra import RULES
from tfc.ir import arrays
from tfc.ir.arrays import Array
from tfc.ir.build import GraphBuilder
from tfc.ir.constants import ConstantStore
from tfc.ir.core import Block, Function, Module, Value
from tfc.ir.opdef import OPS, TypeRefusal
from tfc.ir.types import BOOL, FLOATS, INTS, DType, TensorType
from tfc.ir.verify import verify

SPECIAL = (0.0, -0.0, 1.0, -1.0, 2.5, np.inf, -np.inf, np.nan)
COSTS = {"constant": 0, "pow": 30, "exp": 20, "log": 20, "sigmoid": 24, "silu": 24, "div": 4}
"""Of ops that are not as cheap as they have operands."""
# Powers of two, which every guard accepts.
CONSTANTS = {"f": (0.5, 2.0, -4.0, 8.0), "i": (1, 2, -4, 8), "u": (1, 2, 4, 8), "b": (0, 1, 1, 0)}
UNITS = 16
# The rules that take apart what these match, for some constants; both ways end the same.
OVERLAPS = dict.fromkeys(("div-mul", "mul-div", "div-div"), ("div-by-power-of-two",))


def left_side(rule: Rule, types: tuple[DType, ...], literal: DType) -> Module:
    """A module that computes the rule's pattern of inputs and constants. May raise TypeRefusal."""
    variables = variables_of(rule.pattern)
    inputs = [v for v in variables if not isinstance(v, Const)]
    dtypes = dict(zip(variables, types, strict=True))
    block = Block([TensorType(dtypes[v], (64, 4)) for v in inputs], [v.name for v in inputs])
    store = ConstantStore()
    b = GraphBuilder(block, store)
    values = dict(zip(inputs, block.args, strict=True))

    def build(pattern: Pattern) -> Value:
        if isinstance(pattern, Const):
            numbers = np.asarray(CONSTANTS[dtypes[pattern].kind])
            return b.constant(numbers if pattern.name == "c" else numbers[::-1], dtypes[pattern])
        if isinstance(pattern, Var):
            return values[pattern]
        if isinstance(pattern, Literal):
            return b.constant(pattern.value, literal)
        return b.op(pattern.name, *[build(arg) for arg in pattern.args]).result

    root = build(rule.pattern)
    first = root.op
    assert first is not None
    kind = first.operands[0].type.dtype.kind  # type: ignore[union-attr]
    if kind not in rule.kinds:
        raise TypeRefusal("not for this kind")
    b.op("return", root)
    module = Module("graph", constants=store)
    module.add(Function("main", block, output_names=("y",)))
    return module


def typed_modules(rule: Rule) -> Iterator[tuple[DType, Module, Module]]:
    """Two equal modules of the left side, for each main element type that fits."""
    count = len(variables_of(rule.pattern))
    for main in (*FLOATS, *INTS, BOOL):
        for types in dict.fromkeys(itertools.product((main, BOOL), repeat=count)):
            for literal in dict.fromkeys((main, BOOL)):
                try:
                    yield main, left_side(rule, types, literal), left_side(rule, types, literal)
                except (TypeRefusal, OverflowError):
                    # Overflow: there is no literal -1 of an unsigned type.
                    continue


def inputs_of(module: Module, fp: Fp) -> dict[str, Array]:
    generator = np.random.default_rng(7)
    found = {}
    for position, arg in enumerate(module.main.args):
        dtype = arg.type.dtype  # type: ignore[union-attr]
        numbers = generator.uniform(-3, 3, (64, 4))
        if fp is Fp.FAST:
            numbers = np.abs(numbers) + 0.1
        elif dtype.is_float:
            # Every pair of special numbers, for two inputs.
            numbers[:16] = np.resize(SPECIAL, 64).reshape(16, 4)
            if position:
                numbers[:16] = np.repeat(SPECIAL, 8).reshape(16, 4)
        elif dtype.is_int:
            info = np.iinfo(arrays.numpy_dtype(dtype))
            numbers = generator.integers(info.min, info.max, (64, 4), info.dtype, endpoint=True)
        else:
            numbers = numbers > 0
        found[arg.name] = arrays.make(numbers, dtype)
    return found


def cost(module: Module) -> int:
    return sum(COSTS.get(op.name, len(op.operands)) for op in module.main.block)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_both_sides_of_the_rule_agree(rule: Rule) -> None:
    tried = 0
    for main, before, after in typed_modules(rule):
        context = PassContext(fast_math=True)
        apply_greedily(after, RewriteSet([rule]), context)
        verify(after, rule.name)
        assert context.hits[rule.name] == 1, f"does not match its own left side on {main}"
        assert cost(after) < cost(before), f"the right side is not cheaper on {main}"
        inputs = inputs_of(before, rule.fp)
        found, wanted = run_graph(after, inputs), run_graph(before, inputs)
        if rule.fp is Fp.EXACT or not main.is_float:
            assert_same_bits(found, wanted, main, str(main))
        else:
            assert_close(found, wanted, main, UNITS, str(main))
        tried += 1
    assert tried > 0


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_no_rule_hides_the_rule(rule: Rule) -> None:
    _, module, _ = next(typed_modules(rule))
    context = PassContext(fast_math=True)
    context.disabled = set(OVERLAPS.get(rule.name, ()))
    context.bisect = 1
    apply_greedily(module, RewriteSet(RULES), context)
    assert list(context.hits) == [rule.name]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_every_variable_of_the_right_side_is_on_the_left(rule: Rule) -> None:
    assert set(variables_of(rule.replacement)) <= set(variables_of(rule.pattern))


def test_fast_rules_wait_to_be_asked_for() -> None:
    fast = [rule for rule in RULES if rule.fp is Fp.FAST]
    assert fast
    for rule in fast:
        _, module, _ = next(typed_modules(rule))
        context = PassContext()
        apply_greedily(module, RewriteSet([rule]), context)
        assert not context.hits
        assert rule.pattern.name in {OPS[op.name].name for op in module.main.block}
