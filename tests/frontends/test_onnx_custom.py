"""Users' own rules: `tfc.onnx_rule` in Python and `--rules` on the command line."""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper, save

import tfc
from tests.frontends.support import floats, make_model, value_info
from tests.support import ROOT
from tfc import rules
from tfc.cli.main import run
from tfc.compiler.frontends.onnx import custom, load

EXAMPLE = ROOT / "examples" / "custom_op"
X = floats(3, 8)


@pytest.fixture(autouse=True)
def own_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the rules of a test."""
    monkeypatch.setattr(custom, "CUSTOM", {})
    monkeypatch.setattr(rules, "_registered", set())


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The example's model."""
    path = tmp_path / "acme.onnx"
    monkeypatch.setattr("sys.argv", ["model.py", str(path)])
    runpy.run_path(str(EXAMPLE / "model.py"))
    return path


def acme_of(x: Any) -> Any:
    gain = np.linspace(1, 2, 8, dtype=np.float32)
    return gain * np.tanh(x / 2) / (x.max(1, keepdims=True) - x.min(1, keepdims=True))


def model(op: str = "Twice", version: int = 1, outputs: int = 1, domain: str = "com.acme") -> Any:
    names = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(op, ["x"], names, name="mine", domain=domain)
    proto = make_model([node], [value_info("x", X)], names)
    if domain:
        proto.opset_import.append(helper.make_opsetid(domain, version))
    return proto


def twice(ctx: tfc.OnnxContext) -> Any:
    return ctx.b.add(ctx.x(0), ctx.x(0))


def test_the_example_computes_what_it_says(acme: Path) -> None:
    runpy.run_path(str(EXAMPLE / "rules.py"))
    np.testing.assert_allclose(tfc.compile(acme)(X), acme_of(X), rtol=1e-5)


def test_the_page_shows_the_example(acme: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "recipes" / "import-your-operator.md").read_text()
    shown, used = (
        re.sub("^   ", "", block, flags=re.M)
        for block in re.findall(r"```python\n(.*?)   ```", page, re.S)
    )
    assert (EXAMPLE / "rules.py").read_text().endswith(shown)
    monkeypatch.chdir(acme.parent)
    (acme.parent / "examples").symlink_to(ROOT / "examples")
    found: dict[str, Any] = {}
    exec(used, found)
    np.testing.assert_allclose(found["executable"](X), acme_of(X), rtol=1e-5)


def test_the_command_line_runs_a_file_of_rules(
    acme: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    library, given = tmp_path / "acme.so", str(EXAMPLE / "rules.py")
    assert run(["check", str(acme)]) == 4
    assert "ScaledTanh of domain 'com.acme'; tfc.onnx_rule adds one" in capsys.readouterr().out
    assert run(["compile", str(acme), "-o", str(library)]) == 4
    assert run(["check", str(acme), "--rules", given]) == 0
    assert run(["compile", str(acme), "--rules", given, "-o", str(library)]) == 0
    np.testing.assert_allclose(tfc.load(library)(X), acme_of(X), rtol=1e-5)


@pytest.mark.parametrize(
    ("text", "reason"),
    [("1 / 0", "ZeroDivisionError"), (None, "No such file"), ("(", "SyntaxError")],
)
def test_a_file_of_rules_that_fails_is_named(
    text: str | None, reason: str, acme: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "broken.py"
    if text is not None:
        path.write_text(text)
    assert run(["check", str(acme), "--rules", str(path)]) != 0
    assert re.search(rf"broken\.py: .*{reason}", capsys.readouterr().err)


def test_an_unknown_operator_is_refused_with_a_way_out() -> None:
    wanted = (
        r"node 'mine' \(Twice\): no rule for operator Twice of domain 'com.acme'; tfc.onnx_rule"
    )
    with pytest.raises(tfc.UnsupportedError, match=wanted):
        load(model())


def test_the_newest_rule_that_fits_the_version_is_taken() -> None:
    tfc.onnx_rule("com.acme", "Twice")(twice)

    @tfc.onnx_rule("com.acme", "Twice", since=3)
    def thrice(ctx: tfc.OnnxContext) -> Any:
        assert ctx.version >= 3
        return ctx.b.mul(ctx.x(0), ctx.scalar(3, ctx.x(0)))

    for version, factor in ((1, 2), (2, 2), (3, 3), (4, 3)):
        np.testing.assert_array_equal(tfc.compile(model(version=version))(X), factor * X)


def test_rules_come_before_those_of_tfc_and_replace_each_other() -> None:
    for name in ("", "ai.onnx"):
        tfc.onnx_rule(name, "Neg")(twice)
        np.testing.assert_array_equal(tfc.compile(model("Neg", domain=""))(X), 2 * X)
    tfc.onnx_rule("", "Neg")(lambda ctx: ctx.b.abs(ctx.x(0)))
    np.testing.assert_array_equal(tfc.compile(model("Neg", domain=""))(X), np.abs(X))


def test_kept_models_know_of_no_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFC_CACHE_DIR", str(tmp_path / "cache"))
    path = tmp_path / "neg.onnx"
    save(model("Neg", domain=""), path)
    np.testing.assert_array_equal(tfc.compile(path)(X), -X)
    kept = list((tmp_path / "cache" / "models").glob("*.so"))
    assert kept
    tfc.onnx_rule("", "Neg")(twice)
    np.testing.assert_array_equal(tfc.compile(path)(X), 2 * X)
    assert list((tmp_path / "cache" / "models").glob("*.so")) == kept
    rules._registered.clear()
    custom.CUSTOM.clear()
    np.testing.assert_array_equal(tfc.compile(path)(X), -X)


def fails(ctx: tfc.OnnxContext) -> Any:
    return {}["no"]


def too_many(ctx: tfc.OnnxContext) -> Any:
    return [ctx.x(0), ctx.x(0)]


def an_array(ctx: tfc.OnnxContext) -> Any:
    return np.ones(3)


def malformed(ctx: tfc.OnnxContext) -> Any:
    raise ctx.malformed("no good")


@pytest.mark.parametrize(
    ("rule", "error", "reason"),
    [
        (fails, tfc.UsageError, "the rule for com.acme.Twice failed: KeyError: 'no'"),
        (too_many, tfc.UsageError, "one for each of 1 results"),
        (an_array, tfc.UsageError, "returned array"),
        (lambda ctx: None, tfc.UsageError, "returned None"),
        (malformed, tfc.ModelError, "no good"),
    ],
)
def test_what_a_rule_does_wrong_is_told_with_its_node(
    rule: Callable[[Any], Any], error: type[Exception], reason: str
) -> None:
    tfc.onnx_rule("com.acme", "Twice")(rule)
    with pytest.raises(error, match=rf"node 'mine' \(Twice\): .*{re.escape(reason)}"):
        load(model())


def test_attributes_that_a_rule_does_not_read_are_refused() -> None:
    proto = model()
    proto.graph.node[0].attribute.append(helper.make_attribute("speed", 3))
    tfc.onnx_rule("com.acme", "Twice")(twice)
    with pytest.raises(tfc.UnsupportedError, match="attribute 'speed'"):
        load(proto)
    tfc.onnx_rule("com.acme", "Twice", ignores=["speed"])(twice)
    load(proto)


def test_an_operator_must_have_a_name() -> None:
    with pytest.raises(tfc.UsageError, match="no operator"):
        tfc.onnx_rule("com.acme", "")
