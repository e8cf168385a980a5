"""Pairwise reward modelling: the closed form, the margin's gradient, the first loss, and a rule that is learnt."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from graftlm.data.encode import Encoded
from graftlm.data.mixing import mix
from graftlm.data.packing import pack
from graftlm.data.store import TokenStore
from graftlm.models.adapters import make_trainable
from graftlm.models.reward import document_rewards, load_reward_model
from graftlm.objectives.reward import PairwiseReward, margins, pair_loss
from graftlm.training.trainer import Trainer, TrainingSettings

SIGN = 7
"""The token that makes an answer the better one."""


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize(("chosen", "rejected", "margin"), [(1.2, 0.3, 0.0), (1.2, 0.3, 2.0), (-0.5, 0.25, 1 / 3)])
def test_the_loss_and_its_gradient_are_the_closed_form(chosen, rejected, margin):
    better, worse = (torch.tensor([x], requires_grad=True) for x in (chosen, rejected))
    loss = pair_loss(better, worse, torch.tensor([margin]))
    right = sigmoid(chosen - rejected - margin)
    assert loss.item() == pytest.approx(-math.log(right), rel=1e-6)
    loss.sum().backward()
    assert better.grad.item() == pytest.approx(-(1 - right), rel=1e-5)
    assert worse.grad.item() == pytest.approx(1 - right, rel=1e-5)


def test_the_loss_falls_as_the_better_answer_gains_and_rises_with_the_margin():
    gaps = torch.linspace(-4, 4, 9)
    losses = pair_loss(gaps, torch.zeros(9), torch.zeros(9))
    assert (losses.diff() < 0).all()
    wider = pair_loss(gaps, torch.zeros(9), torch.full((9,), 0.5))
    assert (wider > losses).all()


def test_extreme_scores_stay_finite():
    loss = pair_loss(torch.tensor([0.0, -1e4]), torch.tensor([-1e4, 0.0]), torch.zeros(2))
    assert loss.tolist() == pytest.approx([0.0, 1e4])


def test_margins_are_those_of_llama_2():
    strength = torch.tensor([3.0, 2.0, 1.0, 0.0])
    assert margins(strength, "large").tolist() == [3, 2, 1, 0]
    assert margins(strength, "small").tolist() == pytest.approx([1, 2 / 3, 1 / 3, 0])
    assert margins(strength, "none").tolist() == [0, 0, 0, 0]


@pytest.fixture
def model(plain_model, tmp_path):
    plain_model(spread=0.05).save_pretrained(tmp_path / "base")
    return load_reward_model(str(tmp_path / "base"), dtype=torch.float32, device=torch.device("cpu"))


def pairs(count: int, *, seed: int, strength: float = 0.0) -> TokenStore:
    """Random answers to random prompts; the chosen one has the sign somewhere, the rejected one has not."""
    random = np.random.default_rng(seed)
    documents = []
    for _ in range(count):
        prompt = random.integers(8, 96, 4)
        for better in (True, False):
            answer = random.integers(8, 96, random.integers(3, 8))
            if better:
                answer[random.integers(len(answer))] = SIGN
            tokens = np.concatenate([[1], prompt, answer, [2]]).astype(np.uint32)
            documents.append(Encoded(tokens, np.arange(len(tokens)) > 4, strength))
    return TokenStore.in_memory(documents, group=2, kind="preference")


def plan_of(store: TokenStore, epochs: int = 1):
    mixture = mix({"a": store}, {"a": 1.0}, epochs * int(store.offsets[-1]), "hybrid", seed=5)
    return pack(mixture, row_tokens=256)


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("pad_to", [None, 256])
def test_the_first_loss_is_exactly_ln2_and_a_tie_is_wrong(model, method, pad_to):
    objective = PairwiseReward("none")
    trained = make_trainable(model, method, rank=4).train()
    batch = plan_of(pairs(20, seed=0, strength=3.0)).row(0, pad_to=pad_to)
    loss = objective(trained, batch)
    assert loss.units == objective.units(batch) == batch.documents // 2 > 5
    assert loss.total.dtype == torch.float64
    assert loss.total.item() / loss.units == pytest.approx(math.log(2), abs=float(np.spacing(np.float32(math.log(2)))))
    assert {name: float(value) for name, value in loss.metrics.items()} == {
        "accuracy": 0, "margin": 0, "chosen_reward": 0, "rejected_reward": 0
    }  # fmt: skip


@pytest.mark.parametrize(("scale", "margin"), [("none", 0.0), ("small", 2 / 3), ("large", 2.0)])
def test_loss_and_metrics_are_those_of_the_documents_rewards(model, scale, margin):
    torch.nn.init.normal_(model.score.weight)
    batch = plan_of(pairs(20, seed=0, strength=2.0)).row(0, pad_to=256)
    assert batch.padding
    with torch.no_grad():
        rewards = document_rewards(model, batch).tolist()
        loss = PairwiseReward(scale)(model, batch)
    better, worse = rewards[0::2], rewards[1::2]
    both = list(zip(better, worse, strict=True))
    assert len(both) == loss.units
    assert loss.total.item() == pytest.approx(sum(-math.log(sigmoid(c - r - margin)) for c, r in both), rel=1e-5)
    found = {name: float(value) for name, value in loss.metrics.items()}
    assert 0 < found["accuracy"] < loss.units
    assert found == pytest.approx(
        {
            "accuracy": sum(c > r for c, r in both),
            "margin": sum(better) - sum(worse),
            "chosen_reward": sum(better),
            "rejected_reward": sum(worse),
        },
        rel=1e-4, abs=1e-4,
    )  # fmt: skip


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_rule_is_learnt(model, method):
    trained = make_trainable(model, method, rank=8)
    objective = PairwiseReward("small")
    held_out = plan_of(pairs(100, seed=2))
    rate = 3e-3 if method == "full" else 1e-2
    settings = TrainingSettings(learning_rate=rate, weight_decay=0, log_every=1000, evaluate_every=1000)
    trainer = Trainer(trained, objective, plan_of(pairs(400, seed=1), epochs=4), settings, held_out=held_out)
    assert trainer.held_out_means()["loss"] == pytest.approx(math.log(2), rel=1e-6)
    trainer.fit()
    means = trainer.held_out_means()
    assert means["accuracy"] > 0.9
    assert means["margin"] > 1
    assert means["chosen_reward"] - means["rejected_reward"] == pytest.approx(means["margin"], rel=1e-3)
