"""The values of --input and --expect: files, images, and arrays made up on the spot."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import numpy.typing as npt

from tfc.runtime.errors import InputError
from tfc.runtime.signature import Port, from_file, numpy_dtype

if TYPE_CHECKING:
    from tfc.runtime.executable import Executable

Array = npt.NDArray[Any]

_TYPED = re.compile(r"((?:\d+x)*)(bf16|bool|[fiuc]\d+)(?:=(.*))?", re.DOTALL)
_FILLS = "rand[:SEED], randn[:SEED], zeros, ones, range, or JSON"
_FIRST_SIZE, _OTHER_SIZE = 1, 64
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm")


def read_inputs(
    texts: Sequence[str], ports: Sequence[Port], metadata: Callable[[], Mapping[str, Any]]
) -> dict[str, Array]:
    """Return arrays by input name. metadata: what the model says of its images, when asked for."""
    by_name = {port.name: port for port in ports}
    found: dict[str, Array] = {}
    for text in texts:
        name, value = _split(text, by_name, "--input")
        if name is None:
            found |= _all_of(Path(value[1:]), by_name, "in.")
        else:
            found[name] = _value(value, by_name[name], metadata)
    return found


def read_expected(texts: Sequence[str], ports: Sequence[Port]) -> dict[str, Array]:
    """Return what --expect options say, by output name."""
    by_name = {port.name: port for port in ports}
    found: dict[str, Array] = {}
    for text in texts:
        name, value = _split(text, by_name, "--expect")
        if name is None:
            found |= _all_of(Path(value[1:]), by_name, "out.")
        elif value.startswith("@"):
            found[name] = _file(value[1:])
        else:
            found[name] = _value(value, by_name[name], dict)
    return {name: from_file(array, by_name[name]) for name, array in found.items()}


def _split(text: str, ports: Mapping[str, Port], option: str) -> tuple[str | None, str]:
    """Split NAME=VALUE; the name is None for all of an .npz file."""
    for name in sorted(ports, key=len, reverse=True):
        if text.startswith(f"{name}="):
            return name, text[len(name) + 1 :]
    if text.startswith("@") and text.endswith(".npz"):
        return None, text
    if len(ports) == 1 and (text.startswith("@") or not re.match(r"[A-Za-z_]\w*=", text)):
        return next(iter(ports)), text
    known = ", ".join(ports) or "none"
    raise click.UsageError(f"{option} {text!r} begins with none of the names: {known}")


def _all_of(path: Path, ports: Mapping[str, Port], prefix: str) -> dict[str, Array]:
    with _loaded(path) as arrays:
        found = {}
        for name in ports:
            key = name if name in arrays else prefix + name
            if key in arrays:
                found[name] = arrays[key]
    if not found:
        raise click.UsageError(f"{path}: no array is called like one of {', '.join(ports)}")
    return found


def _loaded(path: Path) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputError(f"{path}: not an array file of numpy: {error}") from error


def _file(text: str) -> Array:
    """Read `x.npy` or `all.npz:KEY`."""
    name, colon, key = text.rpartition(":")
    path = Path(name if colon and name.endswith(".npz") else text)
    loaded = _loaded(path)
    if isinstance(loaded, np.ndarray):
        return loaded
    with loaded as arrays:
        if key not in arrays:
            raise click.UsageError(f"{path}: no array {key!r} (it has: {', '.join(arrays)})")
        array: Array = arrays[key]
        return array


def _value(text: str, port: Port, metadata: Callable[[], Mapping[str, Any]]) -> Array:
    if text.startswith("@"):
        path, _, rest = text[1:].partition(":")
        if Path(path).suffix.lower() in IMAGE_SUFFIXES:
            return _image(Path(path), rest, port, metadata)
        return _file(text[1:])
    typed = _TYPED.fullmatch(text)
    if typed is not None:
        shape = tuple(int(size) for size in typed[1].split("x")[:-1])
        return filled(typed[3] or "zeros", shape, _dtype(typed[2]))
    if _is_json(text):
        return _from_json(text, None, numpy_dtype(port.dtype))
    return filled(text, sizes_of(port, {}), numpy_dtype(port.dtype))


def _dtype(name: str) -> np.dtype[Any]:
    try:
        return numpy_dtype(name)
    except KeyError:
        raise click.UsageError(f"no element type {name!r}") from None


def sizes_of(port: Port, symbols: Mapping[str, int]) -> tuple[int, ...]:
    """Return the input's shape with its symbols' values; each must be given."""
    sizes = []
    for dim in port.shape:
        size = dim if isinstance(dim, int) else symbols.get(dim)
        if size is None:
            raise click.UsageError(f"input {port}: say how large {dim} is, as in 1x2xf32=rand")
        sizes.append(size)
    return tuple(sizes)


def filled(fill: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return an array of the shape that FILL describes."""
    kind, _, seed = fill.partition(":")
    if seed and not seed.isdigit():
        raise click.UsageError(f"{fill!r}: the seed is not a number")
    random = np.random.default_rng(int(seed or 0))
    count = int(np.prod(shape, dtype=np.int64))
    match kind:
        case "zeros":
            return np.zeros(shape, dtype)
        case "ones":
            return np.ones(shape, dtype)
        case "range":
            return np.arange(count).reshape(shape).astype(dtype)
        case "randn":
            return random.standard_normal(shape, np.float32).astype(dtype)
        case "rand" if dtype.kind in "iub":
            # Also right for masks, token types and flags: no model takes other numbers for those.
            return random.integers(0, 2, shape).astype(dtype)
        case "rand":
            return random.random(shape, np.float32).astype(dtype)
    if _is_json(fill):
        return _from_json(fill, shape, dtype)
    raise click.UsageError(f"{fill!r} is not {_FILLS}")


