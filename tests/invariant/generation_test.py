"""Cached, batched generation gives what the definition gives: run everything again for each token."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)

from graftlm.inference.decoding import Decoding
from graftlm.inference.generation import generate
from graftlm.inference.scorer import score_choices
from graftlm.models.trunk import prepare_trunk

V = 100
SHAPE = {"vocab_size": V, "hidden_size": 32, "initializer_range": 0.3}
LLAMA = {
    **SHAPE,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}

FAMILIES: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**LLAMA)),
    "llama-eager": lambda: LlamaForCausalLM(LlamaConfig(**LLAMA, attn_implementation="eager")),
    "mistral-sliding": lambda: MistralForCausalLM(MistralConfig(**LLAMA, sliding_window=6)),
    "gemma": lambda: GemmaForCausalLM(GemmaConfig(**LLAMA, head_dim=8)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=V, n_embd=32, n_layer=2, n_head=4, n_positions=48, initializer_range=0.3)
    ),
    "bloom": lambda: BloomForCausalLM(BloomConfig(**SHAPE, n_layer=2, n_head=4)),
}


def build(family: str) -> PreTrainedModel:
    torch.manual_seed(0)
    return FAMILIES[family]().float().eval()


def random_prompts(count: int = 12, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 24, (count,), generator=generator).tolist()
    return [torch.randint(0, V, (length,), generator=generator).tolist() for length in lengths]


@torch.no_grad()
def naive_greedy(
    model: PreTrainedModel, prompt: list[int], stop_ids: set[int], budget: int
) -> tuple[list[int], str, float]:
    tokens, log_p = list(prompt), 0.0
    for _ in range(budget):
        log_p_V = model(torch.tensor([tokens])).logits[0, -1].log_softmax(-1)
        best = int(log_p_V.argmax())
        log_p += float(log_p_V[best])
        if best in stop_ids:
            return tokens[len(prompt) :], "stop", log_p
        tokens.append(best)
    return tokens[len(prompt) :], "length", log_p


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prepared", [False, True])
def test_cached_generation_is_naive_generation(family: str, prepared: bool) -> None:
    model = build(family)
    prompts, budget = random_prompts(), 14
    free = [naive_greedy(model, prompt, set(), budget)[0] for prompt in prompts]
    stop_ids = {free[0][2], free[3][5], free[5][0], free[7][9]}  # stops of several rows, at several steps
    expected = [naive_greedy(model, prompt, stop_ids, budget) for prompt in prompts]
    assert {reason for _, reason, _ in expected} == {"stop", "length"}
    if prepared:
        prepare_trunk(model)
    decoding = Decoding(greedy=True, max_new_tokens=budget)
    for batch_size in (1, 5, 64):
        found = generate(model, prompts, decoding, stop_ids=stop_ids, pad_id=0, batch_size=batch_size)
        for completion, (tokens, reason, log_p) in zip(found, expected, strict=True):
            assert list(completion.tokens) == tokens
            assert completion.finish_reason == reason
            assert (completion.stop_token in stop_ids) == (reason == "stop")
            assert completion.log_probability == pytest.approx(log_p, abs=1e-3)
            assert len(completion.log_probabilities) == len(tokens) + (reason == "stop")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_completion_scored_afterwards_has_the_same_log_probability(family: str) -> None:
    """Generation, step by step, and the scorer, all at once, agree on what they both say about an answer."""
    model = build(family)
    prompts = random_prompts(seed=1)
    answers = generate(model, prompts, Decoding(max_new_tokens=9, seed=3), stop_ids=[], pad_id=0)
    options = [[list(answer.tokens), [1]] for answer in answers]
    for answer, scores in zip(answers, score_choices(model, prompts, options, pad_id=0), strict=True):
        assert scores[0].log_probability == pytest.approx(answer.log_probability, abs=1e-3)
