"""One node for each operator, each type parameter of its newest definition, each type allowed.

A template says the node; the operands of the parameter are brought into each type. What is
expected is computed on the same numbers in f64 or i64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tests.frontends import (
    opset_cases_elementwise,
    opset_cases_flow,
    opset_cases_movement,
    opset_cases_sums,
    opset_cases_windows,
)
from tests.frontends.cases import CASES
from tests.frontends.cases_more import MORE
from tests.frontends.support import Array, floats, ints, make_model, value_info

NEWEST = 28
Function = Callable[..., Sequence[Any]]

NUMPY: dict[str, Any] = {
    "float": np.float32, "double": np.float64, "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16, "bool": np.bool_, "int8": np.int8, "int16": np.int16,
    "int32": np.int32, "int64": np.int64, "uint8": np.uint8, "uint16": np.uint16,
    "uint32": np.uint32, "uint64": np.uint64, "int4": ml_dtypes.int4, "uint4": ml_dtypes.uint4,
    "int2": ml_dtypes.int2, "uint2": ml_dtypes.uint2, "float8e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8e4m3fnuz": ml_dtypes.float8_e4m3fnuz, "float8e5m2": ml_dtypes.float8_e5m2,
    "float8e5m2fnuz": ml_dtypes.float8_e5m2fnuz, "float8e8m0": ml_dtypes.float8_e8m0fnu,
    "float4e2m1": ml_dtypes.float4_e2m1fn, "float6e2m3": ml_dtypes.float6_e2m3fn,
    "float6e3m2": ml_dtypes.float6_e3m2fn,
}  # fmt: skip
# The widest range of the narrow integers.
LIMITS = {"int4": (-8, 7), "uint4": (0, 15), "int2": (-2, 1), "uint2": (0, 3)}


# Sizes of operands in templates, and larger ones that fit each other in the same way.
LARGE = {
    (3, 4): (37, 133), (4,): (133,), (1, 4): (1, 133), (3, 1): (37, 1), (2, 3): (37, 133),
    (2, 3, 4): (3, 37, 133), (2, 3, 4, 5): (2, 3, 35, 67), (2, 3, 7, 6): (2, 3, 35, 66),
}  # fmt: skip


@dataclass(frozen=True)
class Template:
    """A node. function: computes what is expected, where onnx's reference cannot.

    attributes: those that say the type, where no operand does.
    """

    op: str
    arrays: Sequence[Array | None]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    constant: Sequence[int] = ()
    outputs: int = 1
    function: Function | None = None
    attributes: Callable[[str], dict[str, Any]] | None = None
    enlarged: bool = False


@dataclass(frozen=True)
class Variant:
    """A template in one type."""

    template: Template
    parameter: str
    kind: str

    def __str__(self) -> str:
        return f"{self.template.op}-{self.parameter}-{self.kind}"

    def enlarged(self) -> Variant:
        """The same with operands of many elements, as far as it is known how to make them."""
        template, arrays = self.template, list(self.template.arrays)
        for i, array in enumerate(arrays):
            if array is not None and array.shape in LARGE and i not in template.constant:
                arrays[i] = _random(array, LARGE[array.shape], i)
        changed = any(a is not b for a, b in zip(arrays, template.arrays, strict=True))
        return replace(self, template=replace(template, arrays=arrays, enlarged=changed))

    def operands(self) -> list[Array | None]:
        """The operands, those of the parameter in the type."""
        schema = onnx.defs.get_schema(self.template.op)
        last = len(schema.inputs) - 1
        return [
            array
            if array is None or schema.inputs[min(i, last)].type_str != self.parameter
            else np.asarray(converted(np.asarray(array), self.kind))
            for i, array in enumerate(self.template.arrays)
        ]

    def attrs(self) -> dict[str, Any]:
        attrs = dict(self.template.attrs)
        if self.template.attributes is not None and self.by_attribute():
            attrs |= self.template.attributes(self.kind)
        return attrs

    def by_attribute(self) -> bool:
        """Whether the attribute, and no operand, has the type."""
        schema = onnx.defs.get_schema(self.template.op)
        return all(formal.type_str != self.parameter for formal in schema.inputs)

    def expected(self) -> list[Array]:
        """The results in f64 or i64, as far as they are numbers."""
        wide = [None if array is None else widened(array) for array in self.operands()]
        if self.template.function is not None:
            given = [None if a is None else a.copy() for a in wide]
            return [np.asarray(array) for array in self.template.function(*given)]
        model, feeds = one_model([(self, wide)])
        with np.errstate(all="ignore"):
            return [np.asarray(array) for array in ReferenceEvaluator(model).run(None, feeds)]


def one_model(
    entries: Sequence[tuple[Variant, Sequence[Array | None]]],
) -> tuple[Any, dict[str, Array]]:
    """Return a model of a node for each variant, side by side, and its inputs."""
    nodes, outputs = [], []
    stored: dict[str, Array] = {}
    feeds: dict[str, Array] = {}
    for k, (variant, operands) in enumerate(entries):
        template = variant.template
        names = ["" if array is None else f"x{k}_{i}" for i, array in enumerate(operands)]
        for i, array in enumerate(operands):
            if array is not None:
                (stored if i in template.constant else feeds)[f"x{k}_{i}"] = array
        results = [f"y{k}_{i}" for i in range(template.outputs)]
        nodes.append(
            helper.make_node(template.op, names, results, name=f"{variant}", **variant.attrs())
        )
        outputs += results
    inputs = [value_info(name, array) for name, array in feeds.items()]
    return make_model(nodes, inputs, outputs, NEWEST, stored), feeds


def is_float(dtype: Any) -> bool:
    return np.dtype(dtype).kind == "f" or "float" in np.dtype(dtype).name


def converted(array: Array, kind: str) -> Array:
    """Numbers of a template in another type: floats become small integers, and these positive."""
    dtype = np.dtype(NUMPY[kind])
    if array.dtype == dtype:
        return array
    if kind == "bool":
        return np.asarray(array > 0)
    if kind == "float8e8m0":
        return np.where(array > 0, 2.0, 1.0).astype(dtype)
    if is_float(dtype):
        return (np.clip(array, -6, 6) if dtype.itemsize == 1 else array).astype(dtype)
    numbers = np.round(array.astype(np.float64) * 2) if array.dtype.kind == "f" else array
    numbers = numbers.astype(np.int64)
    if kind.startswith("u"):
        numbers = np.abs(numbers)
    return np.clip(numbers, *LIMITS.get(kind, (None, None))).astype(dtype)


def widened(array: Array) -> Array:
    if array.dtype.kind == "b":
        return array
    return array.astype(np.float64 if is_float(array.dtype) else np.int64)


def _random(like: Array, shape: Sequence[int], seed: int) -> Array:
    """Numbers between the least and the greatest of another array."""
    numbers = np.random.default_rng(seed)
    if like.dtype.kind == "b":
        return np.asarray(numbers.uniform(size=shape) > 0.5)
    if not np.isfinite(like).all():
        return numbers.choice(like.reshape(-1), shape)
    lo, hi = like.min(), like.max()
    if like.dtype.kind == "f":
        return numbers.uniform(lo, hi, shape).astype(like.dtype)
    return numbers.integers(int(lo), int(hi) + 1, shape).astype(like.dtype)


def _code(kind: str) -> int:
    return helper.np_dtype_to_tensor_dtype(np.dtype(NUMPY[kind]))


def _tensor(kind: str) -> Any:
    return numpy_helper.from_array(np.array([1]).astype(NUMPY[kind]), "value")


def _global_norm(x: Array) -> list[Array]:
    return [np.sqrt((x * x).sum((2, 3), keepdims=True))]


def _normal(x: Array) -> list[Array]:
    axes = (0, 2, 3)
    centred = x - x.mean(axes, keepdims=True)
    return [centred / (np.sqrt((centred**2).mean(axes, keepdims=True)) + 1e-9)]


def _layer_norm(x: Array, scale: Array, bias: Array) -> list[Array]:
    mean, inverse = x.mean(1, keepdims=True), 1 / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    return [(x - mean) * inverse * scale + bias, mean, inverse]


def _lrn(x: Array) -> list[Array]:
    squares = np.pad(x * x, ((0, 0), (1, 1), (0, 0), (0, 0)))
    total = squares[:, :3] + squares[:, 1:4] + squares[:, 2:]
    return [x / (1 + 0.5 / 3 * total) ** 0.75]


def _erf(x: Array) -> Array:
    return np.asarray(opset_cases_elementwise._erf(x))


def _shrunk(x: Array) -> list[Array]:
    found = np.where(x < -1, x + 0.5, np.where(x > 1, x - 0.5, 0))
    return [found if x.dtype.kind == "f" else np.trunc(found).astype(np.int64)]


def _body(op: str) -> Any:
    """A graph that hands its input on."""
    inputs = [helper.make_empty_tensor_value_info("x")]
    if op == "Loop":
        inputs = [helper.make_tensor_value_info("i", TensorProto.INT64, ()),
                  helper.make_tensor_value_info("go", TensorProto.BOOL, ()), *inputs]  # fmt: skip
    names = ["go_on", "y", "z"] if op == "Loop" else ["y", "z"]
    sources = ["go", "x", "x"] if op == "Loop" else ["x", "x"]
    nodes = [
        helper.make_node("Identity", [source], [name])
        for source, name in zip(sources, names, strict=True)
    ]
    return helper.make_graph(
        nodes, "body", inputs, [helper.make_empty_tensor_value_info(name) for name in names]
    )


def _choices(kind: str) -> dict[str, Any]:
    return {f"{name}_branch": _constant(kind) for name in ("then", "else")}


def _constant(kind: str) -> Any:
    node = helper.make_node("Constant", [], ["c"], value=_tensor(kind))
    return helper.make_graph([node], "g", [], [helper.make_empty_tensor_value_info("c")])


def _named(name: str) -> Callable[[str], dict[str, Any]]:
    """An attribute that is the type's code."""
    return lambda kind: {name: _code(kind)}


