"""Merging of models: each rule by hand or by its formula, and what must not be merged."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from graftlm.core.errors import ModelError
from graftlm.models.loading import load_tokenizer
from graftlm.models.merging import Merging, agreeing_mean, drop_and_rescale, merge_models, merge_tensors, slerp, trim
from graftlm.models.saved_weights import TensorForm, WeightFiles, write_weights

BASE = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0])
ONE = BASE + torch.tensor([0.9, -0.1, 0.5, -0.7, 0.0])
TWO = BASE + torch.tensor([0.3, 0.2, -0.8, -0.1, 0.0])


def test_ties_by_hand():
    """Density 0.6 keeps three of five. One: 0.9, 0.5, -0.7; two: 0.3, 0.2, -0.8. Sums 1.2, 0.2, -0.3, -0.7, 0."""
    found = merge_tensors(Merging("ties", (1.0, 1.0), density=0.6), BASE, [ONE, TWO])
    torch.testing.assert_close(found - BASE, torch.tensor([0.6, 0.2, -0.8, -0.7, 0.0]))


def test_ties_with_weights_and_scale_by_hand():
    """Weights 3 and 1: sums 3·0.9+0.3, 0.2, 3·0.5-0.8, -3·0.7, 0; the mean of those that agree is by weight."""
    found = merge_tensors(Merging("ties", (3.0, 1.0), density=0.6, scale=2.0), BASE, [ONE, TWO])
    torch.testing.assert_close(found - BASE, 2 * torch.tensor([(2.7 + 0.3) / 4, 0.2, 0.5, -0.7, 0.0]))


def test_a_sum_of_nothing_elects_plus():
    found = agreeing_mean([torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 0.0])], (1.0, 1.0))
    assert found.tolist() == [1.0, 0.0]


def test_trim_keeps_the_largest():
    change = torch.tensor([[0.1, -0.5], [0.3, -0.2]])
    assert trim(change, 0.5).tolist() == torch.tensor([[0.0, -0.5], [0.3, 0.0]]).tolist()
    assert torch.equal(trim(change, 1.0), change)
    assert int((trim(change, 0.01) != 0).sum()) == 1


def test_dare_by_hand():
    """Each number is 0 or 1/(1 - p) of what it was; the seed decides, and so does the tensor's name."""
    change = ONE - BASE
    found = drop_and_rescale(change, 0.5, seed=3)
    assert all(value == 0 or value == pytest.approx(2 * was) for value, was in zip(found, change, strict=True))
    assert torch.equal(found, drop_and_rescale(change, 0.5, seed=3))
    assert torch.equal(drop_and_rescale(change, 1.0, seed=3), change)
    big = torch.ones(1000)
    how = Merging("dare", (1.0,), density=0.5)
    assert not torch.equal(merge_tensors(how, 0 * big, [big], "a"), merge_tensors(how, 0 * big, [big], "b"))


def test_dare_means_the_change():
    """Over 10,000 draws the mean is the change, within four standard errors: |change|·sqrt(p/(1-p)/n)."""
    change = ONE - BASE
    draws = torch.stack([drop_and_rescale(change, 0.3, seed) for seed in range(10_000)])
    error = change.abs() * math.sqrt(0.7 / 0.3 / 10_000)
    assert bool(((draws.mean(0) - change).abs() <= 4 * error).all())
    assert float((draws != 0).float()[:, :4].mean()) == pytest.approx(0.3, abs=0.01)


def test_dare_ties_elects_signs_after_dropping():
    how = Merging("dare-ties", (1.0, 1.0), density=1.0)
    torch.testing.assert_close(
        merge_tensors(how, BASE, [ONE, TWO]) - BASE, torch.tensor([0.6, 0.2, -0.8, -0.4, 0.0])
    )


def test_task_arithmetic_and_linear_by_hand():
    task = merge_tensors(Merging("task", (1.0, -0.5), scale=0.5), BASE, [ONE, TWO])
    torch.testing.assert_close(task, BASE + 0.5 * ((ONE - BASE) - 0.5 * (TWO - BASE)))
    mean = merge_tensors(Merging("linear", (1.0, 3.0)), None, [ONE, TWO])
    torch.testing.assert_close(mean, 0.25 * ONE + 0.75 * TWO)


def test_slerp_is_its_formula():
    one, other = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).float()
    a, b = one.flatten().double(), other.flatten().double()
    angle = math.acos(float(a @ b / (a.norm() * b.norm())))
    for t in (0.2, 0.5, 0.9):
        wanted = (math.sin((1 - t) * angle) * a + math.sin(t * angle) * b) / math.sin(angle)
        torch.testing.assert_close(slerp(one, other, t).flatten(), wanted.float())
    quarter = slerp(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0]), 0.5)  # stays on the circle
    torch.testing.assert_close(quarter, torch.tensor([math.sqrt(2), math.sqrt(2)]))


@pytest.mark.parametrize("other", [torch.zeros(3), torch.tensor([2.0, 4.0, 6.0]), torch.tensor([-1.0, -2.0, -3.0])])
def test_slerp_without_an_arc_is_the_straight_line(other):
    one = torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(slerp(one, other, 0.25), 0.75 * one + 0.25 * other)
    assert torch.equal(slerp(one, other, 0.0), one)
    assert torch.equal(slerp(one, other, 1.0), other)


METHODS = [
    Merging("linear", (0.3, 0.3, 0.1)), Merging("slerp", (1, 1), alpha=0.3), Merging("task", (1, 1, 1)),
    Merging("ties", (1, 1, 1)), Merging("dare", (1, 1, 1)), Merging("dare-ties", (1, 1, 1)),
    Merging("wise-ft", (1,), alpha=0.3),
]  # fmt: skip


