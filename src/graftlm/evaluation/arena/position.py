"""Whether a judge looks at the answers or at their places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graftlm.evaluation.arena.battles import Battle, Verdict


@dataclass(frozen=True)
class PositionBias:
    """Shares of the battles that were judged in both orders, as MT-bench reports them (arXiv:2306.05685, table 2).

    Attributes:
        battles: how many.
        consistent: both orders gave the same verdict.
        first: the answer in the first place won in both orders, or won once and tied once.
        second: the same of the second place.
        unreadable: no verdict in one order or both.
    """

    battles: int
    consistent: float
    first: float
    second: float
    unreadable: float


def position_bias(battles: Sequence[Battle]) -> PositionBias | None:
    """None where no battle was judged in both orders."""
    swapped = [(battle.first, battle.second) for battle in battles if battle.first and battle.second]
    if not swapped:
        return None
    leans = [_lean(first, second) for first, second in swapped]
    consistent, first, second, unreadable = (leans.count(name) / len(leans) for name in _LEANS)
    return PositionBias(len(leans), consistent, first, second, unreadable)


_LEANS = ("consistent", "first", "second", "unreadable")


def _lean(first: Verdict, second: Verdict) -> str:
    """Of the verdict on the order a–b, and on the order b–a, both in terms of a and b."""
    if "unreadable" in (first, second):
        return "unreadable"
    if first == second:
        return "consistent"
    first_places = (first == "a") + (second == "b")
    second_places = (first == "b") + (second == "a")
    return "first" if first_places > second_places else "second"
