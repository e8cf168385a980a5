"""Style control against a planted bias, and against FastChat's regression written out with plain Newton steps."""

from __future__ import annotations

import random

import numpy as np
import pytest

from graftlm.core.errors import DataError
from graftlm.evaluation.arena.battles import Battle, Style, style_of
from graftlm.evaluation.arena.matches import matches_of
from graftlm.evaluation.arena.ratings import rate

POINTS = 400 / np.log(10)


def styled_battles(count: int, bias: float, seed: int = 0) -> tuple[dict[str, float], list[Battle]]:
    """Four models; the weakest writes longest, and length moves the verdict by `bias` nats a unit of difference."""
    generator = np.random.default_rng(seed)
    strength, length = np.array([0.6, 0.2, -0.2, -0.6]), np.array([120, 160, 240, 400])
    battles = []
    for number in range(count):
        a, b = generator.choice(4, 2, replace=False)
        words = np.maximum(1, (length[[a, b]] * generator.lognormal(0, 0.5, 2)).astype(int))
        lists = generator.poisson(2, 2)
        lead = strength[a] - strength[b] + bias * (words[0] - words[1]) / (words[0] + words[1] + 1)
        verdict = "a" if generator.random() < 1 / (1 + np.exp(-lead)) else "b"
        styles = [Style(tokens=int(words[side]), lists=int(lists[side])) for side in (0, 1)]
        battles.append(
            Battle(
                question_id=number, category="talk", model_a=f"m{a}", model_b=f"m{b}", verdict=verdict, judge="people",
                order="ab", style_a=styles[0], style_b=styles[1],
            )
        )  # fmt: skip
    return {f"m{place}": 1000 + POINTS * float(value) for place, value in enumerate(strength)}, battles


def test_a_planted_length_bias_is_found_and_taken_out() -> None:
    truth, battles = styled_battles(5_000, bias=2.0)
    plain, controlled = rate(battles, bootstraps=100), rate(battles, bootstraps=100, style_control=True)
    assert [row.model for row in plain.rows] != sorted(truth), "length hides who is better"
    assert [row.model for row in controlled.rows] == sorted(truth)
    for row in controlled.rows:
        assert abs(row.rating.value - truth[row.model]) < 30
    size = np.sqrt(np.mean([
        ((b.style_a.tokens - b.style_b.tokens) / (b.style_a.tokens + b.style_b.tokens + 1)) ** 2 for b in battles
    ]))  # fmt: skip
    effects = {effect.name: effect.points for effect in controlled.effects}
    assert list(effects) == ["tokens", "lists"], "no answer has headings or bold words"
    assert effects["tokens"].low < 2.0 * size * POINTS < effects["tokens"].high
    assert effects["lists"].low < 0 < effects["lists"].high


def test_without_a_bias_style_control_changes_little() -> None:
    truth, battles = styled_battles(5_000, bias=0.0)
    for row in rate(battles, bootstraps=100, style_control=True).rows:
        assert abs(row.rating.value - truth[row.model]) < 30


def fastchat_fit(battles: list[Battle]) -> np.ndarray:
    """Ratings by FastChat's definition (`rating_systems.py`), by dense Newton steps in its own units."""
    rows, features, outcomes = [], [], []
    for one in battles:
        row = np.zeros(4)
        row[int(one.model_a[1])], row[int(one.model_b[1])] = np.log(10), -np.log(10)
        rows.append(row)
        pairs = [(one.style_a.tokens, one.style_b.tokens), (one.style_a.lists, one.style_b.lists)]
        features.append([(x - y) / (x + y + 1) for x, y in pairs])
        outcomes.append(1.0 if one.verdict == "a" else 0.0)
    feature = np.array(features)
    feature = (feature - feature.mean(axis=0)) / feature.std(axis=0)
    design, outcome = np.hstack([np.array(rows), feature]), np.array(outcomes)
    parameters = np.zeros(design.shape[1])
    for _ in range(30):
        chance = 1 / (1 + np.exp(-design @ parameters))
        gradient = design.T @ (chance - outcome) + 0.5 * parameters
        hessian = design.T @ (design * (chance * (1 - chance))[:, None]) + 0.5 * np.eye(len(parameters))
        parameters -= np.linalg.solve(hessian, gradient)
    return 1000 + 400 * parameters[:4]


def test_ratings_are_fastchats_where_sides_are_drawn() -> None:
    """Each battle once with either side first, so that its mean difference is exactly zero, as chance makes it."""
    _, battles = styled_battles(400, bias=1.0)
    turned = [
        one.model_copy(
            update={
                "question_id": -1 - one.question_id, "model_a": one.model_b, "model_b": one.model_a,
                "style_a": one.style_b, "style_b": one.style_a, "verdict": "b" if one.verdict == "a" else "a",
            }
        )
        for one in battles
    ]  # fmt: skip
    both = battles + turned
    found = {row.model: row.rating.value for row in rate(both, bootstraps=100, style_control=True).rows}
    np.testing.assert_allclose([found[f"m{place}"] for place in range(4)], fastchat_fit(both), atol=1e-4)


def test_sides_and_order_change_nothing() -> None:
    _, battles = styled_battles(500, bias=1.0)
    shuffled = list(battles)
    random.Random(1).shuffle(shuffled)
    first, second = (rate(some, bootstraps=100, style_control=True).rows for some in (battles, shuffled))
    for one, other in zip(first, second, strict=True):
        assert one.rating.model_dump() == pytest.approx(other.rating.model_dump(), abs=1e-6)


def test_battles_of_unknown_style_are_left_out() -> None:
    _, battles = styled_battles(300, bias=1.0)
    bare = [one.model_copy(update={"question_id": f"bare {one.question_id}", "style_a": None}) for one in battles]
    assert len(matches_of(battles + bare, styled=True)) == 300 and len(matches_of(battles + bare)) == 600
    with pytest.raises(DataError, match="no battle tells the style"):
        rate(bare, style_control=True)


def test_what_is_counted_of_an_answer() -> None:
    answer = (
        "# Plan\n\nFirst **two** things:\n- buy __milk__\n  * go\n1. end\n\n```\n# no heading\n- no item\n```\n#hash"
    )
    assert style_of([answer]).model_dump() | {"tokens": 0} == {"tokens": 0, "headers": 1, "lists": 3, "bold": 2}
    assert style_of(["莱柯热看 two words。"]).tokens == 4 + 2 + 1
    assert style_of(["# a", "# b"]).headers == 2, "all turns of the judged conversation"
