"""The remainder of floats, C's fmod: exact, by long division of the fractions, without libm.

A scalar helper function per element type in the module that needs it, called lane by lane.
"""

from __future__ import annotations

from string import Template

from tfc.compiler.codegen.builder import Builder
from tfc.compiler.codegen.llvm_types import element, vector
from tfc.ir.types import F64, DType

# $S bits of the quotient per step: as many as keep the shifted fraction within 64 bits.
_TEXT = Template("""\
define internal $T @tfc_fmod_$N($T %x, $T %y) #0 {
entry:
  %xi = bitcast $T %x to i$W
  %yi = bitcast $T %y to i$W
  %xw = $EXTEND
  %yw = $EXTEND_Y
  %xa = and i64 %xw, $MAX
  %ya = and i64 %yw, $MAX
  %sign = xor i64 %xw, %xa
  %y_zero = icmp eq i64 %ya, 0
  %y_nan = icmp ugt i64 %ya, $INF
  %x_not_finite = icmp uge i64 %xa, $INF
  %bad0 = or i1 %y_zero, %y_nan
  %bad = or i1 %bad0, %x_not_finite
  br i1 %bad, label %invalid, label %finite
invalid:
  %nan_product = fmul $T %x, %y
  %nan = fdiv $T %nan_product, %nan_product
  ret $T %nan
finite:
  %less = icmp ult i64 %xa, %ya
  br i1 %less, label %same, label %divide
same:
  ret $T %x
divide:
  %xe0 = lshr i64 %xa, $F
  %ye0 = lshr i64 %ya, $F
  %xf = and i64 %xa, $FRACTION
  %yf = and i64 %ya, $FRACTION
  %x_normal = icmp ne i64 %xe0, 0
  %y_normal = icmp ne i64 %ye0, 0
  %x_hidden = select i1 %x_normal, i64 $HIDDEN, i64 0
  %y_hidden = select i1 %y_normal, i64 $HIDDEN, i64 0
  %xm = or i64 %xf, %x_hidden
  %ym = or i64 %yf, %y_hidden
  %xe = call i64 @llvm.umax.i64(i64 %xe0, i64 1)
  %ye = call i64 @llvm.umax.i64(i64 %ye0, i64 1)
  %d0 = sub i64 %xe, %ye
  %m0 = urem i64 %xm, %ym
  br label %loop
loop:
  %d = phi i64 [ %d0, %divide ], [ %d1, %step ]
  %m = phi i64 [ %m0, %divide ], [ %m1, %step ]
  %more = icmp ne i64 %d, 0
  br i1 %more, label %step, label %done
step:
  %s = call i64 @llvm.umin.i64(i64 %d, i64 $S)
  %shifted = shl i64 %m, %s
  %m1 = urem i64 %shifted, %ym
  %d1 = sub i64 %d, %s
  br label %loop
done:
  %is_zero = icmp eq i64 %m, 0
  %lead = call i64 @llvm.ctlz.i64(i64 %m, i1 false)
  %gap = sub i64 %lead, $LEAD
  %room = sub i64 %ye, 1
  %up = call i64 @llvm.umin.i64(i64 %gap, i64 %room)
  %fraction = shl i64 %m, %up
  %e = sub i64 %room, %up
  %exponent = shl i64 %e, $F
  %sum = add i64 %exponent, %fraction
  %size = select i1 %is_zero, i64 0, i64 %sum
  %bits = or i64 %size, %sign
  $TRUNCATE
  %result = bitcast i$W %short to $T
  ret $T %result
}""")


def fmod(b: Builder, dtype: DType, lanes: int, x: str, y: str) -> str:
    """Return x - y * trunc(x / y) without rounding; NaN where y is 0 or x infinite."""
    of = element(dtype)
    helper = f"@tfc_fmod_{dtype}"
    if helper not in b.helpers:
        b.helpers.add(helper)
        b.functions.append(_text(dtype))
        for name in ("umax", "umin"):
            b.declare("i64", f"@llvm.{name}.i64", ("i64", "i64"))
        b.declare("i64", "@llvm.ctlz.i64", ("i64", "i1"))
    if not lanes:
        return b.let(of, f"call {of} {helper}({of} {x}, {of} {y})", x, y)
    type = vector(of, lanes)
    result = "poison"
    for lane in range(lanes):
        left, right = (b.let(of, f"extractelement {type} {v}, i64 {lane}", v) for v in (x, y))
        one = b.let(of, f"call {of} {helper}({of} {left}, {of} {right})", left, right)
        result = b.let(type, f"insertelement {type} {result}, {of} {one}, i64 {lane}", result, one)
    return result


def _text(dtype: DType) -> str:
    double = dtype == F64
    width, fraction = (64, 52) if double else (32, 23)
    return _TEXT.substitute(
        T=element(dtype),
        N=dtype.name,
        W=width,
        F=fraction,
        S=63 - fraction,
        LEAD=63 - fraction,
        MAX=2 ** (width - 1) - 1,
        INF=(2047 if double else 255) << fraction,
        FRACTION=2**fraction - 1,
        HIDDEN=2**fraction,
        EXTEND="add i64 %xi, 0" if double else "zext i32 %xi to i64",
        EXTEND_Y="add i64 %yi, 0" if double else "zext i32 %yi to i64",
        TRUNCATE=f"%short = {'add i64 %bits, 0' if double else 'trunc i64 %bits to i32'}",
    )
