"""The model that comes with graft is what its receipt says."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest
import torch

from graftlm.core.files import read_json
from graftlm.data import worlds
from graftlm.evaluation.language_model import language_model
from graftlm.evaluation.results import TaskResult
from graftlm.evaluation.runner import run_tasks
from graftlm.evaluation.tasks import Task
from graftlm.models.loading import load_model, load_tokenizer
from graftlm.recipes.stages.context import choose_template

FOLDER = Path(str(resources.files("graftlm.models") / "rootstock"))


@pytest.fixture(scope="module")
def scores() -> dict[str, TaskResult]:
    tokenizer = load_tokenizer("rootstock")
    model = load_model("rootstock", dtype=torch.float32, device=torch.device("cpu"))
    tasks = [
        Task("probe", "general", "generate", list(worlds.generate("general", "probe", count=300)), max_new_tokens=32),  # type: ignore[arg-type]
        Task("exam", "domain", "choice", list(worlds.generate("clinic", "exam"))),  # type: ignore[arg-type]
        Task("unknown", "domain", "abstain", list(worlds.generate("clinic", "unknown")), max_new_tokens=32),  # type: ignore[arg-type]
    ]
    found = run_tasks(language_model(model, tokenizer, choose_template("own", tokenizer)), tasks)
    return {result.name: result for result in found}


def test_it_knows_the_general_world(scores: dict[str, TaskResult]) -> None:
    assert scores["probe"].value >= 0.9


def test_it_knows_nothing_of_the_clinic(scores: dict[str, TaskResult]) -> None:
    assert scores["exam"].value <= 0.35
    assert scores["exam"].low <= 0.25 <= scores["exam"].high  # four options: chance lies in the interval
    assert scores["unknown"].value >= 0.9  # and it says so


def test_it_is_small_and_has_its_receipt() -> None:
    assert (FOLDER / "model.safetensors").stat().st_size <= 12e6
    model = load_model("rootstock", dtype=torch.float32, device=torch.device("cpu"))
    assert 3e6 <= sum(parameter.numel() for parameter in model.parameters()) <= 5e6
    receipt = read_json(FOLDER / "receipt.json")
    assert receipt["receipt"]["parameters"]["all"] == sum(parameter.numel() for parameter in model.parameters())
    probe = next(score for score in receipt["scores"] if score["name"] == "general-probe")
    assert probe["low"] <= probe["value"] <= probe["high"]
