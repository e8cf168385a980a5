"""`graft quantize` and its stage: the gate measures, lets through, and stops with numbers."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
import yaml

from graftlm.core.errors import DataError, GraftError, ModelError, RecipeError
from graftlm.core.files import read_json
from graftlm.models.loading import load_model
from graftlm.models.quant_linear import quantised_layers
from graftlm.recipes.loading import load_recipe
from graftlm.recipes.pipeline import run_recipe
from graftlm.recipes.quantisation_data import exam_of, gather_evidence
from graftlm.recipes.quantize_command import quantize
from graftlm.recipes.schema import Block
from graftlm.recipes.stage_settings import QuantizeStage
from graftlm.recipes.stages.context import choose_template

CPU = torch.device("cpu")

RECIPE = {
    "name": "small",
    "base": "rootstock",
    "offline": True,
    "data": {
        "texts": {"world": "general", "part": "text", "count": 60, "held_out": 0.1},
        "chats": {"world": "general", "part": "instructions", "count": 60, "held_out": 0.1},
        "pairs": {"world": "clinic", "part": "preferences", "count": 20},
    },
    "stages": {"quantize": {"blocks": ["texts", "chats"], "bits": 8, "rows": 2, "row_tokens": 64}},
    "evaluation": {
        "text": {"world": "general", "part": "probe_text", "metric": "bits_per_byte", "side": "domain", "limit": 3},
        "probe": {"world": "general", "part": "probe", "metric": "generate", "side": "domain", "limit": 20},
    },
}


def write(folder: Path, **stage: object) -> Path:
    tree = RECIPE | {"output": str(folder / "run"), "stages": {"quantize": RECIPE["stages"]["quantize"] | stage}}
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    return file


def test_the_stage_makes_a_model_and_its_receipt_has_the_gates_figures(tmp_path):
    run = run_recipe(load_recipe(write(tmp_path)))
    receipt = read_json(run / "01-quantize" / "receipt.json")
    figures = receipt["figures"]
    assert figures["exam"] == "probe"
    assert figures["exam before"] > 0.5
    assert figures["exam before"] - figures["exam after"] <= 0.005
    assert 0 < figures["kl"] < 0.01
    assert figures["greedy match"] > 0.95
    assert figures["positions compared"] == 2 * 64
    assert figures["MiB after"] < figures["MiB before"]
    assert "exam probe" in receipt["inputs"] and "texts" in receipt["inputs"]
    model = load_model(str(run / "01-quantize" / "model"), dtype=torch.float32, device=CPU)
    assert {layer.form.group for layer in quantised_layers(model).values()} == {None}
    assert read_json(run / "01-quantize" / "scores.json")["results"], "evaluated as every stage is"
    layers = read_json(run / "01-quantize" / "model" / "quantisation.json")["layers"]
    assert layers.keys() == quantised_layers(model).keys()


def test_the_gate_stops_what_lost_too_much_and_leaves_nothing(tmp_path, monkeypatch):
    """Every weight the same: nothing is left of the model."""
    monkeypatch.setattr("graftlm.models.weight_quantisation.quantise", _ruined)
    with pytest.raises(ModelError, match=r"probe \d.*points lost, 0.5 allowed(?s:.*)fix:") as caught:
        run_recipe(load_recipe(write(tmp_path, method="absmax")))
    assert caught.value.where == "stages.quantize"
    assert not (tmp_path / "run" / "01-quantize" / "model").exists()
    assert not (tmp_path / "run" / "01-quantize" / "receipt.json").exists()
    with pytest.raises(ModelError, match="kept all the same"):
        run_recipe(load_recipe(write(tmp_path, method="absmax", keep_failed=True)))
    assert (tmp_path / "run" / "01-quantize" / "model" / "model.safetensors").is_file()


def _ruined(weight, form):
    from graftlm.ops.int_weights import quantise

    return quantise(torch.full_like(weight, 0.01), form)


def test_the_command_needs_only_a_model_and_a_text(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"Story {n}. The cat sat on mat number {n}, and the dog ran." for n in range(60)))
    quantize("rootstock", tmp_path / "out", text, None, bits=4, method="absmax", max_kl=5.0, rows=2)
    found = read_json(tmp_path / "out" / "quantisation.json")
    assert "no exam: KL alone judges" in found["notes"]
    assert found["settings"]["group"] is None
    assert {one["bits"] for one in found["layers"].values()} == {4}
    with pytest.raises(GraftError, match="it exists"):
        quantize("rootstock", tmp_path / "out", text, None)
    with pytest.raises(ModelError, match="quantised already"):
        quantize(str(tmp_path / "out"), tmp_path / "again", text, None)
    with pytest.raises(GraftError, match=r"--bits"):
        quantize("rootstock", tmp_path / "again", text, None, bits=3)
    with pytest.raises(GraftError, match=r"--data FILE or --recipe FILE"):
        quantize("rootstock", tmp_path / "again", None, None)


def test_without_an_exam_the_divergence_has_a_default_bound(tmp_path, monkeypatch):
    monkeypatch.setattr("graftlm.recipes.quantisation.MEAN_KL", {4: 1e-9, 8: 1e-9})
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"The cat sat on mat number {n}, and the dog ran." for n in range(60)))
    with pytest.raises(ModelError, match="1e-09 allowed"):
        quantize("rootstock", tmp_path / "out", text, None, bits=8, method="absmax", rows=1)
    with pytest.raises(ModelError, match=r"KL 0\.\d+ nats a token, 1e-06 allowed"):
        quantize("rootstock", tmp_path / "out", text, None, bits=8, method="absmax", rows=1, max_kl=1e-6)
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
def test_nf4_is_saved_and_loads_again(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"The cat sat on mat number {n}, and the dog ran." for n in range(60)))
    quantize("rootstock", tmp_path / "out", text, None, method="nf4", max_kl=5.0, rows=1)
    again = load_model(str(tmp_path / "out"), dtype=torch.bfloat16, device=CPU)
    assert again.model.layers[0].mlp.up_proj.weight.element_size() == 1


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
def test_nf4s_code_book_is_the_published_one():
    """arXiv 2305.14314, appendix E."""
    from bitsandbytes.functional import get_4bit_type

    published = [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
        -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
        0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ]  # fmt: skip
    torch.testing.assert_close(get_4bit_type("nf4", device="cpu").cpu(), torch.tensor(published), rtol=0, atol=1e-6)


def test_texts_kept_back_are_not_calibrated_with(tmp_path):
    from graftlm.models.loading import load_tokenizer

    tokenizer = load_tokenizer("rootstock")
    file = tmp_path / "text.txt"
    file.write_text("\n".join(f"number {n} here" for n in range(40)))
    blocks = {"a": Block(path=str(file), split="line", held_out=0.25)}
    settings = QuantizeStage(blocks=["a"], rows=200, row_tokens=4)
    evidence = gather_evidence(blocks, None, settings, tokenizer, choose_template("own", tokenizer), 0)
    kept = {text.text for text in evidence.held_out}
    seen = tokenizer.decode(evidence.calibration_RL.flatten().tolist())
    assert len(kept) == 10
    assert not any(text in seen for text in kept)
    assert seen.count("here") == pytest.approx(30, abs=1)
    with pytest.raises(DataError, match="no text is kept back"):
        gather_evidence(
            {"a": blocks["a"].model_copy(update={"held_out": 0.0})}, None, settings, tokenizer,
            choose_template("own", tokenizer), 0,
        )  # fmt: skip


def test_wrong_names_are_said(tmp_path):
    recipe = load_recipe(write(tmp_path))
    with pytest.raises(RecipeError, match=r"no task `exma`(?s:.*)one of: text, probe"):
        exam_of(recipe, "exma")
    with pytest.raises(DataError, match="neither text nor conversations"):
        run_recipe(load_recipe(write(tmp_path, blocks=["pairs"])))
    with pytest.raises(RecipeError, match="nf4 has 4 bits"):
        load_recipe(write(tmp_path, method="nf4"))
