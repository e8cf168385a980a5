"""An arena as one self-contained page: ratings with their intervals, and who beats whom."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import matplotlib
import numpy as np
from markupsafe import Markup

from graftlm.core import page_style
from graftlm.evaluation.arena.battles import Battle
from graftlm.evaluation.arena.ratings import Rated, RatingTable
from graftlm.recipes.arena_table import rank_range
from graftlm.recipes.charts import LINES, STYLE, make_figure, plain, to_svg


@dataclass(frozen=True)
class Cell:
    """Who won how much of their battles: `strength` (0 to 100) colours it, `good` says which colour."""

    text: str
    says: str
    strength: int
    good: bool


def arena_page(found: RatingTable, elo: Mapping[str, float], battles: Sequence[Battle]) -> str:
    """The page as HTML; it loads nothing from anywhere."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([Path(__file__).parent, page_style.FOLDER]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["rank_range"] = lambda row: rank_range(row.best, row.worst)
    rated = [battle for battle in battles if battle.verdict != "unreadable"]
    return environment.get_template("arena.html.j2").render(
        found=found,
        elo=elo,
        chart=Markup(rating_chart(found.rows)),
        cells=win_cells(found),
        count=len(rated),
        ties=sum(battle.verdict in ("tie", "both_bad") for battle in rated),
        unread=len(battles) - len(rated),
        judges=Counter(battle.judge for battle in rated).most_common(),
        categories=Counter(battle.category for battle in rated).most_common(),
    )


def rating_chart(rows: Sequence[Rated]) -> str:
    """A point a model with its 95 % interval, the best on top."""
    with matplotlib.rc_context(STYLE):
        longest = max(len(row.model) for row in rows)
        figure, axes = make_figure(7.2, 0.75 + 0.27 * len(rows), left=0.3 + 0.085 * longest)
        places = np.arange(len(rows))
        values = np.array([[row.rating.value, row.rating.low, row.rating.high] for row in rows])
        spread = np.abs(values[:, 1:] - values[:, :1]).T
        axes.errorbar(values[:, 0], places, xerr=spread, fmt="o", capsize=3, markersize=5, color=LINES[0])
        axes.set_yticks(places, [plain(row.model) for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel("rating, with its 95 % interval")
        axes.grid(axis="y", visible=False)
        return to_svg(figure, "ratings", "Ratings with their 95 % intervals")


def win_cells(found: RatingTable) -> list[list[Cell | None]]:
    """Row against column, the best first; None where two did not meet."""
    names = [row.model for row in found.rows]
    return [
        [
            _cell(one, other, float(found.wins_MM[i, j]), int(found.met_MM[i, j])) if found.met_MM[i, j] else None
            for j, other in enumerate(names)
        ]
        for i, one in enumerate(names)
    ]


def _cell(one: str, other: str, share: float, battles: int) -> Cell:
    says = f"{one} got {share:.1%} of {battles:,} battles with {other}"
    return Cell(f"{share:.0%}".removesuffix("%"), says, round(abs(share - 0.5) * 160), share > 0.5)
