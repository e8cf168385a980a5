"""Ratings of battles whose true strengths are known, and against likelihoods written out here."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest

from graftlm.core.errors import DataError
from graftlm.evaluation.arena.battles import Battle, each_once
from graftlm.evaluation.arena.bradley_terry import PRIOR, strengths
from graftlm.evaluation.arena.elo import online_elo
from graftlm.evaluation.arena.matches import matches_of
from graftlm.evaluation.arena.ratings import Anchor, RatingTable, rate

POINTS = 400 / np.log(10)
SPREAD = np.linspace(-1.2, 1.2, 12)
"""Twelve models, 38 points from one to the next."""


def battle(a: str, b: str, verdict: str, question: int = 0) -> Battle:
    return Battle(
        question_id=question, category="talk", model_a=a, model_b=b, verdict=verdict, judge="people", order="ab"
    )


def repeated(*groups: tuple[str, str, str, int]) -> list[Battle]:
    outcomes = [(a, b, verdict) for a, b, verdict, times in groups for _ in range(times)]
    return [battle(*outcome, question=number) for number, outcome in enumerate(outcomes)]


def ratings(table: RatingTable) -> dict[str, float]:
    return {row.model: row.rating.value for row in table.rows}


def test_twenty_thousand_battles_give_the_true_order(simulated: Callable) -> None:
    truth, battles = simulated(20_000, SPREAD, seed=3)
    found = rate(battles)
    assert [row.model for row in found.rows] == sorted(truth, key=lambda model: -truth[model])  # rank correlation 1
    assert max(abs(row.rating.value - truth[row.model]) for row in found.rows) < 25
    assert sum(row.battles for row in found.rows) == 2 * len(battles)


def coverage(simulated: Callable, worlds: int, battles: int) -> float:
    """How often an interval holds the true rating."""
    held = []
    for seed in range(worlds):
        truth, fought = simulated(battles, SPREAD, seed=seed)
        rows = rate(fought, seed=seed, bootstraps=200).rows
        held += [row.rating.low <= truth[row.model] <= row.rating.high for row in rows]
    return float(np.mean(held))


def test_intervals_hold_the_truth_in_95_percent(simulated: Callable) -> None:
    """300 intervals: the share of a true 95 % has a standard deviation of about 1.3 points."""
    assert 0.91 <= coverage(simulated, worlds=25, battles=1_500) <= 0.98


@pytest.mark.slow
def test_intervals_of_twenty_thousand_battles(simulated: Callable) -> None:
    """1,200 intervals: 0.6 points."""
    assert 0.93 <= coverage(simulated, worlds=100, battles=20_000) <= 0.97


def test_two_models_have_a_closed_form() -> None:
    """a wins 6, b 2, 2 ties: 7 of 10 points, ln(7/3) nats."""
    found = ratings(
        rate(repeated(("a", "b", "a", 6), ("a", "b", "b", 2), ("a", "b", "tie", 1), ("b", "a", "both_bad", 1)))
    )
    assert found["a"] - found["b"] == pytest.approx(POINTS * np.log(7 / 3), abs=1e-6)
    assert found["a"] + found["b"] == pytest.approx(2000)


def test_the_gradient_of_the_likelihood_is_zero(simulated: Callable) -> None:
    """For every model, points won are points expected: the likelihood equations, written out."""
    _, battles = simulated(3_000, SPREAD[:5], seed=0)
    strength = {model: (rating - 1000) / POINTS for model, rating in ratings(rate(battles, bootstraps=100)).items()}
    surplus = dict.fromkeys(strength, 0.0)
    for one in battles:
        points = {"a": 1.0, "b": 0.0}.get(one.verdict, 0.5)
        expected = 1 / (1 + np.exp(strength[one.model_b] - strength[one.model_a]))
        surplus[one.model_a] += points - expected
        surplus[one.model_b] -= points - expected
    assert max(abs(value) for value in surplus.values()) < 1e-5


def test_the_order_of_battles_and_sides_changes_nothing(simulated: Callable) -> None:
    _, battles = simulated(2_000, SPREAD[:6], seed=1)
    turned = [
        one.model_copy(
            update={
                "model_a": one.model_b,
                "model_b": one.model_a,
                "verdict": {"a": "b", "b": "a"}.get(one.verdict, one.verdict),
            }
        )
        for one in battles
    ]
    random.Random(0).shuffle(turned)
    assert rate(turned).rows == rate(battles).rows


def test_online_elo_by_hand_and_its_dependence_on_order() -> None:
    first, second = battle("a", "b", "a"), battle("b", "c", "a")
    forward, backward = online_elo([first, second]), online_elo([second, first])
    assert online_elo([first]) == {"a": 1002.0, "b": 998.0}  # K/2 from equal ratings
    expected = 1 / (1 + 10 ** ((1000 - 998) / 400))
    assert forward == pytest.approx({"a": 1002, "b": 998 + 4 * (1 - expected), "c": 1000 - 4 * (1 - expected)})
    assert forward["b"] != backward["b"] and forward["a"] != backward["a"]
    assert sum(forward.values()) == pytest.approx(3000)
    assert online_elo([battle("a", "b", "tie")]) == online_elo([battle("a", "b", "both_bad")]) == {"a": 1000, "b": 1000}
    assert online_elo([battle("a", "b", "unreadable")]) == {}


def test_online_elo_forgets_what_bradley_terry_keeps() -> None:
    """The same battles, wins of b last or first: Elo differs by far, Bradley–Terry not at all."""
    wins, losses = repeated(("a", "b", "a", 300)), repeated(("a", "b", "b", 300))
    late = [one.model_copy(update={"question_id": number}) for number, one in enumerate(wins + losses)]
    assert abs(online_elo(late)["a"] - online_elo(late[::-1])["a"]) > 100
    assert ratings(rate(late)) == ratings(rate(late[::-1])) == pytest.approx({"a": 1000, "b": 1000})


def test_models_that_never_met_are_named() -> None:
    with pytest.raises(DataError, match=r"never met: a, b \| c, d"):
        rate(repeated(("a", "b", "a", 3), ("b", "a", "a", 1), ("c", "d", "tie", 2)))


def test_models_that_meet_by_way_of_others_are_rated() -> None:
    found = ratings(rate(repeated(("a", "b", "a", 3), ("a", "b", "b", 1), ("b", "c", "a", 3), ("b", "c", "b", 1))))
    assert found["a"] - found["c"] == pytest.approx(2 * POINTS * np.log(3), abs=1e-6)


def test_a_model_that_always_wins_has_an_infinite_rating_and_a_note() -> None:
    battles = repeated(("a", "b", "a", 5), ("a", "b", "b", 4), ("c", "a", "a", 6), ("c", "b", "a", 6))
    found = rate(battles)
    assert found.rows[0].model == "c" and np.isfinite(found.rows[0].rating.high)
    assert len(found.notes) == 1 and found.notes[0].startswith("c: ") and "infinite" in found.notes[0]
    assert not rate([*battles, battle("a", "c", "tie", 99)]).notes, "half a point is enough for a finite rating"


def test_the_weak_prior_is_a_ridge() -> None:
    """One win: the strength s of a solves 1 − sigmoid(2 s) = PRIOR · s."""
    found, outside = strengths(matches_of([battle("a", "b", "a")]).pairs())
    assert found[0] == pytest.approx(-found[1]) and outside == ["b"]
    assert 1 - 1 / (1 + np.exp(-2 * found[0])) == pytest.approx(PRIOR * found[0], abs=1e-9)


def test_resamples_without_a_finite_rating_leave_finite_intervals() -> None:
    """Of 10 battles 9 won: a third of the resamples has no loss."""
    found = rate(repeated(("a", "b", "a", 9), ("a", "b", "b", 1)), bootstraps=500)
    best = found.rows[0].rating
    assert np.isfinite([best.low, best.high]).all() and best.high > best.value + 50


def test_an_anchor_sets_the_scale(simulated: Callable) -> None:
    _, battles = simulated(2_000, SPREAD[:4], seed=2)
    free, held = rate(battles), rate(battles, anchor=Anchor("m01", 1114))
    shift = 1114 - ratings(free)["m01"]
    assert ratings(held) == pytest.approx({model: rating + shift for model, rating in ratings(free).items()})
    anchored = next(row.rating for row in held.rows if row.model == "m01")
    assert (anchored.low, anchored.high) == pytest.approx((1114, 1114))
    with pytest.raises(DataError, match="the anchor zzz fought no battle"):
        rate(battles, anchor=Anchor("zzz"))


def test_rank_ranges_follow_the_intervals() -> None:
    """Two equal models far above a third."""
    found = rate(repeated(*[(a, b, v, n) for a, b, v, n in [
        ("a", "b", "a", 100), ("a", "b", "b", 100), ("a", "c", "a", 180), ("a", "c", "b", 20),
        ("b", "c", "a", 180), ("b", "c", "b", 20),
    ]]))  # fmt: skip
    assert {row.model: (row.best, row.worst) for row in found.rows} == {"a": (1, 2), "b": (1, 2), "c": (3, 3)}


def test_win_rates_and_the_matrix_count_ties_as_half() -> None:
    found = rate(repeated(("a", "b", "a", 2), ("a", "b", "tie", 2), ("b", "c", "a", 3), ("c", "b", "a", 1)))
    assert [row.model for row in found.rows] == ["a", "b", "c"]
    assert [(row.battles, row.win_rate) for row in found.rows] == [(4, 0.75), (8, 0.5), (4, 0.25)]
    expected = [[np.nan, 0.75, np.nan], [0.25, np.nan, 0.75], [np.nan, 0.25, np.nan]]
    np.testing.assert_array_equal(found.wins_MM, expected)
    np.testing.assert_array_equal(found.met_MM, [[0, 4, 0], [4, 0, 4], [0, 4, 0]])


def test_battles_without_a_verdict_are_not_rated() -> None:
    battles = repeated(("a", "b", "a", 2), ("a", "b", "b", 2), ("a", "b", "unreadable", 50))
    assert rate(battles).rows[0].battles == 4
    with pytest.raises(DataError, match="no battle with a verdict"):
        rate(battles[4:])


def test_a_battle_told_twice_counts_once() -> None:
    one = battle("a", "b", "a")
    turned = one.model_copy(update={"model_a": "b", "model_b": "a", "verdict": "tie"})
    assert each_once([one, turned, battle("a", "b", "b", 1)]) == [one, battle("a", "b", "b", 1)]
