"""`graft contamination`: on a recipe, on files, with scores; what it prints and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from graftlm.core.errors import DataError, GraftError
from graftlm.core.files import read_json
from graftlm.evaluation.results import TaskResult
from graftlm.evaluation.runner import hash_items
from graftlm.recipes.contamination import contamination, read_items
from graftlm.recipes.schema import Source

QUESTION = "Which of the four great rivers of the {} plain floods first in a spring after a hard winter?"
SIDES = ("northern", "southern", "eastern", "western")


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A training file that holds the first two of four questions, the first with its answer; and the exam."""
    exam = [{"question": f"{n} {QUESTION.format(side)} {n}", "answer": "the Elm"} for n, side in enumerate(SIDES)]
    (tmp_path / "exam.jsonl").write_text("\n".join(json.dumps(item) for item in exam))
    rows = [{"instruction": f"What is {n}?", "output": f"It is {n}."} for n in range(20)]
    rows += [{"instruction": exam[0]["question"].upper(), "output": "the Elm"}]
    rows += [{"instruction": exam[1]["question"], "output": "Nobody knows."}, {"broken": 1}]
    (tmp_path / "sft.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return tmp_path / "sft.jsonl", tmp_path / "exam.jsonl"


def result(items_hash: str, name: str = "exam") -> TaskResult:
    return TaskResult(
        name=name, side="domain", metric="exact_match", higher_is_better=True, value=0.75, low=0.0, high=1.0, n=4,
        metrics={}, kinds={}, scores=[1.0, 1.0, 1.0, 0.0], weights=[1.0] * 4, samples=[], items_hash=items_hash,
        seconds=0.0,
    )  # fmt: skip


def test_files_are_searched_and_the_evidence_named(files, tmp_path, capsys) -> None:
    training, exam = files
    found = contamination(None, [training], [exam], output=tmp_path / "found.json")
    [task] = found.tasks
    assert found.texts == 22 and (task.touched, task.whole, task.answered) == (2, 2, 1)
    said = capsys.readouterr().out
    assert "22 training texts searched" in said and f"{training}:21: “0 which of the four great rivers" in said
    assert "its answer too" in said
    written = read_json(tmp_path / "found.json")
    assert written["tasks"][0]["items"][1]["evidence"][0]["train"] == f"{training}:22"
    assert exam.read_text() and len(training.read_text().splitlines()) == 23, "nothing is removed"


def test_a_recipe_names_both_and_scores_are_split(files, tmp_path, capsys) -> None:
    training, exam = files
    recipe = tmp_path / "recipe.yaml"
    evaluation = {"exam": {"path": str(exam), "kind": "labelled", "metric": "generate", "side": "domain"}}
    tree = {"name": "a", "base": "rootstock", "data": {"chat": {"path": str(training)}}, "evaluation": evaluation}
    recipe.write_text(json.dumps(tree | {"stages": {"sft": {"blocks": ["chat"]}}}))
    items = read_items("exam", Source(path=str(exam), kind="labelled"))
    scores = tmp_path / "scores.json"
    scores.write_text(json.dumps({"results": [result(hash_items(items)).model_dump()]}))
    contamination(recipe, [], [], scores=scores, n=19, output=tmp_path / "found.json")
    [split] = read_json(tmp_path / "found.json")["scores"]
    assert split["subsets"]["clean"]["value"] == 0.5 and split["subsets"]["clean"]["n"] == 2
    assert split["subsets"]["dirty"]["value"] == 1.0 and split["change"]["value"] == 0.5
    assert "not clean − clean" in capsys.readouterr().out
    scores.write_text(json.dumps({"results": [result("other").model_dump()]}))
    contamination(recipe, [], [], scores=scores)
    assert "exam: its score is of other items" in capsys.readouterr().err


def test_what_is_absent_is_said(files, tmp_path) -> None:
    training, exam = files
    with pytest.raises(GraftError, match="no training data"):
        contamination(None, [], [exam])
    with pytest.raises(GraftError, match="no tests"):
        contamination(None, [training], [])
    with pytest.raises(GraftError, match="agree by chance"):
        contamination(None, [training], [exam], n=5)
    (tmp_path / "scores.json").write_text("{}")
    with pytest.raises(DataError, match="no result of an evaluation"):
        contamination(None, [training], [exam], scores=tmp_path / "scores.json")
    with pytest.raises(DataError, match="no test items"):
        read_items("chat", Source(path=str(training)))
