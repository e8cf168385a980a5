"""Chosen heads: only their slices are trained, whatever the layout of the projections, and importance finds them."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from graftlm.core.errors import ModelError
from graftlm.models.adapters import (
    Heads,
    head_importance,
    layers_with_gradient,
    make_trainable,
    merge_adapter,
    most_important,
    parameter_counts,
)
from graftlm.models.trunk import hidden_states, prepare_trunk
from graftlm.objectives.causal_lm import CausalLM
from graftlm.training.trainer import Trainer, TrainingSettings

TOKENS = torch.arange(3, 23)
BOUNDARIES = torch.tensor([0, 8, 20], dtype=torch.int32)
SIZES = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
FUSED = {
    "phi3": SIZES | {"intermediate_size": 48, "num_key_value_heads": 2, "pad_token_id": 0},
    "gpt_neox": SIZES | {"intermediate_size": 48},
}


def states(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return hidden_states(model.eval(), TOKENS, BOUNDARIES)


@pytest.fixture
def any_model(tiny_model):
    """The families of tests/conftest.py and those with fused projections."""

    def make(family: str):
        if family not in FUSED:
            return tiny_model(family)
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **FUSED[family]), dtype=torch.float32)
        prepare_trunk(model.eval())
        return model

    return make


def expected(family: str, heads: set[int], groups: set[int]) -> dict[str, tuple[int, set[int]]]:
    """Part of a name → (dimension of the weight, indices that may change), D = 8, by each family's layout."""

    def block(numbers: set[int], start: int = 0, stride: int = 8) -> set[int]:
        return {start + n * stride + i for n in numbers for i in range(8)}

    if family in ("gpt2",):
        own = block(heads)
        three = own | block(heads, 32) | block(heads, 64)
        return {"attn.c_attn.weight": (1, three), "attn.c_attn.bias": (0, three), "attn.c_proj.weight": (0, own)}
    if family in ("gpt_neox", "bloom"):
        three = {start + h * 24 + i for h in heads for start in (0, 8, 16) for i in range(8)}
        return {
            "query_key_value.weight": (0, three), "query_key_value.bias": (0, three),
            "attention.dense.weight": (1, block(heads)),
        }  # fmt: skip
    if family == "phi3":
        rows = block(heads) | block(groups, 32) | block(groups, 48)
        return {"qkv_proj.weight": (0, rows), "o_proj.weight": (1, block(heads))}
    out = {"q_proj": block(heads), "k_proj": block(groups), "v_proj": block(groups)}
    named = {f"{name}.{kind}": (0, rows) for name, rows in out.items() for kind in ("weight", "bias")}
    return named | {"o_proj.weight": (1, block(heads))}


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "phi3", "gpt_neox", "bloom"])
def test_a_hundred_steps_with_weight_decay_change_only_the_chosen_entries(any_model, family):
    """Heads 2 and 3 are a whole key/value group of the families that have groups of two, head 0 is half of one."""
    model = any_model(family)
    before, start = copy.deepcopy(dict(model.named_parameters())), states(model)
    model = make_trainable(model, Heads(((1, 2), (1, 3), (1, 0))))
    assert torch.equal(states(model), start), "a new choice is exactly the identity"
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.5)
    for _ in range(100):
        hidden_states(model, TOKENS, BOUNDARIES).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    trained = states(model)
    assert not torch.allclose(trained, start, atol=1e-2)
    merged = merge_adapter(model)
    assert torch.equal(states(merged), trained)
    assert dict(merged.named_parameters()).keys() == before.keys()
    wanted = expected(family, {0, 2, 3}, {1})
    for name, parameter in merged.named_parameters():
        layer, part = next((p for p in name.split(".") if p.isdigit()), ""), ".".join(name.split(".")[-3:])
        dim, places = next((w for key, w in wanted.items() if key in part and layer == "1"), (0, set()))
        changed = (parameter != before[name]).movedim(dim, 0).flatten(1 if parameter.ndim > 1 else 0)
        changed = changed.any(dim=1) if parameter.ndim > 1 else changed
        assert set(changed.nonzero().flatten().tolist()) <= places, name
        if places and "bias" not in name:
            assert len(places) == int(changed.sum()), name


def test_counts_and_depth(tiny_model):
    model = make_trainable(tiny_model("llama"), Heads(((1, 2), (1, 3), (1, 0))))
    assert parameter_counts(model)["trained"] == 32 * 8 * (3 + 3 + 1 + 1)
    assert layers_with_gradient(model) == 1


