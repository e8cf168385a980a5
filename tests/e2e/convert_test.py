"""`graft convert` and the stage: there and back through the command line, and a run that goes on from a conversion."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from graftlm.cli import main
from graftlm.models.loading import locate
from graftlm.recipes.loading import load_recipe
from graftlm.recipes.pipeline import run_recipe


def graft(monkeypatch: pytest.MonkeyPatch, *args: object) -> int:
    monkeypatch.setattr(sys, "argv", ["graft", *(str(arg) for arg in args)])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


def test_the_rootstock_to_metas_layout_and_back(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    assert graft(monkeypatch, "convert", "rootstock", tmp_path / "meta", "--to", "meta") == 0
    said = capsys.readouterr().out
    assert "found: Hugging Face" in said and "wrote: LLaMA 1/2/3" in said and "MiB, bfloat16" in said
    assert "there is no tokenizer.model" in said
    assert graft(monkeypatch, "convert", tmp_path / "meta", tmp_path / "back") == 0
    before = load_file(Path(locate("rootstock")) / "model.safetensors")
    after = load_file(tmp_path / "back" / "model.safetensors")
    assert torch.equal(after.pop("lm_head.weight"), before["model.embed_tokens.weight"])
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    capsys.readouterr()
    assert graft(monkeypatch, "convert", "rootstock", tmp_path / "back") == 2
    assert graft(monkeypatch, "chat", tmp_path / "meta") == 2
    assert "graft convert" in capsys.readouterr().err


def test_a_stage_with_fewer_key_heads_is_trained_on(tmp_path, small_recipe, monkeypatch):
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))
    changes = {
        "output": str(tmp_path / "run"),
        "stages": {
            "grouped": {"stage": "convert", "kv_heads": 2},
            "sft": {"blocks": ["clinic-chat"], "tokens": 1000, "row_tokens": 256},
            "given-back": {"stage": "convert", "to": "meta", "from": "sft"},
        },
        "evaluation": {},
    }
    recipe = small_recipe(tmp_path, changes)
    folder = run_recipe(load_recipe(recipe))
    receipt = json.loads((folder / "01-grouped" / "receipt.json").read_text())
    assert receipt["figures"]["found"] == "Hugging Face"
    assert any("4 key/value heads pooled to 2" in note for note in receipt["notes"])
    trained = json.loads((folder / "02-sft" / "model" / "config.json").read_text())
    assert (trained["num_attention_heads"], trained["num_key_value_heads"]) == (4, 2)
    assert json.loads((folder / "03-given-back" / "model" / "params.json").read_text())["n_kv_heads"] == 2
    assert (folder / "report.html").is_file()
