"""Targets by name and by features, the host's, and LLVM at work in several threads."""

from __future__ import annotations

import dataclasses
import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import llvmlite.binding as llvm
import pytest

from tests.codegen.harness import compile_kernel
from tests.codegen.test_kernel import matmul
from tfc.compiler.codegen.emit import emit_assembly, emit_object
from tfc.compiler.codegen.host import (
    cache_sizes,
    host_features,
    host_target,
    missing_features,
    resolve_target,
)
from tfc.compiler.codegen.kernel import kernel_text
from tfc.compiler.target import ALIASES, LEVELS, X86_FEATURES, parse_target
from tfc.ir.errors import CompileError, TargetError, UsageError
from tfc.ir.types import F16, F32, F64, I8

EXPECTED = {
    "x86-64": (128, 16, False, False),
    "generic": (128, 16, False, False),
    "avx2": (256, 16, True, False),
    "avx512": (512, 32, True, True),
    "aarch64": (128, 32, True, False),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_level_gives_width_registers_fma_and_masks(name: str) -> None:
    target = parse_target(name)
    actual = target.vector_bits, target.vector_registers, target.has_fma, target.has_masks
    assert actual == EXPECTED[name]
    assert target.lanes(F32) == target.vector_bits // 32


def test_lanes_follow_the_element_size() -> None:
    target = parse_target("avx512")
    assert [target.lanes(dtype) for dtype in (F64, F32, F16, I8)] == [8, 16, 32, 64]


def test_aliases_name_levels_and_levels_grow() -> None:
    assert set(ALIASES.values()) <= set(LEVELS)
    chain = [set(LEVELS[f"x86-64{suffix}"][1]) for suffix in ("", "-v2", "-v3", "-v4")]
    for small, large in itertools.pairwise(chain):
        assert small < large
    assert chain[-1] <= set(X86_FEATURES)


def test_512_bits_need_all_four_features() -> None:
    for feature in ("avx512f", "avx512bw", "avx512dq", "avx512vl"):
        assert parse_target(f"avx512,-{feature}").vector_bits == 256
    assert parse_target("avx2,+avx512f,+avx512bw,+avx512dq,+avx512vl").vector_bits == 512
    assert not parse_target("avx2,-fma").has_fma


@pytest.mark.parametrize("text", ["pentium", "avx2,+mmx", "avx2,fma", "", "avx2+fma", "avx2;x"])
def test_unknown_target_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="target"):
        resolve_target(text)


def test_host_has_what_llvm_reports_and_no_more() -> None:
    reported = llvm.get_host_cpu_features()
    host = host_target()
    assert host.features == host_features()
    if host.arch == "x86_64":
        assert {name for name in X86_FEATURES if reported.get(name)} == host.features
    assert missing_features(host) == frozenset()
    assert resolve_target("host") == host
    assert host.cores


def test_host_limited_to_a_level_has_no_feature_beyond_it() -> None:
    host = host_target()
    other = "aarch64" if host.arch == "x86_64" else "avx2"
    level = "generic" if host.arch == "x86_64" else "aarch64"
    limited = host_target(level)
    assert limited.features == host.features & frozenset(LEVELS[ALIASES.get(level, level)][1])
    assert limited.l2 == host.l2
    with pytest.raises(TargetError, match="this machine is"):
        host_target(other)
    with pytest.raises(TargetError, match="this machine is"):
        missing_features(parse_target(other))


def test_cache_sizes_come_from_the_system(tmp_path: Path) -> None:
    for i, (level, kind, size) in enumerate(
        [("1", "Data", "48K"), ("1", "Instruction", "32K"), ("2", "Unified", "2M"), ("3", "x", "")]
    ):
        folder = tmp_path / f"index{i}"
        folder.mkdir()
        for name, text in (("level", level), ("type", kind), ("size", size)):
            (folder / name).write_text(text + "\n")
    assert cache_sizes(tmp_path) == {1: 48 << 10, 2: 2 << 20}
    assert cache_sizes(tmp_path / "missing") == {}


def test_refused_text_is_kept_in_a_file() -> None:
    with pytest.raises(CompileError, match="LLVM refuses the generated code") as caught:
        emit_object("define nonsense", parse_target("avx2"))
    assert caught.value.where is not None
    dump = Path(caught.value.where)
    assert dump.read_text() == "define nonsense"
    dump.unlink()


def test_a_level_without_code_generator_is_a_target_error() -> None:
    alien = dataclasses.replace(parse_target("avx2"), triple="pdp11-unknown-none")
    with pytest.raises(TargetError, match="pdp11"):
        emit_object("", alien)


def test_threads_compile_the_same_code() -> None:
    target = parse_target("avx2")
    function = matmul(4, 2, 8)
    expected = compile_kernel(function, target)
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _: compile_kernel(function, target), range(6)))
    assert all(result == expected for result in results)


@pytest.mark.parametrize("level", ["x86-64", "avx2", "avx512", "aarch64"])
def test_code_keeps_to_the_features_of_its_target(level: str) -> None:
    target = parse_target(level)
    assembly = emit_assembly(kernel_text(matmul(4, 2, target.lanes(F32)), target), target)
    assert ("%zmm" in assembly) == (level == "avx512")
    assert ("%ymm" in assembly) == (level == "avx2")
    assert ("vfmadd" in assembly or "fmla" in assembly) == target.has_fma
