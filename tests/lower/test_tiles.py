"""Contractions on tiles: the same numbers as without, for every shape of blocks, on any threads.

Where the machine has no tiles, their ops are loops over vectors here.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest

import tfc
from tests.lower import test_integer_products as integer
from tests.lower.native import Code, graph, lowered
from tfc.compiler.codegen.emit import emit_assembly
from tfc.compiler.codegen.host import host_target
from tfc.compiler.codegen.kernel import kernel_text
from tfc.compiler.cost import tiles as cost
from tfc.compiler.lower import tiles, tiles_copied
from tfc.compiler.passman import PassContext
from tfc.compiler.pipeline import run
from tfc.compiler.target import Target, parse_target
from tfc.graph import Graph
from tfc.ir import arrays
from tfc.ir.core import Function, Module, SymbolInfo
from tfc.ir.dims import symbol
from tfc.ir.loop.interp import run_program
from tfc.ir.types import BF16, F32, I8, I32, U8, DType, TensorType

Array = Any
EMULATED = dataclasses.replace(host_target(), emulates_tiles=True)
AMX = parse_target("sapphirerapids")
PLANS_OF_COPIES = tiles_copied.plans
pytestmark = pytest.mark.skipif(
    not host_target().has("avx512bw"), reason="tiles are emulated by AVX-512"
)


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Tiles of rows where they lie are used for all that they can compute."""
    cycles = cost.tile_cycles
    monkeypatch.setattr(cost, "tile_cycles", lambda sizes: cycles(sizes) * 1e-6)
    monkeypatch.setattr(tiles_copied, "plans", lambda *args: [])
    return monkeypatch