def test_on_bf16_weights_the_trained_slices_are_fp32_and_survive_merging(tiny_model):
    model = make_trainable(tiny_model("llama").to(torch.bfloat16), Heads(((0, 1),)))
    chosen = model.model.layers[0].self_attn.q_proj.chosen
    assert chosen.dtype == torch.float32
    with torch.no_grad():
        chosen += 1e-5
    wanted = chosen.detach().clone()
    assert states(model).dtype == torch.bfloat16
    merged = merge_adapter(model)
    assert torch.equal(merged.model.layers[0].self_attn.q_proj.weight[8:16], wanted)


def test_importance_is_the_change_of_the_loss_to_first_order(tiny_model):
    """Against central differences, weight by weight. Norms work in fp32, hence the wide steps."""
    model = tiny_model("llama", num_hidden_layers=1, hidden_size=16, head_dim=4, intermediate_size=8).double()

    @torch.no_grad()
    def value() -> float:
        return float(next_token_loss(model))

    found = head_importance(model, [lambda: next_token_loss(model)])
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())
    attention, total = model.model.layers[0].self_attn, 0.0
    rows, columns = attention.q_proj.weight.data[4:8], attention.o_proj.weight.data[:, 4:8]
    for weights in (rows, columns):
        for i in range(weights.shape[0]):
            for j in range(weights.shape[1]):
                own = float(weights[i, j])
                around = []
                for step in (3e-3, -3e-3):
                    weights[i, j] = own + step
                    around.append(value())
                weights[i, j] = own
                total += abs(own * (around[0] - around[1]) / 6e-3)
    assert float(found[0, 1]) == pytest.approx(total, rel=5e-3)


def next_token_loss(model: torch.nn.Module) -> torch.Tensor:
    return model(input_ids=TOKENS[None], labels=TOKENS[None]).loss


def test_the_most_important_heads():
    importance = torch.tensor([[0.1, 5.0, 0.2], [3.0, 0.0, 4.0]])
    assert most_important(importance, 2) == ((0, 1), (1, 2))
    assert most_important(importance, 3) == ((0, 1), (1, 0), (1, 2))
    assert len(most_important(importance, 99)) == 6


def test_importance_beats_chance_where_heads_were_planted(tiny_model, make_plan):
    """Two heads of a model that knows the task are spoilt; training the two that importance names mends more than
    training two others, averaged over choices."""
    plan = make_plan([40] * 60, row_tokens=160, learnable=True)
    torch.manual_seed(0)
    model = tiny_model("llama", spread=0.08, num_key_value_heads=4)
    Trainer(make_trainable(model, "full"), CausalLM(), plan, TrainingSettings(learning_rate=1e-2)).fit()
    planted = ((0, 2), (1, 1))
    with torch.no_grad():
        for layer, head in planted:
            attention = model.model.layers[layer].self_attn
            part = slice(head * 8, head * 8 + 8)
            attention.o_proj.weight[:, part] = 0.5 * torch.randn(32, 8)

    def losses():
        for row in range(3):
            batch = plan.row(row)
            yield lambda batch=batch: CausalLM()(model, batch).total

    chosen = most_important(head_importance(model, losses()), 2)
    others = [((0, 0), (0, 1)), ((0, 3), (1, 0)), ((1, 2), (1, 3))]

    def mended(heads) -> float:
        trained = make_trainable(copy.deepcopy(model), Heads(heads))
        settings = TrainingSettings(learning_rate=1e-2, log_every=1, weight_decay=0)
        losses = Trainer(trained, CausalLM(), plan, settings).fit().losses
        return sum(entry["loss"] for entry in losses[-5:]) / 5

    chance = [mended(heads) for heads in others]
    assert mended(chosen) < 0.9 * sum(chance) / len(chance), (chosen, chance)


@pytest.mark.parametrize("head", [(2, 0), (0, 4), (-1, 0)])
def test_a_head_that_is_not_there_is_a_clear_error(tiny_model, head):
    with pytest.raises(ModelError, match=r"no head(?s:.*)2 layers of 4 heads"):
        make_trainable(tiny_model("llama"), Heads((head,)))


def test_without_attention_there_is_no_head(tiny_model):
    with pytest.raises(ModelError, match=r"no head 0\.0(?s:.*)0 layers"):
        make_trainable(tiny_model("mamba"), Heads(((0, 0),)))


def test_attention_of_another_layout_is_a_clear_error(tiny_model):
    model = tiny_model("llama")
    model.model.layers[0].self_attn.q_proj = torch.nn.Linear(32, 64)  # queries and gates, as Qwen3-Next has them
    with pytest.raises(ModelError, match="where its heads stand"):
        make_trainable(model, Heads(((0, 0),)))
