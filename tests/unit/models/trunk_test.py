"""hidden_states gives each packed document what the untouched transformers model gives it alone."""

from __future__ import annotations

import pytest
import torch

from graftlm.core.errors import ModelError
from graftlm.models.trunk import ATTENTION, causal_lm, hidden_states, output_head, positions_of, prepare_trunk

LENGTHS = [17, 1, 30, 2, 5, 30]
PACKS = {
    "llama": True,
    "mistral": True,
    "qwen2": True,
    "qwen3": True,
    "gpt2": True,
    "gemma2": False,  # caps the scores
    "bloom": False,  # its attention is its own (ALiBi)
    "mamba": False,  # a recurrent state runs over document ends
    "qwen2_moe": False,  # its attention window is in its mask only
}


def row(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randint(3, 96, (sum(LENGTHS),), generator=torch.Generator().manual_seed(seed))
    return tokens, torch.tensor([0, *LENGTHS], dtype=torch.int32).cumsum(0).int()


@torch.no_grad()
def one_by_one(model: torch.nn.Module, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Last hidden states and logits of each document by transformers' own forward."""
    states, logits = [], []
    decoder = getattr(model, model.base_model_prefix)
    for document in tokens.split(LENGTHS):
        states.append(decoder(input_ids=document[None], use_cache=False).last_hidden_state[0])
        logits.append(model(input_ids=document[None], use_cache=False).logits[0])
    return torch.cat(states), torch.cat(logits)


@pytest.mark.parametrize("family", PACKS)
def test_packed_states_equal_each_document_alone(plain_model, family):
    model = plain_model(family)
    tokens, boundaries = row()
    expected, logits = one_by_one(model, tokens)
    own = model.config._attn_implementation

    assert prepare_trunk(model) is PACKS[family]
    assert model.config._attn_implementation == (ATTENTION if PACKS[family] else own)
    with torch.no_grad():
        found = hidden_states(model, tokens, boundaries)
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(output_head(model).logits(found), logits, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("family", ["llama", "gpt2", "mamba"])
def test_a_document_depends_on_no_other(tiny_model, family):
    model = tiny_model(family)
    tokens, boundaries = row()
    changed = tokens.clone()
    changed[: LENGTHS[0]] = 3
    with torch.no_grad():
        before, after = hidden_states(model, tokens, boundaries), hidden_states(model, changed, boundaries)
    torch.testing.assert_close(after[LENGTHS[0] :], before[LENGTHS[0] :], atol=1e-5, rtol=1e-5)
    assert (after[: LENGTHS[0]] - before[: LENGTHS[0]]).abs().max() > 0.1


def test_the_probe_finds_a_leak(plain_model, monkeypatch):
    """If our attention entry forgot the boundaries, the probe would turn packing off."""
    from graftlm.models import trunk

    whole = trunk.packed_attention

    def leaky(*args, boundaries, longest, **kwargs):
        T = int(boundaries[-1])
        return whole(*args, boundaries=boundaries.new_tensor([0, T]), longest=T, **kwargs)

    monkeypatch.setattr(trunk, "packed_attention", leaky)
    assert prepare_trunk(plain_model("llama", spread=0.02)) is False


def test_a_model_with_a_head_of_its_own_kind_is_refused(plain_model):
    with pytest.raises(ModelError, match="logits are not its head"):
        prepare_trunk(plain_model("falcon_h1"))


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2", "gemma2"])
def test_generation_with_left_padding_is_that_of_the_untouched_model(plain_model, family):
    prompts = torch.tensor([[0, 0, 0, 7, 8, 9], [11, 12, 13, 14, 15, 16]])
    mask = (prompts != 0).long()
    answers = []
    for prepare in (False, True):
        model = plain_model(family)
        model.generation_config.pad_token_id = 0
        if prepare:
            prepare_trunk(model)
        with torch.no_grad():
            answers.append(
                model.generate(prompts, attention_mask=mask, do_sample=False, min_new_tokens=12, max_new_tokens=12)
            )
    assert torch.equal(*answers)
    assert answers[0].shape == (2, 18)


def test_training_state_survives_preparation(plain_model):
    model = plain_model("llama").train()
    prepare_trunk(model)
    assert model.training
    assert all(module.training for module in model.modules())


def test_positions_start_anew_in_each_document():
    assert positions_of(torch.tensor([0, 3, 4, 6], dtype=torch.int32), 6).tolist() == [0, 1, 2, 0, 0, 1]


def test_causal_lm_finds_the_model_inside_an_adapter(tiny_model):
    from graftlm.models.adapters import make_trainable

    model = tiny_model("llama")
    assert causal_lm(model) is model
    assert causal_lm(make_trainable(model, "lora")) is model


def test_a_full_memory_is_not_taken_for_a_model_that_cannot_pack(plain_model, monkeypatch):
    def full(*arguments, **options):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr("graftlm.models.trunk._packed_states", full)
    with pytest.raises(torch.OutOfMemoryError):
        prepare_trunk(plain_model())