def _is_json(text: str) -> bool:
    return re.match(r"\s*[-\[0-9tf]", text) is not None


def _from_json(text: str, shape: tuple[int, ...] | None, dtype: np.dtype[Any]) -> Array:
    try:
        array = np.array(json.loads(text), dtype)
        return array if shape is None else np.broadcast_to(array, shape).copy()
    except (ValueError, TypeError, OverflowError) as error:
        raise click.UsageError(f"{text!r} is not an array of {dtype}: {error}") from None


def _image(path: Path, rest: str, port: Port, metadata: Callable[[], Mapping[str, Any]]) -> Array:
    """Read an image into the layout of the input: [N,] C, H, W or [N,] H, W, C; N is 1."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise click.UsageError("images need pillow: pip install 'tfc-compiler[image]'") from None
    channels, height, width, last = _layout(port)
    facts: dict[str, Any] = {"mean": 0.0, "scale": 1.0, **metadata()}
    for item in filter(None, re.split(r",(?=[a-z]+=)", rest)):
        key, _, value = item.partition("=")
        if key not in ("mean", "scale"):
            raise click.UsageError(f"{item!r}: an image takes mean= and scale=")
        facts[key] = [float(one) for one in value.split("/")]
    try:
        picture = Image.open(path).convert("L" if channels == 1 else "RGB")
    except UnidentifiedImageError as error:
        raise InputError(f"{path}: not an image: {error}") from error
    size = (width or picture.width, height or picture.height)
    pixels = np.asarray(picture.resize(size), np.float32).reshape(size[1], size[0], channels)
    mean, scale = (np.asarray(facts[key], np.float32) for key in ("mean", "scale"))
    values = (pixels - mean) / scale
    values = values if last else values.transpose(2, 0, 1)
    if len(port.shape) == 4:
        values = values[None]
    return np.ascontiguousarray(values).astype(numpy_dtype(port.dtype))


def _layout(port: Port) -> tuple[int, int | None, int | None, bool]:
    """Return channels, height, width (None where any will do), and whether channels are last."""
    dims = port.shape[-3:]
    if len(port.shape) in (3, 4):
        for axis, last in ((0, False), (2, True)):
            if dims[axis] in (1, 3):
                sides = dims[:2] if last else dims[1:]
                height, width = (side if isinstance(side, int) else None for side in sides)
                return int(dims[axis]), height, width, last
    raise click.UsageError(f"input {port} has no place for an image's 1 or 3 channels")


def default_sizes(executable: Executable, given: Mapping[str, int]) -> dict[str, int]:
    """Return a size for each dynamic dim: as given, or 1 for leading axes and 64 for others."""
    leading = {port.shape[0] for port in executable.inputs if port.shape}
    sizes = {}
    for name, (lo, hi) in executable.signature.symbols.items():
        wanted = _FIRST_SIZE if name in leading else _OTHER_SIZE
        sizes[name] = given.get(name, max(lo, wanted if hi is None else min(wanted, hi)))
    return sizes


def random_inputs(
    executable: Executable, sizes: Mapping[str, int], given: Mapping[str, Array]
) -> dict[str, Array]:
    """Return every input: as given, or random in a shape of these sizes."""
    inputs = {
        port.name: given[port.name]
        if port.name in given
        else filled("rand", sizes_of(port, sizes), numpy_dtype(port.dtype))
        for port in executable.inputs
    }
    for element in executable.signature.elements:
        if element.input not in given and element.part != "negative":
            inputs[element.input].reshape(-1)[element.index] = sizes[element.symbol]
    return inputs
