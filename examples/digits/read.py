"""Read a picture of handwritten digits with a compiled model and show what was read.

`python examples/digits/read.py PICTURE`: bright on dark or dark on bright, one digit or several
side by side in square cells. Needs tfc[onnx,image]; uses the public API alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from PIL import Image

import tfc

MODEL = Path(__file__).resolve().parent / "digits.onnx"
SIZE = 28
WIDTH = 12  # terminal columns for a digit: six fit in 80, and a column is half as wide as high
PER_LINE = 6
# Index: bit 0 upper left, bit 1 upper right, bit 2 lower left, bit 3 lower right quarter.
QUARTERS = " ▘▝▀▖▌▞▛▗▚▐▜▄▙▟█"
EIGHTHS = " ▏▎▍▌▋▊▉█"


def load_cells(path: Path) -> NDArray[np.float32]:
    """Return the picture's square cells as [n, 28, 28], bright on dark, 0 to 255."""
    picture = Image.open(path).convert("L")
    count = max(1, round(picture.width / picture.height))
    pixels = np.asarray(picture.resize((SIZE * count, SIZE)), np.float32)
    if np.median(pixels) > 127:
        pixels = 255 - pixels
    return np.ascontiguousarray(pixels.reshape(SIZE, count, SIZE).transpose(1, 0, 2))


def art(cell: NDArray[np.float32]) -> list[str]:
    """Draw a cell with quarter blocks: two pixels across and two down for each character."""
    small = Image.fromarray(cell.astype(np.uint8)).resize((2 * WIDTH, WIDTH))
    lit = (np.asarray(small) > 100).reshape(WIDTH // 2, 2, WIDTH, 2)
    index = (lit * np.array([[1, 2], [4, 8]])[None, :, None, :]).sum(axis=(1, 3))
    return ["".join(QUARTERS[i] for i in row) for row in index]


def bar(share: float) -> str:
    eighths = round(share * WIDTH * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (EIGHTHS[rest] if rest else "")).ljust(WIDTH)


def show(cells: NDArray[np.float32], probability: NDArray[np.float32], labels: list[str]) -> None:
    best = probability.argmax(axis=1)
    for start in range(0, len(cells), PER_LINE):
        columns = []
        for i in range(start, min(start + PER_LINE, len(cells))):
            share = float(probability[i, best[i]])
            caption = f"{labels[best[i]]}  {share:.2%}".center(WIDTH)
            columns.append([*art(cells[i]), " " * WIDTH, caption, bar(share)])
        print()
        for line in zip(*columns, strict=True):
            print((" " + " ".join(line)).rstrip())
    print("\nread:", "".join(labels[i] for i in best))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", type=Path, nargs="?", default=MODEL.with_name("strip.png"))
    args = parser.parse_args()

    cells = load_cells(args.picture)
    facts = {p.key: json.loads(p.value) for p in onnx.load(MODEL).metadata_props}
    x = (cells[:, None] - np.float32(facts["mean"][0])) / np.float32(facts["scale"][0])

    start = time.perf_counter()
    digits = tfc.compile(str(MODEL))
    compiled = time.perf_counter() - start
    show(cells, digits(x), facts["labels"])

    seconds = []
    for _ in range(200):
        start = time.perf_counter()
        digits(x)
        seconds.append(time.perf_counter() - start)
    per_image = statistics.median(seconds) / len(x) * 1e6
    print(f"compile: {compiled:.2f} s    run: {per_image:.0f} µs per image ({len(x)} in one call)")


if __name__ == "__main__":
    main()
