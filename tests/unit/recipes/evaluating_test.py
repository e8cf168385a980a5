"""`graft eval`: what it prints and writes, two models side by side, and results that are kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from graftlm.core.errors import GraftError
from graftlm.evaluation.benchmarks.items import Source
from graftlm.evaluation.results import EvaluationResult
from graftlm.recipes import evaluating
from graftlm.recipes.evaluating import Conditions, data_root, evaluate_models
from tests.unit.evaluation.benchmarks.conftest import BASIC, exam_rows, write_rows


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "exam.jsonl", exam_rows(40))
    sums = {"request": "generate", "choices": None, "metrics": ["exact_match"], "generation": {"max_tokens": 4}}
    pages = {"request": "rolling", "choices": None, "answer": None, "metrics": ["bits_per_byte", "word_perplexity"]}
    files: list[dict[str, Any]] = [
        BASIC | {"metrics": ["acc", "acc_norm"], "side": "domain"},
        BASIC | {"name": "sums"} | sums,
        BASIC | {"name": "pages"} | pages,
        BASIC | {"name": "gone", "data": {"files": "nowhere.jsonl"}},
        {"name": "all", "members": ["exam", "sums", "pages", "gone"]},
    ]
    for tree in files:
        kept = {key: value for key, value in tree.items() if value is not None}
        (tmp_path / f"{tree['name']}.yaml").write_text(yaml.safe_dump(kept))
    return str(tmp_path / "all.yaml")


def read(file: Path) -> EvaluationResult:
    return EvaluationResult.model_validate(json.loads(file.read_text(encoding="utf-8")))


def test_two_dummies_side_by_side(suite: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    conditions = Conditions(Source(tmp_path), limit=30)
    evaluate_models("dummy:oracle", [suite], conditions, against="dummy:first", out=tmp_path / "out.json")
    found = read(tmp_path / "out.json")
    assert [task.name for task in found.tasks] == ["exam", "sums", "pages"]
    assert [task.value for task in found.tasks] == [1, 1, 0]
    assert found.settings["limit"] == 30
    assert found.tasks[0].coverage == "30 of 40 items"
    [group] = found.groups
    assert group.value == 100
    assert set(group.missing) == {"gone", "pages"}
    base = read(tmp_path / "out--against-dummy-first.json")
    assert base.tasks[0].value == pytest.approx(8 / 30)
    printed = capsys.readouterr()
    assert "gone is left out: no file nowhere.jsonl" in printed.err
    lines = {line.split()[0]: line for line in printed.out.splitlines() if line.strip()}
    assert "+73.3" in lines["exam"] and "better" in lines["exam"]
    assert "8.000" in lines["pages"] and "-8.000" in lines["pages"] and "better" in lines["pages"]
    assert "The domain gained +73.3 points" in printed.out


def test_a_model_is_scored_once(
    suite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    conditions = Conditions(Source(tmp_path), limit=6)
    evaluate_models("rootstock", [suite], conditions)
    [file] = (tmp_path / "results").iterdir()
    assert file.name == "rootstock--all.json"
    first = read(file)
    assert first.parameters > 1_000_000
    assert first.precision in ("fp32", "bf16")
    assert 0 < next(task for task in first.tasks if task.name == "pages").value < 20

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("scored again")

    monkeypatch.setattr(evaluating, "run_sheet", refuse)
    evaluate_models("rootstock", [suite], conditions)
    assert "read from the cache" in capsys.readouterr().out
    assert [task.scores for task in read(file).tasks] == [task.scores for task in first.tasks]
    with pytest.raises(AssertionError, match="scored again"):
        evaluate_models("rootstock", [suite], Conditions(Source(tmp_path), limit=7))


def test_in_a_chat_template(suite: str, tmp_path: Path) -> None:
    conditions = Conditions(Source(tmp_path), limit=4, template="own")
    evaluate_models("rootstock", [str(tmp_path / "exam.yaml")], conditions, out=tmp_path / "chat.json")
    [task] = read(tmp_path / "chat.json").tasks
    assert task.samples[0].prompt != "Question 0?"
    assert "Question 0?" in task.samples[0].prompt


def test_faults_say_what_to_do(suite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conditions = Conditions(Source(tmp_path))
    with pytest.raises(GraftError, match="which model, and which suites"):
        evaluate_models("rootstock", [], conditions)
    with pytest.raises(GraftError, match="no data for any"):
        evaluate_models("dummy:first", [str(tmp_path / "gone.yaml")], conditions)
    with pytest.raises(GraftError, match="no such folder"):
        data_root(tmp_path / "nowhere")
    monkeypatch.setenv("GRAFT_EVAL_DATA", str(tmp_path))
    assert data_root(None) == tmp_path


def test_a_test_that_is_too_long_for_the_model_is_left_out(
    suite: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sums = yaml.safe_load((tmp_path / "sums.yaml").read_text())
    (tmp_path / "sums.yaml").write_text(yaml.safe_dump(sums | {"generation": {"max_tokens": 100_000}}))
    evaluate_models("rootstock", [suite], Conditions(Source(tmp_path), limit=2), out=tmp_path / "out.json")
    found = read(tmp_path / "out.json")
    assert [task.name for task in found.tasks] == ["exam", "pages"]
    assert "100000 tokens" in found.groups[0].missing["sums"]
    assert "sums is left out" in capsys.readouterr().err
    with pytest.raises(GraftError, match="too small for all"):
        evaluate_models("rootstock", [str(tmp_path / "sums.yaml")], Conditions(Source(tmp_path), limit=2))