X, IMAGE = floats(3, 4), floats(2, 3, 4, 5)
SCALE, STEP = np.float32(0.5), np.float32(0.125)


def _quantised(x: Array, scale: Array, zero: Array) -> list[Array]:
    return [np.round(x / scale) + zero]


def _dequantised(x: Array, scale: Array, zero: Array | None = None) -> list[Array]:
    return [(x - (0 if zero is None else zero)) * scale]


def _grid(theta: Array, size: Array) -> list[Array]:
    h, w = size[2:]
    y, x = ((2 * np.arange(k) + 1) / k - 1 for k in (h, w))
    points = np.stack(np.broadcast_arrays(x[None], y[:, None], 1.0), -1)
    return [np.einsum("hwk,nck->nhwc", points, theta)]


def _group_norm(x: Array, scale: Array, bias: Array) -> list[Array]:
    rows = x.reshape(2, 2, -1)
    centred = rows - rows.mean(2, keepdims=True)
    found = centred / np.sqrt((centred**2).mean(2, keepdims=True) + 1e-5)
    return [found.reshape(x.shape) * scale[:, None] + bias[:, None]]


def _moved(x: Array, w: Array, offset: Array) -> list[Array]:
    """With offsets of 0, the plain convolution."""
    return [opset_cases_windows._conv(x, w)]


