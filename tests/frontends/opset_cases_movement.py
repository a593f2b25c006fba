"""Cases over opsets of the operators that move, pick and write elements; see `opset_cases`."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from tests.frontends.opset_cases import Versioned, cases
from tests.frontends.support import Array, floats, ints

X = floats(3, 4)
IMAGE = floats(2, 3, 4, 6)
ONES = floats(1, 3, 1, 2)
RAMP = np.arange(24).reshape(2, 3, 4)


def _shapes() -> list[Versioned]:
    column, whole = np.array([3]), (13, 15, 19, 21)
    empty = np.zeros((0, 3), np.float32)
    found = [
        *cases("Shape", (7, *whole), [IMAGE], ints(2, 3, 4, 6)),
        *cases("Shape", whole[1:], [IMAGE], ints(3, 4), {"start": 1, "end": -1}),
        *cases("Shape", whole[1:], [IMAGE], ints(4, 6), {"start": -2}),
        *cases("Shape", whole[1:], [IMAGE], ints(2, 3, 4, 6), {"start": -9, "end": 9}),
        *cases("Shape", whole[1:], [IMAGE], np.zeros(0, np.int64), {"start": 3, "end": 1}),
        *cases("Size", (7, 13, 19, 21), [IMAGE], np.array(144)),
        *cases("Flatten", (7, 9, 11, 13, 21), [IMAGE], IMAGE.reshape(2, 72)),
        *cases("Flatten", (7, 9, 11, 13, 21), [IMAGE], IMAGE.reshape(1, 144), {"axis": 0}),
        *cases("Flatten", (7, 9, 11, 13, 21), [IMAGE], IMAGE.reshape(144, 1), {"axis": 4}),
        *cases("Flatten", (9, 11, 13, 21), [RAMP], RAMP.reshape(6, 4), {"axis": 2}),
        *cases("Flatten", (11, 13, 21), [IMAGE], IMAGE.reshape(24, 6), {"axis": -1}),
        *cases("Reshape", (7, 13, 14, 19, 21), [IMAGE, ints(0, -1, 2)], IMAGE.reshape(2, 36, 2),
               constant=[1]),
        *cases("Reshape", (7, 13, 14, 19, 21), [column, np.zeros(0, np.int64)], np.array(3),
               constant=[1]),
        *cases("Reshape", (14, 19, 21), [empty, ints(3, 0)], empty.reshape(3, 0),
               {"allowzero": 1}, constant=[1]),
        *cases("Reshape", (7, 13, 14), [empty, ints(0, 3, 1)], empty.reshape(0, 3, 1),
               constant=[1]),
        *cases("Squeeze", (7, 11), [ONES], ONES[0, :, 0], {"axes": [0, 2]}),
        *cases("Squeeze", (7, 11, 13, 21), [ONES], ONES[0, :, 0]),
        *cases("Squeeze", 11, [ONES], ONES[:, :, 0], {"axes": [-2]}),
        *cases("Squeeze", (13, 21), [ONES, ints(-2, 0)], ONES[0, :, 0], constant=[1]),
        *cases("Unsqueeze", (7, 11), [X], X[None, :, :, None], {"axes": [0, 3]}),
        *cases("Unsqueeze", (7, 11), [X], X[:, None, :, None], {"axes": [3, 1]}),
        *cases("Unsqueeze", 11, [X], X[..., None], {"axes": [-1]}),
        *cases("Unsqueeze", (13, 21), [X, ints(-1, 1)], X[:, None, :, None], constant=[1]),
        *cases("Unsqueeze", (13, 21), [np.float32(2), ints(0)], np.array([2], np.float32),
               constant=[1]),
        *cases("Transpose", (7, 13, 21), [IMAGE], IMAGE.T),
        *cases("Transpose", (7, 13, 21), [IMAGE], IMAGE.transpose(0, 2, 3, 1),
               {"perm": [0, 2, 3, 1]}),
        *cases("Identity", (7, 13), [RAMP > 3], RAMP > 3),
    ]  # fmt: skip
    return found


def _repetition() -> list[Versioned]:
    column = X[:, :1]
    return [
        *cases("Expand", (8, 13), [column, ints(2, 1, 4)], np.broadcast_to(column, (2, 3, 4)),
               constant=[1]),
        # Both sides stretch.
        *cases("Expand", (8, 13), [column, ints(3, 1)], column, constant=[1]),
        *cases("Expand", (8, 13), [X[:1], ints(2, 1, 1)], np.broadcast_to(X[:1], (2, 1, 4)),
               constant=[1]),
        *cases("Tile", (7, 13), [X, ints(2, 3)], np.tile(X, (2, 3)), constant=[1]),
        *cases("Tile", (7, 13), [X, ints(0, 1)], np.zeros((0, 4), np.float32), constant=[1]),
        *cases("Concat", (7, 11, 13), [X, X[:, :1], X], np.concatenate([X, X[:, :1], X], 1),
               {"axis": 1}),
        *cases("Concat", (11, 13), [RAMP, RAMP], np.concatenate([RAMP, RAMP], 1), {"axis": -2}),
        *cases("Concat", (7, 11, 13), [X > 0], X > 0, {"axis": 0}),
    ]  # fmt: skip


def _parts() -> list[Versioned]:
    six = floats(6, 2)
    halves, uneven = [six[:3], six[3:]], [six[:1], six[1:]]
    columns = [six[:, :1], six[:, 1:]]
    large = 1 << 40
    return [
        *cases("Split", (7, 11), [six], halves),
        *cases("Split", (7, 11), [six], uneven, {"split": [1, 5]}),
        *cases("Split", (7, 11), [six], columns, {"axis": 1, "split": [1, 1]}),
        *cases("Split", (11, 13), [six], columns, {"axis": -1}),
        *cases("Split", 13, [six], halves),
        *cases("Split", (13, 18), [six, ints(1, 5)], uneven, constant=[1]),
        *cases("Split", 18, [six], halves, {"num_outputs": 2}),
        # The last part is smaller since opset 18, where the dim does not divide.
        *cases("Split", 18, [six], [six[:2], six[2:4], six[4:]], {"num_outputs": 3}),
        *cases("Split", 18, [six[:5]], [six[:2], six[2:4], six[4:5]], {"num_outputs": 3}),
        *cases("Slice", 7, [RAMP], RAMP[:1, 1:-1], {"starts": [0, 1], "ends": [1, -1]}),
        *cases("Slice", 7, [RAMP], RAMP[:, 1:, -3:],
               {"axes": [2, 1], "starts": [-3, 1], "ends": [2**31 - 1, 1000]}),
        *cases("Slice", 7, [RAMP], RAMP[:, 3:], {"axes": [1], "starts": [9], "ends": [10]}),
        *cases("Slice", (10, 11, 13), [RAMP, ints(0, 1), ints(1, -1)], RAMP[:1, 1:-1],
               constant=[1, 2]),
        *cases("Slice", (10, 11, 13), [RAMP, ints(-3, 1), ints(large, 1000), ints(2, 1)],
               RAMP[:, 1:, -3:], constant=[1, 2, 3]),
        *cases("Slice", (10, 11, 13), [RAMP, ints(-1), ints(-large), ints(2), ints(-2)],
               RAMP[:, :, ::-2], constant=[1, 2, 3, 4]),
        *cases("Slice", (10, 11, 13), [RAMP, ints(9), ints(0), ints(1), ints(-1)],
               RAMP[:, 9:0:-1], constant=[1, 2, 3, 4]),
        *cases("Slice", (11, 13), [RAMP, ints(1), ints(3), ints(-1)], RAMP[:, :, 1:3],
               constant=[1, 2, 3]),
        *cases("Slice", (10, 11, 13),
               [RAMP, np.array([1], np.int32), np.array([3], np.int32), np.array([2], np.int32)],
               RAMP[:, :, 1:3], constant=[1, 2, 3]),
    ]  # fmt: skip


def _padding() -> list[Versioned]:
    all_opsets, operands = (11, 13, 18, 19, 21), ((0, 0), (1, 2))
    cut = X[:, 1:-1]
    found: list[Versioned] = []
    for mode, more in (
        ("constant", {}), ("edge", {}), ("reflect", {}), ("wrap", {}),
    ):  # fmt: skip
        wanted = np.pad(X, operands, mode, **more)  # type: ignore[call-overload]
        attrs = {"mode": mode}
        if mode == "wrap":
            found += cases("Pad", (19, 21), [X, ints(0, 1, 0, 2)], wanted, attrs, constant=[1])
            continue
        found += cases("Pad", 7, [X], wanted, {**attrs, "pads": [0, 1, 0, 2]})
        found += cases("Pad", all_opsets, [X, ints(0, 1, 0, 2)], wanted, attrs, constant=[1])
    sevens = np.pad(X, operands, constant_values=7)
    return [
        *found,
        *cases("Pad", 7, [X], sevens, {"value": 7.0, "pads": [0, 1, 0, 2]}),
        *cases("Pad", 7, [X], cut, {"pads": [0, -1, 0, -1]}),
        *cases("Pad", all_opsets, [X, ints(0, 1, 0, 2), np.float32(7)], sevens, constant=[1]),
        *cases("Pad", all_opsets, [X, ints(0, -1, 0, -1)], cut, constant=[1]),
        *cases("Pad", all_opsets[1:], [RAMP, ints(0, 0, 1, 0, 0, 1), np.int64(-5)],
               np.pad(RAMP, ((0, 0), (0, 0), (1, 1)), constant_values=-5), constant=[1]),
        *cases("Pad", all_opsets[2:], [X, ints(1, 2), np.float32(7), ints(-1)], sevens,
               constant=[1, 3]),
        *cases("Pad", all_opsets[2:], [X, ints(2, 0, 1, 1), None, ints(1, 0)],
               np.pad(X, ((0, 1), (2, 1))), constant=[1, 3]),
        *cases("Pad", 13, [X > 0, ints(1, 0, 0, 0), np.array(True)],
               np.pad(X > 0, ((1, 0), (0, 0)), constant_values=True), constant=[1]),
    ]  # fmt: skip


def _blocks() -> list[Versioned]:
    deep = floats(2, 12, 2, 3)
    dcr = deep.reshape(2, 2, 2, 3, 2, 3).transpose(0, 3, 4, 1, 5, 2).reshape(2, 3, 4, 6)
    crd = deep.reshape(2, 3, 2, 2, 2, 3).transpose(0, 1, 4, 2, 5, 3).reshape(2, 3, 4, 6)
    depth = IMAGE.reshape(2, 3, 2, 2, 3, 2).transpose(0, 3, 5, 1, 2, 4).reshape(2, 12, 2, 3)
    return [
        *cases("DepthToSpace", (7, 11, 13), [deep], dcr, {"blocksize": 2}),
        *cases("DepthToSpace", (11, 13), [deep], dcr, {"blocksize": 2, "mode": "DCR"}),
        *cases("DepthToSpace", (11, 13), [deep], crd, {"blocksize": 2, "mode": "CRD"}),
        *cases("SpaceToDepth", (7, 13), [IMAGE], depth, {"blocksize": 2}),
    ]


def _lookups() -> list[Versioned]:
    rows, wrapped = ints([2, 0], [1, 1]), ints([2, 0], [-2, 1])
    places = ints([0, -1], [2, 1], [1, 1])
    pairs = ints([1, 2], [0, 0])
    two = floats(2, 2, 2, seed=6)
    return [
        *cases("Gather", (7, 11, 13), [X, rows], X[rows]),
        *cases("Gather", (7, 11, 13), [X, rows.astype(np.int32)], X[:, rows], {"axis": 1}),
        *cases("Gather", (11, 13), [X, wrapped], X[:, wrapped], {"axis": -1}),
        *cases("GatherElements", (11, 13), [X, places], np.take_along_axis(X, places % 4, 1),
               {"axis": 1}),
        *cases("GatherElements", (11, 13), [X[:, :3], places.T],
               np.take_along_axis(X[:, :3], places.T % 3, 0)),
        *cases("GatherND", (11, 12, 13), [X, pairs], X[pairs[:, 0], pairs[:, 1]]),
        *cases("GatherND", (11, 12, 13), [RAMP, ints([[0, 1]], [[1, -1]])],
               np.stack([RAMP[0, 1], RAMP[1, -1]])[:, None]),
        *cases("GatherND", (12, 13), [two, ints([1], [0])], np.stack([two[0, 1], two[1, 0]]),
               {"batch_dims": 1}),
        *cases("Trilu", 14, [IMAGE], np.triu(IMAGE)),
        *cases("Trilu", 14, [IMAGE, np.int64(-1)], np.tril(IMAGE, -1), {"upper": 0}, constant=[1]),
    ]  # fmt: skip


def _one_hots() -> list[Versioned]:
    depth, values = np.int64(4), np.array([-1, 5], np.float32)
    classes = np.arange(4)
    indices = ints([0, 3], [1, 7])
    hot = np.where(indices[..., None] == classes, 5, -1).astype(np.float32)
    negative = ints(0, -1, -4, -5)
    strict = np.where(negative[:, None] == classes, 5, -1).astype(np.float32)
    wrapped = np.where(np.where(negative < 0, negative + 4, negative)[:, None] == classes, 5, -1)
    return [
        *cases("OneHot", (9, 11), [indices, depth, values], hot, constant=[1]),
        *cases("OneHot", (9, 11), [indices, np.array([4]), values.astype(np.int64)],
               hot.transpose(2, 0, 1).astype(np.int64), {"axis": 0}, constant=[1],
               ),
        *cases("OneHot", (9, 11), [indices.astype(np.float32), np.float32(4), values],
               hot.transpose(0, 2, 1), {"axis": -2}, constant=[1]),
        # Negative indices are outside of the range before opset 11.
        *cases("OneHot", 9, [negative, depth, values], strict, constant=[1],
               runtime="counts negative indices from the end in all opsets"),
        *cases("OneHot", 11, [negative, depth, values], wrapped.astype(np.float32), constant=[1]),
    ]  # fmt: skip


def _written() -> list[Versioned]:
    places, values = ints([1, 3], [0, 2]), floats(2, 2, seed=2)
    wrapped = ints([1, -1], [0, -2])
    along, down = X.copy(), X.copy()
    rows = np.arange(2)[:, None]
    along[rows, places] = values
    down[ints([1, 2], [0, 1]), ints([0, 1], [0, 1])] = values
    twice, more = ints([1, 1, 3]), floats(1, 3, seed=3)
    found: list[Versioned] = []
    for reduction, ufunc, opsets in (
        ("add", np.add, (16, 18)), ("mul", np.multiply, (16, 18)), ("max", np.maximum, (18,)),
        ("min", np.minimum, (18,)),
    ):  # fmt: skip
        attrs = {"axis": 1, "reduction": reduction}
        wanted = X.copy()
        ufunc.at(wanted, (np.zeros((1, 3), int), twice), more)
        found += cases("ScatterElements", opsets, [X, twice, more], wanted, attrs)
        wanted = X.copy()
        ufunc.at(wanted, ints(1, 1), X[:2] + 1)
        attrs = {"reduction": reduction}
        found += cases("ScatterND", opsets, [X, ints([1], [1]), X[:2] + 1], wanted, attrs)
    replaced = X.copy()
    replaced[[2, 0]] = X[:2] + 1
    single = X.copy()
    single[[2, 0], [1, -1]] = [9, 8]
    nines = np.array([9, 8], np.float32)
    return [
        *found,
        *cases("Scatter", (9, 10), [X, places, values], along, {"axis": 1}),
        *cases("Scatter", (9, 10), [X, ints([1, 2], [0, 1]), values], down),
        *cases("ScatterElements", (11, 13, 16, 18), [X, places, values], along, {"axis": 1}),
        *cases("ScatterElements", (11, 13, 16, 18), [X, wrapped, values], along, {"axis": -1}),
        *cases("ScatterElements", (11, 13, 16, 18), [X, ints([1, 2], [0, 1]), values], down),
        *cases("ScatterND", (11, 13, 16, 18), [X, ints([2], [0]), X[:2] + 1], replaced),
        *cases("ScatterND", (11, 13, 16, 18), [X, ints([2, 1], [0, -1]), nines], single),
    ]  # fmt: skip


def _ordered() -> list[Versioned]:
    order, k = np.argsort(-X, kind="stable"), ints(2)
    top = [np.take_along_axis(X, order, 1)[:, :2], order[:, :2]]
    columns = np.argsort(-X, 0, kind="stable")[:2]
    lowest = np.argsort(X, kind="stable")[:, :3]
    whole = np.array([[5, 2, 5, 2, 1]])
    sequences, lengths = floats(4, 3), ints(4, 2, 1)
    turned = sequences.copy()
    for item, length in enumerate(lengths):
        turned[:length, item] = sequences[:length, item][::-1]
    return [
        *cases("TopK", 7, [X], top, {"k": 2}),
        *cases("TopK", 7, [X], [np.take_along_axis(X, columns, 0), columns], {"k": 2, "axis": 0}),
        *cases("TopK", (10, 11), [X, k], top, constant=[1]),
        *cases("TopK", (10, 11), [X, k], [np.take_along_axis(X, columns, 0), columns], {"axis": 0},
               constant=[1]),
        *cases("TopK", 11, [X, ints(3)], [np.take_along_axis(X, lowest, 1), lowest],
               {"largest": 0, "axis": -1}, constant=[1]),
        # Of equal ones the first comes first; integers since opset 11.
        *cases("TopK", 11, [whole, ints(3)], [ints([5, 5, 2]), ints([0, 2, 1])], constant=[1]),
        *cases("ReverseSequence", 10, [sequences, lengths], turned),
        *cases("ReverseSequence", 10, [sequences.T.copy(), lengths], turned.T,
               {"time_axis": 1, "batch_axis": 0}),
    ]  # fmt: skip


def _made() -> list[Versioned]:
    full = numpy_helper.from_array(X, "value")
    seven = numpy_helper.from_array(np.array([7], np.int32), "value")
    truth = numpy_helper.from_array(np.array([True]), "value")
    versions = (7, 9, 11, 12, 13, 19, 21)
    half = helper.make_tensor("value", TensorProto.FLOAT16, [2], [1.5, -2.0])
    eye = np.eye(3, 4, 1)
    found: list[Versioned] = []
    attributes: tuple[tuple[dict[str, Any], Array], ...] = (
        ({"value_float": 2.5}, np.array(2.5, np.float32)),
        ({"value_int": 3}, np.array(3)),
        ({"value_ints": [3, 4]}, ints(3, 4)),
        ({"value_floats": [3.0, 4.5]}, np.array([3, 4.5], np.float32)),
    )
    for attrs, wanted in attributes:
        found += cases("Constant", versions[3:], [], wanted, attrs)
    return [
        *found,
        *cases("Constant", versions, [], X, {"value": full}),
        *cases("Constant", versions, [], np.array([1.5, -2], np.float16), {"value": half}),
        *cases("ConstantOfShape", (9, 20, 21), [ints(2, 3)], np.zeros((2, 3), np.float32),
               constant=[0]),
        *cases("ConstantOfShape", (9, 20, 21), [ints(2, 3)], np.full((2, 3), 7, np.int32),
               {"value": seven}, constant=[0]),
        *cases("ConstantOfShape", (9, 20, 21), [ints(2)], np.array([True, True]), {"value": truth},
               constant=[0]),
        *cases("ConstantOfShape", (9, 20, 21), [np.zeros(0, np.int64)], np.float32(0),
               constant=[0]),
        *cases("EyeLike", 9, [X], eye.astype(np.float32), {"k": 1}),
        *cases("EyeLike", 9, [X], np.eye(3, 4, -1).astype(np.int64),
               {"k": -1, "dtype": TensorProto.INT64}),
        *cases("Range", 11, [np.int64(1), np.int64(10), np.int64(3)], ints(1, 4, 7),
               constant=[0, 1, 2]),
        *cases("Range", 11, [np.int32(10), np.int32(4), np.int32(-2)],
               np.array([10, 8, 6], np.int32), constant=[0, 1, 2]),
        *cases("Range", 11, [np.float32(0.5), np.float32(2), np.float32(0.5)],
               np.array([0.5, 1, 1.5], np.float32), constant=[0, 1, 2]),
        *cases("Range", 11, [np.int16(3), np.int16(1), np.int16(1)], np.zeros(0, np.int16),
               constant=[0, 1, 2]),
        *cases("CenterCropPad", 18, [X, ints(2, 6)], np.pad(X[:2], ((0, 0), (1, 1))),
               constant=[1]),
        *cases("CenterCropPad", 18, [X, ints(3)], X[:, :3], {"axes": [-1]}, constant=[1]),
    ]  # fmt: skip


CASES = [
    *_shapes(),
    *_repetition(),
    *_parts(),
    *_padding(),
    *_blocks(),
    *_lookups(),
    *_one_hots(),
    *_written(),
    *_ordered(),
    *_made(),
]
