"""`graft leaderboard` from the command line: add, show, compare, page, remove."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from graftlm.cli import app
from graftlm.core.errors import GraftError
from graftlm.core.files import write_json
from graftlm.evaluation.results import EvaluationResult, GroupResult, TaskResult
from graftlm.evaluation.statistics import Scores, estimate

RIGHT = {"weak": [1.0] * 20 + [0.0] * 80, "strong": [1.0] * 70 + [0.0] * 30}


def task(name: str, right: list[float], **more: Any) -> TaskResult:
    found = estimate(Scores.of(right), resamples=200)
    told: dict[str, Any] = {
        "name": name, "side": "domain", "metric": "accuracy", "higher_is_better": True, "value": found.value,
        "low": found.low, "high": found.high, "n": len(right), "metrics": {"accuracy": found}, "kinds": {},
        "scores": right, "weights": [1.0] * len(right), "samples": [], "items_hash": "items", "seconds": 1.0,
    }  # fmt: skip
    return TaskResult(**told | more)


def write_result(file: Path, model: str, right: list[float]) -> Path:
    tasks = [task("exam", right), task("quiz", right)]
    group = GroupResult(
        name="both", value=sum(right), low=0, high=100, how="mean of its members", members=["exam", "quiz"]
    )
    result = EvaluationResult(
        model=model, model_hash="", parameters=7_000_000_000, precision="bf16", started="2026-01-01T00:00:00Z",
        seconds=2.0, machine="CPU", settings={}, versions={}, tasks=tasks, groups=[group],
    )  # fmt: skip
    write_json(file, result.model_dump(mode="json"))
    return file


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "board.sqlite"


def graft(store: Path, *words: str | Path) -> str:
    """What it prints; user errors are raised."""
    done = CliRunner().invoke(app, ["leaderboard", *map(str, words), "--store", str(store)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def filled(tmp_path: Path, store: Path) -> Path:
    files = [write_result(tmp_path / f"{model}.json", f"org/{model}", right) for model, right in RIGHT.items()]
    graft(store, "add", *files)
    return store


def test_add_show_and_add_again(filled: Path, tmp_path: Path) -> None:
    lines = graft(filled, "show", "--sort", "exam").splitlines()
    strong, weak = (next(line for line in lines if name in line) for name in ("org/strong", "org/weak"))
    assert lines.index(strong) < lines.index(weak)
    assert strong.split() == ["1", "org/strong", "7B", "bf16", "70.0", "70.0", "70.0"]
    assert weak.split() == ["2", "org/weak", "7B", "bf16", "20.0", "20.0", "20.0"]
    assert "already there: org/weak" in graft(filled, "add", tmp_path / "weak.json")


def test_compare(filled: Path) -> None:
    out = graft(filled, "compare", "org/weak", "org/strong")
    row = next(line for line in out.splitlines() if line.startswith("exam")).split()
    assert row[:5] == ["exam,", "accuracy", "20.0", "70.0", "+50.0"]
    assert row[-2:] == ["B", "better"] and float(row[-4]) < 0.01
    assert "2 tests at 5 %" in out and "mean of the paired shares" in out


def test_page(filled: Path, tmp_path: Path) -> None:
    graft(filled, "page", tmp_path / "site" / "index.html")
    assert "org/strong" in (tmp_path / "site" / "index.html").read_text(encoding="utf-8")


def test_remove_by_name_and_by_hash(filled: Path, tmp_path: Path) -> None:
    out = graft(filled, "add", write_result(tmp_path / "third.json", "third", RIGHT["weak"]))
    out = graft(filled, "remove", "org/weak", out.strip().split()[-1].rstrip(")"))
    assert "removed: org/weak" in out and "removed: third" in out
    out = graft(filled, "show")
    assert "org/strong" in out and "org/weak" not in out and "third" not in out
    with pytest.raises(GraftError, match=r"no model 'org/wek'\n.*org/strong"):
        graft(filled, "remove", "org/wek")
    graft(filled, "remove", "org/strong")
    with pytest.raises(GraftError, match="empty"):
        graft(filled, "show")


def test_a_name_given_by_hand(tmp_path: Path, store: Path) -> None:
    files = [write_result(tmp_path / f"{k}.json", "model", RIGHT["weak"]) for k in range(2)]
    assert "added: mine" in graft(store, "add", files[0], "--name", "mine")
    with pytest.raises(GraftError, match="one name for 2 results"):
        graft(store, "add", *files, "--name", "mine")


def test_one_bad_file_adds_nothing(tmp_path: Path, store: Path) -> None:
    good = write_result(tmp_path / "good.json", "good", RIGHT["weak"])
    (tmp_path / "bad.json").write_text("{", encoding="utf-8")
    with pytest.raises(GraftError, match=r"bad\.json"):
        graft(store, "add", good, tmp_path / "bad.json")
    assert not store.exists()


@pytest.mark.parametrize("words", [("show", "--suite", "non"), ("show", "--sort", "non"), ("compare", "org/weak", "x")])
def test_unknown_names(filled: Path, words: tuple[str, ...]) -> None:
    with pytest.raises(GraftError, match="one of: "):
        graft(filled, *words)


def test_hostile_names_do_not_reach_the_terminal(tmp_path: Path, store: Path) -> None:
    name = "\x1b[31m[bold]x[/bold]\u202e"
    graft(store, "add", write_result(tmp_path / "a.json", name, RIGHT["weak"]))
    out = graft(store, "show")
    assert "\x1b" not in out and "\u202e" not in out and "[bold]x[/bold]" in out


def test_a_run_folder(tmp_path: Path, store: Path) -> None:
    """Base and stages, each with the means of both sides; a stage without a receipt is not finished."""
    run = tmp_path / "clinic"
    run.mkdir()
    recipe = {
        "name": "clinic", "base": "rootstock", "data": {"text": {"path": "/data/text.jsonl"}},
        "stages": {"pretrain": {"stage": "pretrain", "blocks": ["text"]}},
    }  # fmt: skip
    (run / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    sides = [task("exam", RIGHT["strong"]), task("old", RIGHT["weak"], side="general"),
             task("text", [0.7] * 5, side="general", metric="bits_per_byte", higher_is_better=False)]  # fmt: skip
    for folder in ("00-base", "01-pretrain"):
        (run / folder).mkdir()
        write_json(run / folder / "scores.json", {"key": "k", "results": [one.model_dump() for one in sides]})
    assert "added: clinic/base (graft run, 3 tasks" in graft(store, "add", run)
    out = graft(store, "show", "--suite", "clinic: general")
    line = next(line for line in out.splitlines() if "clinic/base" in line)
    assert "clinic/pretrain" not in out
    assert line.split() == ["1", "clinic/base", "20.0", "20.0"]


def test_a_run_without_scores(tmp_path: Path, store: Path) -> None:
    recipe = {"name": "clinic", "base": "rootstock", "data": {"text": {"path": "/data/text.jsonl"}},
              "stages": {"pretrain": {"stage": "pretrain", "blocks": ["text"]}}}  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    with pytest.raises(GraftError, match="no model of the run was evaluated"):
        graft(store, "add", tmp_path)
