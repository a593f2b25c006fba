"""Real models with branches and loops. What they compute is also tested in `tests.models`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tfc
from tests.models.catalogue import Arrays, largest_error

pytestmark = pytest.mark.models

DETECTORS = ("silero_vad/silero_vad.onnx", "silero_vad/silero_vad_16k_op15.onnx")


@pytest.mark.parametrize("file", DETECTORS)
def test_speech_is_told_from_noise_over_many_steps(file: str, models_dir: Path) -> None:
    """The state goes from step to step; each step sees the end of the one before."""
    detector = tfc.compile(models_dir / file)
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


@pytest.fixture(scope="module")
def both_rates(models_dir: Path) -> tfc.Executable:
    return tfc.compile(models_dir / DETECTORS[0])


def window_of(size: int, rate: int) -> Arrays:
    noise = np.random.default_rng(size).standard_normal((2, size)).astype(np.float32)
    return {"input": noise / 4, "state": np.zeros((2, 2, 128), np.float32), "sr": np.array(rate)}


def test_one_artifact_takes_both_sampling_rates(
    both_rates: tfc.Executable, models_dir: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    peer = onnxruntime.InferenceSession(models_dir / DETECTORS[0])
    for size, rate in ((288, 8000), (576, 16000)):
        inputs = window_of(size, rate)
        wanted = peer.run(None, inputs)
        assert (
            largest_error(both_rates(inputs), dict(zip(("output", "stateN"), wanted, strict=True)))
            < 1e-4
        )


@pytest.mark.parametrize(("size", "rate"), [(576, 8000), (900, 16000)])
def test_a_window_that_does_not_fit_the_sampling_rate_is_refused(
    size: int, rate: int, both_rates: tfc.Executable
) -> None:
    with pytest.raises(tfc.RuntimeFault, match="it does not hold that"):
        both_rates(window_of(size, rate))


def test_a_fixed_window_refuses_the_other_sampling_rate(models_dir: Path) -> None:
    detector = tfc.compile(models_dir / DETECTORS[0], dims={"input_d1": 576})
    window, state = np.zeros((1, 576), np.float32), np.zeros((2, 1, 128), np.float32)
    with pytest.raises(tfc.RuntimeFault, match="the other branch is not possible"):
        detector({"input": window, "state": state, "sr": np.array(8000)})
