"""The map of gain and forgetting: one point a model, arrows along the training, names where they cover least."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from graftlm.core.receipts import Interval
from graftlm.recipes.charts import LINES, MUTED, STYLE, make_figure, plain, to_svg

_Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Point:
    """A model on the map: what it kept of the general side, what it knows of the domain; both as shares."""

    label: str
    kept: Interval
    score: Interval


def gain_map(points: Sequence[Point], links: Sequence[tuple[int, int]]) -> str:
    """Domain score over general ability kept, a point a model; links are the paths of training."""
    with matplotlib.rc_context(STYLE):
        figure, axes = make_figure(6.6, 4.5)
        left = min(0.9, *(p.kept.low for p in points)) * 100
        right = max(1.02, *(p.kept.high for p in points)) * 100
        pad = (right - left) * 0.08
        axes.set_xlim(left - pad, right + pad)
        axes.set_ylim(-4, 112)
        axes.set_yticks(range(0, 101, 20))
        axes.set_xlabel("General ability kept (% of the base model)")
        axes.set_ylabel("Domain score (%)")
        axes.axvline(100, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        axes.axhline(100, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        axes.plot([100], [100], marker="*", markersize=15, color=LINES[2], linestyle="none")
        axes.annotate(
            "learnt all, forgot nothing",
            (100, 100),
            (-10, 7),
            textcoords="offset points",
            ha="right",
            color=LINES[2],
        )
        for start, end in links:
            _arrow(axes, points[start], points[end])
        for place, point in enumerate(points):
            _cross(axes, point, LINES[1] if place == 0 else LINES[0])
        _label_points(figure, axes, points, links)
        return to_svg(figure, "gain-map", "Domain score against general ability kept, one point a model")


def _arrow(axes: Axes, start: Point, end: Point) -> None:
    axes.annotate(
        "",
        (end.kept.value * 100, end.score.value * 100),
        (start.kept.value * 100, start.score.value * 100),
        arrowprops={"arrowstyle": "-|>", "color": MUTED, "linewidth": 1.3, "shrinkA": 6, "shrinkB": 6},
    )


def _cross(axes: Axes, point: Point, colour: str) -> None:
    x, y = point.kept.value * 100, point.score.value * 100
    axes.errorbar(
        [x],
        [y],
        xerr=[[x - point.kept.low * 100], [point.kept.high * 100 - x]],
        yerr=[[y - point.score.low * 100], [point.score.high * 100 - y]],
        fmt="o",
        markersize=8,
        color=colour,
        capsize=3,
        elinewidth=1.5,
        zorder=3,
    )


def _label_points(figure: Figure, axes: Axes, points: Sequence[Point], links: Sequence[tuple[int, int]]) -> None:
    """Write each name where it covers least of the points, bars, arrows, guides and other names."""

    def place(kept: float, score: float) -> tuple[float, float]:
        """Shares → typographic points."""
        x, y = axes.transData.transform((kept * 100, score * 100)).tolist()
        return x * 72 / figure.dpi, y * 72 / figure.dpi

    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    frame = (*place(left / 100, low / 100), *place(right / 100, high / 100))
    taken = _occupied(place, points, links)
    for point in points:
        (x, y), (start, _), (end, _) = (place(kept, point.score.value) for kept in _ends(point.kept))
        width, height = _text_width(point.label, 11.5), 13.0
        offsets = [(dx, dy) for dy in (12, -12) for dx in (10, -10 - width, -width / 2)]
        offsets += [(end - x + 6, 0), (start - x - 6 - width, 0)]
        offsets += [(dx, dy) for dy in (22, -22) for dx in (10, -10 - width, -width / 2)]
        boxes = [(x + dx, y + dy - height / 2, x + dx + width, y + dy + height / 2) for dx, dy in offsets]
        costs = [sum(_overlap(box, other) for other in taken) + _outside(box, frame) for box in boxes]
        best = costs.index(min(costs))
        taken.append(boxes[best])
        axes.annotate(
            plain(point.label),
            (point.kept.value * 100, point.score.value * 100),
            offsets[best],
            textcoords="offset points",
            va="center",
            fontsize=11.5,
            fontweight="bold",
        )


def _occupied(
    place: Callable[[float, float], tuple[float, float]],
    points: Sequence[Point],
    links: Sequence[tuple[int, int]],
) -> list[_Box]:
    """Boxes around all that a name should not cover."""
    star_x, star_y = place(1, 1)
    boxes = [(star_x - 160, star_y - 8, star_x + 8, star_y + 16), (star_x - 1, 0.0, star_x + 1, star_y)]
    for point in points:
        (x, y), (left, low), (right, high) = map(place, _ends(point.kept), _ends(point.score))
        boxes += [(x - 7, y - 7, x + 7, y + 7), (left, y - 3, right, y + 3), (x - 3, low, x + 3, high)]
    for start, end in ((points[a], points[b]) for a, b in links):
        along_x = np.linspace(start.kept.value, end.kept.value, 25)
        along_y = np.linspace(start.score.value, end.score.value, 25)
        boxes += [(x - 3, y - 3, x + 3, y + 3) for x, y in map(place, along_x, along_y)]
    return boxes


def _ends(interval: Interval) -> tuple[float, float, float]:
    return interval.value, interval.low, interval.high


def _overlap(one: _Box, other: _Box) -> float:
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    return max(wide, 0.0) * max(high, 0.0)


def _outside(box: _Box, frame: _Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1]) - _overlap(box, frame)


def _text_width(text: str, size: float) -> float:
    """Rough: the page's font is not known here."""
    return sum(size if ord(letter) > 0x2E80 else size * 0.62 for letter in text)
