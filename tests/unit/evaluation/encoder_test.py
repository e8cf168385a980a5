"""Entity F1 by hand; perplexity from nats."""

from __future__ import annotations

import math

import pytest

from graftlm.data.samples import Entity
from graftlm.evaluation.encoder import entity_scores, estimated, perplexity
from graftlm.evaluation.statistics import Estimate

A, B, C = Entity(0, 2, "PER"), Entity(4, 6, "LOC"), Entity(8, 9, "LOC")


@pytest.mark.parametrize(
    ("found", "wanted", "score"),
    [
        ([[A, B]], [[A, B]], 1.0),
        ([[A]], [[A, B]], 2 / 3),  # precision 1, recall 1/2
        ([[A, C]], [[A, B]], 0.5),
        ([[Entity(0, 2, "LOC")]], [[A]], 0.0),  # another type
        ([[Entity(0, 3, "PER")]], [[A]], 0.0),  # another end
        ([[A], []], [[A], [B]], 2 / 3),  # counts are summed over texts, not averaged
        ([[A], [B, C]], [[A], [B]], 4 / 5),
        ([[A, A]], [[A]], 1.0),  # named twice is named once
        ([[B], [A]], [[A], [B]], 0.0),  # in its own text
    ],
)
def test_entity_f1(found: list[list[Entity]], wanted: list[list[Entity]], score: float) -> None:
    assert entity_scores(found, wanted).value == pytest.approx(score)


def test_nothing_to_find_has_no_score() -> None:
    assert estimated(entity_scores([[], []], [[], []])) is None
    assert estimated(entity_scores([], [])) is None


def test_perplexity_is_e_to_the_nats() -> None:
    found = perplexity(Estimate(value=math.log(8), low=math.log(7), high=math.log(9), n=3))
    assert (found.value, found.low, found.high) == pytest.approx((8, 7, 9))
