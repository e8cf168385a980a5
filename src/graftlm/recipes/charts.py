"""The report's charts as inline SVG: text stays text and colours are the page's so dark mode reaches them."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from graftlm.core.receipts import Interval

# matplotlib wants colours it can parse; each of these stands for a CSS variable and is swapped in the SVG.
INK, MUTED, GRID, PAPER = "#010101", "#020202", "#030303", "#040404"
LINES = ("#0a0a00", "#0a0a01", "#0a0a02", "#0a0a03", "#0a0a04")
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid", PAPER: "--paper"} | {
    colour: f"--line-{place}" for place, colour in enumerate(LINES)
}
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "graft",  # ids come from a hash, not from chance: the same run gives the same file
    "font.size": 10.5,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
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


LARGE, SMALL = (3.5, 2.5), (2.55, 2.1)
"""Inches: three or four stand side by side on the page."""


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        noisy: drawn faint, with a running mean over it.
        spread: half the height of a band around each value.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    noisy: bool = False
    spread: Sequence[float] = ()


@dataclass(frozen=True)
class Guide:
    """A level that a line is to be read against."""

    label: str
    value: float


def interval_lines(
    title: str,
    models: Sequence[str],
    rows: Mapping[str, Sequence[Interval | None]],
    links: Sequence[tuple[int, int]],
) -> str:
    """One colour a task, a point a model with its interval; lines follow the training: for metrics that are no shares.

    Args:
        links: (place of a model, place of one that was trained from it).
    """
    with matplotlib.rc_context(STYLE):
        turned = 30 if len(models) > 5 else 0
        figure, axes = make_figure(4.1, 4.5, bottom=0.9 if turned else 0.52)
        for place, (name, values) in enumerate(rows.items()):
            found = [(x, value) for x, value in enumerate(values) if value is not None]
            colour = LINES[place % len(LINES)]
            axes.errorbar(
                [x for x, _ in found],
                [v.value for _, v in found],
                yerr=[[v.value - v.low for _, v in found], [v.high - v.value for _, v in found]],
                fmt="o",
                capsize=3,
                color=colour,
                label=plain(name),
            )
            for ends in links:
                joined = [(x, value.value) for x in ends if (value := values[x]) is not None]
                axes.plot([x for x, _ in joined], [y for _, y in joined], color=colour)
        axes.set_xticks(range(len(models)), [plain(model) for model in models], rotation=turned)
        axes.set_xlim(-0.4, len(models) - 0.6)
        axes.set_ylim(0, None)
        axes.set_ylabel(title)
        axes.legend(loc="lower left")
        return to_svg(figure, "interval-lines", title)


def curves(
    name: str,
    title: str,
    lines: Sequence[Line],
    *,
    percent: bool = False,
    over: str = "step",
    guides: Sequence[Guide] = (),
    small: bool = False,
) -> str:
    """Lines over training steps, or over rounds."""
    with matplotlib.rc_context(STYLE):
        figure, axes = make_figure(*(SMALL if small else LARGE), left=0.6)
        for place, line in enumerate(lines):
            _draw(axes, line, LINES[place % len(LINES)], 100 if percent else 1)
        for guide in guides:
            axes.axhline(guide.value, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
            axes.annotate(
                plain(guide.label), (0.02, guide.value), (0, 3), xycoords=("axes fraction", "data"),
                textcoords="offset points", color=MUTED, fontsize=9.5,
            )  # fmt: skip
        if percent:
            axes.set_ylim(-4, 104)
        elif guides:
            axes.margins(y=0.14)  # room for their words
        axes.xaxis.set_major_locator(MaxNLocator(nbins=4 if small else 7, integer=True))
        _write_title(figure, title)
        axes.set_xlabel(over)
        if len(lines) > 1:
            axes.legend(loc="best", fontsize=9)
        return to_svg(figure, name, title)


def _draw(axes: Axes, line: Line, colour: str, scale: float) -> None:
    y = np.asarray(line.y, dtype=float) * scale
    label = plain(line.label)
    if line.spread:
        half = np.asarray(line.spread, dtype=float) * scale
        axes.fill_between(line.x, y - half, y + half, color=colour, alpha=0.15, linewidth=0)
    if not line.noisy or len(y) < 20:
        axes.plot(line.x, y, color=colour, marker="o" if len(y) < 30 else "", markersize=4, label=label)
        return
    axes.plot(line.x, y, color=colour, linewidth=0.9, alpha=0.35)
    axes.plot(line.x, running_mean(y, max(3, len(y) // 10)), color=colour, linewidth=1.8, label=label)


def histogram(name: str, title: str, edges: Sequence[float], shares: Mapping[str, Sequence[float]]) -> str:
    """Shares of several groups in the same bins, as steps over one another."""
    with matplotlib.rc_context(STYLE):
        figure, axes = make_figure(*SMALL)
        for place, (group, values) in enumerate(shares.items()):
            colour = LINES[place % len(LINES)]
            percents = np.asarray(values, dtype=float) * 100
            axes.stairs(percents, edges, fill=True, color=colour, alpha=0.2)
            axes.stairs(percents, edges, color=colour, linewidth=1.6, label=plain(group))
        axes.set_ylim(0, axes.get_ylim()[1] * 1.25)  # the legend's room
        _write_title(figure, title)
        axes.set_xlabel("reward")
        axes.legend(loc="upper center", fontsize=9, ncols=len(shares), columnspacing=1)
        return to_svg(figure, name, title)


def calibration(name: str, title: str, bins: Sequence[tuple[float, float, int]]) -> str:
    """Share right over predicted probability, a dot a bin: the larger, the more pairs; their number at the foot."""
    with matplotlib.rc_context(STYLE):
        figure, axes = make_figure(*SMALL)
        axes.plot([50, 100], [50, 100], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        whole = sum(pairs for _, _, pairs in bins)
        for predicted, right, pairs in bins:
            size = 14 + 110 * pairs / whole
            axes.scatter([predicted * 100], [right * 100], s=size, color=LINES[0], alpha=0.8, linewidth=0, zorder=3)
            axes.annotate(
                str(pairs), (predicted * 100, 0.02), xycoords=("data", "axes fraction"), rotation=90, ha="center",
                va="bottom", fontsize=8.5, color=MUTED,
            )  # fmt: skip
        axes.set_xlim(47, 104)
        axes.set_ylim(min(50.0, *(right * 100 for _, right, _ in bins)) - 28, 107)
        axes.set_yticks([tick for tick in (0, 25, 50, 75, 100) if tick >= axes.get_ylim()[0] + 20])
        _write_title(figure, title)
        axes.set_xlabel("predicted (%)")
        axes.set_ylabel("right (%)")
        return to_svg(figure, name, title)


def running_mean(y: np.ndarray, width: int) -> np.ndarray:
    """Mean over a window centred on each value, cut off at both ends."""
    sums = np.concatenate([[0.0], np.cumsum(y)])
    places = np.arange(len(y))
    first = np.maximum(places - width // 2, 0)
    behind = np.minimum(places + width // 2 + 1, len(y))
    return (sums[behind] - sums[first]) / (behind - first)


def make_figure(width: float, height: float, left: float = 0.62, bottom: float = 0.52) -> tuple[Figure, Axes]:
    """Sizes and margins in inches; margins that are set spare the search for tight ones, half of the time."""
    figure = Figure(figsize=(width, height))
    axes = figure.add_subplot()
    figure.subplots_adjust(left / width, bottom / height, 1 - 0.08 / width, 1 - 0.3 / height)
    return figure, axes


def _write_title(figure: Figure, title: str) -> None:
    """At the figure's left edge: above the axes alone there is less room."""
    width, height = figure.get_size_inches()
    figure.text(0.06 / width, 1 - 0.2 / height, plain(title), fontsize=11)


def plain(text: str) -> str:
    """Dollar signs are letters here, not formulas."""
    return text.replace("$", r"\$")


def to_svg(figure: Figure, name: str, says: str) -> str:
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
