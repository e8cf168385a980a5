"""`graft merge` and `stage: merge`: what is written, what is said, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from graftlm import cli
from graftlm.core.errors import GraftError
from graftlm.core.files import read_json
from graftlm.models.adapters import make_trainable
from graftlm.models.loading import load_model, load_tokenizer, save_model
from graftlm.models.saved_weights import WeightFiles
from graftlm.recipes.loading import load_recipe
from graftlm.recipes.merging import read_texts, weighted
from graftlm.recipes.pipeline import run_recipe

CPU = torch.device("cpu")


@pytest.fixture
def graft(monkeypatch, capsys):
    """Command line → (exit code, what was printed)."""

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["graft", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return ended.value.code, out + err

    return run


@pytest.fixture
def adapter(tmp_path) -> Path:
    """A trained adapter of the rootstock."""
    torch.manual_seed(0)
    model = make_trainable(load_model("rootstock", dtype=torch.float32, device=CPU), "lora", rank=4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.01)
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_an_adapter_is_merged_and_its_gate_told(graft, adapter, tmp_path):
    code, told = graft("merge", tmp_path / "out", adapter, "--base", "rootstock")
    assert code == 0, told
    assert "into bf16: KL " in told
    assert "of the change lost to rounding" in told
    merged, base = WeightFiles(str(tmp_path / "out")), WeightFiles("rootstock")
    assert merged.names == base.names
    name = "model.layers.0.mlp.up_proj.weight"
    assert merged.form(name) == base.form(name)
    assert not torch.equal(merged.read(name), base.read(name))
    assert torch.equal(merged.read("model.norm.weight"), base.read("model.norm.weight"))
    assert load_model(str(tmp_path / "out"), dtype=torch.float32, device=CPU)


def test_a_gate_that_is_shut_leaves_nothing_behind(graft, adapter, tmp_path):
    code, told = graft("merge", tmp_path / "out", adapter, "--base", "rootstock", "--mean-kl", "1e-9")
    assert code == 2
    assert "mean_kl" in told
    assert "> 1e-09" in told
    assert "--dtype fp32" in told
    assert not (tmp_path / "out").exists()
    code, told = graft(
        "merge", tmp_path / "out", adapter, "--base", "rootstock", "--dtype", "fp32", "--mean-kl", "1e-9"
    )
    assert code == 0, told
    assert "0.00% of the change lost" in told


def test_models_are_merged_and_compared_with_their_parents(graft, tmp_path):
    other = load_model("rootstock", dtype=torch.float32, device=CPU)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.01)
    save_model(other, load_tokenizer("rootstock"), tmp_path / "other", torch.bfloat16)
    code, told = graft(
        "merge", tmp_path / "out", f"{tmp_path / 'other'}:2", "--base", "rootstock", "--method", "task", "--scale", "0"
    )
    assert code == 0, told
    assert "1 model by task" in told
    assert "rootstock (base): 0 nats away, same likeliest token at 100.0%" in told
    assert "other (weight 2): " in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["rootstock", "rootstock"], "rootstock: it is given twice"),
        (["./nowhere"], "./nowhere: no such model"),
        (["rootstock:x"], "rootstock:x: no such model"),
        (["rootstock", "--method", "mean"], "there is no such method"),
        (["rootstock", "--method", "ties"], "give the base"),
        (["rootstock", "--method", "slerp"], "takes 2 model(s), not 1"),
        (["rootstock", "--dtype", "int8"], "--dtype: no format `int8`"),
        (["rootstock", "--texts", "nowhere.txt"], "nowhere.txt: it cannot be read"),
    ],
)
def test_what_cannot_be_merged_is_said_without_a_traceback(arguments, told, graft, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, said = graft("merge", "out", *arguments)
    assert code == 2
    assert told in said
    assert "fix: " in said
    assert not Path("out").exists()


def test_a_filled_folder_is_left_alone(graft, tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    code, told = graft("merge", tmp_path, "rootstock")
    assert code == 2
    assert "there is something already" in told
    assert (tmp_path / "mine.txt").read_text() == "x"


def test_weights_stand_behind_the_last_colon():
    assert weighted(["a:0.5", "b", "./c:d:-2", "e:f"]) == {"a": 0.5, "b": 1.0, "./c:d": -2.0, "e:f": 1.0}


def test_texts_are_lines(tmp_path):
    (tmp_path / "texts.txt").write_text("one\n\n二\n", encoding="utf-8")
    assert read_texts(tmp_path / "texts.txt") == ["one", "二"]
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(GraftError, match="no text"):
        read_texts(tmp_path / "empty.txt")


def test_a_stage_goes_back_half_the_way(tmp_path):
    """WiSE-FT after a stage: weights half-way between the base and what was trained; done once."""
    sft = {"stage": "sft", "blocks": ["talk"], "tokens": 600, "row_tokens": 128, "learning_rate": 1e-3}
    recipe = {
        "name": "soup", "base": "rootstock", "output": str(tmp_path / "run"), "device": "cpu",
        "data": {"talk": {"world": "clinic", "part": "consultations", "count": 40}},
        "stages": {
            "sft": sft,
            "back": {"stage": "merge", "models": ["sft"], "method": "wise-ft", "base": "base", "blocks": ["talk"]},
        },
    }  # fmt: skip
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe, sort_keys=False))
    run = run_recipe(load_recipe(file))
    before, tuned, merged = (
        WeightFiles(str(place)) for place in ("rootstock", run / "01-sft/model", run / "02-back/model")
    )
    for name in before.names:
        torch.testing.assert_close(merged.read(name), (before.read(name).float() + tuned.read(name)) / 2)
    receipt = read_json(run / "02-back" / "receipt.json")
    assert receipt["figures"]["merged"] == "1 model by wise-ft"
    assert receipt["figures"][f"mean KL from {run / '01-sft/model'}"] > 0
    assert "merge sft" in receipt["inputs"]
    run_recipe(load_recipe(file))
    assert read_json(run / "02-back" / "receipt.json") == receipt


@pytest.mark.parametrize(
    ("models", "told"),
    [(["later"], "merges `later`, which is no earlier language model"), (["./nowhere"], "the check found 1 error")],
)
def test_a_stage_of_models_that_are_not_there_is_refused_before_anything_runs(models, told, tmp_path):
    train = {"stage": "sft", "blocks": ["talk"]}
    recipe = {
        "name": "odd", "base": "rootstock", "output": str(tmp_path / "run"), "device": "cpu",
        "data": {"talk": {"world": "clinic", "part": "consultations", "count": 40}},
        "stages": {"odd": {"stage": "merge", "models": models}, "later": train},
    }  # fmt: skip
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe, sort_keys=False))
    with pytest.raises(GraftError, match=told):
        run_recipe(load_recipe(file))
    assert not list(tmp_path.glob("run/*/model"))


def test_a_stage_names_the_tensor_that_does_not_fit(tmp_path, plain_model):
    plain_model().save_pretrained(tmp_path / "other")
    recipe = {
        "name": "odd", "base": "rootstock", "output": str(tmp_path / "run"), "device": "cpu",
        "data": {"talk": {"world": "clinic", "part": "consultations", "count": 40}},
        "stages": {"odd": {"stage": "merge", "models": {"base": 1, str(tmp_path / "other"): 1}}},
    }  # fmt: skip
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe, sort_keys=False))
    with pytest.raises(GraftError, match=r"`lm_head.weight`|`model\.layers"):
        run_recipe(load_recipe(file))
    assert not (tmp_path / "run" / "01-odd" / "model").exists()
