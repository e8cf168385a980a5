"""Mixtures: one adapter with share 1 is that adapter, a trained router is as good as the best single one on each
domain, combined adapters are their weighted sum, an ensemble's log-probabilities are the weighted mean."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import PeftModel

from graftlm.core.errors import ModelError
from graftlm.inference.decoding import Decoding
from graftlm.inference.generation import generate
from graftlm.inference.likelihood import text_log_probability
from graftlm.inference.scorer import score_choices
from graftlm.models.adapters import make_trainable
from graftlm.models.composite import ensemble
from graftlm.models.mixture import Router, combine_adapters, load_adapters, load_mixture, mix_adapters, save_router

TOKENS = torch.tensor([[5, 9, 30, 41, 7, 60, 11, 3], [4, 8, 15, 16, 23, 42, 50, 61]])
PROMPTS = [[5, 9, 30], [4, 8, 15, 16, 23], [7]]


@pytest.fixture
def adapters(tiny_model, tmp_path) -> dict[str, str]:
    """Two random adapters of `tiny_model()`."""
    found = {}
    for number, name in enumerate(("one", "two")):
        torch.manual_seed(number)
        model = make_trainable(tiny_model(), "lora", rank=2 + number, alpha=4)
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if "lora_B" in key:
                    parameter.normal_(0, 0.3)
        model.save_pretrained(tmp_path / name)
        found[name] = str(tmp_path / name)
    return found


@torch.no_grad()
def logits(model, tokens=TOKENS):
    return model.eval()(input_ids=tokens).logits


def test_one_adapter_with_share_one_is_that_adapter(tiny_model, adapters):
    alone = PeftModel.from_pretrained(tiny_model(), adapters["one"])
    mixed = mix_adapters(tiny_model(), {"one": adapters["one"]})
    torch.testing.assert_close(logits(mixed), logits(alone), atol=1e-5, rtol=0)
    assert not torch.allclose(logits(mixed), logits(tiny_model()), atol=0.1)


def test_shares_are_weights_of_the_changes(tiny_model, adapters):
    """A new router gives each of two adapters a half: as the adapter of half the sum of both changes."""
    halves = combine_adapters(load_adapters(tiny_model(), adapters), {"one": 0.5, "two": 0.5})
    mixed = mix_adapters(tiny_model(), adapters)
    torch.testing.assert_close(logits(mixed), logits(halves), atol=1e-5, rtol=0)
    trained = [name for name, parameter in mixed.named_parameters() if parameter.requires_grad]
    assert {name.split(".")[1] for name in trained} == {"router"}


def test_the_router_is_its_formula():
    router = Router(4, 2, 3, temperature=0.5)
    torch.nn.init.normal_(router.scores.weight)
    hidden = torch.randn(1, 5, 4)
    inner = (hidden @ router.hidden.weight.T + router.hidden.bias).clamp(min=0)
    scores = (inner @ router.scores.weight.T).view(1, 5, 2, 3) / 0.5
    torch.testing.assert_close(router(hidden), scores.exp() / scores.exp().sum(-1, keepdim=True))
    router.top_k = 2
    shares = router(hidden)
    assert int((shares == 0).sum()) == 10
    torch.testing.assert_close(shares.sum(-1), torch.ones(1, 5, 2))
    router.top_k = 1
    assert set(router(hidden).unique().tolist()) == {0.0, 1.0}


def walks(step: int, first: int, count: int, seed: int) -> torch.Tensor:
    """Sequences over twelve tokens; each follows from the one before."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randint(0, 12, (count, 1), generator=generator)
    return first + (start + step * torch.arange(12)) % 12


def loss_of(model, tokens):
    found = model(input_ids=tokens).logits[:, :-1].log_softmax(-1)
    return -found.gather(-1, tokens[:, 1:, None]).mean()


def share_right(model, tokens):
    return float((logits(model, tokens)[:, :-1].argmax(-1) == tokens[:, 1:]).float().mean())


def fit(model, batches, steps, rate):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    for number in range(steps):
        loss_of(model, batches[number % len(batches)]).backward()
        optimizer.step()
        optimizer.zero_grad()


def test_the_routed_model_is_as_good_as_the_best_single_one_on_both_domains(tiny_model, tmp_path):
    domains = {"left": (5, 10), "right": (7, 50)}
    folders = {}
    for name, (step, first) in domains.items():
        torch.manual_seed(0)
        model = make_trainable(tiny_model(), "lora", rank=4, alpha=16)
        fit(model, [walks(step, first, 32, seed) for seed in range(4)], 60, 1e-2)
        model.save_pretrained(tmp_path / name)
        folders[name] = str(tmp_path / name)
    mixed = mix_adapters(tiny_model(), folders)
    both = [torch.cat([walks(*rule, 16, seed) for rule in domains.values()]) for seed in range(4)]
    fit(mixed, both, 60, 1e-2)
    frozen = [parameter for name, parameter in mixed.named_parameters() if "router" not in name]
    assert frozen
    assert all(parameter.grad is None for parameter in frozen)
    experts = {name: PeftModel.from_pretrained(tiny_model(), folder) for name, folder in folders.items()}
    for name, rule in domains.items():
        single = {expert: share_right(model, walks(*rule, 64, 99)) for expert, model in experts.items()}
        assert single[name] > 0.97
        assert min(single.values()) < 0.1
        assert share_right(mixed, walks(*rule, 64, 99)) >= single[name] - 0.01


