"""`graft export` and `stage: export`: what is written for whom, the model card, what is refused."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from graftlm.core.errors import GraftError
from graftlm.core.files import read_json
from graftlm.models.gguf_words import WordChoice
from graftlm.models.loading import load_tokenizer
from graftlm.models.saved_weights import WeightFiles
from graftlm.recipes.exporting import export_model
from graftlm.recipes.loading import load_recipe
from graftlm.recipes.pipeline import run_recipe
from graftlm.recipes.talking import newest_model

needs_gguf = pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="the extra `gguf` is not installed")


@pytest.fixture(autouse=True)
def words_known(monkeypatch):
    """The way of cutting words is not searched for."""
    monkeypatch.setattr(
        "graftlm.models.gguf_tokens.choose_words", lambda tokenizer, name: WordChoice("qwen2", exact=True)
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of a training stage and an export."""
    folder = tmp_path_factory.mktemp("run")
    talk = {"world": "clinic", "part": "consultations", "count": 40}
    recipe = {
        "name": "small-clinic", "base": "rootstock", "output": str(folder / "run"), "device": "cpu",
        "data": {"talk": talk},
        "stages": {
            "sft": {"stage": "sft", "blocks": ["talk"], "tokens": 600, "row_tokens": 128},
            "hub": {"stage": "export", "to": "hugging-face", "type": "bf16", "licence": "apache-2.0"},
        },
        "evaluation": {
            "exam": {"world": "clinic", "part": "exam", "metric": "choice", "side": "domain", "limit": 8},
            "probe": {"world": "general", "part": "probe", "metric": "choice", "side": "general", "limit": 8},
        },
    }  # fmt: skip
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return run_recipe(load_recipe(file))


def front_matter(card: str) -> dict:
    return dict(yaml.safe_load(re.match(r"---\n(.*?)---\n", card, re.DOTALL)[1]))


def test_the_stage_writes_a_folder_that_transformers_loads(run):
    folder = run / "02-hub" / "export"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    assert model.dtype == torch.bfloat16
    before, after = WeightFiles(str(run / "01-sft" / "model")), WeightFiles(str(folder))
    for name in before.names:
        assert torch.equal(after.read(name), before.read(name).bfloat16())
    assert AutoTokenizer.from_pretrained(folder).chat_template
    receipt = read_json(run / "02-hub" / "receipt.json")
    assert receipt["figures"]["type"] == "bf16"
    assert newest_model(str(run)) == str(run / "01-sft" / "model")
    assert not (run / "02-hub" / "scores.json").exists()


def test_the_card_says_what_the_receipts_say(run):
    card = (run / "02-hub" / "export" / "README.md").read_text()
    assert front_matter(card)["license"] == "apache-2.0"
    assert "Made from `rootstock` by the recipe `small-clinic`" in card
    receipt = read_json(run / "01-sft" / "receipt.json")
    assert f"| sft | sft | base | {receipt['steps']:,} | {receipt['tokens']:,} |" in card
    for name, key in receipt["inputs"].items():
        assert f"| sft | {name} | `{key}` |" in card
    scores = {
        place: {result["name"]: result for result in read_json(run / place / "scores.json")["results"]}
        for place in ("00-base", "01-sft")
    }
    for name in ("exam", "probe"):
        shown = [
            f"{found['value']:.1%} ({found['low']:.1%} – {found['high']:.1%})"
            for found in (scores["00-base"][name], scores["01-sft"][name])
        ]
        assert f"| {shown[0]} | {shown[1]} |" in card
    assert (run / "recipe.yaml").read_text().rstrip() in card
    assert "AutoModelForCausalLM.from_pretrained" in card
    assert "hub |" not in card.split("## Scores")[0]