def _aligned(x: Array, rois: Array, batch: Array) -> list[Array]:
    return [opset_cases_windows._roi_aligned(x, rois, batch, 2, 2, 0.75, True)]


def _convolved(x: Array, sx: Array, zx: Array, w: Array, sw: Array, zw: Array, sy: Array,
               zy: Array) -> list[Array]:  # fmt: skip
    y = opset_cases_windows._conv(x - zx, w - zw)
    return [np.round(y * sx * sw / sy) + zy]


def _matched(a: Array, sa: Array, za: Array, b: Array, sb: Array, zb: Array, sy: Array,
             zy: Array) -> list[Array]:  # fmt: skip
    return [np.round(((a - za) * sa) @ ((b - zb) * sb) / sy) + zy]


SMALL = np.arange(6, dtype=np.uint8).reshape(2, 3)
POWERS = np.array([0.5, 1, 0.25, 1], np.float32)
CODES = np.arange(16, dtype=np.uint8).reshape(1, 1, 4, 4)


def _recurrent(op: str, step: opset_cases_flow.Step, gates: int, states: int) -> Template:
    def run(x: Array, w: Array, r: Array, b: Array, lengths: Array) -> list[Array]:
        all_h, *last = opset_cases_flow._run(step, states, x, w[0], r[0], b[0], False, lengths)
        return [all_h[:, None], *(state[None] for state in last)]

    w, r, b = (floats(1, gates * n, m, seed=n) for n, m in ((5, 3), (5, 5), (10, 1)))
    operands = [floats(4, 2, 3), w, r, b[..., 0], np.array([4, 2], np.int32)]
    return Template(op, operands, {"hidden_size": 5}, outputs=states + 1, function=run)


