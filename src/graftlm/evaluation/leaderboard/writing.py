"""The leaderboard's numbers and names as people read them."""

from __future__ import annotations

from graftlm.evaluation.leaderboard.cells import Cell, Column

LONGEST = 48


def score(column: Column, value: float) -> str:
    """One digit of points, three of what is no share."""
    return f"{value:.1f}" if column.points else f"{value:.3f}"


def span(column: Column, cell: Cell) -> str:
    """The 95 % interval; "" without one."""
    if cell.low is None or cell.high is None:
        return ""
    return f"{score(column, cell.low)} – {score(column, cell.high)}"


def places(cell: Cell | None) -> str:
    """The ranks that a model may hold; "–" where it has none."""
    if cell is None or cell.places is None:
        return "–"
    best, worst = cell.places
    return str(best) if best == worst else f"{best}–{worst}"


def billions(parameters: int | None) -> str:
    """7.6B, 135M, 1.2k."""
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if parameters and parameters >= size:
            return f"{parameters / size:.3g}{unit}"
    return str(parameters or "")


def short(text: str) -> str:
    """A printable name of at most LONGEST letters: its beginning and its end, which tell models apart."""
    text = printable(text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]}…{text[-LONGEST // 2 + 1 :]}"


def printable(text: str) -> str:
    """Without what moves a terminal's cursor or turns the order of the letters around it."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
