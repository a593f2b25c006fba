"""Makes quantised models to measure: QDQ by ONNX Runtime, u8 by i8, scales by channel."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.models import Arrays
from tfc.ir.errors import UsageError

SUFFIX = ":int8"


class _Calibration:
    """Gives one set of inputs, then nothing."""

    def __init__(self, feeds: Arrays) -> None:
        self.left = [feeds]

    def get_next(self) -> Arrays | None:
        return self.left.pop() if self.left else None


def quantised(path: Path, feeds: Arrays) -> Path:
    """Return the model quantised with the ranges that `feeds` cause; it is kept between runs."""
    try:
        from onnxruntime import quantization
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError as error:
        raise UsageError(f"models are quantised by ONNX Runtime: {error}") from error
    digest = hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()
    folder = Path(tempfile.gettempdir()) / "tfc-filled-models"
    folder.mkdir(exist_ok=True)
    made = folder / f"{path.stem.rsplit('-', 1)[0]}_int8-{digest}.onnx"
    if not made.is_file():
        plain, part = (made.with_suffix(f".{os.getpid()}.{kind}") for kind in ("plain", "part"))
        quant_pre_process(str(path), str(plain), skip_symbolic_shape=True)
        reader: Any = _Calibration(feeds)
        quantization.quantize_static(
            str(plain),
            str(part),
            reader,
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        plain.unlink()
        part.replace(made)
    return made