@pytest.fixture
def saved(plain_model, tmp_path):
    """family, seed → the folder of a random model."""

    def save(name, family="llama", *, seed=0, shard="5GB", dtype=torch.float32, **sizes):
        folder = tmp_path / name
        plain_model(family, seed=seed, **sizes).to(dtype).save_pretrained(folder, max_shard_size=shard)
        return str(folder)

    return save


@pytest.mark.parametrize("how", METHODS, ids=lambda how: how.method)
def test_merging_a_model_with_itself_is_the_identity(how, saved, tmp_path):
    """To the bit, signs of zeros included; from one file or several."""
    model = saved("model", shard="20KB", dtype=torch.bfloat16)
    base = model if how.method not in ("linear", "slerp") else None
    (tmp_path / "out").mkdir()
    merge_models(tmp_path / "out", [model] * len(how.weights), how, base=base)
    merged, before = load_file(tmp_path / "out" / "model.safetensors"), WeightFiles(model)
    assert sorted(merged) == before.names
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 1
    for name, tensor in merged.items():
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(tensor.view(torch.int16), before.read(name).view(torch.int16)), name


@pytest.mark.parametrize(("alpha", "end"), [(0.0, 0), (1.0, 1)])
def test_the_ends_of_wise_ft_are_its_models(alpha, end, saved, tmp_path):
    models = [saved("before"), saved("after", seed=1)]
    (tmp_path / "out").mkdir()
    merge_models(tmp_path / "out", models[1:], Merging("wise-ft", (1,), alpha=alpha), base=models[0])
    merged, wanted = WeightFiles(str(tmp_path / "out")), WeightFiles(models[end])
    assert all(torch.equal(merged.read(name), wanted.read(name)) for name in wanted.names)


def test_the_merged_folder_loads_and_tied_weights_stay_tied(saved, tmp_path):
    models = [saved("one", tie_word_embeddings=True), saved("two", seed=1, tie_word_embeddings=True)]
    (tmp_path / "out").mkdir()
    merge_models(tmp_path / "out", models, Merging("linear", (1, 1)), dtype=torch.bfloat16)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert loaded.dtype == torch.bfloat16
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    both = [WeightFiles(model).read("model.embed_tokens.weight") for model in models]
    torch.testing.assert_close(loaded.lm_head.weight, ((both[0] + both[1]) / 2).bfloat16())


def test_models_that_do_not_fit_are_refused_by_tensor(saved, tmp_path):
    model = saved("model")

    def refusal(other, **changed):
        with pytest.raises(ModelError) as caught:
            merge_models(tmp_path, [model, saved(other, **changed)], Merging("linear", (1, 1)))
        return caught.value.reason

    assert "`lm_head.weight` is [80, 32], in the other one [96, 32]" in refusal("vocabulary", vocab_size=80)
    assert "mlp.down_proj.weight` is [32, 64]" in refusal("wide", intermediate_size=64)
    assert "only" in (reason := refusal("tied", tie_word_embeddings=True))
    assert "`lm_head.weight`" in reason
    assert "ties its head" in reason
    assert "`model.layers.2." in refusal("deep", num_hidden_layers=3)
    assert "it is a qwen3" in refusal("family", family="qwen3")


def test_other_tokens_are_refused(saved, tmp_path):
    folders = [saved("one"), saved("two")]
    for folder in folders:
        load_tokenizer("rootstock").save_pretrained(folder)
    words = json.loads((tmp_path / "two" / "tokenizer.json").read_text())
    vocabulary = words["model"]["vocab"]
    vocabulary["!"], vocabulary["?"] = vocabulary["?"], vocabulary["!"]
    (tmp_path / "two" / "tokenizer.json").write_text(json.dumps(words))
    with pytest.raises(ModelError, match="tokenizer differs: 2 tokens, `!` among them"):
        merge_models(tmp_path, folders, Merging("linear", (1, 1)))


@pytest.mark.parametrize(
    ("how", "has_base", "reason"),
    [
        (Merging("slerp", (1, 1, 1)), False, "takes 2 model"),
        (Merging("ties", (1, 1)), False, "give the base"),
        (Merging("linear", (1, 1)), True, "takes no base"),
        (Merging("dare", (1, 1), density=0.0), True, "density"),
        (Merging("wise-ft", (1,), alpha=1.5), True, "alpha"),
        (Merging("linear", (1, -1)), False, "add up to 0"),
        (Merging("ties", (1, -1)), True, "weights must be above 0"),
        (Merging("linear", ()), False, "no model"),
    ],
)
def test_settings_that_make_no_sense_are_refused(how, has_base, reason):
    with pytest.raises(ModelError, match=reason):
        how.check(has_base=has_base)


def test_written_files_are_those_of_the_library(tmp_path):
    tensors = {
        "a": torch.randn(3, 5), "b": torch.randn(7).bfloat16(), "c": torch.arange(4), "d": torch.tensor(2.5),
        "e": torch.tensor([True, False, True]),
    }  # fmt: skip
    forms = {name: TensorForm(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    write_weights(tmp_path / "model.safetensors", forms, tensors.__getitem__)
    found = load_file(tmp_path / "model.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert WeightFiles(str(tmp_path)).names == sorted(tensors)
    with pytest.raises(ValueError, match="announced"):
        write_weights(tmp_path / "model.safetensors", forms, lambda name: torch.zeros(1))
