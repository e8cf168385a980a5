"""Online Elo, as FastChat's arena began: every battle moves two ratings, so the order of the battles matters."""

from __future__ import annotations

from collections.abc import Sequence

from graftlm.evaluation.arena.battles import Battle

K, SCALE, BASE, START = 4.0, 400.0, 10.0, 1000.0


def online_elo(
    battles: Sequence[Battle], *, k: float = K, scale: float = SCALE, base: float = BASE, start: float = START
) -> dict[str, float]:
    """Ratings after the battles, in the order given; a tie of either kind is half a win for both.

    Args:
        k: the most that one battle moves a rating.
        scale, base: a lead of `scale` points makes winning `base` times as likely as losing.
        start: the rating of a model that has not fought.
    """
    ratings: dict[str, float] = {}
    for battle in battles:
        if battle.verdict == "unreadable":
            continue
        a, b = ratings.get(battle.model_a, start), ratings.get(battle.model_b, start)
        expected = 1 / (1 + base ** ((b - a) / scale))
        got = {"a": 1.0, "b": 0.0}.get(battle.verdict, 0.5)
        ratings[battle.model_a] = a + k * (got - expected)
        ratings[battle.model_b] = b - k * (got - expected)
    return ratings
