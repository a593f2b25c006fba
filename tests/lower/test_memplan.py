"""The workspace plan: what lives at the same time has its own bytes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tfc.compiler.lower.memplan import ALIGNMENT, Lifetime, MemoryPlan, plan_memory
from tfc.ir.dims import DimLike, evaluate, symbol

N, THREADS = symbol("N"), symbol("threads")
quick = settings(max_examples=150, deadline=None, derandomize=True)

static_sizes = st.integers(0, 5000)
symbolic_sizes = st.one_of(
    static_sizes,
    st.integers(1, 300).map(lambda k: N * k),
    st.integers(1, 40).map(lambda k: N * N * k + 4),
    st.integers(1, 300).map(lambda k: THREADS * k),
)


def lifetimes(sizes: st.SearchStrategy[DimLike]) -> st.SearchStrategy[list[Lifetime]]:
    one = st.tuples(sizes, st.integers(0, 12), st.integers(0, 5))
    return st.lists(one.map(lambda t: Lifetime(t[0], t[1], t[1] + t[2])), max_size=14)


def check(buffers: list[Lifetime], plan: MemoryPlan, symbols: dict[str, int]) -> None:
    spans = []
    for buffer, offset in zip(buffers, plan.offsets, strict=True):
        at = evaluate(offset, symbols)
        assert at % ALIGNMENT == 0
        spans.append((at, at + evaluate(buffer.size, symbols)))
        assert at >= 0
        assert spans[-1][1] <= evaluate(plan.size, symbols)
    for i, a in enumerate(buffers):
        for j, b in enumerate(buffers[:i]):
            if a.start <= b.end and b.start <= a.end:
                apart = spans[i][1] <= spans[j][0] or spans[j][1] <= spans[i][0]
                empty = spans[i][0] == spans[i][1] or spans[j][0] == spans[j][1]
                assert apart or empty, (a, b, spans[i], spans[j])


@given(lifetimes(static_sizes))
@quick
def test_buffers_that_live_together_lie_apart(buffers: list[Lifetime]) -> None:
    plan = plan_memory(buffers, [evaluate(b.size, {}) for b in buffers])
    assert isinstance(plan.size, int)
    check(buffers, plan, {})


@given(lifetimes(symbolic_sizes))
@quick
def test_symbolic_buffers_that_live_together_lie_apart(buffers: list[Lifetime]) -> None:
    likely = {"N": 64, "threads": 2}
    plan = plan_memory(buffers, [evaluate(b.size, likely) for b in buffers])
    for n in (0, 1, 7, 100):
        for threads in (1, 5):
            check(buffers, plan, {"N": n, "threads": threads})


def test_a_chain_of_equal_buffers_takes_two() -> None:
    buffers = [Lifetime(1000, i, i + 1) for i in range(10)]
    assert plan_memory(buffers, [1000] * 10).size == 2048


def test_a_chain_of_symbolic_buffers_takes_two_slots() -> None:
    buffers = [Lifetime(64 * N, i, i + 1) for i in range(10)]
    assert plan_memory(buffers, [4096] * 10).size == 128 * N


def test_memory_for_threads_comes_last_and_leaves_static_offsets_static() -> None:
    buffers = [Lifetime(THREADS * 64, 0, 3), Lifetime(100, 1, 2), Lifetime(200, 2, 3)]
    plan = plan_memory(buffers, [128, 100, 200])
    assert all(isinstance(offset, int) for offset in plan.offsets)
    assert plan.offsets[0] == max(plan.offsets)  # type: ignore[type-var]


def test_no_buffers_need_no_memory() -> None:
    assert plan_memory([], []) == MemoryPlan((), 0)
