"""Einsum as transposes, reshapes and matrix products, two operands at a time."""

from __future__ import annotations

from collections.abc import Sequence

from tfc.compiler.frontends.onnx.context import Context, Results, Rule
from tfc.compiler.frontends.onnx.movement import part
from tfc.ir.build import tensor_type
from tfc.ir.core import Value
from tfc.ir.dims import DimLike, product

# Characters that an equation cannot contain stand for the axes of an ellipsis, the last one last.
_ELLIPSIS = "".join(chr(0xE000 + i) for i in range(64))


def _einsum(ctx: Context) -> Results:
    operands = ctx.operands()
    terms, output = _parse(ctx, ctx.string("equation"), operands)
    taken = [_diagonals(ctx, x, term) for x, term in zip(operands, terms, strict=True)]
    sizes = _sizes(ctx, taken)
    inputs = [_without_ones(ctx, x, labels, sizes) for x, labels in taken]
    x, labels = inputs[0]
    for position in range(1, len(inputs)):
        later = set(output).union(*(labels for _, labels in inputs[position + 1 :]))
        x, labels = _product(ctx, x, labels, *inputs[position], later, sizes)
    x, labels = _summed(ctx, x, labels, set(output))
    return _permuted(ctx, x, labels, output)


def _parse(ctx: Context, equation: str, operands: Sequence[Value]) -> tuple[list[str], str]:
    """The labels of each operand's axes, and of the result's."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(operands):
        raise ctx.malformed(f"equation {equation!r} has {len(terms)} terms")
    ranks = [tensor_type(x).rank for x in operands]
    dots = [_dots(ctx, term, rank) for term, rank in zip(terms, ranks, strict=True)]
    longest = max(dots, key=len)
    found = [term.replace("...", own) for term, own in zip(terms, dots, strict=True)]
    for term, rank in zip(found, ranks, strict=True):
        if len(term) != rank:
            raise ctx.malformed(f"equation {equation!r} does not fit its operands")
    together = "".join(found)
    if not arrow:
        once = [c for c in together if together.count(c) == 1 and c not in longest]
        return found, longest + "".join(sorted(once))
    if longest and "..." not in right:
        raise ctx.malformed(f"the result of equation {equation!r} has no ellipsis")
    output = right.replace("...", longest)
    if len(set(output)) < len(output) or not set(output) <= set(together):
        raise ctx.malformed(f"the result of equation {equation!r}")
    return found, output


def _dots(ctx: Context, term: str, rank: int) -> str:
    """The labels that an ellipsis in a term stands for; those of several terms end alike."""
    letters = term.replace("...", "", 1)
    if not all(c.isascii() and c.isalpha() for c in letters):
        raise ctx.malformed(f"the term {term!r}")
    width = rank - len(letters)
    if letters == term or width == 0:
        return ""
    if not 0 < width <= len(_ELLIPSIS):
        raise ctx.malformed(f"the term {term!r} for rank {rank}")
    return _ELLIPSIS[-width:]


def _diagonals(ctx: Context, x: Value, labels: str) -> tuple[Value, str]:
    """Take the diagonal of axes with one label, until there are none."""
    for label in dict.fromkeys(labels):
        while labels.count(label) > 1:
            first = labels.index(label)
            second = labels.index(label, first + 1)
            x = _diagonal(ctx, x, first, second, label)
            rest = "".join(c for axis, c in enumerate(labels) if axis not in (first, second))
            labels = rest + label
    return x, labels


def _diagonal(ctx: Context, x: Value, first: int, second: int, label: str) -> Value:
    """The elements at which two axes have one index, along a new last axis.

    Of a square with n more elements, taken as rows of n + 1, they are the first column.
    """
    shape = tensor_type(x).shape
    ctx.equate(shape[first], shape[second])
    n = shape[first]
    if n != shape[second]:
        raise ctx.malformed(f"label {label!r} is {n} and {shape[second]} in one term")
    others = tuple(axis for axis in range(len(shape)) if axis not in (first, second))
    outer = tuple(shape[axis] for axis in others)
    x = ctx.b.transpose(x, perm=(*others, first, second))
    flat = ctx.b.reshape(x, shape=(*outer, n * n))
    none = (0,) * len(outer)
    padded = ctx.b.pad(flat, lo=(*none, 0), hi=(*none, n), mode="constant")
    rows = ctx.b.reshape(padded, shape=(*outer, n, n + 1))
    column = part(ctx, rows, {len(outer) + 1: (0, 1, 1)})
    return ctx.reshape(column, (*outer, n))


def _sizes(ctx: Context, taken: Sequence[tuple[Value, str]]) -> dict[str, DimLike]:
    """The size of each label: 1 only where it is 1 everywhere."""
    sizes: dict[str, DimLike] = {}
    for x, labels in taken:
        for label, dim in zip(labels, tensor_type(x).shape, strict=True):
            known = sizes.setdefault(label, dim)
            if known == 1:
                sizes[label] = dim
            elif dim not in (1, known):
                ctx.equate(known, dim)
                error = ctx.malformed if isinstance(known - dim, int) else ctx.unsupported
                raise error(f"label {label!r} is {known} and {dim}")
    return sizes


def _without_ones(
    ctx: Context, x: Value, labels: str, sizes: dict[str, DimLike]
) -> tuple[Value, str]:
    """Drop axes of one element that others have more of: without the label it is repeated."""
    shape = tensor_type(x).shape
    kept = [axis for axis, label in enumerate(labels) if shape[axis] == sizes[label]]
    x = ctx.reshape(x, [shape[axis] for axis in kept])
    return x, "".join(labels[axis] for axis in kept)


def _summed(ctx: Context, x: Value, labels: str, kept: set[str]) -> tuple[Value, str]:
    """Sum over the axes whose labels nothing else reads."""
    axes = tuple(axis for axis, label in enumerate(labels) if label not in kept)
    if not axes:
        return x, labels
    found: Value = ctx.b.reduce_sum(x, axes=axes, keepdims=False)
    return found, "".join(label for label in labels if label in kept)


def _permuted(ctx: Context, x: Value, labels: str, wanted: str) -> Value:
    if labels == wanted:
        return x
    found: Value = ctx.b.transpose(x, perm=tuple(labels.index(label) for label in wanted))
    return found


def _product(
    ctx: Context,
    x: Value,
    x_labels: str,
    y: Value,
    y_labels: str,
    later: set[str],
    sizes: dict[str, DimLike],
) -> tuple[Value, str]:
    """One batched matrix product [batch, rows, inner] x [batch, inner, columns]."""
    x, x_labels = _summed(ctx, x, x_labels, later | set(y_labels))
    y, y_labels = _summed(ctx, y, y_labels, later | set(x_labels))
    shared = [label for label in x_labels if label in y_labels]
    batch = "".join(label for label in shared if label in later)
    inner = "".join(label for label in shared if label not in later)
    rows = "".join(label for label in x_labels if label not in shared)
    columns = "".join(label for label in y_labels if label not in shared)

    def dims(labels: str) -> tuple[DimLike, ...]:
        return tuple(sizes[label] for label in labels)

    def matrix(v: Value, labels: str, first: str, second: str) -> Value:
        moved = _permuted(ctx, v, labels, batch + first + second)
        return ctx.reshape(moved, (*dims(batch), product(dims(first)), product(dims(second))))

    z: Value = ctx.b.matmul(matrix(x, x_labels, rows, inner), matrix(y, y_labels, inner, columns))
    labels = batch + rows + columns
    return ctx.reshape(z, dims(labels)), labels


RULES: dict[str, tuple[Rule, ...]] = {"Einsum": (Rule(_einsum),)}
