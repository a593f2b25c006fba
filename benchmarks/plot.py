"""Draws sweeps of single ops: each library's share of the bound, a panel for each sweep.

`python -m benchmarks.plot POINTS.json PICTURE.svg` draws what `micro --json` has collected.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.point import Point

COLUMNS = 2
HEIGHT = 3.2
WIDTH = 6.5


def draw(points: Sequence[Point], path: Path) -> None:
    """Write a picture; its kind is the file's suffix. Needs matplotlib."""
    import matplotlib

    matplotlib.use("agg")
    # Text as text, of one font: outlines and fallbacks are most of a file. Ids are always the same.
    matplotlib.rcParams.update(
        {"svg.fonttype": "none", "svg.hashsalt": "sweeps", "font.sans-serif": ["DejaVu Sans"]}
    )
    from matplotlib import pyplot

    panels = list(dict.fromkeys((point.sweep, point.threads) for point in points))
    rows = -(-len(panels) // COLUMNS)
    figure, axes = pyplot.subplots(
        rows, COLUMNS, figsize=(WIDTH * COLUMNS, HEIGHT * rows), squeeze=False, layout="constrained"
    )
    names = list(dict.fromkeys(name for point in points for name in point.times))
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for (sweep, threads), axis in zip(panels, axes.flat, strict=False):
        own = [point for point in points if (point.sweep, point.threads) == (sweep, threads)]
        for i, name in enumerate(names):
            at = [j for j, point in enumerate(own) if name in point.times]
            shares = [100 * own[j].share(name) for j in at]
            thick, marker = (2.0, ".") if name == "tfc" else (1.0, "")
            axis.plot(at, shares, marker=marker, linewidth=thick, color=f"C{i}", label=name)
        axis.axhline(100, color="grey", linewidth=0.5)
        axis.set_xticks(range(len(own)), [point.op for point in own], rotation=90, fontsize=6)
        axis.set_ylim(bottom=0)
        axis.set_title(f"{sweep}, threads: {threads}", fontsize=9)
        axis.set_ylabel("% of the bound", fontsize=8)
    axes.flat[0].legend(fontsize=7)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)


def main(argv: Sequence[str]) -> int:
    points, picture = map(Path, argv)
    draw([Point(**each) for each in json.loads(points.read_text())], picture)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
