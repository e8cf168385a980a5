"""What the pipeline skips, keeps and throws away; whole runs are in tests/e2e."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from graftlm.core.errors import GraftError
from graftlm.core.receipts import Receipt
from graftlm.recipes import pipeline
from graftlm.recipes.pipeline import claim_folder, finished_key, run_stage
from graftlm.recipes.schema import Recipe
from graftlm.recipes.stages.context import Grown

TREE: dict[str, Any] = {
    "name": "a",
    "base": "rootstock",
    "device": "cpu",
    "data": {"chat": {"world": "clinic", "part": "consultations", "count": 30}},
    "stages": {"sft": {"stage": "sft", "blocks": ["chat"], "row_tokens": 128}},
}


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Changes of the recipe → whether the stage was trained (training itself is a stand-in)."""
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))
    trained: list[str] = []

    def train(context: Any) -> Receipt:
        trained.append(context.key)
        (context.folder / "checkpoints").mkdir()
        return Receipt(stage=context.name, kind="sft", key=context.key, seed=0, seconds=0, started="", versions={})

    monkeypatch.setitem(pipeline.RUN_STAGE, "sft", train)

    def run(start: str = "base-key", **changes: Any) -> bool:
        before = len(trained)
        tree = TREE | {key: value for key, value in changes.items() if key not in ("sft", "chat")}
        tree["stages"] = {"sft": TREE["stages"]["sft"] | changes.get("sft", {})}
        tree["data"] = {"chat": TREE["data"]["chat"] | changes.get("chat", {})}
        grown = run_stage(
            Recipe.model_validate(tree), "sft", tmp_path / "01-sft", {"base": Grown("rootstock", start)},
            torch.device("cpu"),
        )  # fmt: skip
        assert grown.where == str(tmp_path / "01-sft/model")
        assert finished_key(tmp_path / "01-sft") == grown.key
        assert not (tmp_path / "01-sft/checkpoints").exists()
        return len(trained) > before

    return run


def test_a_finished_stage_is_skipped(stage: Any) -> None:
    assert stage() and not stage() and not stage()


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"mix": "sequential"},
        {"precision": "bf16"},
        {"save_as": "bf16"},
        {"template": "chatml"},
        {"start": "another model"},
        {"sft": {"learning_rate": 1e-3}},
        {"sft": {"method": "lora"}},
        {"sft": {"weights": "bf16"}},
        {"sft": {"moments": "8bit"}},
        {"chat": {"count": 31}},
        {"chat": {"held_out": 0.5}},
        {"chat": {"world_seed": 1}},
    ],
    ids=str,
)
def test_what_the_result_depends_on_is_trained_anew(change: dict[str, Any], stage: Any) -> None:
    assert stage() and stage(**change) and not stage(**change)


@pytest.mark.parametrize(
    "change",
    [{"name": "b"}, {"output": "elsewhere"}, {"offline": True}, {"samples_in_report": 0}, {"profile": True}],
    ids=str,
)
def test_what_it_does_not_depend_on_changes_nothing(change: dict[str, Any], stage: Any) -> None:
    assert stage() and not stage(**change)


def test_a_folder_is_kept_for_the_same_stage_only(tmp_path: Path) -> None:
    folder = tmp_path / "01-sft"
    claim_folder(folder, "a")
    (folder / "checkpoints").mkdir()
    claim_folder(folder, "a")
    assert (folder / "checkpoints").is_dir()  # a killed stage goes on
    claim_folder(folder, "b")
    assert not (folder / "checkpoints").exists() and (folder / "key").read_text() == "b"
    (folder / "key").unlink()
    (folder / "left").write_text("x")
    claim_folder(folder, "b")
    assert not (folder / "left").exists()


def test_a_receipt_means_finished(tmp_path: Path) -> None:
    assert finished_key(tmp_path) is None
    (tmp_path / "receipt.json").write_text("{")
    with pytest.raises(GraftError, match="not valid JSON"):
        finished_key(tmp_path)


def test_the_run_folder() -> None:
    assert Recipe.model_validate(TREE).folder == Path("runs/a")
    assert Recipe.model_validate(TREE | {"output": "/x/y"}).folder == Path("/x/y")
