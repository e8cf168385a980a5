"""An exam as an arena, by hand, and the intervals where battles share questions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from graftlm.core.errors import DataError, GraftError
from graftlm.evaluation.arena.battles import Battle
from graftlm.evaluation.arena.bradley_terry import strengths
from graftlm.evaluation.arena.exams import exam_battles, read_result
from graftlm.evaluation.arena.matches import Pairs, matches_of
from graftlm.evaluation.arena.ratings import rate
from graftlm.evaluation.arena.resampling import profiles
from graftlm.evaluation.results import EvaluationResult, TaskResult


def sheet(name: str, scores: list[float], **changes: object) -> TaskResult:
    task = {
        "name": name, "side": "domain", "metric": "accuracy", "higher_is_better": True, "value": 0, "low": 0, "high": 0,
        "n": len(scores), "metrics": {}, "kinds": {}, "scores": scores, "weights": [1.0] * len(scores), "samples": [],
        "items_hash": f"hash of {name}", "seconds": 1,
    }  # fmt: skip
    return TaskResult.model_validate(task | changes)


def result(model: str, *tasks: TaskResult) -> EvaluationResult:
    return EvaluationResult(
        model=model, model_hash=model, parameters=1, precision="fp32", started="2026-01-01T00:00:00Z", seconds=1,
        machine="CPU", settings={}, versions={}, tasks=list(tasks), groups=[],
    )  # fmt: skip


def test_right_beats_wrong_and_equals_tie() -> None:
    battles, left_out = exam_battles([result("x", sheet("law", [1, 1, 0, 0])), result("y", sheet("law", [1, 0, 1, 0]))])
    assert [battle.verdict for battle in battles] == ["tie", "a", "b", "both_bad"] and not left_out
    assert {(battle.judge, battle.category, battle.order) for battle in battles} == {("exam", "law", "both")}


def test_every_pair_meets_on_every_question() -> None:
    """Match counts are symmetric: Q · M (M − 1) / 2 battles, Q (M − 1) a model."""
    answers = np.random.default_rng(0).integers(0, 2, (4, 50)).tolist()
    battles, _ = exam_battles([result(f"m{number}", sheet("law", row)) for number, row in enumerate(answers)])
    assert len(battles) == 50 * 6 and len({battle.key for battle in battles}) == len(battles)
    found = rate(battles)
    assert [row.battles for row in found.rows] == [150] * 4
    right = {f"m{number}": sum(row) for number, row in enumerate(answers)}
    assert [row.model for row in found.rows] == sorted(right, key=lambda model: -right[model])


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (sheet("maths", [1, 0]), "not answered by y"),
        (sheet("law", [1, 0], items_hash="else"), "different questions"),
        (sheet("law", [1, 0], shots=5), "scored differently"),
        (sheet("law", [1, 0], version="2"), "scored differently"),
        (sheet("law", [1, 0.5]), "does not say right or wrong"),
        (sheet("law", [1, 0], weights=[1.0, 2.0]), "does not say right or wrong"),
    ],
)
def test_tasks_that_do_not_compare_are_left_out_with_a_reason(other: TaskResult, reason: str) -> None:
    one = result("x", sheet("law", [1, 0]), sheet("good", [1, 0]))
    battles, left_out = exam_battles([one, result("y", other, sheet("good", [0, 1]))])
    assert {battle.category for battle in battles} == {"good"} and reason in left_out["law"]
    with pytest.raises(DataError, match="no task that all models answered alike"):
        exam_battles([one, result("y", other)], ["law"])


def test_lower_is_better_is_no_exam() -> None:
    sheets = [sheet("bits", [1, 0], higher_is_better=False), sheet("law", [1, 0])]
    assert "does not say" in exam_battles([result("x", *sheets), result("y", *sheets)])[1]["bits"]


def test_user_errors() -> None:
    one = result("x", sheet("law", [1]))
    with pytest.raises(DataError, match="two models or more"):
        exam_battles([one])
    with pytest.raises(DataError, match="of one name: x"):
        exam_battles([one, one])
    with pytest.raises(DataError, match="no result has the task tax"):
        exam_battles([one, result("y", sheet("law", [1]))], ["tax"])


def test_results_are_read_from_files(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text(result("x", sheet("law", [1.0, 0.0])).model_dump_json(), encoding="utf-8")
    assert read_result(file) == result("x", sheet("law", [1.0, 0.0]))
    file.write_text(json.dumps({"model": "x"}), encoding="utf-8")
    with pytest.raises(DataError, match="no result of `graft eval`: `model_hash`"):
        read_result(file)
    with pytest.raises(GraftError, match="does not exist"):
        read_result(tmp_path / "none.json")


ABILITY = np.array([0.35, 0.45, 0.5, 0.55, 0.65])
"""The chance that each model is right."""


def true_ratings() -> dict[str, float]:
    """The fit to what is expected: i gets half a point more or less from j, times the difference of their chances."""
    first, second = np.triu_indices(5, 1)
    points = 0.5 + (ABILITY[first] - ABILITY[second]) / 2
    names = tuple(f"m{number}" for number in range(5))
    found, _ = strengths(Pairs(names, first, second, np.ones(10), points))
    return dict(zip(names, 1000 + 400 / np.log(10) * found, strict=True))


def exam_world(seed: int, questions: int = 120) -> tuple[np.ndarray, list[Battle]]:
    """Five models of different ability."""
    right = np.random.default_rng(seed).random((5, questions)) < ABILITY[:, None]
    sheets = [result(f"m{number}", sheet("law", row.astype(float).tolist())) for number, row in enumerate(right)]
    return right, exam_battles(sheets)[0]


def test_intervals_hold_the_truth_where_battles_share_questions() -> None:
    """Drawing single battles would hold it too rarely: a question's four battles of a model are not four questions."""
    truth = true_ratings()
    together, alone = [], []
    for seed in range(25):
        _, battles = exam_world(seed)
        apart = [one.model_copy(update={"question_id": number}) for number, one in enumerate(battles)]
        for held, some in ((together, battles), (alone, apart)):
            rows = rate(some, seed=seed, bootstraps=200).rows
            held += [row.rating.low <= truth[row.model] <= row.rating.high for row in rows]
    assert 0.91 <= np.mean(together) <= 0.98
    assert np.mean(alone) < 0.85


def test_resamples_draw_whole_questions() -> None:
    """Three models, two questions: every resample holds each question's three battles together."""
    _, battles = exam_world(0, questions=2)
    small = [battle for battle in battles if {battle.model_a, battle.model_b} <= {"m0", "m1", "m2"}]
    met_RP, _ = profiles(matches_of(small)).resampled(np.random.default_rng(0), 50)
    assert (met_RP == 2).all()


def test_equal_questions_are_drawn_together() -> None:
    _, battles = exam_world(1, questions=500)
    kinds = profiles(matches_of(battles))
    assert kinds.often_U.sum() == 500 and len(kinds.often_U) <= 2**5
    drawn_RP, points_RP = kinds.resampled(np.random.default_rng(0), 2_000)
    pairs = matches_of(battles).pairs()
    assert (drawn_RP == 500).all()
    np.testing.assert_allclose(points_RP.mean(axis=0), pairs.points_P, atol=1.5)
