"""TfIdfVectorizer on integers: how often n-grams of a pool are in rows of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from tfc.compiler.frontends.onnx.context import Array, Context, Results, Rule
from tfc.compiler.frontends.onnx.movement import part
from tfc.ir.build import tensor_type
from tfc.ir.core import Value
from tfc.ir.dims import maximum
from tfc.ir.types import F32, I64

MAX_PLACES = 1 << 27
# Comparisons of rows with tokens of n-grams, each of which is ops of its own.
MAX_COMPARISONS = 1 << 12
MODES = ("TF", "IDF", "TFIDF")


def _vectorizer(ctx: Context) -> Results:
    """For each n: which tokens are which parts of which n-grams, all of them, and their sum."""
    x, rank = ctx.cast(ctx.x(), I64), ctx.type().rank
    if ctx.has_attr("pool_strings"):
        raise ctx.unsupported("a pool of strings; integers are supported")
    if rank not in (1, 2) or ctx.type().dtype.is_float:
        raise ctx.malformed(f"takes integers of rank 1 or 2, not {ctx.type()}")
    mode = ctx.string("mode")
    if mode not in MODES:
        raise ctx.malformed(f"mode {mode!r} is none of {', '.join(MODES)}")
    rows = ctx.reshape(x, (1, *ctx.shape())) if rank == 1 else x
    places = np.array(ctx.integers("ngram_indexes") or (), np.int64)
    if places.size == 0 or places.min() < 0:
        raise ctx.malformed("attribute 'ngram_indexes' has no places")
    if places.max() >= MAX_PLACES:
        raise ctx.unsupported(f"results of {places.max() + 1} places")
    weights = _weights(ctx, mode, places.size)
    skips = ctx.integer("max_skip_count") + 1
    counts = []
    shortest, longest = ctx.integer("min_gram_length"), ctx.integer("max_gram_length")
    for grams in _pool(ctx, places.size):
        counts.append(
            _counted(ctx, rows, grams, skips)
            if shortest <= grams.shape[1] <= longest
            else ctx.b.full((tensor_type(rows).shape[0], len(grams)), 0, F32)
        )
    found: Value = ctx.b.concat(*counts, axis=1) if len(counts) > 1 else counts[0]
    if mode == "IDF":
        found = ctx.cast(ctx.b.gt(found, ctx.scalar(0, found)), F32)
    if weights is not None:
        found = ctx.b.mul(found, ctx.b.constant(weights))
    found = _placed(ctx, found, places)
    return ctx.reshape(found, tensor_type(found).shape[1:]) if rank == 1 else found


def _weights(ctx: Context, mode: str, count: int) -> Array | None:
    """A weight for each n-gram of the pool, where the mode has any."""
    found = ctx.reals("weights")
    if found is None or mode == "TF":
        return None
    if len(found) != count:
        raise ctx.malformed(f"{len(found)} weights for {count} n-grams")
    return np.array(found, np.float32)


def _pool(ctx: Context, count: int) -> list[Array]:
    """The n-grams of the pool, for each n one to a row."""
    pool = np.array(ctx.integers("pool_int64s") or (), np.int64)
    starts = [*(ctx.integers("ngram_counts") or ()), pool.size]
    found = []
    for n, (start, end) in enumerate(pairwise(starts), 1):
        if not 0 <= start <= end or (end - start) % n:
            raise ctx.malformed(f"tokens {start} to {end} of the pool are no {n}-grams")
        if end > start:
            found.append(pool[start:end].reshape(-1, n))
    if sum(map(len, found)) != count:
        raise ctx.malformed(f"{sum(map(len, found))} n-grams for {count} places")
    return found


def _counted(ctx: Context, rows: Value, grams: Array, skips: int) -> Value:
    """How often each n-gram is in each row, with its tokens up to `skips` apart."""
    batch, length = tensor_type(rows).shape
    n = grams.shape[1]
    total: Value = ctx.b.full((batch, len(grams)), 0, I64)
    steps = skips if n > 1 else 1
    if isinstance(length, int) and n > 1:
        steps = min(steps, (length - 1) // (n - 1))
    if n * steps > MAX_COMPARISONS:
        raise ctx.unsupported(f"{n}-grams with up to {steps - 1} tokens skipped, in {length}")
    for step in range(1, steps + 1):
        size = maximum(length - (n - 1) * step, 0)
        hits: Value | None = None
        for i in range(n):
            tokens = ctx.reshape(part(ctx, rows, {1: (i * step, size, 1)}), (batch, size, 1))
            hit = ctx.b.eq(tokens, ctx.b.constant(grams[:, i]))
            hits = hit if hits is None else getattr(ctx.b, "and")(hits, hit)
        assert hits is not None
        found = ctx.b.reduce_sum(ctx.cast(hits, I64), axes=(1,), keepdims=False)
        total = ctx.b.add(total, found)
    return ctx.cast(total, F32)


def _placed(ctx: Context, counts: Value, places: Sequence[int] | Array) -> Value:
    """Each n-gram's number at its place; those of one place are added up."""
    width = int(np.max(places)) + 1
    levels: list[Array] = []
    for gram, place in enumerate(places):
        level = next((row for row in levels if row[place] < 0), None)
        if level is None:
            level = np.full(width, -1, np.int64)
            levels.append(level)
        level[place] = gram
    total: Value | None = None
    for level in levels:
        taken = ctx.b.gather(counts, ctx.b.constant(np.maximum(level, 0)), axis=1)
        if (level < 0).any():
            taken = ctx.b.select(ctx.b.constant(level >= 0), taken, ctx.scalar(0, taken))
        total = taken if total is None else ctx.b.add(total, taken)
    assert total is not None
    return total


RULES: dict[str, tuple[Rule, ...]] = {"TfIdfVectorizer": (Rule(_vectorizer),)}
