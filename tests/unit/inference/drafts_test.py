"""Guesses change how many passes an answer takes, never the answer."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from transformers import LlamaForCausalLM, MistralConfig, MistralForCausalLM

from graftlm.inference.decoding import Decoding
from graftlm.inference.engine import Engine
from graftlm.inference.prompt_lookup import PromptLookup
from graftlm.inference.request import open_requests
from graftlm.models.trunk import prepare_trunk

DECODINGS = (
    Decoding(greedy=True, max_new_tokens=24),
    Decoding(temperature=0.3, max_new_tokens=20),
    Decoding(temperature=0.4, top_p=0.9, repetition_penalty=1.05, max_new_tokens=17),
    Decoding(greedy=True, frequency_penalty=0.1, max_new_tokens=15),
)


@pytest.fixture(scope="module")
def ready(model: LlamaForCausalLM) -> LlamaForCausalLM:
    own = copy.deepcopy(model)
    prepare_trunk(own)
    return own


def test_a_guess_is_what_followed_the_longest_end():
    assert PromptLookup([1, 2, 3, 4, 9, 2, 3]).guess(3) == [4, 9, 2]
    assert PromptLookup([7, 3, 5, 2, 3, 4, 1, 2, 3]).guess(2) == [4, 1]  # 2, 3 rather than 3
    assert PromptLookup([2, 3, 4, 2, 3, 5, 2, 3]).guess(1) == [5]  # the latest
    assert PromptLookup([8, 6, 6, 6]).guess(4) == [6, 6, 6, 6]  # runs on into itself
    assert PromptLookup([1, 2, 3]).guess(4) == []


def test_the_index_grows_as_a_search_would_find_it():
    rng = random.Random(0)
    lookup, tokens = PromptLookup([]), []
    for _ in range(300):
        token = rng.randrange(4)
        lookup.push(token)
        tokens.append(token)
        wanted = []
        for n in (3, 2, 1):
            starts = [i + n for i in range(max(0, len(tokens) - n)) if tokens[i : i + n] == tokens[-n:]]
            if starts:
                wanted = tokens[starts[-1] :][:1]
                break
        assert lookup.guess(1) == wanted


def answers(model, prompts, seeds, draft, slots=4):
    engine = Engine(model, slots=slots, positions=64, prefill_tokens=60, draft=draft)
    requests = []
    for place, prompt in enumerate(prompts):
        decoding = DECODINGS[place % len(DECODINGS)]
        requests += open_requests(model, [prompt], decoding, range(0, 260, 41), None, [seeds[place]])
    engine.run(requests)
    found = [(request.tokens, request.finish, request.stop_token) for request in requests]
    return found, [request.log_probabilities for request in requests], engine.drafts


def repetitive(count, seed):
    rng = random.Random(seed)
    pieces = [[rng.randrange(260) for _ in range(rng.randrange(1, 9))] for _ in range(count)]
    return [(piece * 40)[: rng.randrange(8, 38)] for piece in pieces]


@pytest.mark.parametrize("draft", [1, 3, 7])
def test_answers_are_those_without_guesses(ready, draft):
    prompts, seeds = repetitive(16, draft), list(range(16))
    plain, log_ps, none = answers(ready, prompts, seeds, 0)
    found, found_log_ps, drafts = answers(ready, prompts, seeds, draft)
    assert found == plain
    for one, other in zip(found_log_ps, log_ps, strict=True):
        assert one == pytest.approx(other, abs=1e-4)
    assert none.rows == 0
    assert drafts.accepted > 0, "no guess was right: nothing is proved"
    assert drafts.accepted < drafts.drafted, "no guess was wrong: nothing is proved"
    assert drafts.tokens_a_step == 1 + drafts.accepted / drafts.rows


def test_a_window_hides_what_lies_before_it_from_each_guess():
    torch.manual_seed(3)
    config = MistralConfig(
        vocab_size=260, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.3, sliding_window=5, eos_token_id=None,
    )  # fmt: skip
    model = MistralForCausalLM(config).float()
    assert prepare_trunk(model)
    prompts, seeds = repetitive(8, 9), list(range(8))
    plain, _, _ = answers(model, prompts, seeds, 0)
    found, _, drafts = answers(model, prompts, seeds, 4)
    assert found == plain
    assert drafts.accepted > 0


def test_padding_behind_guesses_overwrites_no_token_of_a_full_slot(ready, monkeypatch):
    """The first request's last pass is at the last place but one, beside guesses that are padded for it."""
    monkeypatch.setattr(PromptLookup, "guess", lambda self, count: [9] * count)
    prompts = [list(range(30, 44)), [3, 4] * 3]
    answers = []
    for draft in (0, 6):
        requests = open_requests(ready, prompts, Decoding(greedy=True, max_new_tokens=10), [], None, None)
        requests[0].budget = 2
        engine = Engine(ready, slots=2, positions=16, draft=draft)
        engine.run(requests)
        answers.append(requests)
    assert engine.drafts.drafted > 0
    for plain, found in zip(*answers, strict=True):
        assert found.tokens == plain.tokens
        assert found.log_probabilities == pytest.approx(plain.log_probabilities, abs=1e-4)
