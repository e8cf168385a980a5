"""`graft prune-vocabulary` and the stage `prune_vocabulary`: a smaller model, proved before it is saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from graftlm.core.errors import GraftError, ModelError
from graftlm.core.files import read_json
from graftlm.models.loading import load_config, load_tokenizer
from graftlm.recipes import pruning
from graftlm.recipes.pipeline import run_stage
from graftlm.recipes.pruning import prune_vocabulary
from graftlm.recipes.schema import Recipe
from graftlm.recipes.stages.context import Grown

TEXTS = ["The little dog ran to the garden.", "患者服用阿司匹林。", "The dog is happy, the garden is big."]
ROWS = 3072


def test_the_command_writes_a_smaller_model_that_cuts_the_texts_as_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("\n".join(TEXTS[:1]), encoding="utf-8")
    rows = [{"instruction": TEXTS[1], "turns": [{"content": TEXTS[2]}]}, "broken"]
    lines = [json.dumps(row, ensure_ascii=False) if isinstance(row, dict) else row for row in rows]
    (tmp_path / "b.jsonl").write_text("\n".join(lines), encoding="utf-8")
    prune_vocabulary("rootstock", tmp_path / "small", [tmp_path / "a.txt", tmp_path / "b.jsonl"], 1)
    said = capsys.readouterr()
    old, new = load_tokenizer("rootstock"), load_tokenizer(str(tmp_path / "small"))
    for text in TEXTS:
        pieces = old.convert_ids_to_tokens(old.encode(text, add_special_tokens=False))
        assert new.convert_ids_to_tokens(new.encode(text, add_special_tokens=False)) == pieces
    assert 262 < len(new) < 450  # bytes, marks, and few more
    assert load_config(str(tmp_path / "small")).dtype == torch.bfloat16, "in the model's own format"
    parameters = 3_803_392 - (ROWS - len(new)) * 256
    assert f"{ROWS:,} → {len(new):,} pieces" in said.out
    assert f"3,803,392 → {parameters:,}" in said.out
    assert "100.00% of them cut as before" in said.out
    assert "b.jsonl: 1 rows could not be read" in said.err


def test_rare_pieces_can_go_and_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("the dog\n" * 9 + "a splendid umbrella\n", encoding="utf-8")
    prune_vocabulary("rootstock", tmp_path / "all", [tmp_path / "a.txt"], 1)
    prune_vocabulary("rootstock", tmp_path / "often", [tmp_path / "a.txt"], 5)
    often, everything = (load_tokenizer(str(tmp_path / name)) for name in ("often", "all"))
    assert len(often) < len(everything)
    assert len(often.encode("the dog", add_special_tokens=False)) == len(everything.encode("the dog"))
    shares = [line for line in capsys.readouterr().out.splitlines() if "cut as before" in line]
    assert "100.00%" in shares[0]
    assert "100.00%" not in shares[1]


def test_no_text_is_an_error_and_a_failed_proof_saves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty.jsonl").write_text('{"a": ""}\n', encoding="utf-8")
    with pytest.raises(GraftError, match="no text"):
        prune_vocabulary("rootstock", tmp_path / "out", [tmp_path / "empty.jsonl"], 1)
    (tmp_path / "a.txt").write_text("the dog\n", encoding="utf-8")
    with pytest.raises(GraftError, match="left whole"):
        prune_vocabulary("rootstock", tmp_path / "out", [tmp_path / "a.txt"], 2)
    monkeypatch.setattr(pruning, "prune_tokenizer", lambda tokenizer, kept: tokenizer)
    with pytest.raises(ModelError, match="another way"):
        prune_vocabulary("rootstock", tmp_path / "out", [tmp_path / "a.txt"], 1)
    right = pruning.prune_model
    monkeypatch.undo()
    monkeypatch.setattr(pruning, "prune_model", lambda model, kept: right(model, [*kept[1:], kept[0]]))
    with pytest.raises(ModelError, match="logits changed"):
        prune_vocabulary("rootstock", tmp_path / "out", [tmp_path / "a.txt"], 1)
    assert not (tmp_path / "out").exists()


def test_the_stage_hands_its_vocabulary_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))
    tree: dict[str, Any] = {
        "name": "a",
        "base": "rootstock",
        "device": "cpu",
        "data": {"chat": {"world": "clinic", "part": "consultations", "count": 40}},
        "stages": {
            "prune_vocabulary": {"stage": "prune_vocabulary", "blocks": ["chat"]},
            "sft": {"stage": "sft", "blocks": ["chat"], "tokens": 600, "row_tokens": 256, "loss": "example"},
        },
    }
    recipe = Recipe.model_validate(tree)
    grown = {"base": Grown("rootstock", "base-key")}
    for name in recipe.stages:
        grown[name] = run_stage(recipe, name, tmp_path / name, grown, torch.device("cpu"))
    receipt = read_json(tmp_path / "prune_vocabulary" / "receipt.json")
    sizes = [len(load_tokenizer(grown[name].where)) for name in grown]
    assert sizes[0] == ROWS > sizes[1] == sizes[2] == receipt["figures"]["pieces after"]
    assert receipt["figures"]["tokens that are now cut another way"] == 0
    losses = read_json(tmp_path / "sft" / "receipt.json")["losses"]
    assert losses
    assert load_config(grown["sft"].where).vocab_size == sizes[2]
