"""Tuning: the file, the search with planted times, and that tuned kernels compute the same."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

import tfc
from tests.cli.conftest import Command, cli  # noqa: F401  (a fixture)
from tests.lower.native import graph
from tests.support import ROOT
from tfc import tune as search
from tfc.cachedir import TUNING
from tfc.compiler.build import Options
from tfc.compiler.codegen.host import host_cpu, host_target
from tfc.compiler.cost.choice import Candidate, Choices, Chooser, Decision, Site
from tfc.compiler.driver import builder_of, lower_module, optimise
from tfc.compiler.lower.alone import Work, alone, works
from tfc.compiler.lower.program import ProgramBuilder
from tfc.compiler.target import parse_target
from tfc.compiler.tuning import HEADER, Tuned, Tuning, parse_tuning, read_tuning
from tfc.inprocess import compile_in_process
from tfc.ir.build import GraphBuilder
from tfc.ir.core import Module, SymbolInfo, Value
from tfc.ir.dims import symbol
from tfc.ir.errors import ModelError, TfcError, UsageError
from tfc.ir.loop.verify import verify_function
from tfc.ir.text.printer import print_module
from tfc.ir.types import F32, TensorType
from tfc.tune import Report, race, random_inputs, tune

HOST = host_target()
AVX2 = parse_target("avx2")


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def network(symbolic: bool = False) -> Module:
    """A product, a convolution and a softmax, large enough for several candidates each."""

    def make(b: GraphBuilder, x: Value, y: Value) -> list[Value]:
        product = b.softmax(b.matmul(x, b.constant(numbers(96, 80))), axis=-1)
        weights = b.constant(numbers(33, 32, 3, 3))
        plain = {"strides": (1, 1), "pads": ((0, 0), (0, 0)), "dilations": (1, 1), "groups": 1}
        pixels = b.relu(b.conv(b.transpose(y, perm=(0, 3, 1, 2)), weights, **plain))
        return [product, b.transpose(pixels, perm=(0, 2, 3, 1))]

    rows = symbol("n") if symbolic else 40
    types = [TensorType(F32, (rows, 96)), TensorType(F32, (1, 20, 20, 32))]
    return graph(types, make, {"n": SymbolInfo(lo=1)} if symbolic else None)


def options(**changes: object) -> Options:
    return Options(HOST, threads=False, **changes)  # type: ignore[arg-type]


def optimised(module: Module) -> Module:
    optimise(module, options())
    return module


# -- choosing -----------------------------------------------------------------------------------


def test_the_first_candidate_is_chosen_unless_another_is_tuned() -> None:
    candidates = [Candidate("a", 1.0, 10), Candidate("b", 2.0, 20)]
    assert Chooser().choose("kind", candidates) == 10
    chooser = Chooser({"k": {"kind": "b", "other": "a"}}, record=True)
    assert chooser.choose("kind", candidates) == 10
    with chooser.kernel(lambda: "k") as site:
        assert chooser.choose("kind", candidates) == 20
        with chooser.part("pack"):
            assert chooser.choose("kind", candidates) == 10
    assert site is not None
    known = (("a", 1.0), ("b", 2.0))
    assert site.decisions == [
        Decision("kind", "b", known, True),
        Decision("pack.kind", "a", known, False),
    ]
    with chooser.kernel(lambda: "other"):
        assert chooser.choose("kind", candidates) == 10


def test_what_is_tuned_but_not_possible_is_not_chosen() -> None:
    candidates = [Candidate("a", 1.0, None), Candidate("b", 2.0, 20), Candidate("c", 3.0, 30)]
    with Chooser({"k": {"kind": "gone"}}).kernel(lambda: "k"):
        assert Chooser().first("kind", candidates, lambda value: value) == 20
    chooser = Chooser({"k": {"kind": "a"}})
    with chooser.kernel(lambda: "k"):
        assert chooser.first("kind", candidates, lambda value: value) == 20


def test_keys_of_kernels_are_the_same_in_every_process() -> None:
    script = "from tests.driver.test_tuning import keys; print(*keys())"
    found = set()
    for seed in ("1", "2"):
        environ = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=True
        )
        found.add(done.stdout.strip())
    assert found == {" ".join(keys())}
    assert len(keys()) == len(set(keys())) >= 3


def keys() -> list[str]:
    module = optimised(network(symbolic=True))
    builder = builder_of(module, options(), Chooser(record=True))
    builder.build()
    return [work.site.key for work in works(builder)]


# -- results ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("symbolic", "step"),
    [(True, 7), *(pytest.param(s, 1, marks=pytest.mark.slow) for s in (False, True))],
)
def test_every_candidate_computes_the_same(symbolic: bool, step: int) -> None:
    x, y = numbers(40, 96), numbers(1, 20, 20, 32)
    module = optimised(network(symbolic))
    builder = builder_of(module, options(), Chooser(record=True))
    builder.build()
    wanted = compile_in_process(lambda: network(symbolic), options(), 1)(x, y)
    decisions = {work.site.key: work.site.decisions for work in works(builder)}
    every = [decision for found in decisions.values() for decision in found]
    assert {d.kind for d in every} >= {"algorithm", "lane", "order", "tasks", "tile", "unroll"}
    for turn in range(1, max(len(decision.candidates) for decision in every), step):
        tuned = {
            key: {d.kind: d.candidates[turn % len(d.candidates)][0] for d in found}
            for key, found in decisions.items()
        }
        run = compile_in_process(lambda: network(symbolic), options(tuned=tuned), 1)
        for found, expected in zip(run(x, y), wanted, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-4)


def test_what_is_not_tuned_stays_as_it_is() -> None:
    plain = lower_module(network(), options())
    other = lower_module(network(), options(tuned={"k.0": {"tile": "1x1x1"}}))
    assert print_module(plain) == print_module(other)


def test_a_group_alone_is_a_program_of_its_kernels() -> None:
    module = optimised(network(symbolic=True))
    builder = builder_of(module, options(), Chooser(record=True))
    builder.build()
    for work in works(builder):
        program, site = alone(builder, work.op, Chooser(record=True))
        assert site is not None
        assert site.key == work.site.key
        for function in program.functions.values():
            verify_function(program, function)
        inputs = random_inputs(program, builder.hints)
        assert len(inputs) == len(program.main.attrs["inputs"])


# -- the search ---------------------------------------------------------------------------------


@dataclass
class Clock:
    """Time that passes only where something is timed."""

    now: float = 0.0
    seconds: float = 0.001

    def __call__(self) -> float:
        return self.now


@dataclass
class Planted:
    """What takes as long as its choices say."""

    site: Site
    clock: Clock
    time: float
    made: list[Choices] = field(default_factory=list)

    def seconds(self) -> float:
        self.clock.now += self.time
        return self.time


def planted(
    clock: Clock, times: Callable[[Work, Site], float]
) -> Callable[[ProgramBuilder, Work, Options, Choices], Planted]:
    def make(builder: ProgramBuilder, work: Work, options: Options, choices: Choices) -> Planted:
        chooser = Chooser({work.site.key: choices}, record=True)
        _, site = alone(builder, work.op, chooser)
        assert site is not None
        return Planted(site, clock, times(work, site))

    return make


def chosen(site: Site, kind: str) -> str:
    return next((d.chosen for d in site.decisions if d.kind == kind), "")


def test_a_planted_better_candidate_is_found_and_kept() -> None:
    clock, tuning = Clock(), Tuning()

    def times(work: Work, site: Site) -> float:
        algorithm = chosen(site, "algorithm")
        if not algorithm:
            return 1e-3
        return 0.5e-3 if algorithm == "winograd2" else 0.8e-3

    report = search.tune(
        optimised(network()), options(), 60.0, threads=2, cpu="here", tuning=tuning,
        clock=clock, contender=planted(clock, times),
    )  # fmt: skip
    assert report.changed == 1
    assert report.tried == report.kernels >= 3
    ((key, tuned),) = tuning.kernels(HOST, "here").items()
    assert tuned.choices["algorithm"] == "winograd2"
    assert (tuned.before, tuned.after) == pytest.approx((800, 500))
    again = lower_module(network(), options(tuned=tuning.choices(HOST, "here")))
    assert print_module(again) != print_module(lower_module(network(), options()))
    assert key in keys_of(network())


def keys_of(module: Module) -> list[str]:
    builder = builder_of(optimised(module), options(), Chooser(record=True))
    builder.build()
    return [work.site.key for work in works(builder)]


def test_what_is_hardly_faster_is_not_kept() -> None:
    clock, tuning = Clock(), Tuning()

    def times(work: Work, site: Site) -> float:
        return 1e-3 if not any(d.tuned for d in site.decisions) else 0.98e-3

    report = tune(
        optimised(network()), options(), 60.0, threads=2, cpu="here", tuning=tuning,
        clock=clock, contender=planted(clock, times),
    )  # fmt: skip
    assert report.candidates > 3
    assert report.changed == 0
    assert tuning.kernels(HOST, "here") == {}
    assert parse_tuning(tuning.text()).knows(HOST)
    assert not tuning.knows(AVX2)


def test_the_time_limit_is_kept() -> None:
    for seconds in (0.0, 0.1, 0.3):
        clock = Clock()
        report = tune(
            optimised(network()), options(), seconds, threads=2, cpu="here", tuning=Tuning(),
            clock=clock, contender=planted(clock, lambda work, site: 1e-3),
        )  # fmt: skip
        # One candidate may take as long as the longest before it, the first one as it likes.
        assert clock.now <= max(seconds, 0.07)
        assert (report.tried == 0) is (seconds == 0)


def test_a_race_needs_both_the_least_and_the_median() -> None:
    site = Site("k", {})

    class Times:
        def __init__(self, *times: float) -> None:
            self.site = site
            self.times = list(times)
            self.calls = 0

        def seconds(self) -> float:
            self.calls += 1
            return self.times[self.calls % len(self.times)]

    still = lambda: 0.0  # noqa: E731
    assert race(Times(1.0), Times(0.9), still) == (1.0, 0.9, True)
    assert not race(Times(1.0), Times(0.5, 1.2, 1.2), still)[2]
    slow = Times(2.0)
    assert race(Times(1.0), slow, still) == (1.0, 2.0, False)
    assert slow.calls == 1 + search.EARLY_RUNS


def test_what_is_slower_in_the_model_is_not_kept() -> None:
    module = optimised(network())
    builder = builder_of(module, options(), Chooser(record=True))
    builder.build()
    found = {work.site.key: work.site.decisions for work in works(builder)}
    worst = {
        key: max(d.candidates, key=lambda pair: pair[1])[0]
        for key, decisions in found.items()
        for d in decisions
        if d.kind == "tile" and not any(e.kind == "algorithm" for e in decisions)
    }
    assert worst
    better = {key: Tuned({"tile": name}, 2.0, 1.0) for key, name in worst.items()}
    stage = search.Stage(options(), 1, 0)
    assert stage.confirmed(module, builder.hints, {}, better, lambda: 0.0, 1.0) == {}


# -- the file -----------------------------------------------------------------------------------


def some() -> Tuning:
    tuning = Tuning()
    tuning.own(HOST, "cpu 1")["conv.00ff"] = Tuned({"tile": "1x2x3", "pack.tasks": "4"}, 10, 8.5)
    tuning.own(HOST, "cpu 2")["conv.00ff"] = Tuned({"tile": "1x9x3"}, 10, 9)
    tuning.own(AVX2, "cpu 1")["conv.00ff"] = Tuned({"algorithm": "direct"}, 20, 12.25)
    return tuning


def test_the_file_round_trips(tmp_path: Path) -> None:
    path = tmp_path / "new" / "tuning.txt"
    some().write(path)
    found = read_tuning(path)
    assert found.text() == some().text()
    assert found.choices(HOST, "cpu 1") == {"conv.00ff": {"tile": "1x2x3", "pack.tasks": "4"}}
    assert found.choices(HOST, "cpu 2") == {"conv.00ff": {"tile": "1x9x3"}}
    assert found.choices(AVX2, "elsewhere") == {"conv.00ff": {"algorithm": "direct"}}
    assert found.choices(parse_target("aarch64"), "cpu 1") == {}
    assert parse_tuning(HEADER + "\n\n# empty\n").machines == {}
    assert read_tuning(tmp_path / "none", missing=True).machines == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "its first line is not 'tfc tuning 1'"),
        ("tfc tuning 9\n", "its first line is not"),
        ("{}\nkernel k a=b us 1 1\n", "'kernel' stands before any 'cpu'"),
        ("{}\ncpu x\n", "'cpu' stands before any 'target'"),
        ("{}\ntarget t\nkernel k a=b us 1 1\n", "'kernel' stands before any 'cpu'"),
        ("{}\ntarget t\ncpu x\nkernel k a=b\n", "not 'kernel KEY KIND=NAME... us BEFORE AFTER'"),
        ("{}\ntarget t\ncpu x\nkernel k ab us 1 1\n", "'ab' is not KIND=NAME"),
        ("{}\ntarget t\ncpu x\nkernel k a=b us 1 one\n", "the times are not numbers"),
        ("{}\nwhat\n", "'what' is none of target, cpu, kernel"),
    ],
)
def test_bad_files_are_refused_with_their_line(text: str, message: str) -> None:
    with pytest.raises(ModelError, match="tuning") as error:
        parse_tuning(text.format(HEADER))
    assert message in str(error.value)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    refused: list[tuple[Path, type[TfcError], str]] = [
        (tmp_path / "missing", UsageError, "there is no such tuning file"),
        (tmp_path, UsageError, "directory"),
        (tmp_path / "binary", ModelError, "no text"),
    ]
    for path, kind, message in refused:
        with pytest.raises(kind, match=message):
            read_tuning(path)


# -- compiling ----------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "network.tfc"
    module = network()
    path.write_text(print_module(module))
    module.constants.write(_refs(module), tmp_path / "constants")
    return path


def _refs(module: Module) -> list[object]:
    from tfc.compiler.constants import stored_refs

    return list(stored_refs(module))


def accept_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every candidate win."""
    monkeypatch.setattr(search, "race", lambda best, other, clock: (2e-6, 1e-6, True))
    monkeypatch.setattr(search.Stage, "confirmed", lambda self, *arguments: arguments[3])


