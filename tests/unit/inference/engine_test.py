"""The engine: whatever comes and goes beside it, a request gets what it gets alone."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from transformers import LlamaForCausalLM

from graftlm.core.errors import ModelError
from graftlm.inference.decoding import Decoding
from graftlm.inference.engine import Engine
from graftlm.inference.generation import generate
from graftlm.inference.request import Request, open_requests
from graftlm.models.trunk import prepare_trunk

DECODINGS = (
    Decoding(greedy=True, max_new_tokens=9),
    Decoding(temperature=0.8, top_p=0.9, max_new_tokens=14),
    Decoding(temperature=1.2, top_k=20, repetition_penalty=1.3, max_new_tokens=6),
    Decoding(greedy=True, repetition_penalty=1.5, max_new_tokens=11),
    Decoding(temperature=0.9, min_p=0.05, presence_penalty=0.4, frequency_penalty=0.2, max_new_tokens=8),
)
STOPS = frozenset(range(0, 260, 17))


@pytest.fixture(scope="module")
def ready(model: LlamaForCausalLM) -> LlamaForCausalLM:
    own = copy.deepcopy(model)
    prepare_trunk(own)
    return own


def random_requests(model: LlamaForCausalLM, count: int, seed: int) -> list[Request]:
    rng = random.Random(seed)
    found = []
    for place in range(count):
        prompt = [rng.randrange(260) for _ in range(rng.randrange(1, 30))]
        if place % 7 == 3:  # the same prompt again
            prompt = list(found[-1].prompt)
        found += open_requests(model, [prompt], rng.choice(DECODINGS), STOPS, None, [rng.randrange(1000)])
    return found


def alone(model: LlamaForCausalLM, request: Request) -> tuple[int, ...]:
    (answer,) = generate(
        model, [request.prompt], request.decoding, stop_ids=request.stop_ids, pad_id=0, seeds=[request.seed]
    )
    return answer.tokens


def test_two_hundred_requests_that_come_go_and_are_cancelled_get_what_they_get_alone(ready):
    rng, requests = random.Random(1), random_requests(ready, 200, seed=0)
    wanted = [alone(ready, request) for request in requests]
    engine, waiting = Engine(ready, slots=16, positions=64, prefill_tokens=90), list(requests)
    cancelled = set()
    while waiting or engine.busy:
        for _ in range(min(len(waiting), rng.randrange(6))):
            engine.submit(waiting.pop(0))
        if rng.random() < 0.3:
            victim = rng.randrange(200 - len(waiting)) if len(waiting) < 200 else None
            if victim is not None and requests[victim].finish is None:
                engine.cancel(requests[victim])
                cancelled.add(victim)
        engine.step()
    assert len(cancelled) > 5
    for place, (request, tokens) in enumerate(zip(requests, wanted, strict=True)):
        if place in cancelled:
            assert request.finish == "cancelled"
            assert tuple(request.tokens) == tokens[: len(request.tokens)]
        else:
            assert tuple(request.tokens) == tokens
            assert request.finish == ("length" if len(tokens) == request.budget else "stop")


def test_equal_prompts_run_once(ready, monkeypatch):
    seen, plain = [], ready.model.forward

    def forward(**named):
        seen.append(named["input_ids"].shape)
        return plain(**named)

    monkeypatch.setattr(ready.model, "forward", forward)
    requests = open_requests(ready, [[5, 6, 7, 8]] * 6, Decoding(max_new_tokens=4, seed=3), [], None, None)
    Engine(ready, slots=6, positions=16).run(requests)
    assert seen[0] == (1, 4)
    assert len({tuple(request.tokens) for request in requests}) > 1  # their draws are their own


def test_the_last_slots_move_up_when_nobody_waits(ready, monkeypatch):
    greedy = Decoding(greedy=True, max_new_tokens=12)
    requests = open_requests(ready, [[n + 1] for n in range(8)], greedy, [], None, None)
    for request in requests[:6]:
        request.budget = 2
    wanted = [alone(ready, request) for request in requests]
    engine, sizes = Engine(ready, slots=8, positions=16), []
    plain = engine._next.logits

    def logits(B):
        sizes.append(B)
        return plain(B)

    monkeypatch.setattr(engine._next, "logits", logits)
    engine.run(requests)
    assert sizes[0] == 8
    assert sizes[-1] == 2  # steps shrink to the two that are left
    for request, tokens in zip(requests, wanted, strict=True):
        assert tuple(request.tokens) == tokens[: request.budget]


def test_log_probabilities_are_the_models(ready):
    (request,) = open_requests(ready, [[3, 1, 4, 1, 5]], Decoding(greedy=True, max_new_tokens=6), [], None, None)
    Engine(ready, slots=2, positions=16).run([request])
    with torch.no_grad():
        log_p_TV = ready(torch.tensor([[3, 1, 4, 1, 5, *request.tokens]])).logits[0].log_softmax(-1)
    wanted = [float(log_p_TV[4 + n, token]) for n, token in enumerate(request.tokens)]
    assert request.log_probabilities == pytest.approx(wanted, abs=1e-4)


def test_a_request_that_fits_no_slot_is_refused(ready):
    (request,) = open_requests(ready, [[1] * 10], Decoding(max_new_tokens=10), [], None, None)
    with pytest.raises(ModelError, match="20 positions, a slot has 16"):
        Engine(ready, slots=1, positions=16).submit(request)


def test_nothing_of_the_engine_stays_on_the_model(ready):
    Engine(ready, slots=2, positions=16).run(
        open_requests(ready, [[1, 2]], Decoding(greedy=True, max_new_tokens=2), [], None, None)
    )
    assert not any(hasattr(module, "graft_keys") for module in ready.modules())
