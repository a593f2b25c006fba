"""Makes the padding of contractions an op: lowering stores its result with a border in place."""

from __future__ import annotations

from dataclasses import replace

from tfc.compiler.rewrite import Rewriter, rewrite
from tfc.ir.core import Op


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


PADDING = (padding_before_conv,)
