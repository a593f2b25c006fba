"""Real models with branches, loops and recurrent layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tfc
from tests.models.catalogue import Arrays, largest_error, stored_references

pytestmark = pytest.mark.models

MODELS = {
    "digits_lstm": ("digits_lstm/model.onnx", {}),
    "silero_vad__silero_vad": ("silero_vad/silero_vad.onnx", {"input_d1": 576}),
    "silero_vad__silero_vad_16k_op15": (
        "silero_vad/silero_vad_16k_op15.onnx",
        {"sequence": 576},
    ),
}


@pytest.mark.parametrize("opt", [0, 2])
@pytest.mark.parametrize("name", MODELS)
def test_saved_models_compute_what_onnx_runtime_did(
    name: str, opt: int, models_dir: Path, tmp_path: Path
) -> None:
    file, dims = MODELS[name]
    executable = tfc.compile(models_dir / file, opt=opt, threads=2, dims=dims)
    executable.save(tmp_path / "model.so")
    for threads in (1, 2):
        loaded = tfc.load(tmp_path / "model.so", threads=threads)
        for inputs, wanted in stored_references(models_dir, name):
            assert largest_error(loaded(inputs), wanted) < 1e-4


@pytest.mark.parametrize("name", [name for name in MODELS if name.startswith("silero")])
def test_speech_is_told_from_noise_over_many_steps(name: str, models_dir: Path) -> None:
    """The state goes from step to step; each step sees the end of the one before."""
    file, dims = MODELS[name]
    detector = tfc.compile(models_dir / file, dims=dims)
    with np.load(models_dir / "silero_vad" / "semantic.npz") as stored:
        speech, wanted = stored["speech16k"], stored["prob_speech"]
    state = np.zeros((2, 1, 128), np.float32)
    context = np.zeros(64, np.float32)
    found = []
    for at in range(len(wanted)):
        step = speech[at * 512 : (at + 1) * 512]
        window = np.concatenate([context, step])[None]
        inputs: Arrays = {"input": window, "state": state, "sr": np.array(16000)}
        outputs = detector(inputs)
        found.append(float(outputs["output"][0, 0]))
        state, context = outputs["stateN"], step[-64:]
    np.testing.assert_allclose(found, wanted, atol=1e-3)


def test_the_sampling_rate_that_a_window_does_not_fit_is_refused(models_dir: Path) -> None:
    detector = tfc.compile(models_dir / "silero_vad/silero_vad.onnx", dims={"input_d1": 576})
    window, state = np.zeros((1, 576), np.float32), np.zeros((2, 1, 128), np.float32)
    with pytest.raises(Exception, match="a branch is not possible"):
        detector({"input": window, "state": state, "sr": np.array(8000)})
