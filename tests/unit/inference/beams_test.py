"""Beam search finds what transformers finds, and, with enough beams, what trying every answer finds."""

from __future__ import annotations

import copy
from itertools import product

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from graftlm.core.errors import DataError, GraftError
from graftlm.inference.beams import beam_search
from graftlm.inference.decoding import Decoding
from graftlm.inference.generation import generate
from graftlm.models.trunk import prepare_trunk

PROMPTS = ([1, 2, 3], [200, 5, 9, 9, 14, 250], [77])
STOPS = [3, 40, 41, 42, 43, 99, 100, 150, 200, 222]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("penalty", [1.0, 0.0, 2.5, -1.0])
@pytest.mark.parametrize("beams", [1, 4])
def test_beams_are_those_of_transformers(model: LlamaForCausalLM, beams: int, penalty: float, packed: bool) -> None:
    soft = copy.deepcopy(model)
    with torch.no_grad():
        soft.lm_head.weight.mul_(0.4)  # so that stop tokens are met, at different lengths
    theirs = copy.deepcopy(soft)
    if packed:
        prepare_trunk(soft)
    reasons, lengths = set(), set()
    for prompt in PROMPTS:
        wanted = theirs.generate(
            torch.tensor([prompt]), num_beams=beams, num_return_sequences=beams, max_new_tokens=10, do_sample=False,
            length_penalty=penalty, early_stopping=False, eos_token_id=STOPS, pad_token_id=259,
            return_dict_in_generate=True, output_scores=True,
        )  # fmt: skip
        found = beam_search(
            soft, prompt, beams=beams, max_new_tokens=10, stop_ids=STOPS, pad_id=0, length_penalty=penalty
        )
        for place, completion in enumerate(found):
            tokens = [*completion.tokens, *([completion.stop_token] if completion.stop_token is not None else [])]
            row = wanted.sequences[place, len(prompt) :].tolist()
            assert row == tokens + [259] * (len(row) - len(tokens))
            if beams > 1:
                score = completion.log_probability / len(tokens) ** penalty
                assert score == pytest.approx(float(wanted.sequences_scores[place]), abs=1e-4)
            reasons.add(completion.finish_reason)
            lengths.add(len(tokens))
        assert len(found) == beams
    assert beams == 1 or penalty not in (0.0, 1.0) or len(lengths) > 1, "answers of one length do not show the penalty"
    assert "stop" in reasons or penalty > 1  # long answers win


def test_with_enough_beams_nothing_better_exists() -> None:
    """Six tokens, answers of three: all 216 are tried."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=6, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        initializer_range=0.5,
    )  # fmt: skip
    model = LlamaForCausalLM(config).float()
    every = torch.tensor([[1, 2, *answer] for answer in product(range(6), repeat=3)])
    with torch.no_grad():
        log_p = model(every).logits[:, 1:4].log_softmax(-1).gather(2, every[:, 2:, None])[..., 0]
    order = log_p.sum(1).argsort(descending=True)[:36]
    found = beam_search(model, [1, 2], beams=36, max_new_tokens=3, stop_ids=[], pad_id=0, decode=str)
    assert [list(completion.tokens) for completion in found] == every[order, 2:].tolist()
    for completion, place in zip(found, order.tolist(), strict=True):
        assert completion.log_probabilities == pytest.approx(log_p[place].tolist(), abs=1e-4)
    assert found[0].text == str(found[0].tokens)


def test_one_beam_is_greedy(model: LlamaForCausalLM) -> None:
    greedy = Decoding(greedy=True, max_new_tokens=12)
    for prompt in PROMPTS:
        (wanted,) = generate(model, [prompt], greedy, stop_ids=STOPS, pad_id=0)
        (found,) = beam_search(model, prompt, beams=1, max_new_tokens=12, stop_ids=STOPS, pad_id=0)
        assert (found.tokens, found.stop_token) == (wanted.tokens, wanted.stop_token)
        assert found.log_probability == pytest.approx(wanted.log_probability, abs=1e-4)


def test_what_cannot_be_searched_is_refused(model: LlamaForCausalLM) -> None:
    with pytest.raises(GraftError, match="0 beams"):
        beam_search(model, [1], beams=0, max_new_tokens=2, stop_ids=[], pad_id=0)
    for prompt in ([], [1] * 128):
        with pytest.raises(DataError, match=f"{len(prompt)} tokens"):
            beam_search(model, prompt, beams=2, max_new_tokens=2, stop_ids=[], pad_id=0)
