"""An infill stage from its recipe to a filled blank, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from transformers import LlamaConfig

from graftlm.core.errors import ModelError, RecipeError
from graftlm.core.files import read_json
from graftlm.inference.decoding import Decoding
from graftlm.models.families.glm130b_config import MARKS, Glm130bConfig
from graftlm.models.loading import load_tokenizer
from graftlm.recipes.blanks import refuse_mismatch
from graftlm.recipes.pipeline import run_recipe
from graftlm.recipes.schema import Recipe
from graftlm.recipes.stage_settings import InfillStage
from graftlm.recipes.stages.infill import masking_of, shrink_of
from graftlm.recipes.talking import answer, answer_file, load_speaker

MARKED: dict[str, Any] = {name: number for number, name in enumerate(MARKS, 3)}
TREE: dict[str, Any] = {
    "name": "blanks",
    "device": "cpu",
    "offline": True,
    "base": {
        "architecture": {
            "model_type": "glm130b", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "max_position_embeddings": 256, "embedding_gradient": 1.0,
        },
        "vocabulary": 600, "tokenizer_blocks": ["text"], "tokenizer_samples": 300,
    },
    "data": {
        "text": {"world": "general", "part": "text", "count": 300, "held_out": 0.05},
        "chat": {"world": "general", "part": "instructions", "count": 100, "held_out": 0},
    },
    "stages": {
        "infill": {
            "stage": "infill", "blocks": {"text": 0.9, "chat": 0.1}, "tokens": 8000, "row_tokens": 256,
            "learning_rate": 5e-3, "masks": {"mask": 0.4, "smask": 0.1, "gmask": 0.5},
            "embedding_gradient": {"start": 0.2, "end": 1.0, "after": 5, "over": 10},
        },
    },
    "evaluation": {
        "probe": {"world": "general", "part": "probe", "count": 2, "metric": "generate", "side": "general",
                  "max_new_tokens": 4},
        "choice": {"world": "general", "part": "probe", "count": 2, "metric": "choice", "side": "general"},
        "bits": {"world": "general", "part": "probe_text", "count": 2, "metric": "bits_per_byte", "side": "general"},
    },
}  # fmt: skip


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Changes of the tree → a recipe with folders of its own."""
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))

    def make(**changes: Any) -> Recipe:
        return Recipe.model_validate(TREE | {"output": str(tmp_path / "run")} | changes)

    return make


def test_a_new_model_learns_to_fill_blanks(recipe: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_recipe(recipe())
    receipt = read_json(folder / "01-infill/receipt.json")
    losses = [entry["loss"] for entry in receipt["held_out"]]
    assert losses[0] > 6  # ln 600 = 6.4
    assert losses[-1] < losses[0] - 0.4
    assert receipt["shares"]["chat"]["realised"] == pytest.approx(0.1, abs=0.03)
    assert not any("padded" in note for note in receipt["notes"])
    bits = [
        result["value"]
        for stage in ("00-base", "01-infill")
        for result in read_json(folder / stage / "scores.json")["results"]
        if result["name"] == "bits"
    ]
    assert 2 < bits[1] < bits[0] - 0.1

    speaker = load_speaker(str(folder), "own", raw=True)
    filled, _ = speaker.fill("The cat [MASK] on the mat.", Decoding(greedy=True, max_new_tokens=3))
    assert filled.startswith("The cat") and filled.endswith(" on the mat.")
    assert "MASK" not in filled
    capsys.readouterr()
    answer(str(folder), "The cat [MASK] on the mat.", Decoding(greedy=True, max_new_tokens=3), "own", None, raw=False)
    assert capsys.readouterr().out == f"{filled}\n"

    (folder / "prompts.txt").write_text("The cat [MASK] on the mat.\nHello\n")
    answer_file(str(folder), folder / "prompts.txt", folder / "answers.jsonl", Decoding(max_new_tokens=3, greedy=True),
                "own", None, raw=False)  # fmt: skip
    rows = [json.loads(line) for line in (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["prompt"] for row in rows] == ["The cat [MASK] on the mat.", "Hello"]
    assert rows[0]["answer"] == filled and not rows[1]["answer"].startswith("Hello")

    assert load_tokenizer(str(folder / "01-infill/model")).convert_tokens_to_ids("[gMASK]") == 8
    before = (folder / "01-infill/receipt.json").stat().st_mtime_ns
    run_recipe(recipe())
    assert (folder / "01-infill/receipt.json").stat().st_mtime_ns == before, "a finished stage is skipped"


SFT = {"sft": {"stage": "sft", "blocks": ["chat"], "row_tokens": 256, "tokens": 500}}


@pytest.mark.parametrize(
    ("changes", "reason", "fix"),
    [
        ({"base": "rootstock"}, "a llama model has no marks for blanks", "glm130b"),
        ({"stages": SFT}, "a glm130b model answers behind a mark, which a sft stage does not write", "infill stage"),
    ],
)
def test_models_and_stages_that_do_not_go_together(
    recipe: Any, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], reason: str, fix: str
) -> None:
    """The check says it before anything is trained, and the stage by itself."""
    with pytest.raises(RecipeError, match="nothing was trained"):
        run_recipe(recipe(evaluation={}, **changes))
    said = " ".join(capsys.readouterr().out.split())
    assert reason in said and fix in said


@pytest.mark.parametrize(("kind", "config"), [("infill", LlamaConfig()), ("sft", Glm130bConfig(**MARKED))])
def test_a_stage_refuses_by_itself(kind: str, config: Any) -> None:
    refuse_mismatch(Glm130bConfig(**MARKED), "infill", "stages.a")
    refuse_mismatch(LlamaConfig(), "sft", "stages.a")
    with pytest.raises(ModelError, match="mark"):
        refuse_mismatch(config, kind, "stages.a")


def test_settings() -> None:
    stage = InfillStage(blocks=["a"])
    masking = masking_of(stage)
    assert (masking.shares, masking.ratio, masking.span) == ((0.3, 0.0, 0.7), 0.15, 3.0)
    assert (masking.least_tail, masking.window, stage.longest) == (0.2, 512, 2047)
    assert shrink_of(stage) is None
    fixed = shrink_of(InfillStage(blocks=["a"], embedding_gradient=0.1))
    assert fixed is not None and fixed.at(0) == fixed.at(10**6) == 0.1
    moved = shrink_of(InfillStage.model_validate(
        {"blocks": ["a"], "embedding_gradient": {"start": 0.2, "end": 1.0, "after": 22_800, "over": 6_000}}
    ))  # fmt: skip
    assert moved is not None and moved.at(25_800) == pytest.approx(0.6)


@pytest.mark.parametrize(
    "wrong",
    [{"masks": {"gmask": 0.0}}, {"masks": {"mask": -1, "gmask": 2}}, {"masks": {"tmask": 1}}, {"masks": {}},
     {"embedding_gradient": 7}, {"embedding_gradient": {"start": 0.0}}, {"row_tokens": 32}],
)  # fmt: skip
def test_settings_that_mean_nothing(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        InfillStage.model_validate({"blocks": ["a"]} | wrong)
