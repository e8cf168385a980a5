"""Battles as arrays, in one canonical order, so that ratings do not depend on the order of the file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graftlm.core.errors import DataError
from graftlm.evaluation.arena.battles import Battle

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_POINTS = {"a": 1.0, "b": 0.0, "tie": 0.5, "both_bad": 0.5}
STYLE_NAMES = ("tokens", "headers", "lists", "bold")


@dataclass(frozen=True)
class Matches:
    """N rated battles of M models. In every row the model with the smaller number stands first.

    Attributes:
        models: M names, sorted.
        question_N: number of the question, below Q.
        first_N, second_N: places in `models`.
        points_N: what the first model gets: 1, 0.5 (ties of both kinds) or 0.
        style_NF: how the first answer's style differs from the second's; no column where style does not count.
    """

    models: tuple[str, ...]
    question_N: Ints
    first_N: Ints
    second_N: Ints
    points_N: Floats
    style_NF: Floats

    def __len__(self) -> int:
        return len(self.points_N)

    def pair_codes(self) -> Ints:
        """A number for who fought, [N]."""
        return self.first_N * len(self.models) + self.second_N

    def pairs(self) -> Pairs:
        """The battles of each pair of models together: all that a Bradley–Terry fit needs."""
        codes_P, place_N = np.unique(self.pair_codes(), return_inverse=True)
        return Pairs(
            self.models,
            codes_P // len(self.models),
            codes_P % len(self.models),
            np.bincount(place_N, minlength=len(codes_P)).astype(np.float64),
            np.bincount(place_N, self.points_N, minlength=len(codes_P)).astype(np.float64),
        )


@dataclass(frozen=True)
class Pairs:
    """P pairs of models that met.

    Attributes:
        first_P, second_P: places in `models`, the smaller first.
        battles_P: how often they met.
        points_P: what the first got of them.
    """

    models: tuple[str, ...]
    first_P: Ints
    second_P: Ints
    battles_P: Floats
    points_P: Floats

    def points_MM(self) -> Floats:
        """[i, j]: points of i from j."""
        table = np.zeros((len(self.models), len(self.models)))
        table[self.first_P, self.second_P] = self.points_P
        table[self.second_P, self.first_P] = self.battles_P - self.points_P
        return table

    def battles_MM(self) -> Floats:
        """[i, j]: how often i and j met."""
        table = np.zeros((len(self.models), len(self.models)))
        table[self.first_P, self.second_P] = table[self.second_P, self.first_P] = self.battles_P
        return table


def matches_of(battles: Sequence[Battle], *, styled: bool = False) -> Matches:
    """The rated battles, sorted; unreadable ones are left out, and with `styled` those of unknown style.

    Raises:
        DataError: no battle is left.
    """
    rated = [battle for battle in battles if battle.verdict != "unreadable"]
    if not rated:
        raise DataError("no battle with a verdict", fix="let a judge judge, or people vote: docs/arena.md")
    if styled and not (rated := [battle for battle in rated if battle.style_a and battle.style_b]):
        raise DataError("no battle tells the style of its answers", fix="rate without --style-control")
    models = tuple(sorted({name for battle in rated for name in (battle.model_a, battle.model_b)}))
    place = {name: number for number, name in enumerate(models)}
    _, question = np.unique([str(battle.question_id) for battle in rated], return_inverse=True)
    first = np.array([place[battle.model_a] for battle in rated], dtype=np.int64)
    second = np.array([place[battle.model_b] for battle in rated], dtype=np.int64)
    points = np.array([_POINTS[battle.verdict] for battle in rated])
    style = _style_differences(rated) if styled else np.zeros((len(rated), 0))
    swapped = first > second
    first, second = np.where(swapped, second, first), np.where(swapped, first, second)
    points = np.where(swapped, 1 - points, points)
    style = np.where(swapped[:, None], -style, style)
    order = np.lexsort((*style.T, points, second, first, question))
    return Matches(models, question[order], first[order], second[order], points[order], style[order])


def _style_differences(battles: Sequence[Battle]) -> Floats:
    """(a − b) / (a + b + 1) of each of `STYLE_NAMES`, [N, 4], as FastChat's style control has it."""
    of_a = np.array([[getattr(b.style_a, name) for name in STYLE_NAMES] for b in battles], dtype=np.float64)
    of_b = np.array([[getattr(b.style_b, name) for name in STYLE_NAMES] for b in battles], dtype=np.float64)
    return (of_a - of_b) / (of_a + of_b + 1)