def test_a_mixture_goes_through_the_engines_as_through_itself(tiny_model, adapters):
    mixed = mix_adapters(tiny_model(), adapters)
    torch.nn.init.normal_(mixed.trunk.router.scores.weight, std=0.5)
    check_engines(mixed)


def check_engines(model):
    """Cached, padded, batched: the same as one naive call after the other."""
    answers = generate(model, PROMPTS, Decoding(greedy=True, max_new_tokens=8), stop_ids=(), pad_id=0)
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        row = list(prompt)
        for _ in range(8):
            row.append(int(logits(model, torch.tensor([row]))[0, -1].argmax()))
        assert row[len(prompt) :] == list(answer.tokens)
    options = [[10, 11], [12]]
    for prompt, scores in zip(
        PROMPTS, score_choices(model, PROMPTS, [options] * len(PROMPTS), pad_id=0), strict=True
    ):
        for option, score in zip(options, scores, strict=True):
            row = torch.tensor([[*prompt, *option]])
            found = logits(model, row)[0].log_softmax(-1)
            wanted = sum(float(found[len(prompt) - 1 + n, token]) for n, token in enumerate(option))
            assert score.log_probability == pytest.approx(wanted, abs=1e-4)
    [(total, count), _] = text_log_probability(model, TOKENS.tolist())
    found = logits(model)[0, :-1].log_softmax(-1).gather(-1, TOKENS[0, 1:, None]).sum()
    assert total == pytest.approx(float(found), abs=1e-4)
    assert count == 7


def test_a_router_is_kept_with_its_adapters(tiny_model, adapters, tmp_path):
    mixed = mix_adapters(tiny_model(), adapters, temperature=0.7, top_k=1)
    torch.nn.init.normal_(mixed.trunk.router.scores.weight)
    save_router(mixed, tmp_path / "mixture", "tiny", adapters)
    assert torch.equal(logits(load_mixture(tmp_path / "mixture", tiny_model())), logits(mixed))


@pytest.mark.parametrize("weights", [{"one": 1.0, "two": 1.0}, {"one": 0.3, "two": -0.6}])
def test_combined_adapters_are_the_weighted_sum_of_their_changes(weights, tiny_model, adapters):
    combined = combine_adapters(load_adapters(tiny_model(), adapters), weights)
    summed = tiny_model()
    with torch.no_grad():
        for name, weight in weights.items():
            own = PeftModel.from_pretrained(tiny_model(), adapters[name]).merge_and_unload().state_dict()
            for key, parameter in summed.named_parameters():
                parameter += weight * (own[key] - tiny_model().state_dict()[key])
    torch.testing.assert_close(logits(combined), logits(summed), atol=1e-4, rtol=0)


@pytest.mark.parametrize("combination", ["svd", "dare_linear"])
def test_other_combinations_make_an_adapter(combination, tiny_model, adapters):
    combined = combine_adapters(load_adapters(tiny_model(), {"one": adapters["one"]}), {"one": 1.0}, combination)
    assert bool(logits(combined).isfinite().all())
    if combination == "svd":  # of its own rank: the same
        alone = PeftModel.from_pretrained(tiny_model(), adapters["one"])
        torch.testing.assert_close(logits(combined), logits(alone), atol=1e-3, rtol=0)


def test_adapters_of_other_ranks_are_not_added_factor_by_factor(tiny_model, adapters):
    with pytest.raises(ModelError, match="cannot be combined"):
        combine_adapters(load_adapters(tiny_model(), adapters), {"one": 1, "two": 1}, "linear")
    with pytest.raises(ModelError, match="adapter cannot be loaded"):
        load_adapters(tiny_model(hidden_size=64), adapters)


def test_an_ensemble_averages_log_probabilities(tiny_model):
    """Other sizes, other families: only the vocabulary is shared."""
    models = [tiny_model("llama"), tiny_model("qwen3", seed=1, hidden_size=64), tiny_model("gpt2", seed=2)]
    weights = (2.0, 1.0, 1.0)
    found = logits(ensemble(models, weights)).log_softmax(-1)
    mean = sum(w / 4 * logits(model).log_softmax(-1) for w, model in zip(weights, models, strict=True))
    torch.testing.assert_close(found, mean.log_softmax(-1), atol=1e-4, rtol=0)
    alone = logits(ensemble(models[:1], (3.0,)))
    torch.testing.assert_close(alone, logits(models[0]), atol=1e-5, rtol=0)


def test_an_ensemble_goes_through_the_engines(tiny_model):
    check_engines(ensemble([tiny_model("llama"), tiny_model("gpt2", seed=2)], (1, 1)))


def test_models_that_cannot_be_averaged_are_refused(tiny_model):
    with pytest.raises(ModelError, match="80 and 96 tokens"):
        ensemble([tiny_model(), tiny_model(vocab_size=80)], (1, 1))
    with pytest.raises(ModelError, match="caps its logits"):
        ensemble([tiny_model("gemma2")], (1,))
    with pytest.raises(ModelError, match="as many weights"):
        ensemble([tiny_model()], (1, 1))


def test_a_copy_of_the_base_is_not_changed(tiny_model, adapters):
    base = tiny_model()
    before = copy.deepcopy(base.state_dict())
    mix_adapters(base, adapters)(input_ids=TOKENS)
    after = {name.replace(".base_layer", ""): value for name, value in base.state_dict().items() if "lora" not in name}
    assert all(torch.equal(after[name], value) for name, value in before.items())
