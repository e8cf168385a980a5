"""Direct preference optimisation: the closed form, the first loss, and that it prefers what it should."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from graftlm.models.adapters import make_trainable
from graftlm.objectives.preference import (
    DPO,
    answer_log_probabilities,
    dpo_loss,
    reference_log_probabilities,
)
from graftlm.training.trainer import Trainer, TrainingSettings

LN2_ULP = float(np.spacing(np.float32(math.log(2))))


def test_the_loss_on_two_token_cases():
    """One-token answers c and r to one prompt, over a vocabulary of two: everything has a closed form."""
    policy, reference, beta = 0.8, 0.4, 0.5  # probability of c; r has the rest
    loss = dpo_loss(
        *(torch.tensor([p]).log() for p in (policy, 1 - policy, reference, 1 - reference)), beta=beta
    )
    odds = (policy / (1 - policy)) / (reference / (1 - reference))
    assert loss.item() == pytest.approx(math.log(1 + odds**-beta), rel=1e-6)


def test_the_loss_is_ln2_where_policy_and_reference_agree():
    chosen, rejected = torch.tensor([-3.0, -50.0]), torch.tensor([-7.0, -1.0])
    assert dpo_loss(chosen, rejected, chosen, rejected, 0.3).tolist() == pytest.approx(
        [math.log(2)] * 2, abs=LN2_ULP
    )


def test_the_gradient_raises_the_chosen_and_lowers_the_rejected():
    chosen, rejected = (torch.tensor([x], requires_grad=True) for x in (-4.0, -4.0))
    beta = 0.2
    dpo_loss(chosen, rejected, torch.tensor([-5.0]), torch.tensor([-4.5]), beta).backward()
    margin = beta * ((-4.0 + 5.0) - (-4.0 + 4.5))
    expected = beta / (1 + math.exp(margin))
    assert chosen.grad.item() == pytest.approx(-expected, rel=1e-5)
    assert rejected.grad.item() == pytest.approx(expected, rel=1e-5)


def test_extreme_margins_stay_finite():
    loss = dpo_loss(torch.tensor([0.0, -1e4]), torch.tensor([-1e4, 0.0]), torch.zeros(2), torch.zeros(2), 1.0)
    assert loss.tolist() == pytest.approx([0.0, 1e4])


@pytest.fixture
def pairs(make_plan):
    return make_plan([6, 9] * 12, group=2, row_tokens=48, rows_per_step=2, seed=4)


@pytest.mark.parametrize("pad_to", [None, 48])
def test_answers_are_summed_document_by_document(tiny_model, pairs, pad_to):
    model = tiny_model()
    batch = pairs.row(0, pad_to=pad_to)
    assert bool(batch.padding) is (pad_to is not None)
    with torch.no_grad():
        found = answer_log_probabilities(model, batch)
    documents = 2 * DPO(0.1, {}).units(batch)
    assert len(found) == documents > 2
    edges = batch.boundaries.tolist()
    for i, (a, b) in enumerate(pairwise(edges[: documents + 1])):
        with torch.no_grad():
            log_p = model(input_ids=batch.tokens[None, a:b], use_cache=False).logits[0].log_softmax(-1)
        targets = batch.targets[a:b]
        bearing = targets >= 0
        expected = log_p[bearing].gather(1, targets[bearing, None]).sum()
        torch.testing.assert_close(found[i], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_the_first_loss_is_exactly_ln2(tiny_model, pairs, method, dropout, family):
    model = make_trainable(tiny_model(family), method, rank=4, dropout=dropout)
    reference = reference_log_probabilities(model, [pairs], pad_rows=False, bf16=False)
    assert len(reference) == 24
    objective = DPO(0.1, reference)
    model.train()
    for row in range(pairs.rows):
        loss = objective(model, pairs.row(row))
        assert loss.total.item() / loss.units == pytest.approx(math.log(2), abs=LN2_ULP)
        assert float(loss.metrics["margin"]) == 0


def test_the_reference_is_without_dropout(tiny_model, pairs):
    model = tiny_model("gpt2", resid_pdrop=0.5).train()
    reference = reference_log_probabilities(model, [pairs, pairs], pad_rows=False, bf16=False)
    with torch.no_grad():
        found = {
            number: value
            for row in map(pairs.row, range(pairs.rows))
            for number, value in zip(
                row.document.tolist(), answer_log_probabilities(model.eval(), row).tolist(), strict=True
            )
        }
    assert reference == found
    assert len(set(found.values())) == 24


@pytest.mark.parametrize("method", ["full", "lora"])
def test_training_raises_the_margin(tiny_model, pairs, method):
    model = make_trainable(tiny_model(spread=0.05), method, rank=8)
    objective = DPO(0.1, reference_log_probabilities(model, [pairs], pad_rows=False, bf16=False))
    settings = TrainingSettings(learning_rate=5e-3 if method == "full" else 5e-2, warmup=0, log_every=1)
    first = Trainer(model, objective, pairs, settings).fit().losses
    assert first[0]["loss"] == pytest.approx(math.log(2), abs=LN2_ULP)
    assert first[0]["accuracy"] == 0, "equal is not better"
    with torch.no_grad():
        after = [objective(model, pairs.row(row)) for row in range(pairs.rows)]
    units = sum(loss.units for loss in after)
    assert sum(float(loss.total) for loss in after) / units < 0.9 * math.log(2)
    assert sum(float(loss.metrics["margin"]) for loss in after) / units > 0.1
    assert sum(float(loss.metrics["accuracy"]) for loss in after) / units > 0.8


def test_the_metrics_say_what_moved(tiny_model, pairs):
    model = tiny_model()
    batch = pairs.row(0)
    reference = reference_log_probabilities(model, [pairs], pad_rows=False, bf16=False)
    documents = batch.document.tolist()
    for place, number in enumerate(documents):
        reference[number] += (
            -1.0 if place % 2 == 0 else 0.5
        )  # the policy likes chosen by 1 more, rejected by 0.5 less
    loss = DPO(0.2, reference)(model, batch)
    means = {name: float(value) / loss.units for name, value in loss.metrics.items()}
    assert means == pytest.approx(
        {"accuracy": 1.0, "margin": 0.3, "chosen_drift": 1.0, "rejected_drift": -0.5}, abs=1e-4
    )
