"""Places that models may hold, against a brute-force bootstrap and cases that can be counted by hand."""

from __future__ import annotations

import time

import numpy as np
import pytest

from graftlm.evaluation.leaderboard.ranking import Contender, clearly_better, place_ranges
from graftlm.evaluation.statistics import Scores, paired_difference


def contender(value: float, half: float | None) -> Contender:
    return Contender(value, None if half is None else value - half, None if half is None else value + half)


def paired(right: np.ndarray, items: str = "exam") -> Contender:
    return Contender(float(right.mean()), 0.0, 1.0, ((1.0, items, Scores.of(right.tolist())),))


def test_intervals_that_lie_apart_and_that_overlap() -> None:
    ranks = place_ranges([contender(0.9, 0.05), contender(0.8, 0.02), contender(0.78, 0.02), contender(0.5, 0.1)])
    assert ranks == [(1, 1), (2, 3), (2, 3), (4, 4)]


def test_nothing_is_known_of_a_score_without_an_interval() -> None:
    assert place_ranges([contender(0.9, 0.01), contender(0.5, None), contender(0.1, 0.01)]) == [(1, 2), (1, 3), (2, 3)]


def test_one_model_is_first() -> None:
    assert place_ranges([contender(0.5, 0.1)]) == [(1, 1)]
    assert place_ranges([paired(np.ones(5))]) == [(1, 1)]
    assert place_ranges([]) == []


def test_pairs_tell_what_intervals_cannot() -> None:
    """Both near 50 %, but the second is right wherever the first is, and on 15 items more."""
    first = np.repeat([1.0, 0.0], 100)
    second = first.copy()
    second[100:115] = 1
    other_items = [paired(first, "one"), paired(second, "other")]
    assert place_ranges(other_items) == [(1, 2), (1, 2)]
    assert place_ranges([paired(first), paired(second)]) == [(2, 2), (1, 1)]


def test_equal_answers_are_no_difference() -> None:
    same = (np.random.default_rng(0).random(50) < 0.5).astype(float)
    assert place_ranges([paired(same), paired(same), paired(same)]) == [(1, 3)] * 3


def test_the_matrix_against_the_paired_bootstrap_one_by_one() -> None:
    generator = np.random.default_rng(3)
    right_MN = (generator.random((8, 120)) < np.linspace(0.3, 0.75, 8)[:, None]).astype(float)
    matrix = clearly_better([paired(right) for right in right_MN], resamples=4_000)
    for m in range(8):
        for k in range(8):
            found = paired_difference(Scores.of(right_MN[k].tolist()), Scores.of(right_MN[m].tolist()), resamples=4_000)
            if abs(found.low) > 0.012:  # closer to zero, chance decides
                assert matrix[m, k] == (found.low > 0), (m, k, found)
    assert matrix.sum() > 10


def test_means_over_tasks_and_metrics_that_are_ratios() -> None:
    """Half of each of two tasks; f1 counts items with different weights. The second is better by what pairs tell."""
    generator = np.random.default_rng(5)
    bottom = generator.integers(1, 6, 80).astype(float)
    top = np.floor(bottom * generator.random(80))
    better = np.minimum(top + (generator.random(80) < 0.3), bottom)
    right = (generator.random(60) < 0.5).astype(float)

    def make(numerators: np.ndarray) -> Contender:
        scores = Scores(numerators, bottom)
        parts = ((0.5, "f1 items", scores), (0.5, "exam", Scores.of(right.tolist())))
        return Contender(0.5 * scores.value + 0.5 * float(right.mean()), 0.0, 1.0, parts)

    assert place_ranges([make(top), make(better)]) == [(2, 2), (1, 1)]


@pytest.mark.parametrize("seed", range(5))
def test_places_hold_the_rank_and_never_contradict(seed: int) -> None:
    """Random scores: the place by value is in the range; who is clearly better never stands behind."""
    generator = np.random.default_rng(seed)
    halves = [None if generator.random() < 0.1 else float(generator.uniform(0, 0.2)) for _ in range(30)]
    contenders = [contender(float(generator.random()), half) for half in halves]
    ranks = place_ranges(contenders)
    order = np.argsort([-c.value for c in contenders]).argsort() + 1
    better = clearly_better(contenders)
    assert not (better & better.T).any()
    for number, (best, worst) in enumerate(ranks):
        assert best <= order[number] <= worst
    for m, k in zip(*np.nonzero(better), strict=True):
        assert contenders[m].value > contenders[k].value and ranks[m] < ranks[k]


def test_three_hundred_models_are_ranked_at_once() -> None:
    generator = np.random.default_rng(0)
    right_MN = (generator.random((300, 1_000)) < generator.uniform(0.2, 0.8, 300)[:, None]).astype(float)
    began = time.perf_counter()
    ranks = place_ranges([paired(right) for right in right_MN])
    assert time.perf_counter() - began < 10  # 0.6 s on one core of today
    best = int(right_MN.mean(axis=1).argmax())
    assert ranks[best][0] == 1 and ranks[best][1] < 60
