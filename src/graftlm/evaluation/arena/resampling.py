"""The bootstrap of an arena: questions are drawn with replacement, each with all of its battles.

Battles over one question are not independent: a model that is right beats all that are wrong. Drawing single battles,
as FastChat does, would make intervals too narrow there. Where each battle has a question of its own, as in an arena
of people, both are the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graftlm.evaluation.arena.matches import Floats, Ints, Matches

_CELLS = 4_000_000
"""Numbers in memory at once, 32 MB."""


@dataclass(frozen=True)
class Profiles:
    """Questions on which the same battles ended alike: U kinds of them, with E battles in all, sorted by pair.

    Attributes:
        often_U: questions of each kind.
        kind_E, pair_E, points_E: the battles of one question of each kind.
    """

    often_U: Ints
    kind_E: Ints
    pair_E: Ints
    points_E: Floats

    def resampled(self, generator: np.random.Generator, count: int) -> tuple[Floats, Floats]:
        """Battles and the first model's points of each pair, both [count, P], in `count` resamples."""
        starts_P = np.flatnonzero(np.diff(self.pair_E, prepend=-1))
        total = int(self.often_U.sum())
        drawn_RU = generator.multinomial(total, self.often_U / total, size=count).astype(np.float64)
        at_once = max(1, _CELLS // len(self.kind_E))
        battles, points = [], []
        for start in range(0, count, at_once):
            drawn_RE = drawn_RU[start : start + at_once, self.kind_E]
            battles.append(np.add.reduceat(drawn_RE, starts_P, axis=1))
            points.append(np.add.reduceat(drawn_RE * self.points_E, starts_P, axis=1))
        return np.concatenate(battles), np.concatenate(points)


def profiles(matches: Matches) -> Profiles:
    """The kinds of questions, in an order that depends on the battles alone."""
    _, pair_N = np.unique(matches.pair_codes(), return_inverse=True)
    outcome_N = (3 * pair_N + 2 * matches.points_N).astype(np.int64)
    starts = np.flatnonzero(np.diff(matches.question_N, prepend=-1))
    often: dict[tuple[int, ...], int] = {}
    for outcomes in np.split(outcome_N, starts[1:]):
        kind = tuple(sorted(outcomes.tolist()))
        often[kind] = often.get(kind, 0) + 1
    kinds = sorted(often)
    outcome_E = np.array([outcome for kind in kinds for outcome in kind], dtype=np.int64)
    kind_E = np.repeat(np.arange(len(kinds)), [len(kind) for kind in kinds])
    order = np.argsort(outcome_E // 3, kind="stable")
    outcome_E, kind_E = outcome_E[order], kind_E[order]
    return Profiles(np.array([often[kind] for kind in kinds]), kind_E, outcome_E // 3, outcome_E % 3 / 2)


def battle_weights(matches: Matches, generator: np.random.Generator, count: int) -> Floats:
    """How often each battle is drawn in `count` resamples of the questions, [count, N]."""
    questions = int(matches.question_N.max()) + 1
    drawn_RQ = generator.multinomial(questions, np.full(questions, 1 / questions), size=count)
    return drawn_RQ[:, matches.question_N].astype(np.float64)
