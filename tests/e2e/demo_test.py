"""The shipped clinic recipe does what README says of it. Minutes: run with `make slow`."""

from __future__ import annotations

from pathlib import Path

import pytest

from graftlm.core.files import read_json
from graftlm.recipes.loading import load_recipe
from graftlm.recipes.pipeline import run_recipe

RECIPE = Path(__file__).parents[2] / "recipes" / "clinic.yaml"


def headline(folder: Path, stage: str) -> dict[str, float]:
    return {result["name"]: result["value"] for result in read_json(folder / stage / "scores.json")["results"]}


@pytest.mark.slow
def test_the_demo_reaches_its_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))
    hybrid = run_recipe(load_recipe(RECIPE, [f"output={tmp_path / 'hybrid'}"]))
    before, after = headline(hybrid, "00-base"), headline(hybrid, "03-dpo")
    assert before["clinic-exam"] <= 0.35
    assert after["clinic-exam"] >= 0.90
    assert after["clinic-open"] >= 0.80
    assert after["general-probe"] >= 0.95 * before["general-probe"]

    ordered = run_recipe(load_recipe(RECIPE, [f"output={tmp_path / 'sequential'}", "mix=sequential"]))
    assert headline(ordered, "03-dpo")["general-probe"] < after["general-probe"]
    assert headline(ordered, "01-pretrain")["general-probe"] < headline(hybrid, "01-pretrain")["general-probe"] - 0.05
