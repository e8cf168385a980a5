"""The engine's greedy answers are those of transformers' `generate`, token for token, whatever runs beside them."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from graftlm.inference.decoding import Decoding
from graftlm.inference.engine import Engine
from graftlm.inference.request import open_requests
from graftlm.models.trunk import prepare_trunk
from tests.parity.families import FAMILIES, V, random_model

NAMES = ("LLaMA", "Qwen3", "Gemma 3", "Mistral", "GPT-2", "GLM-4", "Qwen3-MoE")
PROMPTS = [np.random.default_rng(50 + n).integers(3, V, n).tolist() for n in (17, 1, 12, 30, 5, 9, 22)]
NEW = 20
"""More tokens than the windows of 6 positions see."""


@cache
def of_transformers(name: str) -> list[list[int]]:
    model = random_model(FAMILIES[name])
    return [
        model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=NEW)[0, len(prompt) :].tolist()
        for prompt in PROMPTS
    ]


@cache
def ready(name: str) -> PreTrainedModel:
    model = random_model(FAMILIES[name])
    assert prepare_trunk(model)
    return model


@pytest.mark.parametrize("name", NAMES)
def test_greedy_answers_are_those_of_transformers(name):
    """Three slots for seven requests, which come in two by two and end one after another."""
    wanted = of_transformers(name)
    assert len({token for answer in wanted for token in answer}) > 5, "answers of a few tokens prove little"
    requests = open_requests(ready(name), PROMPTS, Decoding(greedy=True, max_new_tokens=NEW), [], None, None)
    for request in requests:
        request.budget -= request.index
    Engine(ready(name), slots=3, positions=64, prefill_tokens=40).run(requests)
    assert [request.tokens for request in requests] == [answer[: NEW - n] for n, answer in enumerate(wanted)]
