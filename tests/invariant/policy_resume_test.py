"""Learning from own answers, killed and taken up again, in a round or between two: the end is the same, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from graftlm.alignment.credit import Credit, GroupCredit, ValueCredit
from graftlm.alignment.feed import RolloutFeed, RolloutSettings
from graftlm.alignment.objective import PolicyObjective
from graftlm.alignment.policy import Policy
from graftlm.alignment.prompts import Asked
from graftlm.core.seeds import seed_everything
from graftlm.data.samples import Origin, Prompt, Turn
from graftlm.evaluation.language_model import LanguageModel
from graftlm.models.adapters import make_trainable
from graftlm.training.trainer import Trainer, TrainingSettings

ITERATIONS, PASSES, MINIBATCHES = 4, 2, 2
ROUND = PASSES * MINIBATCHES
STEPS = ITERATIONS * ROUND
SETTINGS = TrainingSettings(learning_rate=5e-3, warmup=0.1, log_every=3, save_every=3, seed=7)
"""Checkpoints after steps 3, 6, 9 and so on: inside rounds and, at 12, between two."""
KINDS = ("ppo-full", "ppo-lora", "grpo-full")


def even_tokens(prompts: object, answers: list[str]) -> list[float]:
    """Share of an answer's tokens that are even numbers; the language writes each token as a letter."""
    return [sum(ord(letter) % 2 == 0 for letter in answer) / max(len(answer), 1) for answer in answers]


@pytest.fixture
def start(tiny_model: Callable[..., Any]) -> Callable[..., Trainer]:
    """A new process: the model anew, the adapter anew, other random numbers drawn before."""

    def make(folder: Path | None, kind: str = "ppo-full", *, max_kl: float = float("inf")) -> Trainer:
        seed_everything(11)
        algorithm, method = kind.split("-")
        model = tiny_model(num_hidden_layers=1)
        trainable = make_trainable(model, method, rank=4, dropout=0.2 if method == "lora" else 0.0)  # type: ignore[arg-type]
        torch.rand(3)
        subject = LanguageModel(
            model=model,
            encode=lambda turns: [1, *turns[-1].content.encode()],
            encode_text=lambda text: list(text.encode()),
            decode=lambda tokens: "".join(chr(0x100 + token) for token in tokens),
            stop_ids=[2],
            pad_id=0,
        )
        prompts = [Prompt((Turn("user", text),), Origin("p", 1)) for text in ("AB", "C", "DEF")]
        asked = [Asked(prompt, subject.encode(prompt.prompt)) for prompt in prompts for _ in range(4)]
        credit: Credit = GroupCredit(4, "grpo") if algorithm == "grpo" else ValueCredit(0.1, 0.05, True, 0.99, 0.95)
        policy = Policy(trainable, value=algorithm == "ppo")
        settings = RolloutSettings(ITERATIONS, PASSES, MINIBATCHES, 6, 48, max_kl, None, False, 7)
        feed = RolloutFeed(policy, subject, [asked] * ITERATIONS, even_tokens, credit, settings)
        objective = PolicyObjective(
            feed.current, 0.2, value_weight=0.1, entropy_weight=0.01, kl_weight=0.1 if algorithm == "grpo" else 0.0
        )
        return Trainer(policy, objective, feed, SETTINGS, folder=folder, key="k")

    return make


def assert_bit_equal(one: Trainer, other: Trainer) -> None:
    for name, weight in one.trained.items():
        assert torch.equal(weight, other.trained[name]), name
    states = [trainer.optimizer.state_dict()["state"] for trainer in (one, other)]
    assert states[0].keys() == states[1].keys()
    for number, state in states[0].items():
        assert all(torch.equal(value, states[1][number][name]) for name, value in state.items())
    feeds = [trainer.feed for trainer in (one, other)]
    assert feeds[0].history == feeds[1].history  # type: ignore[attr-defined]
    assert feeds[0].credit.state() == feeds[1].credit.state()  # type: ignore[attr-defined]
    assert (one.record.losses, one.record.steps, one.record.stopped) == (
        other.record.losses, other.record.steps, other.record.stopped,
    )  # fmt: skip
    counts = [(trainer.meter.all, trainer.meter.padding, trainer.meter.target) for trainer in (one, other)]
    assert counts[0] == counts[1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("killed", [[3], [5, 8], [13], [4, 7, 10, 15]], ids=str)
def test_killed_and_resumed_equals_uninterrupted(kind, killed, start, tmp_path, fit_until):
    whole = start(tmp_path / "whole", kind)
    whole.fit()
    assert len(whole.feed.history) == ITERATIONS and whole.record.losses
    assert ("value_head.weight" in whole.trained) == kind.startswith("ppo")
    for step in killed:
        fit_until(start(tmp_path / "cut", kind), step)
    cut = start(tmp_path / "cut", kind)
    cut.fit()
    assert cut.record.resumed_from == [step // 3 * 3 for step in killed]
    assert_bit_equal(cut, whole)


def test_the_run_has_something_to_lose(start):
    """The test above could not see a lost price, a lost whitening or lost weights if none of them moved."""
    trainer = start(None)
    before = {name: weight.detach().clone() for name, weight in trainer.trained.items()}
    trainer.fit()
    prices = [entry["kl_price"] for entry in trainer.feed.history]
    assert len(set(prices)) == ITERATIONS and trainer.feed.credit.centre not in (None, 0.0)
    assert not any(torch.equal(weight, before[name]) for name, weight in trainer.trained.items())


def test_a_buffer_that_is_answered_anew_would_be_seen(start, tmp_path, fit_until):
    """Without the feed's state the round is answered again, by weights that have moved in it."""
    fit_until(start(tmp_path), 3)
    cut = start(tmp_path)
    cut.feed.restore = lambda state: None
    cut.fit()
    whole = start(None)
    whole.fit()
    assert cut.feed.history != whole.feed.history


def test_checkpoints_do_not_change_the_run(start, tmp_path):
    saved, unsaved = start(tmp_path), start(None)
    for trainer in (saved, unsaved):
        trainer.fit()
    assert_bit_equal(saved, unsaved)


@pytest.mark.parametrize("killed", [3, 5, 7])
def test_a_divergence_that_blows_up_does_so_after_a_kill(killed, start, tmp_path, fit_until):
    """The weights of the round before are part of the checkpoint: they are not those of the kill."""
    dry = start(None)
    dry.fit()
    kl = [entry["kl"] for entry in dry.feed.history]
    assert kl[2] > max(kl[:2])
    limit = (kl[2] + max(kl[:2])) / 2
    whole = start(tmp_path / "whole", max_kl=limit)
    whole.fit()
    assert "blew up" in whole.record.stopped and whole.record.steps == 2 * ROUND
    fit_until(start(tmp_path / "cut", max_kl=limit), killed)
    cut = start(tmp_path / "cut", max_kl=limit)
    cut.fit()
    assert cut.record.resumed_from == [killed // 3 * 3]
    assert_bit_equal(cut, whole)
