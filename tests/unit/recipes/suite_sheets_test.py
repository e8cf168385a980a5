"""Published tests in a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from graftlm.core.errors import GraftError, RecipeError
from graftlm.recipes.check import check_recipe
from graftlm.recipes.loading import load_recipe
from graftlm.recipes.schema import Recipe
from graftlm.recipes.stages import evaluate as stage
from graftlm.recipes.stages.evaluate import evaluate
from graftlm.recipes.suite_sheets import recipe_sheets
from tests.unit.evaluation.benchmarks.conftest import BASIC, exam_rows, write_rows


def recipe(folder: Path, **changes: Any) -> Recipe:
    write_rows(folder / "rows" / "exam.jsonl", exam_rows(12))
    (folder / "exam.yaml").write_text(yaml.safe_dump(BASIC | {"side": "domain"}))
    tree = {
        "name": "small", "base": "rootstock", "device": "cpu",
        "data": {"some": {"world": "general", "part": "instructions", "count": 20}},
        "stages": {"sft": {"blocks": ["some"], "tokens": 1000}},
        "suites": {"names": ["exam.yaml"], "data": "rows", "limit": 5},
    } | changes  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(tree))
    return load_recipe(folder / "recipe.yaml")


def test_a_published_test_is_scored_with_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = {"world": "general", "part": "probe", "count": 4, "metric": "generate", "side": "general"}
    found = recipe(tmp_path, evaluation={"probe": probe})
    results = evaluate(found, "rootstock", "key", tmp_path / "run", torch.device("cpu"))
    assert [(one.name, one.side, one.n) for one in results] == [("probe", "general", 4), ("exam", "domain", 5)]
    assert results[1].coverage == "5 of 12 items"
    monkeypatch.setattr(stage, "load_model", None)  # what nothing has changed in is read from the folder
    assert evaluate(found, "rootstock", "key", tmp_path / "run", torch.device("cpu")) == results


def test_files_start_at_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = recipe(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    [sheet] = recipe_sheets(found)
    assert len(sheet.items) == 5


def test_faults_are_found_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))
    found = check_recipe(recipe(tmp_path, suites={"names": ["exam.yaml"], "data": "nowhere"}), "rootstock")
    assert [one.where for one in found.errors] == ["suites"]
    assert "no such folder" in found.errors[0].text
    twice = {"exam": {"world": "general", "part": "probe", "count": 4, "metric": "generate", "side": "general"}}
    with pytest.raises(RecipeError, match="`exam` is the name of a task"):
        recipe_sheets(recipe(tmp_path, evaluation=twice))
    with pytest.raises(GraftError, match="no task or suite `mmmlu`"):
        recipe_sheets(recipe(tmp_path, suites={"names": ["mmmlu"]}))