def test_commands_tune_and_use_what_was_tuned(
    cli: Command,  # noqa: F811
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    accept_all(monkeypatch)
    file, constants = tmp_path / "tuned.txt", ("--constants", tmp_path / "constants")
    arguments = ("compile", model, "-o", tmp_path / "a.so", "--tuning", file, *constants)
    assert cli(*arguments).code == 2
    done = cli(*arguments, "--tune", 3, "--threads", 1, "--json")
    assert done.code == 0, done.err
    assert Report(**done.json["tuned"]).changed > 0
    assert read_tuning(file).kernels(HOST, host_cpu())
    assert cli(*arguments).code == 0
    explained = cli("explain", model, "--tuning", file, *constants, "--seconds", 0.05, "--json")
    assert explained.code == 0, explained.err
    decisions = [d for kernel in explained.json["kernels"] for d in kernel["decisions"]]
    assert any(decision["tuned"] for decision in decisions)
    assert all(decision["chosen"] in decision["candidates"] for decision in decisions)
    refused = cli(*arguments, "--target", "avx2")
    assert refused.code == 2
    assert "nothing is tuned for x86_64" in refused.err
    file.write_text("nonsense\n")
    refused = cli(*arguments)
    assert refused.code == 3
    assert "not a tuning file" in refused.err
    assert cli(*arguments, "--tune", "-1").code == 2


def test_the_cache_keeps_what_was_tuned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFC_CACHE_DIR", str(tmp_path))
    accept_all(monkeypatch)
    x, y = numbers(40, 96), numbers(1, 20, 20, 32)
    before = tfc.compile(tfc.graph.Graph(network()))
    plain = before.ir("loops")
    tuned = tfc.compile(tfc.graph.Graph(network()), tune=3, threads=1)
    assert read_tuning(tmp_path / TUNING).kernels(HOST, host_cpu())
    later = tfc.compile(tfc.graph.Graph(network()))
    assert later.ir("loops") != plain
    for run in (tuned, later):
        for found, wanted in zip(run(x, y), before(x, y), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=2e-4)
    (tmp_path / TUNING).write_text("damaged")
    assert tfc.compile(tfc.graph.Graph(network())).ir("loops") == plain
    with pytest.raises(UsageError, match="a number of seconds"):
        tfc.compile(tfc.graph.Graph(network()), tune=0)
