"""The report's charts as inline SVG: text stays text and colours are the page's so dark mode reaches them."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from graftlm.core.receipts import Interval

# matplotlib wants colours it can parse; each of these stands for a CSS variable and is swapped in the SVG.
INK, MUTED, GRID, PAPER = "#010101", "#020202", "#030303", "#040404"
LINES = ("#0a0a00", "#0a0a01", "#0a0a02", "#0a0a03", "#0a0a04")
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid", PAPER: "--paper"} | {
    colour: f"--line-{place}" for place, colour in enumerate(LINES)
}
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "graft",  # ids come from a hash, not from chance: the same run gives the same file
    "font.size": 10.5,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


_Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Point:
    """A model on the map: what it kept of the general side, what it knows of the domain; both as shares."""

    label: str
    kept: Interval
    score: Interval


@dataclass(frozen=True)
class Line:
    """One line of a chart; `noisy` ones are drawn faint, with a running mean over them."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    noisy: bool = False


def gain_map(points: Sequence[Point], links: Sequence[tuple[int, int]]) -> str:
    """Domain score over general ability kept, a point a model; links are the paths of training."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(6.6, 4.5)
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
        return _svg(figure, "gain-map", "Domain score against general ability kept, one point a model")


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
            _plain(point.label),
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


def interval_lines(title: str, models: Sequence[str], rows: Mapping[str, Sequence[Interval | None]]) -> str:
    """One line a task over the models, with intervals: for metrics that are no shares."""
    with matplotlib.rc_context(_STYLE):
        turned = 30 if len(models) > 5 else 0
        figure, axes = _figure(4.1, 4.5, bottom=0.9 if turned else 0.52)
        for place, (name, values) in enumerate(rows.items()):
            found = [(x, value) for x, value in enumerate(values) if value is not None]
            axes.errorbar(
                [x for x, _ in found],
                [v.value for _, v in found],
                yerr=[[v.value - v.low for _, v in found], [v.high - v.value for _, v in found]],
                marker="o",
                capsize=3,
                color=LINES[place % len(LINES)],
                label=_plain(name),
            )
        axes.set_xticks(range(len(models)), [_plain(model) for model in models], rotation=turned)
        axes.set_xlim(-0.4, len(models) - 0.6)
        axes.set_ylim(0, None)
        axes.set_ylabel(title)
        axes.legend(loc="lower left")
        return _svg(figure, "interval-lines", title)


def curves(name: str, title: str, lines: Sequence[Line], *, percent: bool = False) -> str:
    """Lines over training steps."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(3.5, 2.6, left=0.7)
        for place, line in enumerate(lines):
            _draw(axes, line, LINES[place % len(LINES)], 100 if percent else 1)
        if percent:
            axes.set_ylim(-4, 104)
        axes.set_title(_plain(title))
        axes.set_xlabel("step")
        if len(lines) > 1:
            axes.legend(loc="best", fontsize=9.5)
        return _svg(figure, name, title)


def _draw(axes: Axes, line: Line, colour: str, scale: float) -> None:
    y = np.asarray(line.y, dtype=float) * scale
    label = _plain(line.label)
    if not line.noisy or len(y) < 20:
        axes.plot(line.x, y, color=colour, marker="o" if len(y) < 30 else "", markersize=4, label=label)
        return
    axes.plot(line.x, y, color=colour, linewidth=0.9, alpha=0.35)
    axes.plot(line.x, running_mean(y, max(3, len(y) // 10)), color=colour, linewidth=1.8, label=label)


def running_mean(y: np.ndarray, width: int) -> np.ndarray:
    """Mean over a window centred on each value, cut off at both ends."""
    sums = np.concatenate([[0.0], np.cumsum(y)])
    places = np.arange(len(y))
    first = np.maximum(places - width // 2, 0)
    behind = np.minimum(places + width // 2 + 1, len(y))
    return (sums[behind] - sums[first]) / (behind - first)


def _figure(width: float, height: float, left: float = 0.62, bottom: float = 0.52) -> tuple[Figure, Axes]:
    """Sizes and margins in inches; margins that are set spare the search for tight ones, half of the time."""
    figure = Figure(figsize=(width, height))
    axes = figure.add_subplot()
    figure.subplots_adjust(left / width, bottom / height, 1 - 0.08 / width, 1 - 0.3 / height)
    return figure, axes


def _plain(text: str) -> str:
    """Dollar signs are letters here, not formulas."""
    return text.replace("$", r"\$")


def _svg(figure: Figure, name: str, says: str) -> str:
    """The figure as an <svg> element: ids made unique by `name`, colours and font left to the page."""
    buffer = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the browser has what matplotlib's font lacks
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(buffer, format="svg", metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    text = re.sub(r'font-family: [^;"]*', "font-family: var(--font)", text)
    text = re.sub(r'(id="|href="#|url\(#)', rf"\1{name}-", text)
    text = re.sub(r"\s*<style.*?</style>|\s*<!--.*?-->", "", text, flags=re.DOTALL)
    return text.replace("<svg ", f'<svg role="img" aria-label="{_attribute(says)}" ', 1)


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
