"""Code is made while the caller writes more of it: once, from the cache if it can be."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.driver.programs import scale_program
from tfc.compiler import emission
from tfc.compiler.cache import Cache
from tfc.compiler.codegen.emit import emit_object
from tfc.compiler.codegen.host import host_target
from tfc.compiler.emission import Emission
from tfc.ir.errors import CompileError


def text(number: int) -> str:
    return f"define i32 @f{number}() {{\n  ret i32 {number}\n}}\n"


def silent(done: int, total: int) -> None:
    pass


@pytest.fixture
def make(tmp_path: Path) -> Callable[[], Emission]:
    cache = Cache(tmp_path / "cache")
    return lambda: Emission(host_target(), 2, 2, cache)


@pytest.fixture
def emitted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []

    def noted(text: str, *args: object) -> bytes:
        found.append(text)
        return emit_object(text, host_target(), 2)

    monkeypatch.setattr(emission, "emit_object", noted)
    return found


def test_objects_come_in_the_order_of_the_texts(make: Callable[[], Emission]) -> None:
    texts = [text(i) for i in range(5)]
    with make() as started:
        for each in reversed(texts):
            started.add(each)
        found = started.objects(texts, silent)
    assert found == [emit_object(each, host_target(), 2) for each in texts]


def test_a_text_is_emitted_once_and_then_comes_from_the_cache(
    make: Callable[[], Emission], emitted: list[str]
) -> None:
    told: list[tuple[int, int]] = []
    with make() as started:
        first = started.objects([text(1), text(2), text(1)], lambda *pair: told.append(pair))
        assert started.objects([text(2)], silent) == first[1:2]
    assert emitted == [text(1), text(2)]
    assert told == [(1, 2), (2, 2)]
    with make() as started:
        assert started.objects([text(1), text(2)], silent) == first[:2]
    assert len(emitted) == 2


def test_quick_texts_are_emitted_at_the_lowest_level(
    make: Callable[[], Emission], monkeypatch: pytest.MonkeyPatch
) -> None:
    levels: dict[str, int] = {}

    def noted(text: str, target: object, opt: int) -> bytes:
        levels[text] = opt
        return text.encode()

    monkeypatch.setattr(emission, "emit_object", noted)
    with make() as started:
        started.add_quick(text(1))
        assert started.objects([text(1), text(2)], silent) == [text(i).encode() for i in (1, 2)]
    assert levels == {text(1): 0, text(2): 2}


def test_a_kernel_is_under_way_before_anybody_waits(
    make: Callable[[], Emission], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = threading.Event()

    def noted(*args: object) -> bytes:
        begun.set()
        return b""

    monkeypatch.setattr(emission, "emit_object", noted)
    kernel = scale_program().functions["scale"]
    with make() as started:
        written = started.kernel(kernel)
        assert begun.wait(30)
        assert started.kernel(kernel) is written
        assert started.objects([written], silent) == [b""]


def test_what_llvm_refuses_is_raised(make: Callable[[], Emission]) -> None:
    with pytest.raises(CompileError, match="LLVM refuses"), make() as started:
        started.objects([text(1), "define nonsense"], silent)


def test_an_error_of_the_caller_drops_what_has_not_begun(
    make: Callable[[], Emission], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go = threading.Event(), threading.Event()
    ran: list[str] = []

    def slow(text: str, *args: object) -> bytes:
        ran.append(text)
        begun.set()
        assert go.wait(30)
        return b""

    monkeypatch.setattr(emission, "emit_object", slow)

    def fail() -> None:
        with make() as started:
            for i in range(3):
                started.add(text(i))
            assert begun.wait(30)
            threading.Timer(0.1, go.set).start()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert ran == [text(0)]


def test_processes_share_what_is_much(
    make: Callable[[], Emission], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emission, "WORTHWHILE", 1)
    begun, taken = threading.Event(), threading.Event()
    shared: list[str] = []

    def here(text: str, *args: object) -> bytes:
        begun.set()
        assert taken.wait(30)
        return text.encode()

    def elsewhere(texts: list[str], *args: object) -> list[bytes]:
        shared.extend(texts)
        taken.set()
        return [each.encode() for each in texts]

    monkeypatch.setattr(emission, "emit_object", here)
    monkeypatch.setattr(emission, "emit_objects", elsewhere)
    texts = [text(i) for i in range(20)]
    with make() as started:
        started.add(texts[0])
        assert begun.wait(30)
        assert started.objects(texts, silent) == [each.encode() for each in texts]
    assert shared == texts[1:]


def test_the_switch_interval_is_what_it_was(make: Callable[[], Emission]) -> None:
    before = sys.getswitchinterval()
    with make():
        inside = sys.getswitchinterval()
        with make():
            pass
        assert sys.getswitchinterval() == inside < before
    assert sys.getswitchinterval() == before
