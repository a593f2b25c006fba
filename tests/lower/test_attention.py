"""Attention as one kernel: right for every size, mask and chain, and the same on any threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

import tfc
from tests.lower.native import Code, can_run, graph
from tfc.compiler.codegen.host import host_target
from tfc.compiler.lower.program import lower
from tfc.compiler.passman import PassContext
from tfc.compiler.pipeline import run
from tfc.compiler.target import Target, parse_target
from tfc.ir.arrays import Array
from tfc.ir.core import Module, SymbolInfo
from tfc.ir.dims import DimLike, symbol, symbols_of
from tfc.ir.loop.interp import run_program
from tfc.ir.types import BOOL, F32, F64, I64, DType, TensorType
from tfc.ir.verify import verify

HOST = host_target()
LEVELS = [
    pytest.param(level, marks=pytest.mark.slow) if level == "x86-64" else level
    for level in ("x86-64", "avx2", "avx512")
    if can_run(level)
]
SIZES = (1, 2, 3, 5, 6, 7, 13, 16, 17, 31, 33, 64, 100, 197, 300)
DEPTHS = (2, 3, 7, 8, 15, 16, 24, 33, 40, 64, 80, 127, 128)
LOWEST = float(np.finfo(np.float32).min)
M, N = symbol("m"), symbol("n")
FREE = {"m": SymbolInfo(0), "n": SymbolInfo(0)}

Chain = Callable[..., Any]


def numbers(*shape: int, seed: int = 0, dtype: Any = np.float32) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def attended(sides: Iterable[Array], chain: Callable[[Array], Array]) -> Array:
    """The weights that `chain` makes of the rows of q k^T, times v, in float64."""
    q, k, v = sides
    with np.errstate(all="ignore"):
        scores = q.astype(np.float64) @ np.swapaxes(k.astype(np.float64), -1, -2)
        found: Array = chain(scores) @ v.astype(np.float64)
        return found


def softmax(x: Array) -> Array:
    if not x.shape[-1]:
        return x
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    found: Array = e / e.sum(axis=-1, keepdims=True)
    return found


def types(
    heads: Sequence[int], m: DimLike, n: DimLike, d: int, columns: int, dtype: DType = F32
) -> list[TensorType]:
    shapes = ((*heads, m, d), (*heads, n, d), (*heads, n, columns))
    return [TensorType(dtype, shape) for shape in shapes]


def attention_graph(
    given: Sequence[TensorType],
    chain: Chain = lambda b, s: b.softmax(s, axis=-1),
    symbols: Mapping[str, SymbolInfo] | None = None,
) -> Module:
    """y0 = chain(x0 x1^T) x2; the chain is given what else is given."""

    def make(b: Any, q: Any, k: Any, v: Any, *rest: Any) -> Any:
        rank = len(k.type.shape)
        keys = b.transpose(k, perm=(*range(rank - 2), rank - 1, rank - 2))
        return b.matmul(chain(b, b.matmul(q, keys), *rest), v)

    return graph(given, make, symbols)


def program_of(
    module: Module, target: Target = HOST, *, apart: bool = False, level: int = 2
) -> Module:
    disabled = {"attention"} if apart else set()
    run(module, PassContext(target=target, level=level, disabled=disabled))
    program = lower(module, target, {})
    verify(program)
    return program


def kernels(program: Module) -> int:
    return sum(function.kind == "kernel" for function in program.functions.values())


def is_one(program: Module) -> bool:
    """Whether there is one kernel, with rows of scores for each thread."""
    return kernels(program) == 1 and "threads" in symbols_of(program.main.attrs["workspace"])


def assert_near(found: Array, wanted: Array, limit: float = 2e-6) -> None:
    """Within `limit` of the largest number; NaN where NaN is wanted and nowhere else."""
    assert found.shape == wanted.shape
    np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))
    finite = ~np.isnan(wanted)
    scale = max(float(np.abs(wanted[finite]).max(initial=0)), 1e-3)
    assert np.abs(found - wanted)[finite].max(initial=0) <= limit * scale


def inputs_of(given: Sequence[TensorType], seed: int = 0) -> dict[str, Array]:
    dtypes = {F32: np.float32, F64: np.float64}
    return {
        f"x{i}": numbers(*type.shape, seed=seed + i, dtype=dtypes[type.dtype])  # type: ignore[arg-type]
        for i, type in enumerate(given)
    }


# -- sizes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
def test_every_number_of_queries_and_keys_is_right(level: str) -> None:
    target = parse_target(level)
    cases = [types((2,), m, n, 16, 16) for m, n in zip(SIZES, SIZES[::-1], strict=True)]
    cases += [types((2,), m, 40, 16, 16) for m in (1, 4, 5, 6, 11, 14, 15, 29)]
    cases += [types((2,), 20, n, 16, 16) for n in (2, 15, 32, 47, 48)]
    programs = [program_of(attention_graph(case), target) for case in cases]
    code = Code(programs, target)
    for case, program in zip(cases, programs, strict=True):
        given = inputs_of(case)
        if case[1].shape[1] != 1:
            assert is_one(program)
        assert_near(code.run(program, given)["y0"], attended(given.values(), softmax))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("m", [1, 9])
def test_every_depth_and_every_number_of_columns_is_right(level: str, m: int) -> None:
    target = parse_target(level)
    cases = [types((3,), m, 21, d, DEPTHS[-1 - i]) for i, d in enumerate(DEPTHS)]
    cases += [types((3,), m, 18, d, d) for d in DEPTHS]
    programs = [program_of(attention_graph(case), target) for case in cases]
    code = Code(programs, target)
    for case, program in zip(cases, programs, strict=True):
        given = inputs_of(case)
        assert is_one(program)
        assert_near(code.run(program, given)["y0"], attended(given.values(), softmax), 4e-6)


def test_one_key_or_one_column_is_not_attention_but_right() -> None:
    for case in (types((2,), 5, 1, 8, 8), types((2,), 5, 6, 8, 1), types((2,), 5, 6, 1, 8)):
        program, given = program_of(attention_graph(case)), inputs_of(case)
        assert_near(Code([program], HOST).run(program, given)["y0"],
                    attended(given.values(), softmax))  # fmt: skip


def test_a_group_of_one_key_is_taken_apart() -> None:
    program = program_of(attention_graph(types((2,), 5, 1, 8, 8)))
    assert kernels(program) > 1


@pytest.mark.parametrize("level", LEVELS)
def test_f64_is_computed_in_f64(level: str) -> None:
    target = parse_target(level)
    for m in (1, 30):
        case = types((2,), m, 37, 12, 20, F64)
        program, given = program_of(attention_graph(case), target), inputs_of(case)
        assert is_one(program)
        found = Code([program], target).run(program, given)["y0"]
        assert_near(found, attended(given.values(), softmax), 1e-14)


@pytest.mark.parametrize("m", [1, 3, 8, 40])
def test_no_access_is_out_of_bounds(m: int) -> None:
    """The interpreter checks each one, and scratch memory of three threads."""
    case = types((2,), m, 19, 7, 9)
    program, given = program_of(attention_graph(case), parse_target("avx2")), inputs_of(case)
    found = run_program(program, given, {"threads": 3})["y0"]
    assert_near(found, attended(given.values(), softmax))


@pytest.mark.parametrize("level", LEVELS)
def test_lengths_may_be_unknown_and_zero(level: str) -> None:
    target = parse_target(level)
    program = program_of(attention_graph(types((2,), M, N, 20, 24), symbols=FREE), target)
    assert is_one(program)
    code = Code([program], target)
    for m, n in ((1, 1), (1, 300), (300, 1), (7, 64), (40, 33), (128, 128), (3, 0), (0, 3)):
        given = inputs_of(types((2,), m, n, 20, 24))
        found = code.run(program, given)["y0"]
        assert_near(found, attended(given.values(), softmax))


def test_queries_of_one_with_unknown_keys_are_one_kernel_without_packing() -> None:
    program = program_of(attention_graph(types((4,), 1, N, 32, 32), symbols={"n": SymbolInfo(0)}))
    assert is_one(program)
    (kernel,) = (f for f in program.functions.values() if f.kind == "kernel")
    assert len(kernel.args) == 3 + 2, "inputs; the output and scores"
    code = Code([program], HOST)
    for n in (1, 5, 16, 129):
        given = inputs_of(types((4,), 1, n, 32, 32))
        found = code.run(program, given)["y0"]
        assert_near(found, attended(given.values(), softmax))


# -- masks --------------------------------------------------------------------------------------


def _masks(m: int, n: int) -> dict[str, Array]:
    generator = np.random.default_rng(3)
    some = generator.random((m, n)) < 0.6
    rows = some & (np.arange(m) % 3 > 0)[:, None]
    return {
        "some": np.where(some, 0, -np.inf)[None],
        "rows without any key": np.where(rows, 0, -np.inf)[None],
        "very low numbers": np.where(rows, 0, LOWEST)[None],
        "of each head": numbers(2, m, n, seed=8),
        "of keys": np.where(some[:1], 0, -np.inf)[None],
        "of queries": numbers(1, m, 1, seed=9),
        "no key at all": np.full((1, 1, 1), -np.inf),
        "plus infinity": np.where(some, 0, np.inf)[None],
        "not a number": np.where(rows, 0, np.nan)[None],
    }


@pytest.mark.parametrize(
    ("m", "guarded"),
    [
        (2, False),
        (27, True),
        pytest.param(2, True, marks=pytest.mark.slow),
        pytest.param(27, False, marks=pytest.mark.slow),
    ],
)
def test_added_masks_are_as_apart_and_as_in_float64(m: int, guarded: bool) -> None:
    """Rows without a key are NaN, or zero where the model says so of NaN."""

    def chain(b: Any, s: Any, mask: Any) -> Any:
        weights = b.softmax(b.add(b.mul(s, b.constant(0.5, F32)), mask), axis=-1)
        if not guarded:
            return weights
        return b.select(b.isnan(weights), b.constant(0.0, F32), weights)

    def wanted_of(mask: Array) -> Callable[[Array], Array]:
        def weights(s: Array) -> Array:
            found = softmax(0.5 * s + mask.astype(np.float64))
            return np.where(np.isnan(found), 0, found) if guarded else found

        return weights

    base = types((2,), m, 45, 16, 24)
    for name, mask in _masks(m, 45).items():
        case = [*base, TensorType(F32, mask.shape)]
        given = {**inputs_of(base), "x3": mask.astype(np.float32)}
        programs = [
            program_of(attention_graph(case, chain), apart=apart) for apart in (False, True)
        ]
        assert [is_one(program) for program in programs] == [True, False], name
        code = Code(programs, HOST)
        one, apart = (code.run(program, given)["y0"] for program in programs)
        q, k, v = (given[f"x{i}"] for i in range(3))
        np.testing.assert_array_equal(np.isnan(one), np.isnan(apart), name)
        assert_near(one, attended((q, k, v), wanted_of(mask)))


def test_masks_may_be_chosen_by_bools_or_by_positions() -> None:
    m, n = 33, 50
    allowed = np.random.default_rng(5).random((2, m, n)) < 0.5
    causal = np.arange(n)[None] <= np.arange(m)[:, None]

    def by_bools(b: Any, s: Any, mask: Any) -> Any:
        return b.softmax(b.select(mask, s, b.constant(LOWEST, F32)), axis=-1)

    def by_positions(b: Any, s: Any, mask: Any) -> Any:
        rows = b.iota(shape=(2, m, n), axis=1, dtype=I64)
        columns = b.iota(shape=(2, m, n), axis=2, dtype=I64)
        return b.softmax(b.select(b.le(columns, rows), s, b.constant(LOWEST, F32)), axis=-1)

    base = types((2,), m, n, 16, 16)
    given = {**inputs_of(base), "x3": allowed}
    q, k, v = (given[f"x{i}"] for i in range(3))
    for chain, mask in ((by_bools, allowed), (by_positions, causal)):
        program = program_of(attention_graph([*base, TensorType(BOOL, (2, m, n))], chain))
        assert is_one(program)
        found = Code([program], HOST).run(program, given)["y0"]
        assert_near(found, attended((q, k, v), _softmax_where(mask)))


def _softmax_where(mask: Array) -> Callable[[Array], Array]:
    return lambda s: softmax(np.where(mask, s, LOWEST))


# -- chains -------------------------------------------------------------------------------------


def _normalised(b: Any, s: Any) -> Any:
    size = b.abs(s)
    total = b.reduce_sum(size, axes=(2,), keepdims=True)
    return b.div(s, b.add(total, b.constant(1.0, F32)))


def _centred(b: Any, s: Any) -> Any:
    mean = b.div(b.reduce_sum(s, axes=(2,), keepdims=True), b.constant(40.0, F32))
    away = b.sub(s, mean)
    spread = b.reduce_sum(b.mul(away, away), axes=(2,), keepdims=True)
    return b.div(away, b.sqrt(b.add(spread, b.constant(0.5, F32))))


def _capped(b: Any, s: Any) -> Any:
    cap = b.constant(2.0, F32)
    return b.softmax(b.mul(b.tanh(b.div(s, cap)), cap), axis=-1)


def _centre(s: Array) -> Array:
    away = s - s.mean(axis=-1, keepdims=True)
    found: Array = away / np.sqrt((away * away).sum(axis=-1, keepdims=True) + 0.5)
    return found


CHAINS: dict[str, tuple[Chain, Callable[[Array], Array]]] = {
    "scores are needed again": (
        lambda b, s: b.mul(b.softmax(s, axis=-1), s),
        lambda s: softmax(s) * s,
    ),
    "scores are divided by a sum of others": (
        _normalised,
        lambda s: s / (np.abs(s).sum(axis=-1, keepdims=True) + 1),
    ),
    "two passes of sums": (_centred, _centre),
    "scores are capped": (_capped, lambda s: softmax(np.tanh(s / 2) * 2)),
    "weights are squared": (
        lambda b, s: b.mul(b.softmax(s, axis=-1), b.softmax(s, axis=-1)),
        lambda s: softmax(s) ** 2,
    ),
    "the smallest is taken away": (
        lambda b, s: b.sub(s, b.reduce_min(s, axes=(2,), keepdims=True)),
        lambda s: s - s.min(axis=-1, keepdims=True),
    ),
}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("m", [1, 30])
def test_any_chain_of_elements_and_row_reductions_is_one_kernel(name: str, m: int) -> None:
    chain, wanted = CHAINS[name]
    case = types((2,), m, 40, 8, 16)
    program, given = program_of(attention_graph(case, chain)), inputs_of(case)
    assert is_one(program)
    found = Code([program], HOST).run(program, given)["y0"]
    assert_near(found, attended(given.values(), wanted), 1e-5)


def test_sides_are_scaled_and_results_finished_in_the_kernel() -> None:
    def make(b: Any, q: Any, k: Any, v: Any, gate: Any) -> Any:
        half = b.constant(0.5, F32)
        keys = b.mul(b.transpose(k, perm=(0, 2, 1)), half)
        weights = b.softmax(b.matmul(b.mul(q, half), keys), axis=-1)
        return b.mul(b.relu(b.matmul(weights, v)), gate)

    for m in (2, 26):
        case = [*types((3,), m, 35, 24, 40), TensorType(F32, (3, m, 40))]
        given = inputs_of(case)
        program = program_of(graph(case, make))
        assert is_one(program)
        q, k, v, gate = given.values()
        wanted = np.maximum(attended((0.5 * q, 0.5 * k, v), softmax), 0) * gate
        assert_near(Code([program], HOST).run(program, given)["y0"], wanted)


def test_keys_may_lie_as_the_product_wants_them() -> None:
    def make(b: Any, q: Any, k: Any, v: Any) -> Any:
        return b.matmul(b.softmax(b.matmul(q, k), axis=-1), v)

    for m, n in ((1, 37), (21, 37), (21, 64)):
        case = types((2,), m, n, 10, 16)
        case[1] = TensorType(F32, (2, 10, n))
        given = inputs_of(case)
        program = program_of(graph(case, make))
        assert is_one(program)
        q, k, v = given.values()
        wanted = attended((q, np.swapaxes(k, 1, 2), v), softmax)
        assert_near(Code([program], HOST).run(program, given)["y0"], wanted)


@pytest.mark.parametrize("m", [1, 20])
def test_heads_may_share_their_keys(m: int) -> None:
    """Keys of one head for four of queries are not copied."""

    def make(b: Any, q: Any, k: Any, v: Any) -> Any:
        def spread(x: Any) -> Any:
            wide = b.broadcast(b.reshape(x, shape=(2, 3, 1, 25, 16)), shape=(2, 3, 4, 25, 16))
            return b.reshape(wide, shape=(2, 12, 25, 16))

        keys = b.transpose(spread(k), perm=(0, 1, 3, 2))
        return b.matmul(b.softmax(b.matmul(q, keys), axis=-1), spread(v))

    case = [TensorType(F32, s) for s in ((2, 12, m, 16), (2, 3, 25, 16), (2, 3, 25, 16))]
    given = inputs_of(case)
    program = program_of(graph(case, make))
    assert is_one(program)
    q, k, v = given.values()
    wanted = attended((q, np.repeat(k, 4, axis=1), np.repeat(v, 4, axis=1)), softmax)
    assert_near(Code([program], HOST).run(program, given)["y0"], wanted)


@pytest.mark.parametrize("batch", [3, symbol("m")])
def test_heads_may_be_split_off_and_merged_back(batch: DimLike) -> None:
    """Queries, keys and values as models have them, [batch, length, heads x depth]."""

    def make(b: Any, *given: Any) -> Any:
        q, k, v = (
            b.transpose(b.reshape(x, shape=(batch, 34, 4, 8)), perm=(0, 2, 1, 3)) for x in given
        )
        flat = b.transpose(b.reshape(k, shape=(4 * batch, 34, 8)), perm=(0, 2, 1))
        keys = b.reshape(flat, shape=(batch, 4, 8, 34))
        y = b.matmul(b.softmax(b.matmul(q, keys), axis=-1), v)
        return b.reshape(b.transpose(y, perm=(0, 2, 1, 3)), shape=(batch, 34, 32))

    symbols = {} if isinstance(batch, int) else {"m": SymbolInfo(0)}
    module = graph([TensorType(F32, (batch, 34, 32))] * 3, make, symbols)
    program = program_of(module)
    assert kernels(program) == 2, "the attention, and the copy of its result to the output"
    given = {f"x{i}": numbers(3, 34, 32, seed=i) for i in range(3)}
    q, k, v = (x.reshape(3, 34, 4, 8).transpose(0, 2, 1, 3) for x in given.values())
    wanted = attended((q, k, v), softmax).transpose(0, 2, 1, 3).reshape(3, 34, 32)
    assert_near(Code([program], HOST).run(program, given)["y0"], wanted)


# -- levels and threads -------------------------------------------------------------------------


def test_without_optimisation_there_is_no_such_kernel() -> None:
    case = types((2,), 20, 30, 16, 16)
    program, given = program_of(attention_graph(case), level=0), inputs_of(case)
    assert kernels(program) > 4
    assert_near(Code([program], HOST).run(program, given)["y0"], attended(given.values(), softmax))


@pytest.mark.parametrize(
    ("heads", "m", "n"), [((12,), 130, 100), ((1,), 700, 300), ((40,), 1, 500), ((3, 2), 97, 129)]
)
def test_threads_change_no_bit(heads: tuple[int, ...], m: int, n: int) -> None:
    case = types(heads, m, n, 32, 48)
    given = inputs_of(case)
    found = []
    for threads in (1, 2, 3, 4):
        call = tfc.compile(tfc.Graph(attention_graph(case)), threads=threads)
        found.append(np.asarray(call(*given.values())))
    assert "parallel(" in call.ir("loops"), "nothing here runs on several threads"
    for other in found[1:]:
        np.testing.assert_array_equal(other.view(np.uint32), found[0].view(np.uint32))
    assert_near(found[0], attended(given.values(), softmax))
