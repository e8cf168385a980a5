"""A policy: one trunk with a value head, and the reference that it started from."""

from __future__ import annotations

import pytest
import torch

from graftlm.alignment.policy import Policy, answer_token_log_probabilities
from graftlm.models.adapters import make_trainable

METHODS = ("full", "lora")


def rows(trainer):
    return list(trainer.feed.current().plan([0, 1, 2, 3], 64).all_rows(pad=False))


@torch.no_grad()
def log_p(model, trainer):
    return torch.cat([answer_token_log_probabilities(model, row) for row in rows(trainer)])


@pytest.mark.parametrize("method", METHODS)
def test_the_reference_stays_the_start_model(method, start, tiny_model):
    """LoRA: the trunk without its adapter; full tuning: a frozen copy."""
    trainer = start(method=method, learning_rate=1e-2)
    trainer.fit()
    before = log_p(tiny_model(), trainer)
    with trainer.model.reference() as reference:
        torch.testing.assert_close(log_p(reference, trainer), before, rtol=0, atol=1e-6)
    assert (log_p(trainer.model, trainer) - before).abs().max() > 0.01, "the policy itself has moved"
    order = torch.cat([row.document for row in rows(trainer)]).tolist()
    [kept] = trainer.feed.current().of(order, ["reference"], torch.device("cpu"))
    torch.testing.assert_close(kept, before, rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_only_the_policy_is_trained(method, tiny_model):
    model = make_trainable(tiny_model(), method)
    policy = Policy(model, value=True)
    trained = {name for name, p in policy.named_parameters() if p.requires_grad}
    head = {"value_head.weight", "value_head.bias"}
    assert trained == head | {f"model.{name}" for name, p in model.named_parameters() if p.requires_grad}
    with policy.reference() as reference:
        assert method == "lora" or not any(p.requires_grad for p in reference.parameters())
    held = sum(p.numel() for p in policy.parameters())
    assert held == sum(p.numel() for p in model.parameters()) + 33, "the copy is no part of the policy"


def test_training_mode_does_not_reach_the_frozen_copy(tiny_model):
    policy = Policy(make_trainable(tiny_model(), "full"), value=False).train()
    with policy.reference() as reference:
        assert policy.model.training and not reference.training


def test_the_value_is_that_before_the_token(start):
    """A linear head on the hidden state from which the token is predicted."""
    trainer = start()
    [row] = trainer.feed.batches(0, pad=False)[:1]
    policy = trainer.model
    assert not policy.look(row)[1].any(), "a new head says 0"
    with torch.no_grad():
        policy.value_head.weight.normal_()
        policy.value_head.bias.fill_(0.5)
        statistics, values_A = policy.look(row)
        tokens = row.tokens[: int(row.boundaries[1])]
        hidden = policy.model.model(input_ids=tokens[None]).last_hidden_state[0]
        logits = policy.model(input_ids=tokens[None]).logits[0].log_softmax(-1)
    places = [place for place in range(len(tokens)) if row.targets[place] >= 0]
    expected = (hidden[places] @ policy.value_head.weight[0]) + 0.5
    torch.testing.assert_close(values_A[: len(places)], expected, rtol=1e-4, atol=1e-4)
    chosen = logits[places, row.targets[places]]
    torch.testing.assert_close(statistics.log_probability[: len(places)], chosen, rtol=1e-4, atol=1e-4)


def test_without_a_value_head_there_are_no_values(start):
    trainer = start(group=4)
    row = trainer.feed.batches(0, pad=False)[0]
    assert trainer.model.look(row)[1] is None and trainer.model.value_head is None