RECURRENT = [
    _recurrent("GRU", opset_cases_flow._gru, 3, 1),
    _recurrent("LSTM", opset_cases_flow._lstm, 4, 2),
    _recurrent("RNN", opset_cases_flow._rnn, 1, 1),
]
SPECIAL = [
    Template("AffineGrid", [floats(2, 2, 3), ints(2, 1, 3, 4)], constant=[1], function=_grid),
    Template("Cast", [POWERS], {"to": TensorProto.FLOAT}, attributes=_named("to")),
    Template("CastLike", [POWERS, X], function=lambda x, y: [x]),
    Template("Constant", [], attributes=lambda kind: {"value": _tensor(kind)}),
    Template("ConstantOfShape", [ints(2, 3)], constant=[0],
             attributes=lambda kind: {"value": _tensor(kind)}),
    Template("DFT", [floats(2, 6, 1), None, np.int64(1)], constant=[2]),
    Template("DFT", [floats(2, 6, 1), np.int64(6), np.int64(1)], constant=[1, 2]),
    Template("DeformConv", [IMAGE, floats(4, 3, 2, 2), np.zeros((2, 8, 3, 4), np.float32)],
             function=_moved),
    Template("DequantizeLinear", [SMALL, SCALE], {"output_dtype": TensorProto.FLOAT},
             function=_dequantised),
    Template("DequantizeLinear", [SMALL, SCALE], attributes=_named("output_dtype"),
             function=_dequantised),
    Template("Erf", [X], function=lambda x: [_erf(x)]),
    Template("EyeLike", [X], attributes=_named("dtype")),
    Template("Gelu", [X], function=lambda x: [0.5 * x * (1 + _erf(x / np.sqrt(2)))]),
    Template("GlobalLpPool", [IMAGE], function=_global_norm),
    Template("GroupNormalization", [floats(2, 6, 4), floats(6), floats(6)], {"num_groups": 2},
             function=_group_norm),
    Template("HardSwish", [X], function=lambda x: [x * np.clip(x / 6 + 0.5, 0, 1)]),
    Template("If", [np.array(True)], _choices("float"), attributes=_choices,
             function=lambda c: [np.array([1.0])]),
    Template("LRN", [IMAGE], {"size": 3, "alpha": 0.5}, function=_lrn),
    *RECURRENT,
    Template("CausalConvWithState", [floats(2, 3, 5), floats(3, 1, 3), floats(3), floats(2, 3, 2)],
             outputs=2),
    Template("LayerNormalization", [X, floats(4), floats(4)]),
    Template("LayerNormalization", [X, floats(4), floats(4)], attributes=_named("stash_type"),
             outputs=3, function=_layer_norm),
    Template("LinearAttention", [floats(1, 3, 4), floats(1, 3, 4), floats(1, 3, 4),
                                 floats(1, 2, 2, 2), floats(1, 3, 4)],
             {"q_num_heads": 2, "kv_num_heads": 2, "update_rule": "gated"}, outputs=2),
    Template("Loop", [np.int64(2), None, X], {"body": _body("Loop")}, constant=[0], outputs=2,
             function=lambda n, go, x: [x, np.stack([x, x])]),
    Template("MaxRoiPool", [IMAGE, np.array([[0, 0, 0, 4, 3], [1, 0, 0, 4, 3]], np.float32)],
             {"pooled_shape": [1, 1]}, function=lambda x, rois: [x.max((2, 3), keepdims=True)]),
    Template("MeanVarianceNormalization", [IMAGE], function=_normal),
    Template("OneHot", [ints(0, 3, 1), np.int64(4), np.array([0, 5], np.float32)], constant=[1],
             function=lambda i, n, v: [np.where(i[:, None] == np.arange(4), v[1], v[0])]),
    Template("Pad", [X, ints(1, 0, 0, 2), np.float32(1)], constant=[1]),
    Template("Pow", [np.abs(X) + 1, np.abs(X)]),
    Template("QLinearMatMul", [SMALL, SCALE, np.uint8(1), SMALL.T.copy(), SCALE, np.uint8(2), STEP,
                               np.uint8(40)], function=_matched),
    Template("QLinearConv", [CODES, SCALE, np.uint8(1), CODES[:, :, :2, :2].copy(), SCALE,
                             np.uint8(0), STEP * 64, np.uint8(9)],
             function=_convolved),
    Template("QuantizeLinear", [np.array([0, 0.5, 0.5, 0], np.float32), SCALE, np.uint8(0)],
             function=lambda x, s, z: [np.round(x / s) + z]),
    Template("Resize", [IMAGE, None, np.array([1, 1, 2, 2], np.float32)], constant=[2],
             function=lambda x, roi, scales: [x.repeat(2, 2).repeat(2, 3)]),
    Template("Resize", [IMAGE, np.zeros(8, np.float32), np.array([1, 1, 2, 2], np.float32)],
             constant=[1, 2], function=lambda x, roi, scales: [x.repeat(2, 2).repeat(2, 3)]),
    Template("RoiAlign", [IMAGE, np.array([[1, 1, 5, 4], [0.5, 1, 4, 5]], np.float32), ints(0, 1)],
             {"output_height": 2, "output_width": 2, "sampling_ratio": 2, "spatial_scale": 0.75},
             function=_aligned),
    Template("Scan", [X], {"body": _body("Scan"), "num_scan_inputs": 1}, outputs=2,
             function=lambda x: [x, x]),
    Template("Shrink", [X * 2], {"lambd": 1.0, "bias": 0.5}, function=_shrunk),
    Template("SwiGLU", [X, floats(3, 4, seed=1)],
             function=lambda a, b: [a / (1 + np.exp(-a)) * b]),
    *(Template(f"{name}Window", [np.int64(8)], constant=[0],
               attributes=_named("output_datatype")) for name in ("Blackman", "Hamming", "Hann")),
    Template("MelWeightMatrix", [np.int64(8), np.int64(32), np.int64(8000), np.float32(0),
                                 np.float32(4000)], constant=[0, 1, 2, 3, 4],
             attributes=_named("output_datatype")),
    Template("TfIdfVectorizer", [ints(1, 1, 3, 3, 3, 7, 8, 6, 7, 3, 5, 6, 8)], {
        "mode": "TF", "min_gram_length": 2, "max_gram_length": 2, "max_skip_count": 0,
        "ngram_counts": [0, 4], "ngram_indexes": list(range(7)),
        "pool_int64s": [2, 3, 5, 4, 5, 6, 7, 8, 6, 7],
    }),
    Template("TopK", [X, ints(2)], constant=[1], outputs=2,
             function=lambda x, k: [-np.sort(-x)[:, :2], np.argsort(-x, kind="stable")[:, :2]]),
]  # fmt: skip


def templates(op: str) -> Iterator[Template]:
    """Those of the operator: special ones first, then the cases of the rules and of old opsets."""
    yield from (template for template in SPECIAL if template.op == op)
    for case in (*CASES, *MORE):
        if case.op == op:
            yield Template(op, case.arrays, case.attrs, case.constant, case.outputs)
    for family in (
        opset_cases_elementwise, opset_cases_movement, opset_cases_sums, opset_cases_windows,
        opset_cases_flow,
    ):  # fmt: skip
        for old in reversed(family.CASES):
            if old.op == op:
                yield Template(op, old.arrays, old.attrs, old.constant, len(old.expected))
