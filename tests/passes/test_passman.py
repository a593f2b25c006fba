"""The pass manager: the table's checks, the order of a run, and what it does around each pass."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest

from tests.passes.graphs import module_of, op_names
from tfc.compiler.passman import Pass, PassContext, make_table, run_passes
from tfc.compiler.pipeline import PASSES
from tfc.ir.constants import ConstantStore
from tfc.ir.core import Module
from tfc.ir.errors import CompileError, UsageError, VerifyError
from tfc.ir.text import parse_module

BODY = """
  %a = exp(%x) : f32[2]
  %b = exp(%x) : f32[2]
  %y = add(%a, %b) : f32[2]
  return(%y)
"""


def nothing(module: Module, context: PassContext) -> None:
    pass


def erase_last_user(module: Module, context: PassContext) -> None:
    """A pass with a defect: the output is left undefined."""
    op = module.main.outputs[0].op
    assert op is not None
    module.main.block.unlink(op)


def sample() -> Module:
    return module_of(BODY, "%x: f32[2]")


def test_a_pass_before_what_it_must_follow_is_refused_with_the_reason() -> None:
    with pytest.raises(CompileError, match="pass b must run after a: it needs constants"):
        make_table([Pass("b", nothing, after={"a": "it needs constants"}), Pass("a", nothing)])


def test_a_name_twice_in_the_table_is_refused() -> None:
    with pytest.raises(CompileError, match="pass a is in the table twice"):
        make_table([Pass("a", nothing), Pass("a", nothing)])


def test_a_required_pass_must_run_at_every_level() -> None:
    with pytest.raises(CompileError, match="pass a is required but not run at -O0"):
        make_table([Pass("a", nothing, required=True, min_opt=1)])


@pytest.mark.parametrize(
    "context",
    [
        PassContext(disabled={"no-such"}),
        PassContext(print_after={"no-such"}),
        PassContext(stop_after="no-such"),
    ],
    ids=["disabled", "print_after", "stop_after"],
)
def test_an_unknown_name_is_refused(context: PassContext) -> None:
    with pytest.raises(UsageError, match="no pass or rule is called 'no-such'"):
        run_passes(PASSES, sample(), context)


def test_a_required_pass_cannot_be_disabled() -> None:
    with pytest.raises(UsageError, match="decompose is required"):
        run_passes(PASSES, sample(), PassContext(disabled={"decompose"}))


def test_the_rules_of_passes_can_be_disabled_by_name() -> None:
    body = """
      %one = constant() {value = dense(1.0), dtype = f32, shape = []} : f32[]
      %y = mul(%x, %one) : f32[2]
      return(%y)"""
    module = module_of(body, "%x: f32[2]")
    run_passes(PASSES, module, PassContext(disabled={"mul-one", "fuse"}))
    assert "mul" in op_names(module)
    run_passes(PASSES, module, PassContext(disabled={"fuse"}))
    assert "mul" not in op_names(module)


def test_level_0_runs_only_the_passes_that_say_so() -> None:
    context = PassContext(level=0)
    run_passes(PASSES, sample(), context)
    assert list(context.times) == [row.name for row in PASSES if row.min_opt == 0]


def test_stop_after_ends_the_run() -> None:
    context = PassContext(stop_after="fold")
    run_passes(PASSES, sample(), context)
    assert list(context.times)[-1] == "fold"


def test_the_verifier_names_the_pass_that_broke_the_module() -> None:
    table = make_table([Pass("good", nothing), Pass("bad", erase_last_user), Pass("z", nothing)])
    with pytest.raises(VerifyError, match="the pass that ran last: bad"):
        run_passes(table, sample(), PassContext())


def test_a_broken_module_is_dumped_before_it_is_refused(tmp_path: Path) -> None:
    table = make_table([Pass("bad", erase_last_user)])
    with pytest.raises(VerifyError, match=re.escape(str(tmp_path / "01-bad.tfc"))):
        run_passes(table, sample(), PassContext(dump_dir=tmp_path))
    assert (tmp_path / "01-bad.tfc").exists()


def test_no_verification_when_it_is_switched_off() -> None:
    table = make_table([Pass("bad", erase_last_user)])
    run_passes(table, sample(), PassContext(verify=False))


def test_dumps_parse_back_with_their_constants(tmp_path: Path) -> None:
    module = sample()
    ref = module.constants.add(np.arange(64, dtype=np.float32), module.main.args[0].type.dtype)  # type: ignore[union-attr]
    text = f"""tfc 1 graph
func @main(%x: f32[64]) -> (y) {{
  %c = constant() {{value = @{ref.hash}, dtype = f32, shape = [64]}} : f32[64]
  %n = neg(%c) : f32[64]
  %y = add(%x, %n) : f32[64]
  return(%y)
}}
"""
    module = parse_module(text, module.constants)
    run_passes(PASSES, module, PassContext(dump_dir=tmp_path))
    names = sorted(path.name for path in tmp_path.glob("*.tfc"))
    assert names[0] == "00-input.tfc"
    assert len(names) == len(PASSES) + 1
    for name in names:
        again = parse_module((tmp_path / name).read_text(), ConstantStore(tmp_path / "constants"))
        constant = next(op for op in again.main.block.walk() if op.name == "constant")
        assert again.constants.get(constant.attrs.value).shape == (64,)


def test_print_after_prints_that_pass_only() -> None:
    stream = io.StringIO()
    run_passes(PASSES, sample(), PassContext(print_after={"cse"}, stream=stream))
    assert re.findall(r"# after (\S+)", stream.getvalue()) == ["cse"]


def test_print_after_change_prints_the_passes_that_changed_something() -> None:
    stream = io.StringIO()
    run_passes(PASSES, sample(), PassContext(print_after_change=True, stream=stream))
    assert re.findall(r"# after (\S+)", stream.getvalue()) == ["cse", "fuse"]


def test_times_are_printed_for_each_pass() -> None:
    stream = io.StringIO()
    run_passes(PASSES, sample(), PassContext(time_passes=True, stream=stream))
    names = re.findall(r" ms  (\S+)", stream.getvalue())
    assert names == [*(row.name for row in PASSES), "total"]


def test_bisect_stops_optimising_after_so_many_rewrites() -> None:
    whole = PassContext()
    run_passes(PASSES, sample(), whole)
    assert whole.rewrites > 1
    for limit in range(whole.rewrites + 1):
        context = PassContext(bisect=limit)
        run_passes(PASSES, sample(), context)
        assert context.rewrites == limit