@pytest.fixture
def copied(always: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Tiles of copied rows are used for all that they can compute."""
    monkeypatch.setattr(tiles_copied, "plans", PLANS_OF_COPIES)
    monkeypatch.setattr(tiles, "plans", lambda *args: [])
    return monkeypatch


def whole(shape: tuple[int, ...], seed: int) -> Array:
    """Small whole numbers, whose products in bf16 have exact sums."""
    return np.random.default_rng(seed).integers(-8, 9, shape).astype(np.float32)


def product(rows: Any, depth: int, columns: int, epilogue: Any = None) -> tuple[Graph, Array]:
    w = whole((depth, columns), depth)
    x = tfc.placeholder((rows, depth), "f32", name="x")
    y = x @ w
    return Graph.of({"y": epilogue(y) if epilogue else y}, [x]), w


def compiled(program: Graph, target: Target = EMULATED, threads: int = 1) -> Any:
    return tfc.compile(program, dtype="bf16", target=target, threads=threads)


def kernels(module: Module) -> list[Function]:
    """The kernels that use tiles."""
    return [
        function
        for function in module.functions.values()
        if any(op.name == "tiles" for op in function.block.walk())
    ]


def program_of(
    program: Graph, target: Target, dtype: DType = BF16, hints: dict[str, int] | None = None
) -> Module:
    module = program.copy()
    run(module, PassContext(target=target, dtype=dtype))
    return lowered(module, target, hints)


# -- numbers ------------------------------------------------------------------------------------

SIZES = [
    (1, 32, 16), (2, 2, 200), (3, 33, 17), (16, 64, 16), (17, 30, 40), (31, 65, 33), (32, 96, 64),
    (33, 48, 31), (50, 1, 9), (64, 23, 128), (100, 130, 70),
]  # fmt: skip


@pytest.mark.parametrize("shape", [(2, 2), (3, 1), (1, 3), (2, 1), (1, 2), (1, 1)])
def test_products_are_exact_for_every_size(
    shape: tuple[int, int], always: pytest.MonkeyPatch
) -> None:
    always.setattr(tiles, "_SHAPES", (shape,))
    for rows, depth, columns in SIZES:
        program, w = product(rows, depth, columns)
        x = whole((rows, depth), rows)
        got = compiled(program)({"x": x})["y"]
        np.testing.assert_array_equal(got, x @ w, err_msg=str((rows, depth, columns)))


def test_the_sizes_run_on_tiles(always: pytest.MonkeyPatch) -> None:
    for size in SIZES:
        if size[0] > 1 and size[1] > 1:
            assert len(kernels(program_of(product(*size)[0], EMULATED))) == 1, size


def test_products_of_copied_rows_are_exact(copied: pytest.MonkeyPatch) -> None:
    for few in (1, 100):
        copied.setattr(tiles_copied, "FEW_TASKS", few)
        for rows, depth, columns in SIZES:
            program, w = product(rows, depth, columns)
            x = whole((rows, depth), rows)
            if rows > 1 and depth > 1:
                assert len(kernels(program_of(program, EMULATED))) == 1
            got = compiled(program)({"x": x})["y"]
            np.testing.assert_array_equal(got, x @ w, err_msg=str((rows, depth, columns)))


@pytest.mark.parametrize("limits", [(1, 1, 2), (2, 2, 3), (3, 5, 8)])
def test_sums_in_parts_are_exact(limits: tuple[int, int, int], always: pytest.MonkeyPatch) -> None:
    for name, limit in zip(("SUM", "LONG_SUM", "MOST_BLOCKS"), limits, strict=True):
        always.setattr(tiles, name, limit)
    always.setattr(tiles, "FEW_TASKS", 1)
    for rows, depth, columns in ((70, 200, 40), (100, 97, 16), (129, 352, 33), (40, 64, 64)):
        program, w = product(rows, depth, columns)
        x = whole((rows, depth), rows)
        got = compiled(program)({"x": x})["y"]
        np.testing.assert_array_equal(got, x @ w, err_msg=str((rows, depth, columns)))


def test_copied_rows_may_be_of_any_number(copied: pytest.MonkeyPatch) -> None:
    program, w = product("M", 100, 24)
    run_it = compiled(program)
    for rows in (0, 1, 2, 31, 32, 33, 200):
        x = whole((rows, 100), rows)
        np.testing.assert_array_equal(run_it({"x": x})["y"], x @ w, err_msg=str(rows))


@pytest.mark.parametrize("parts", [False, True])
def test_one_artifact_serves_every_number_of_rows(parts: bool, always: pytest.MonkeyPatch) -> None:
    if parts:
        always.setattr(tiles, "SUM", 1)
        always.setattr(tiles, "LONG_SUM", 2)
    program, w = product("M", 100, 24)
    run_it = compiled(program)
    for rows in (0, 1, 2, 15, 16, 17, 31, 32, 33, 64, 77, 200):
        x = whole((rows, 100), rows)
        np.testing.assert_array_equal(run_it({"x": x})["y"], x @ w, err_msg=str(rows))


CONVS = {
    "1x1": integer.Conv((2, 64, 7, 9), (40, 64, 1, 1)),
    "3x3": integer.Conv((1, 32, 20, 11), (48, 32, 3, 3), pad=(1, 1)),
    "wide rows": integer.Conv((1, 32, 3, 40), (16, 32, 3, 3), pad=(1, 1)),
    "small picture": integer.Conv((1, 64, 7, 7), (40, 64, 3, 3), pad=(1, 1)),
    "small pictures": integer.Conv((3, 32, 5, 6), (24, 32, 3, 3), pad=(1, 1)),
    "short rows": integer.Conv((2, 24, 9, 3), (20, 24, 3, 2)),
    "strides": integer.Conv((1, 16, 17, 33), (24, 16, 3, 3), stride=2, pad=(0, 1)),
    "dilation": integer.Conv((1, 16, 12, 12), (33, 16, 3, 3), dilation=2),
    "many channels": integer.Conv((1, 130, 5, 5), (17, 130, 3, 3), pad=(1, 1)),
    "one axis": integer.Conv((2, 12, 50), (17, 12, 5), stride=3, pad=(2, 2)),
    "three axes": integer.Conv((1, 8, 4, 5, 6), (16, 8, 2, 2, 2)),
    "groups": integer.Conv((1, 64, 8, 8), (64, 32, 3, 3), groups=2, pad=(1, 1)),
    "first layer": integer.Conv((1, 3, 23, 23), (16, 3, 7, 7), stride=2, pad=(3, 3)),
    "empty": integer.Conv((0, 8, 6, 6), (8, 8, 3, 3)),
}


def convolutions() -> tuple[Graph, dict[str, Array], list[Array]]:
    """All of CONVS in one program, each followed by what a layer has behind it."""
    inputs = {f"x{i}": whole(case.x, i) for i, case in enumerate(CONVS.values())}
    weights = [whole(case.w, 50 + i) for i, case in enumerate(CONVS.values())]
    biases = [whole((case.w[0], *[1] * (len(case.x) - 2)), 9) for case in CONVS.values()]
    wanted = [
        np.maximum(case.exact(x, w) + bias, 0)
        for case, x, w, bias in zip(CONVS.values(), inputs.values(), weights, biases, strict=True)
    ]

    def make(b: Any, *xs: Any) -> list[Any]:
        return [
            b.relu(b.add(b.conv(x, b.constant(w), **case.attrs()), b.constant(bias)))
            for x, w, bias, case in zip(xs, weights, biases, CONVS.values(), strict=True)
        ]

    types = [TensorType(F32, x.shape) for x in inputs.values()]
    return Graph(graph(types, make)), inputs, wanted


@pytest.mark.parametrize("parts", [False, True])
def test_convolutions_are_exact(parts: bool, always: pytest.MonkeyPatch) -> None:
    if parts:
        for name in ("SUM", "LONG_SUM", "FEW_TASKS"):
            always.setattr(tiles, name, 2)
    program, inputs, wanted = convolutions()
    assert len(kernels(program_of(program, EMULATED))) >= 8
    found = compiled(program, threads=3)(inputs)
    for i, (name, want) in enumerate(zip(CONVS, wanted, strict=True)):
        np.testing.assert_array_equal(found[f"y{i}"], want, err_msg=name)


def test_convolutions_of_copied_rows_are_exact(copied: pytest.MonkeyPatch) -> None:
    program, inputs, wanted = convolutions()
    assert len(kernels(program_of(program, EMULATED))) >= 6
    found = compiled(program, threads=3)(inputs)
    for i, (name, want) in enumerate(zip(CONVS, wanted, strict=True)):
        np.testing.assert_array_equal(found[f"y{i}"], want, err_msg=name)


def test_convolutions_of_copied_bytes_are_exact(copied: pytest.MonkeyPatch) -> None:
    program, inputs, wanted = integer.convolutions(U8, 0)
    assert len(kernels(program_of(program, EMULATED))) >= 6
    found = tfc.compile(program, target=EMULATED, threads=2)(
        {f"x{i}": x for i, x in enumerate(inputs)}
    )
    for i, (name, want) in enumerate(zip(integer.CONVS, wanted, strict=True)):
        np.testing.assert_array_equal(found[f"y{i}"], want, err_msg=name)


@pytest.mark.parametrize(
    ("dtype", "offset"),
    [pytest.param(U8, 0, id="u8"), pytest.param(I8, -128, id="i8", marks=pytest.mark.slow)],
)
def test_convolutions_of_bytes_are_exact(
    dtype: Any, offset: int, always: pytest.MonkeyPatch
) -> None:
    program, inputs, wanted = integer.convolutions(dtype, offset)
    assert len(kernels(program_of(program, EMULATED))) >= 6
    feeds = {f"x{i}": x for i, x in enumerate(inputs)}
    found = tfc.compile(program, target=EMULATED, threads=2)(feeds)
    for i, (name, want) in enumerate(zip(integer.CONVS, wanted, strict=True)):
        np.testing.assert_array_equal(found[f"y{i}"], want, err_msg=name)


def test_a_symbolic_picture_runs_on_tiles(always: pytest.MonkeyPatch) -> None:
    case = integer.Conv((1, 32, 3, 3), (20, 32, 3, 3), pad=(1, 1))
    w = whole(case.w, 1)
    names = ("B", "H", "W")
    shape = (symbol("B"), 32, symbol("H"), symbol("W"))
    module = graph(
        [TensorType(F32, shape)],
        lambda b, x: b.conv(x, b.constant(w), **case.attrs()),
        {name: SymbolInfo() for name in names},
    )
    run_it = compiled(Graph(module), threads=2)
    for size in ((1, 32, 1, 1), (2, 32, 5, 7), (1, 32, 16, 16), (1, 32, 3, 40), (0, 32, 4, 4)):
        x = whole(size, size[3])
        wanted = dataclasses.replace(case, x=size).exact(x, w)
        np.testing.assert_array_equal(run_it({"x0": x})["y0"], wanted, err_msg=str(size))


def test_epilogues_read_other_inputs_and_sums_are_rounded_as_asked(
    always: pytest.MonkeyPatch,
) -> None:
    generator = np.random.default_rng(5)
    x, other = (generator.standard_normal((70, n), dtype=np.float32) for n in (200, 48))
    w = 0.05 * generator.standard_normal((200, 48), dtype=np.float32)
    sources = [tfc.placeholder(v.shape, "f32", name=n) for n, v in (("x", x), ("other", other))]
    y = tfc.tanh(sources[0] @ w) + sources[1]
    program = Graph.of({"y": y}, sources)
    rounded = [arrays.decode(arrays.encode(v, BF16), BF16).astype(np.float64) for v in (x, w)]
    wanted = np.tanh(rounded[0] @ rounded[1]) + other
    results = [compiled(program, threads=n)({"x": x, "other": other})["y"] for n in (1, 2, 5)]
    assert np.abs(results[0] - wanted).max() < 2e-6
    for result in results[1:]:
        np.testing.assert_array_equal(results[0], result)


@pytest.mark.parametrize("size", [(5, 40, 17), (33, 70, 20)])
def test_the_interpreter_gives_the_same_bits(
    size: tuple[int, int, int], always: pytest.MonkeyPatch
) -> None:
    always.setattr(tiles, "LONG_SUM", 1)
    always.setattr(tiles, "SUM", 1)
    generator = np.random.default_rng(1)
    rows, depth, columns = size
    w = generator.standard_normal((depth, columns), dtype=np.float32)
    source = tfc.placeholder((rows, depth), "f32", name="x")
    module = program_of(Graph.of({"y": source @ w}, [source]), EMULATED)
    x = generator.standard_normal((rows, depth), dtype=np.float32)
    assert kernels(module)
    native = Code([module], EMULATED).run(module, {"x": x})["y"]
    np.testing.assert_array_equal(native, run_program(module, {"x": x})["y"])


# -- choice -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "chosen"),
    [
        ((1, 768, 768), False),
        ((2, 768, 768), False),
        ((8, 768, 768), True),
        ((128, 768, 3072), True),
        ((1024, 64, 64), True),
        ((128, 2, 64), False),
        ((4, 32, 4), False),
    ],
)
def test_tiles_are_chosen_where_enough_of_them_is_used(
    size: tuple[int, int, int], chosen: bool
) -> None:
    program, _ = product(*size)
    assert bool(kernels(program_of(program, AMX))) == chosen
    assert not kernels(program_of(program, AMX, F32))
    assert not kernels(program_of(program, parse_target("sapphirerapids,-amx-tile")))
    assert not kernels(program_of(program, parse_target("sapphirerapids,-amx-bf16")))


def test_a_dynamic_number_of_rows_counts_as_many() -> None:
    program, _ = product("M", 768, 768)
    for hint in (1, 100):
        assert kernels(program_of(program, AMX, hints={"M": hint}))


def layers(dtype: DType) -> Module:
    """Two 3x3 convolutions, one behind the other, as a program for AMX."""
    case = integer.Conv((1, 64, 28, 28), (64, 64, 3, 3), pad=(1, 1))
    if dtype == BF16:
        weights = np.random.default_rng(0).standard_normal(case.w).astype(np.float32)
        made = graph(
            [TensorType(F32, case.x)],
            lambda b, x: b.conv(
                b.relu(b.conv(x, b.constant(weights), **case.attrs())),
                b.constant(weights),
                **case.attrs(),
            ),
        )
        return program_of(Graph(made), AMX)
    values = integer.bytes_of(case.w, np.int8).astype(np.int32)

    def make(b: Any, x: Any) -> Any:
        first = b.conv(b.cast(x, dtype=I32), b.constant(values), **case.attrs())
        narrow = b.cast(b.min(b.max(first, b.constant(0, I32)), b.constant(255, I32)), dtype=U8)
        return b.conv(b.cast(narrow, dtype=I32), b.constant(values), **case.attrs())

    return program_of(Graph(graph([TensorType(U8, case.x)], make)), AMX, F32)


def test_tiles_go_on_in_the_next_line_of_a_small_picture(always: pytest.MonkeyPatch) -> None:
    found = []
    plans = tiles.plans

    def watched(*args: Any) -> Any:
        found.append(plans(*args))
        return found[-1]

    always.setattr(tiles, "plans", watched)
    case = CONVS["small picture"]
    w = whole(case.w, 1)

    def two(b: Any, x: Any) -> Any:
        return b.conv(b.conv(x, b.constant(whole((64, 64, 3, 3), 2)), **case.attrs()),
                      b.constant(w), **case.attrs())  # fmt: skip

    program_of(Graph(graph([TensorType(F32, case.x)], two)), AMX)
    plan = found[-1][0].value
    # 7 lines of 9 positions, of which 2 are the border: 61 rows are 4 tiles, not 7.
    assert (plan.pitch, plan.axis.extent, plan.blocks * plan.high) == (9, 61, 4)


def test_a_3x3_convolution_is_not_transformed_where_there_are_tiles() -> None:
    (kernel,) = kernels(layers(BF16))
    assert "conv" in kernel.name


# -- instructions -------------------------------------------------------------------------------


def instructions(kernel: Function) -> list[str]:
    """Labels, jumps and instructions of tiles in the order of the assembly."""
    assembly = emit_assembly(kernel_text(kernel, AMX), AMX)
    found = re.findall(r"^(\.?\w+):|^\s+((?:ldtilecfg|tile|tdp|j|ret)\w*)", assembly, re.MULTILINE)
    return [label or name for label, name in found]


def innermost(trace: list[str]) -> list[list[str]]:
    """The tile instructions between labels and jumps."""
    runs: list[list[str]] = [[]]
    for item in trace:
        if item.startswith(("tile", "tdp", "ldtile")):
            runs[-1].append(item)
        else:
            runs.append([])
    return [run_ for run_ in runs if run_]


def test_a_step_of_two_by_two_tiles_is_four_loads_and_four_products() -> None:
    program, _ = product(256, 768, 256)
    (kernel,) = kernels(program_of(program, AMX))
    trace = instructions(kernel)
    steps = [run_ for run_ in innermost(trace) if "tdpbf16ps" in run_]
    assert [sorted(step) for step in steps] == [["tdpbf16ps"] * 4 + ["tileloadd"] * 4]
    assert trace.count("ldtilecfg") == trace.count("tilerelease") == 1
    assert trace.count("tilezero") == trace.count("tilestored") == 4
    assert trace.index("ldtilecfg") < trace.index("tilezero")
    # Every way out of the function passes the release.
    end = trace.index("tilerelease")
    returns = [at for at, item in enumerate(trace) if item.startswith("ret")]
    assert any(at > end for at in returns)
    assert not [at for at in returns if trace.index("ldtilecfg") < at < end]


@pytest.mark.parametrize("way", ["whole", "parts", "copied"])
def test_every_form_loads_each_tile_of_a_step_once(
    way: str, always: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if way == "copied":
        request.getfixturevalue("copied")
    if way == "parts":
        for name in ("SUM", "LONG_SUM", "FEW_TASKS"):
            always.setattr(tiles, name, 2)
    found = kernels(program_of(convolutions()[0], AMX))
    assert len(found) >= 6
    for kernel in found:
        trace = instructions(kernel)
        assert trace.count("ldtilecfg") == trace.count("tilerelease") > 0
        steps = [run_ for run_ in innermost(trace) if "tdpbf16ps" in run_]
        assert steps
        for step in steps:
            dots = step.count("tdpbf16ps")
            # Steps that stand one behind the other without a loop are one run.
            least = {1: 2, 2: 3, 3: 4, 4: 4}
            assert any(
                dots % size == 0 and step.count("tileloadd") == dots // size * loads
                for size, loads in least.items()
            ), step


def test_bytes_are_multiplied_by_their_own_instruction() -> None:
    found = kernels(layers(U8))
    assert found
    for kernel in found:
        trace = instructions(kernel)
        steps = [run_ for run_ in innermost(trace) if "tdpbusd" in run_]
        assert ["tdpbusd"] * 4 + ["tileloadd"] * 4 in [sorted(step) for step in steps]


def test_an_artifact_asks_for_tile_registers_where_kernels_use_them(tmp_path: Any) -> None:
    from tfc.compiler.build import Options, build

    for rows, asks in ((1, False), (64, True)):
        program, _ = product(rows, 256, 256)
        options = Options(AMX, dtype=BF16, threads=False, cache=None)
        built = build(program_of(program, AMX), options)
        assert ("syscall" in built.texts["abi"]) == asks
        path = tmp_path / f"m{rows}.so"
        built.write(path)
        assert path.stat().st_size > 0