def test_a_model_of_no_run_has_a_short_card(tmp_path, capsys):
    figures = export_model("rootstock", tmp_path / "out", "hugging-face")
    card = (tmp_path / "out" / "README.md").read_text()
    assert front_matter(card)["license"] == "unknown"
    assert "Of its training there is no receipt" in card
    assert "Not stated" in card
    assert figures["type"] == "bf16"
    assert "exported: rootstock to hugging-face" in capsys.readouterr().out


@needs_gguf
def test_a_run_folder_exports_its_newest_model(run, tmp_path):
    import gguf

    figures = export_model(str(run), tmp_path / "out", "gguf", kind="q8_0")
    assert figures["file"] == "out-q8_0.gguf"
    reader = gguf.GGUFReader(tmp_path / "out" / "out-q8_0.gguf")
    up = next(tensor for tensor in reader.tensors if tensor.name == "blk.0.ffn_up.weight")
    ours = WeightFiles(str(run / "01-sft" / "model")).read("model.layers.0.mlp.up_proj.weight").numpy()
    assert abs(gguf.dequantize(up.data, up.tensor_type) - ours).max() < 0.01 * abs(ours).max()


@needs_gguf
def test_ollama_gets_a_modelfile_beside_the_file(tmp_path):
    export_model("rootstock", tmp_path / "clinic", "ollama", kind="f16")
    assert {file.name for file in (tmp_path / "clinic").iterdir()} == {"Modelfile", "clinic-f16.gguf"}
    text = (tmp_path / "clinic" / "Modelfile").read_text()
    assert text.startswith("FROM ./clinic-f16.gguf\nTEMPLATE ")
    assert "<|end|><|assistant|>" in text
    assert text.endswith('PARAMETER stop "<|end|>"\n')


@pytest.mark.parametrize(
    ("target", "options", "told"),
    [
        ("onnx", {}, "no target `onnx`"),
        ("gguf", {"kind": "q4_k"}, "only be made by llama.cpp(?s:.*)llama-quantize"),
        ("gguf", {"kind": "q9"}, "no type `q9`"),
        ("hugging-face", {"kind": "q8_0"}, "no type `q8_0` there"),
        ("ollama", {"template": "chatglm2"}, "cannot be written for Ollama"),
    ],
)
def test_what_cannot_be_written_leaves_nothing_behind(target, options, told, tmp_path):
    with pytest.raises(GraftError, match=told):
        export_model("rootstock", tmp_path / "out", target, **options)
    assert not (tmp_path / "out").exists()


def test_a_filled_folder_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(GraftError, match="there is something already"):
        export_model("rootstock", tmp_path, "hugging-face")
    assert (tmp_path / "mine.txt").read_text() == "x"


@pytest.mark.parametrize(
    ("stage", "told"),
    [
        ({"to": "gguf", "type": "q4_k"}, "type"),
        ({"to": "hugging-face", "type": "q8_0"}, "q8_0 belongs to gguf"),
        ({}, "to"),
    ],
)
def test_settings_are_refused_before_anything_runs(stage, told, tmp_path):
    recipe = {
        "name": "x", "base": "rootstock", "data": {"talk": {"world": "clinic", "part": "consultations", "count": 4}},
        "stages": {"out": {"stage": "export"} | stage},
    }  # fmt: skip
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe))
    with pytest.raises(GraftError, match=told):
        load_recipe(file)


def test_the_check_knows_which_models_have_no_gguf(tmp_path, plain_model):
    plain_model("bloom", vocab_size=3072).save_pretrained(tmp_path / "bloom")
    load_tokenizer("rootstock").save_pretrained(tmp_path / "bloom")
    recipe = {
        "name": "x", "base": str(tmp_path / "bloom"), "output": str(tmp_path / "run"), "device": "cpu",
        "data": {"talk": {"world": "clinic", "part": "consultations", "count": 4}},
        "stages": {"out": {"stage": "export", "to": "gguf"}},
    }  # fmt: skip
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe))
    with pytest.raises(GraftError, match="the check found 1 error"):
        run_recipe(load_recipe(file))
