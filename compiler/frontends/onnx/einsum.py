"""Einsum as transposes, reshapes and matrix products, two operands at a time."""

from __future__ import annotations

from collections.abc import Sequence

from tfc.compiler.frontends.onnx.context import Context, Results, Rule
from tfc.ir.build import tensor_type
from tfc.ir.core import Value
from tfc.ir.dims import DimLike, product

# Letters that an equation cannot contain stand for the axes of an ellipsis.
_ELLIPSIS = "0123456789"


def _einsum(ctx: Context) -> Results:
    operands = ctx.operands()
    inputs, output = _parse(ctx, ctx.string("equation"), operands)
    sizes: dict[str, DimLike] = {}
    for labels, x in zip(inputs, operands, strict=True):
        for label, dim in zip(labels, tensor_type(x).shape, strict=True):
            known = sizes.setdefault(label, dim)
            if known != 1 and dim != 1:
                ctx.equate(known, dim)
            if known == 1 or dim == 1:
                if known != dim:
                    raise ctx.unsupported(f"label {label!r} broadcasts {dim} to {known}")
            elif isinstance(known, int) and isinstance(dim, int) and known != dim:
                raise ctx.malformed(f"label {label!r} is {known} and {dim}")
    x, labels = operands[0], inputs[0]
    for position in range(1, len(operands)):
        later = set(output).union(*inputs[position + 1 :])
        x, labels = _product(ctx, x, labels, operands[position], inputs[position], later, sizes)
    x, labels = _summed(ctx, x, labels, set(output))
    return _permuted(ctx, x, labels, output)


def _parse(ctx: Context, equation: str, operands: Sequence[Value]) -> tuple[list[str], str]:
    text = equation.replace(" ", "")
    left, arrow, output = text.partition("->")
    terms = left.split(",")
    if len(terms) != len(operands):
        raise ctx.malformed(f"equation {equation!r} has {len(terms)} terms")
    widths = [
        tensor_type(x).rank - len(term.replace("...", ""))
        for term, x in zip(terms, operands, strict=True)
    ]
    spread = {width for term, width in zip(terms, widths, strict=True) if "..." in term}
    if len(spread) > 1 or any(not 0 <= width <= len(_ELLIPSIS) for width in spread):
        raise ctx.unsupported(f"ellipses of different ranks in {equation!r}")
    dots = _ELLIPSIS[: next(iter(spread), 0)]
    terms = [term.replace("...", dots) for term in terms]
    if not arrow:
        once = [c for c in "".join(terms) if "".join(terms).count(c) == 1 and c not in dots]
        output = dots + "".join(sorted(once))
    output = output.replace("...", dots)
    for term, x in zip(terms, operands, strict=True):
        if len(term) != tensor_type(x).rank or not all(c.isalnum() for c in term):
            raise ctx.malformed(f"equation {equation!r} does not fit its operands")
        if len(set(term)) < len(term):
            raise ctx.unsupported(f"a diagonal, in {equation!r}")
    if len(set(output)) < len(output) or not set(output) <= set("".join(terms)):
        raise ctx.malformed(f"the result of equation {equation!r}")
    return terms, output


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
