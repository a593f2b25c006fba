"""Where ONNX Runtime is not asked, or not believed, and why. Not test cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from tests.fuzz.onnx_values import Array, is_float, is_integer

Operands = Sequence[Any]
"""Arrays; None for an operand that is left out."""
Applies = Callable[[Mapping[str, Any], Operands, Sequence[Array]], bool]


@dataclass(frozen=True)
class Deviation:
    """applies: of a node's attributes, operands and results by the interpreter.

    before: the first version of the operators that has it no longer.
    """

    reason: str
    applies: Applies
    before: int | None = None


def _zero_divisor(attrs: Mapping[str, Any], x: Operands, y: Sequence[Array]) -> bool:
    if is_float(x[1].dtype) or x[1].dtype == np.bool_:
        return False
    least = x[0].dtype.kind == "i" and bool((x[0] == np.iinfo(x[0].dtype).min).any())
    return bool((x[1] == 0).any() or (least and (x[1] == np.array(-1, x[1].dtype)).any()))


def _out_of_range(attrs: Mapping[str, Any], x: Operands, y: Sequence[Array]) -> bool:
    to = y[0].dtype
    if not is_float(x[0].dtype) or not is_integer(to):
        return False
    info = ml_dtypes.iinfo(to)
    wide = x[0].astype(np.float64)
    return not bool((np.isfinite(wide) & (wide >= info.min) & (wide <= info.max)).all())


def _nan(attrs: Mapping[str, Any], x: Operands, y: Sequence[Array]) -> bool:
    return any(a is not None and is_float(a.dtype) and bool(np.isnan(a).any()) for a in (*x, *y))


def _wide_shift(attrs: Mapping[str, Any], x: Operands, y: Sequence[Array]) -> bool:
    return bool((x[1] >= 8 * x[1].dtype.itemsize).any())


def _integer_sum(attrs: Mapping[str, Any], x: Operands, y: Sequence[Array]) -> bool:
    if x[0].dtype.kind not in "iu" or not x[0].size:
        return False
    wide = np.abs(x[0].astype(np.float64))
    most = max(float((wide**2).sum()), float(np.maximum(wide, 1).prod()))
    return most > np.iinfo(x[0].dtype).max or most > 2**53


def _nothing(attrs: Mapping[str, Any], x: Operands, y: Sequence[Array]) -> bool:
    return any(a is not None and a.size == 0 for a in x)


def _doubles(attrs: Mapping[str, Any], x: Operands, y: Sequence[Array]) -> bool:
    return bool(x[0].dtype == np.float64)


def _unbounded(attrs: Mapping[str, Any], x: Operands, y: Sequence[Array]) -> bool:
    return is_float(x[0].dtype) and not bool(np.isfinite(x[0]).all())


def _dilated_same(attrs: Mapping[str, Any], x: Operands, y: Sequence[Array]) -> bool:
    kernel = attrs.get("kernel_shape", [])
    sparse = any(s > k for s, k in zip(attrs.get("strides", []), kernel, strict=False))
    dilated = max(attrs.get("dilations", [1])) > 1
    return bool((dilated or sparse) and attrs.get("auto_pad", b"").startswith(b"SAME"))


def _halves(attrs: Mapping[str, Any], x: Operands, y: Sequence[Array]) -> bool:
    return bool(x[0].dtype == np.float16)


def _half_bias(attrs: Mapping[str, Any], x: Operands, y: Sequence[Array]) -> bool:
    return _halves(attrs, x, y) and len(x) > 2 and not bool(np.isfinite(y[0]).all())


def _powers(attrs: Mapping[str, Any], x: Operands, y: Sequence[Array]) -> bool:
    """Whether the result may be beyond what f64 holds exactly."""
    if is_float(x[0].dtype):
        return False
    with np.errstate(all="ignore"):
        exact = x[0].astype(np.float64) ** x[1].astype(np.float64)
    return not bool((np.abs(exact) < min(2.0**52, np.iinfo(x[0].dtype).max)).all())


def _large_integers(attrs: Mapping[str, Any], x: Operands, y: Sequence[Array]) -> bool:
    return any(
        a is not None and not is_float(a.dtype) and bool((np.abs(a.astype(np.float64)) > 1e3).any())
        for a in x
    )


def _no_maximum(attrs: Mapping[str, Any], x: Operands, y: Sequence[Array]) -> bool:
    return is_float(y[0].dtype) and bool(np.isneginf(y[0].astype(np.float64)).any())


def _huge(attrs: Mapping[str, Any], x: Operands, y: Sequence[Array]) -> bool:
    finite = x[0][np.isfinite(x[0])]
    return is_float(x[0].dtype) and float(np.abs(finite).max(initial=0)) > 1e37


def _infinite_scale(attrs: Mapping[str, Any], x: Operands, y: Sequence[Array]) -> bool:
    return not bool(np.isfinite(x[1].astype(np.float64)).all())


def _rounded_corners(attrs: Mapping[str, Any], x: Operands, y: Sequence[Array]) -> bool:
    mode = attrs.get("coordinate_transformation_mode", b"")
    return bool(mode == b"align_corners" and len(x) > 2 and x[2] is not None and x[2].size)


def _far_grid(attrs: Mapping[str, Any], x: Operands, y: Sequence[Array]) -> bool:
    return bool((np.abs(x[1].astype(np.float64)) > 1e6).any())


def _large_exponents(attrs: Mapping[str, Any], x: Operands, y: Sequence[Array]) -> bool:
    return bool((np.abs(x[0].astype(np.float64)) > 80).any())


def _no_beta(attrs: Mapping[str, Any], x: Operands, y: Sequence[Array]) -> bool:
    return attrs.get("beta") == 0 and not bool(np.isfinite(x[-1]).all())


def _lone(attrs: Mapping[str, Any], x: Operands, y: Sequence[Array]) -> bool:
    return bool(x[0][0, 0].size == 1)


def _flat(attrs: Mapping[str, Any], x: Operands, y: Sequence[Array]) -> bool:
    axes = tuple(attrs.get("axes", (0, 2, 3)))
    if not x[0].size:
        return True
    return bool((np.ptp(x[0].astype(np.float64), axis=axes) < 0.1).any())


def _corners(attrs: Mapping[str, Any], x: Operands, y: Sequence[Array]) -> bool:
    mode = attrs.get("coordinate_transformation_mode", b"")
    whole = not is_float(x[0].dtype)
    return bool(attrs.get("antialias", 0)) and (whole or mode == b"align_corners")


def _wide(attrs: Mapping[str, Any], x: Operands, y: Sequence[Array]) -> bool:
    given = [a.astype(np.float64) for a in x if a is not None and is_float(a.dtype)]
    return not all(bool((np.abs(a) < 8).all()) for a in given)


def _no_finite(attrs: Mapping[str, Any], x: Operands, y: Sequence[Array]) -> bool:
    return not bool(np.isfinite(y[0].astype(np.float64)).all())


def _made_doubles(attrs: Mapping[str, Any], x: Operands, y: Sequence[Array]) -> bool:
    return bool(y[0].dtype == np.float64)


def _trains(attrs: Mapping[str, Any], x: Operands, y: Sequence[Array]) -> bool:
    return len(x) > 2


def _lone_sample(attrs: Mapping[str, Any], x: Operands, y: Sequence[Array]) -> bool:
    return int(x[0]) == 1 and not is_float(y[0].dtype)


def _half_beyond(attrs: Mapping[str, Any], x: Operands, y: Sequence[Array]) -> bool:
    return _halves(attrs, x, y) and _no_finite(attrs, x, y)


def _flat_groups(attrs: Mapping[str, Any], x: Operands, y: Sequence[Array]) -> bool:
    if not x[0].size:
        return True
    groups = x[0].astype(np.float64).reshape(x[0].shape[0], attrs["num_groups"], -1)
    return bool((groups.var(-1) < 0.05 * (groups**2).mean(-1)).any())


def _far_offsets(attrs: Mapping[str, Any], x: Operands, y: Sequence[Array]) -> bool:
    return not bool((np.abs(x[2].astype(np.float64)) < 1e6).all())


def _no_rows(attrs: Mapping[str, Any], x: Operands, y: Sequence[Array]) -> bool:
    return any(a.size == 0 for a in y)


def _one_position(attrs: Mapping[str, Any], x: Operands, y: Sequence[Array]) -> bool:
    return bool(attrs.get("align_corners") and 1 in x[1][2:])


def _other_extent(attrs: Mapping[str, Any], x: Operands, y: Sequence[Array]) -> bool:
    kernel = attrs["kernel_shape"]
    strides = attrs.get("strides", [1] * len(kernel))
    sides = zip(x[0].shape[2:], strides, kernel, strict=True)
    return len(x) > 2 and [(n - 1) * s + k for n, s, k in sides] != list(x[2][2:])


def _beside_borders(attrs: Mapping[str, Any], x: Operands, y: Sequence[Array]) -> bool:
    """Whether cubic neighbours of places beyond the border differ from those of the border."""
    if attrs.get("mode") not in (b"cubic", b"bicubic") or attrs.get("padding_mode") != b"border":
        return False
    extents = np.array(x[0].shape[:1:-1], np.float64)
    spread = extents - 1 if attrs.get("align_corners") else extents
    away = np.abs(x[1].astype(np.float64)) * spread / 2 - (extents - 1) / 2
    return bool(((away > 0) & (away < 2)).any())


def _dilated(attrs: Mapping[str, Any], x: Operands, y: Sequence[Array]) -> bool:
    return len(x[1]) != 2 and max(attrs.get("dilations", [1])) > 1


def _from_the_end(attrs: Mapping[str, Any], x: Operands, y: Sequence[Array]) -> bool:
    return bool((x[0] < 0).any())


def _saturated_silu(attrs: Mapping[str, Any], x: Operands, y: Sequence[Array]) -> bool:
    small = (y[0] < 0) & (y[0].astype(np.float64) > -1e-4)
    return attrs.get("activation", b"none") != b"none" and bool(small.any())


def _integers(attrs: Mapping[str, Any], x: Operands, y: Sequence[Array]) -> bool:
    return x[0] is not None and not is_float(x[0].dtype)


_CAST = Deviation("a float out of the integer's range has no defined value", _out_of_range)
_DIVISION = Deviation("integers divided by zero, and the least by -1, trap", _zero_divisor)
_ORDER = Deviation("NaN is not ordered as here, where it is the extreme element", _nan)
_SUM = Deviation("integers are summed in floats, and saturate", _integer_sum)
_EMPTY = Deviation(
    "the mean of nothing is 0, and the product over nothing what memory holds", _nothing
)
_F32 = Deviation("attributes of f64 have the precision of f32", _doubles)
_ENDS = Deviation("infinities and NaN do not come out as of the formula", _unbounded)
_SAME = Deviation("SAME leaves dilations out of account, and pads by less than 0", _dilated_same)
_HALF = Deviation("f16 is summed in f16", _halves)
_WIDER = Deviation("f16 is summed in wider numbers", _half_beyond)
_LOST = Deviation("NaN is lost by comparisons, or by vectors of sigmoids", _nan)
DEVIATIONS: dict[str, Sequence[Deviation]] = {
    **dict.fromkeys(("Div", "Mod"), (_DIVISION,)),
    **dict.fromkeys(("Cast", "CastLike"), (_CAST,)),
    **dict.fromkeys(
        (
            "ReduceMax", "ReduceMin", "ArgMax", "ArgMin", "TopK", "GlobalMaxPool", "Hardmax",
            "MaxRoiPool",
        ),
        (_ORDER,),
    ),
    **{f"Reduce{n}": (_SUM, _EMPTY) for n in ("Sum", "Prod", "L1", "L2", "SumSquare")},
    "ReduceLogSum": (_EMPTY, Deviation("the logarithm becomes an integer anyhow", _integers)),
    "ReduceMean": (_SUM, _EMPTY),
    "ReduceLogSumExp": (
        _SUM, _EMPTY, _LOST, Deviation("the logarithm becomes an integer anyhow", _integers),
        Deviation("over single elements it is log(exp(x)), which overflows", _large_exponents),
    ),
    **dict.fromkeys(("QLinearMatMul", "MatMul", "MatMulInteger"), (_EMPTY,)),
    "Gemm": (_EMPTY, _HALF, Deviation("beta = 0 leaves C out, and with it NaN", _no_beta)),
    **dict.fromkeys(
        (
            "LayerNormalization", "HardSwish",
            "LeakyRelu", "HardSigmoid", "Selu", "RMSNormalization", "Elu",
            "Celu", "Swish", "ThresholdedRelu",
        ),
        (_F32, _LOST),
    ),
    "GroupNormalization": (
        _F32, _LOST, Deviation("the variance is a difference of squares: it cancels", _flat_groups),
    ),
    "NegativeLogLikelihoodLoss": (_WIDER,),
    "SoftmaxCrossEntropyLoss": (_WIDER, _ENDS),
    "BatchNormalization": (_F32, _LOST, Deviation("without channels it traps", _nothing)),
    "InstanceNormalization": (
        _F32, _LOST, Deviation("x - x is not 0, but scaled first", _lone),
        Deviation("an infinite scale comes before the mean", _infinite_scale),
    ),
    "ConvTranspose": (Deviation("the bias comes before the sum is rounded to f16", _half_bias),),
    **dict.fromkeys(("RNN", "GRU", "LSTM"), (_LOST, _HALF, Deviation("gates are clamped", _wide))),
    "MeanVarianceNormalization": (
        _F32, _LOST, _ENDS, _HALF, Deviation("a variance of 0 comes out as below 0", _flat),
    ),
    "Pow": (Deviation("integers go through floats", _powers),),
    "GlobalLpPool": (_HALF, _F32),
    "MaxPool": (
        _ORDER, _SAME, Deviation("the maximum of no number is the least one", _no_maximum),
    ),
    "LpPool": (_SAME, _F32, _HALF),
    "LRN": (_HALF, _F32, Deviation("sums of squares slide, and cancel", _wide)),
    **dict.fromkeys(("Unique", "NonMaxSuppression"), (_ORDER,)),
    "Scan": (Deviation("stacks without elements trap", _no_rows),),
    "Loop": (Deviation("stacks of no rounds may have no further dims", _no_rows),),
    **dict.fromkeys(("ScatterND", "ScatterElements"), (_LOST,)),
    **dict.fromkeys(("Softmax", "LogSoftmax"), (_ENDS,)),
    "BitShift": (Deviation("a shift by the width or more has no defined value", _wide_shift),),
    **dict.fromkeys(("QuantizeLinear", "DynamicQuantizeLinear"), (_ENDS,)),
    **dict.fromkeys(("Sign",), (_LOST,)),
    "Gelu": (_F32,),
    "LpNormalization": (_HALF,),
    "Einsum": (_HALF, Deviation("integers are multiplied as floats", _large_integers),),
    "Mean": (_HALF,),
    "Softplus": (Deviation("f64 overflows", _doubles),),
    "AveragePool": (_SAME, _HALF, Deviation("sums overflow before they are divided", _huge)),
    "GridSample": (
        _LOST, _HALF, Deviation("far coordinates have no defined value", _far_grid),
        Deviation("cubic neighbours are moved to the border, not the places", _beside_borders),
    ),
    "Col2Im": (Deviation("but in two dims, dilations mix up elements", _dilated),),
    "OneHot": (Deviation("negative indices always count from the end", _from_the_end, before=11),),
    "RotaryEmbedding": (Deviation("products are fused with sums, and reach further", _huge),),
    "Attention": (Deviation("infinite scores count as the largest finite ones", _no_finite),),
    "CausalConvWithState": (Deviation("SiLU ends at about -18, in 0", _saturated_silu),),
    "Resize": (
        _LOST, Deviation("filters that widen miss the corners, and integers", _corners),
        Deviation("align_corners goes by the rounded size", _rounded_corners),
        Deviation("integers go through f32", _large_integers),
        Deviation("beside an exact place an infinite one counts 0 times", _unbounded),
    ),
    "Upsample": (_LOST, Deviation("integers go through f32", _large_integers)),
    **dict.fromkeys(
        ("DFT", "STFT"),
        (
            Deviation("infinities are not of the formula", _no_finite),
            Deviation("products with chirps overflow", _huge),
        ),
    ),
    **dict.fromkeys(
        ("BlackmanWindow", "HammingWindow", "HannWindow"),
        (
            Deviation("f64 is computed in f32", _made_doubles),
            Deviation("0 / 0 as an integer has no defined value", _lone_sample),
        ),
    ),
    "RoiAlign": (
        Deviation("what is outside counts as 0 times the first element, not as 0", _unbounded),
    ),
    "Normalizer": (_LOST, Deviation("squares and sums of integers wrap", _integers)),
    "DeformConv": (
        Deviation("far places have no defined value", _far_offsets),
        Deviation("what is outside counts as 0 times an element", _unbounded),
    ),
    "AffineGrid": (Deviation("a lone position is 1, and not -1", _one_position),),
    "MaxUnpool": (
        Deviation("indices are in the shape given, not in that inferred as in onnx's cases",
                  _other_extent),
    ),
    **dict.fromkeys(
        (
            "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
            "RandomUniformLike",
        ),
        (Deviation("the random numbers are others", lambda attrs, x, y: True),),
    ),
    "Dropout": (Deviation("the random numbers are others", _trains),),
    "Clip": (Deviation("a bound left out is the largest finite number", _unbounded),),
    "Shrink": (Deviation("integers go through floats", _integers), _F32),
}  # fmt: skip
"""By operator; those of no name hold for all."""

ROUGH = {
    **dict.fromkeys(("Celu", "Elu", "Sigmoid", "Softplus", "Erf"), 4.0),
    **dict.fromkeys(("LSTM", "GRU", "RNN", "Tanh"), 4.0),
    **dict.fromkeys(("Resize", "Upsample"), 2.0),
    "Selu": 8.0,
    "InstanceNormalization": 16.0,
    **dict.fromkeys(("HammingWindow", "HannWindow", "BlackmanWindow"), 1.0),
    **dict.fromkeys(("DFT", "STFT"), 16.0),
}
"""Units of the largest result, or of 1, by which results may be missed: exp(x) - 1 and the like are
computed as written, equal neighbours are weighed, and waves are summed in f32."""
