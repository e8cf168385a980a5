"""An arena's ratings and grades as the terminal shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.markup import escape
from rich.table import Table

from graftlm.evaluation.arena.grades import GradeRow
from graftlm.evaluation.arena.ratings import RatingTable


def rating_table(found: RatingTable, elo: Mapping[str, float]) -> Table:
    """A row a model, the best first.

    Args:
        elo: the online ratings, which depend on the order of the battles.
    """
    table = _plain_table("model", "rating", "95 % interval", "rank", "battles", "win rate", "online Elo")
    for row in found.rows:
        table.add_row(
            escape(row.model), f"{row.rating.value:.0f}", f"{row.rating.low:.0f} – {row.rating.high:.0f}",
            rank_range(row.best, row.worst), f"{row.battles:,}", f"{row.win_rate:.1%}", f"{elo[row.model]:.0f}",
        )  # fmt: skip
    return table


def effect_table(found: RatingTable) -> Table:
    """What style is worth to the judges."""
    table = _plain_table("style", "points a standard deviation", "95 % interval")
    for effect in found.effects:
        points = effect.points
        table.add_row(effect.name, f"{points.value:+.0f}", f"{points.low:+.0f} – {points.high:+.0f}")
    return table


def grade_table(rows: Sequence[GradeRow]) -> Table:
    """A row a model with its mean grade, by turn and by category."""
    turns = sorted({turn for row in rows for turn in row.turns})
    categories = sorted({name for row in rows for name in row.categories})
    ungraded = any(row.ungraded for row in rows)
    heads = ["model", "mean", "95 % interval", *(f"turn {turn}" for turn in turns), *categories]
    table = _plain_table(*heads, *(["no grade"] if ungraded else []))
    for row in rows:
        means = [row.turns.get(turn) for turn in turns] + [row.categories.get(name) for name in categories]
        mean = row.mean
        table.add_row(
            escape(row.model), f"{mean.value:.2f}", f"{mean.low:.2f} – {mean.high:.2f}",
            *("–" if value is None else f"{value:.2f}" for value in means),
            *([str(row.ungraded)] if ungraded else []),
        )  # fmt: skip
    return table


def rank_range(best: int, worst: int) -> str:
    return str(best) if best == worst else f"{best}–{worst}"


def _plain_table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    table.add_column(first)
    for name in others:
        table.add_column(escape(name), justify="right")
    return table
