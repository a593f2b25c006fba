"""The padding of convolutions: taps that read nothing else go, and what is left becomes an op.

Lowering then stores the padded operand's result with a border in place.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tfc.compiler.evaluate import constant_array, is_constant
from tfc.compiler.rewrite import Fp, Rewriter, rewrite
from tfc.ir.build import tensor_type
from tfc.ir.core import Op


def _taps_in_padding(op: Op, axis: int) -> tuple[int, int]:
    """How many taps at either end of a spatial axis read padding at every place."""
    attrs = op.attrs
    size, count = (tensor_type(v).shape[2 + axis] for v in (op.operands[0], op.result))
    taps = tensor_type(op.operands[1]).shape[2 + axis]
    if not (isinstance(size, int) and isinstance(count, int) and isinstance(taps, int)):
        return 0, 0
    (lo, hi), step = attrs.pads[axis], attrs.dilations[axis]
    reach = (count - 1) * attrs.strides[axis]
    before = behind = 0
    while before < taps - 1 and reach + before * step < lo and (before + 1) * step <= lo:
        before += 1
    while behind < taps - 1 - before and (taps - 1 - behind) * step - lo >= size:
        if (behind + 1) * step > hi:
            break
        behind += 1
    return before, behind


@rewrite("conv", fp=Fp.REASSOCIATING)
def taps_in_padding(op: Op, rw: Rewriter) -> bool:
    """Finite weights of taps that see zeros alone add nothing: kernels wider than the picture."""
    x, w = op.operands
    shape = tensor_type(w).shape
    ends = [_taps_in_padding(op, axis) for axis in range(len(shape) - 2)]
    if not any(map(any, ends)) or not is_constant(w) or 0 in tensor_type(op.result).shape:
        return False
    if not np.all(np.isfinite(constant_array(w, rw.constants))):
        return False
    b = rw.builder(op)
    sizes = tuple(n - a - c for n, (a, c) in zip(shape[2:], ends, strict=True))
    fewer = b.slice(w, starts=(0, 0, *(a for a, _ in ends)), sizes=(*shape[:2], *sizes),
                    steps=(1,) * len(shape))  # fmt: skip
    pads = tuple(
        (lo - a * d, hi - c * d)
        for (lo, hi), (a, c), d in zip(op.attrs.pads, ends, op.attrs.dilations, strict=True)
    )
    rw.set_operands(op, (x, fewer))
    rw.set_attrs(op, replace(op.attrs, pads=pads))
    return True


@rewrite("conv")
def padding_before_conv(op: Op, rw: Rewriter) -> bool:
    pads = op.attrs.pads
    if not any(any(pair) for pair in pads):
        return False
    x, w = op.operands
    b = rw.builder(op)
    lo = (0, 0, *(pair[0] for pair in pads))
    hi = (0, 0, *(pair[1] for pair in pads))
    rw.set_operands(op, (b.pad(x, lo=lo, hi=hi, mode="constant"), w))
    rw.set_attrs(op, replace(op.attrs, pads=((0, 0),) * len(pads)))
    return True


TAPS = (taps_in_padding,)
PADDING = (padding_before_conv,)
