"""Which models are measured, with which inputs, and what their outputs should be."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfc.ir.errors import UsageError

Array = NDArray[Any]
Arrays = dict[str, Array]
ROOT = Path(__file__).resolve().parent.parent
DIGITS = ROOT / "examples" / "digits" / "digits.onnx"
STRIPPED = ".stripped.onnx"


@dataclass(frozen=True)
class Case:
    """One set of inputs, with the outputs of a reference where there is one."""

    label: str
    feeds: Arrays
    outputs: Arrays


@dataclass(frozen=True)
class Model:
    """A model file ready to load, and the sets of inputs that it is measured with."""

    name: str
    path: Path
    cases: tuple[Case, ...]


def models_folder() -> Path | None:
    """Return the folder of test models: TFC_MODELS, or shared/models beside the checkout."""
    folder = Path(os.environ.get("TFC_MODELS") or ROOT.parent / "shared" / "models")
    return folder if folder.is_dir() else None


def all_models() -> list[Path]:
    """Return the digits example and every .onnx file in the models folder and one level below."""
    folder = models_folder()
    found = [] if folder is None else [*folder.glob("*.onnx"), *folder.glob("*/*.onnx")]
    return [DIGITS, *sorted(found)]


def locate(name: str) -> Path:
    """Return the file that NAME is: a path, or a model of the models folder by its name."""
    path = Path(name)
    if path.is_file():
        return path
    for path in all_models():
        if name in names_of(path):
            return path
    raise UsageError(f"no model file or model of the models folder is called {name!r}")


def names_of(path: Path) -> tuple[str, ...]:
    """Return what a model is called, most exact first: FOLDER__FILE, FILE, FOLDER."""
    stem = path.name.removesuffix(STRIPPED).removesuffix(".onnx")
    return f"{path.parent.name}__{stem}", stem, path.parent.name


def prepare(path: Path, dims: Mapping[str, int], alternatives: bool = False) -> Model:
    """Fill a stripped model and find or make its inputs.

    dims: sizes of dynamic dims by name, used where inputs are made. alternatives: also the second
    set of inputs, of another shape, that some reference files have.
    """
    refs = path.parent / "refs" if path.name.endswith(STRIPPED) else path.parent.parent / "refs"
    stored = [refs / f"{name}.npz" for name in names_of(path)]
    reference = next((file for file in stored if file.is_file()), None)
    name = names_of(path)[1] if reference is None else reference.stem
    ready = fill(path) if path.name.endswith(STRIPPED) else path
    if reference is None:
        return Model(name, ready, (Case("", random_feeds(ready, dims), {}),))
    cases = [_stored_case("", reference)]
    other = reference.with_name(f"{reference.stem}.alt.npz")
    if alternatives and other.is_file():
        cases.append(_stored_case("alt", other))
    return Model(name, ready, tuple(cases))


def _stored_case(label: str, path: Path) -> Case:
    with np.load(path) as data:
        feeds = {key[3:]: data[key] for key in data.files if key.startswith("in.")}
        outputs = {key[4:]: data[key] for key in data.files if key.startswith("out.")}
    return Case(label, feeds, outputs)


def fill(stripped: Path) -> Path:
    """Return the file made from a stripped model; it is kept between runs by its sources' hash."""
    script = stripped.with_name("fill.py")
    digest = hashlib.blake2b(digest_size=8)
    for source in (stripped, stripped.with_suffix(".npz"), script):
        digest.update(source.read_bytes())
    cache = Path(tempfile.gettempdir()) / "tfc-filled-models"
    cache.mkdir(exist_ok=True)
    name = stripped.name.removesuffix(STRIPPED)
    filled = cache / f"{name}-{digest.hexdigest()}.onnx"
    if not filled.is_file():
        # Written under another name, so that a broken-off run leaves no half model.
        part = filled.with_suffix(f".{os.getpid()}.part")
        subprocess.run([sys.executable, str(script), str(stripped), str(part)], check=True)
        part.replace(filled)
    return filled


def random_feeds(path: Path, dims: Mapping[str, int]) -> Arrays:
    """Return inputs drawn from a fixed seed: normal floats, and integers 0 or 1.

    Dims that are neither fixed by the model nor named in `dims` are 1.
    """
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    initialised = {tensor.name for tensor in graph.initializer}
    rng = np.random.default_rng(0)
    feeds: Arrays = {}
    for value in graph.input:
        if value.name in initialised:
            continue
        tensor = value.type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        shape = [
            dim.dim_value if dim.dim_value > 0 else dims.get(dim.dim_param, 1)
            for dim in tensor.shape.dim
        ]
        if np.issubdtype(dtype, np.floating):
            feeds[value.name] = np.asarray(rng.standard_normal(shape)).astype(dtype)
        else:
            feeds[value.name] = np.asarray(rng.integers(0, 2, shape)).astype(dtype)
    return feeds


def relative_error(got: Mapping[str, Array], wanted: Mapping[str, Array]) -> float:
    """Return the largest difference, each output's in units of its largest wanted magnitude.

    Infinite where a shape differs or where NaN or infinity are not in the same places.
    """
    worst = 0.0
    for name, want in wanted.items():
        worst = max(worst, _error(np.asarray(got[name]), want))
    return worst


def _error(got: Array, want: Array) -> float:
    if got.shape != want.shape:
        return float("inf")
    a, b = got.astype(np.float64), want.astype(np.float64)
    finite = np.isfinite(b)
    if (
        not np.array_equal(a[~finite], b[~finite], equal_nan=True)
        or not np.isfinite(a[finite]).all()
    ):
        return float("inf")
    scale = np.abs(b[finite]).max(initial=0.0)
    difference = np.abs(a[finite] - b[finite]).max(initial=0.0)
    return float(difference / scale) if scale > 0 else float(difference)
