"""Rounds of answering and learning with tiny models: what the first step sees, what stops a run, what is learnt."""

from __future__ import annotations

import math
import re

import pytest
import torch

from graftlm.alignment.objective import PolicyObjective
from graftlm.core.errors import TrainingError

METHODS = ("full", "lora")


def weights(trainer):
    return {name: p.detach().clone() for name, p in trainer.trained.items()}


def same(one, other):
    return all(torch.equal(weight, other[name]) for name, weight in one.items())


def column(trainer, name):
    return [entry[name] for entry in trainer.feed.history]


@torch.no_grad()
def shake(trainer):
    """Other weights than the start model's, the adapter's second half (which starts at 0) among them."""
    generator = torch.Generator().manual_seed(5)
    for parameter in trainer.trained.values():
        parameter += 0.05 * torch.randn(parameter.shape, generator=generator)


# --- the first step ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_the_engine_draws_from_what_the_trainer_trains(method, start):
    """fp32: within 1e-4 nats a token, with weights that are not the start model's."""
    trainer = start(method=method, answers=32, max_new_tokens=16)
    shake(trainer)
    trainer.feed.batches(0, pad=False)
    [figures] = trainer.feed.history
    assert figures["engine_gap"] < 1e-4 < figures["kl"]
    torch.testing.assert_close(trainer.feed.current().per_token["weight"], torch.ones(()).expand(
        int(trainer.feed.current().lengths_R.sum())), rtol=1e-4, atol=0)  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_the_first_ratio_is_exactly_1(method, start):
    """Old log-probabilities are of the very rows that are learnt from, in every round and both minibatches."""
    trainer = start(method=method, iterations=3, passes=1, minibatches=1)
    losses = trainer.fit().losses
    assert [(entry["ratio"], entry["clip_fraction"], entry["moved"]) for entry in losses] == [(1.0, 0.0, 0.0)] * 3
    two = start(method=method, iterations=1, passes=1, minibatches=2).fit().losses
    assert (two[0]["ratio"], two[0]["clip_fraction"]) == (1.0, 0.0)
    assert two[1]["ratio"] != 1.0 and two[1]["moved"] > 0, "the second minibatch meets weights that have moved"


@pytest.mark.parametrize("method", METHODS)
def test_the_first_losses_are_their_closed_forms(method, start):
    """Ratio 1 and values 0: minus the mean advantage, and half the mean squared return."""
    trainer = start(method=method, iterations=1, passes=1, price=0.1)
    feed = trainer.feed
    rows = feed.batches(0, pad=False)
    documents = [number for row in rows for number in row.document.tolist()]
    assert 0 < len(documents) < len(feed.current())
    advantage, returns = feed.current().of(documents, ["advantage", "return"], torch.device("cpu"))
    feed.history.clear()
    feed._round = -1
    first = trainer.fit().losses[0]
    assert first["policy_loss"] == pytest.approx(-float(advantage.mean()), abs=1e-5)
    assert first["value_loss"] == pytest.approx(0.5 * float((returns**2).mean()), rel=1e-5)
    assert first["loss"] == pytest.approx(first["policy_loss"] + 0.1 * first["value_loss"], abs=1e-4)


def test_before_the_first_step_nothing_has_moved(start):
    trainer = start(method="lora")
    trainer.feed.batches(0, pad=False)
    assert column(trainer, "kl") == [0.0]


def test_dropout_takes_no_part_in_answering(start):
    trainer = start(method="lora", dropout=0.5)
    shake(trainer)
    trainer.model.train()
    trainer.feed.batches(0, pad=False)
    assert column(trainer, "engine_gap")[0] < 1e-4
    assert trainer.model.training, "and goes on where it was for the learning"


def test_the_loss_is_the_sum_of_its_parts(start):
    """weight · policy loss - entropy weight · entropy + price · k3 + value weight · value loss, over the row."""
    trainer = start()
    [row, *_] = trainer.feed.batches(0, pad=False)
    shake(trainer)
    rollouts, documents = trainer.feed.current(), row.document.tolist()
    rollouts.per_token["weight"] = torch.linspace(0.2, 2, len(rollouts.per_token["old"]))
    names = ("old", "reference", "advantage", "weight", "value", "return")
    old, reference, advantage, weight, value, returns = rollouts.of(documents, names, torch.device("cpu"))
    with torch.no_grad():
        statistics, now = trainer.model.look(row, entropy=True)
        log_p = statistics.log_probability
        ratio = (log_p - old).exp()
        loss = -weight * torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
        loss = loss - 0.3 * statistics.entropy + 0.7 * ((reference - log_p).exp() - 1 - reference + log_p)
        held = value + (now - value).clamp(-0.1, 0.1)
        loss = loss + 0.5 * 0.5 * torch.maximum((now - returns) ** 2, (held - returns) ** 2)
        made = PolicyObjective(
            trainer.feed.current, 0.2, value_weight=0.5, value_clip=0.1, entropy_weight=0.3, kl_weight=0.7
        )(trainer.model, row)
    assert made.total.item() == pytest.approx(float(loss.sum()), rel=1e-4)
    assert made.units == row.target_count == len(old)
    clipped = (ratio * advantage > ratio.clamp(0.8, 1.2) * advantage).sum()
    assert made.metrics["clip_fraction"] == clipped > 0


# --- rounds ------------------------------------------------------------------------------------------------


def test_a_round_is_a_function_of_seed_number_and_weights(start):
    def answers(step: int = 0, *, move: bool = False, **settings):
        trainer = start(**settings)
        if move:
            shake(trainer)
        torch.rand(7)  # other random numbers drawn before
        trainer.feed.batches(step, pad=False)
        return trainer.feed.current().tokens

    first = answers()
    assert answers() == first
    assert answers(step=3) == first, "a round that is met in its middle is the same round"
    assert answers(seed=1) != first
    assert answers(step=4) != first, "the next round asks the same prompts and draws other answers"
    assert answers(move=True) != first


def test_every_pass_goes_over_the_same_rows(start):
    feed = start(passes=2, minibatches=3).feed
    seen = [[row.tokens.tolist() for row in feed.batches(step, pad=False)] for step in range(6)]
    assert seen[:3] == seen[3:]
    documents = [row.document.tolist() for step in range(3) for row in feed.batches(step, pad=False)]
    assert sorted(number for row in documents for number in row) == list(range(16))
    assert len(feed.history) == 1 and feed.steps == 12


def test_padded_rows_say_the_same(start):
    plain, padded = (start(iterations=1) for _ in range(2))
    plain.feed.batches(0, pad=False)
    rows = padded.feed.batches(0, pad=True)
    assert {len(row.tokens) for row in rows} == {64}
    for name in ("old", "reference", "value", "advantage"):
        torch.testing.assert_close(
            plain.feed.current().per_token[name], padded.feed.current().per_token[name], rtol=1e-4, atol=1e-4
        )


def test_an_answer_that_was_cut_off_has_a_reward_of_its_own(start):
    trainer = start(answers=128, max_new_tokens=6, unfinished_reward=-5.0)
    plain = start(answers=128, max_new_tokens=6)
    for each in (trainer, plain):
        each.feed.batches(0, pad=False)
    found, given = trainer.feed.current(), plain.feed.current()
    ended = found.finished_R
    assert ended.any() and not ended.all()
    assert (found.rewards_R[~ended] == -5).all()
    assert torch.equal(found.rewards_R[ended], given.rewards_R[ended])


# --- groups ------------------------------------------------------------------------------------------------


def test_groups_of_equal_rewards_are_not_learnt_from(start):
    """One prompt of two has a reward that tells its answers apart."""

    def judge(prompts, answers):
        return [
            float(ord(answer[:1] or "a")) if prompt.prompt[0].content == "ab" else 1.0
            for prompt, answer in zip(prompts, answers, strict=True)
        ]

    trainer = start(group=4, answers=16, texts=("ab", "cd"), reward=judge)
    rows = [row for step in range(2) for row in trainer.feed.batches(step, pad=False)]
    told_apart = [*range(4), *range(8, 12)]
    assert sorted(number for row in rows for number in row.document.tolist()) == told_apart
    assert column(trainer, "groups_kept") == [0.5]


def test_a_round_without_differences_teaches_nothing_and_ends_well(start, tmp_path):
    trainer = start(group=4, reward=lambda prompts, answers: [1.0] * len(answers), folder=tmp_path)
    before = weights(trainer)
    record = trainer.fit()
    assert (record.stopped, record.steps, record.losses) == ("all data seen", 8, [])
    assert column(trainer, "groups_kept") == [0.0, 0.0] and trainer.meter.all == 0
    assert same(before, weights(trainer))
    assert math.isfinite(trainer.meter.speed(matmul_parameters=1, lora=False, device=trainer.device).all)


def test_a_price_holds_grpo_in_its_loss(start):
    """At the first step the policy is its reference: k3 is 0 and the price changes nothing yet."""
    free, priced = (start(group=4, iterations=1, price=price).fit().losses for price in (0.0, 1.0))
    assert free[0]["loss"] == priced[0]["loss"] and free[-1]["loss"] != priced[-1]["loss"]


# --- what stops a run --------------------------------------------------------------------------------------


def test_a_divergence_that_blows_up_stops_at_the_weights_of_the_round_before(start):
    """The limit stands between the divergence of the rounds so far and that of the next."""
    dry = start(iterations=5, learning_rate=1e-2)
    dry.fit()
    kl = column(dry, "kl")
    last = next(number for number in range(2, 5) if kl[number] > max(kl[:number]))
    limit = (kl[last] + max(kl[:last])) / 2
    seen = []

    def judge(prompts, answers):
        seen.append(weights(trainer))
        return [sum(letter.isupper() for letter in answer) / max(len(answer), 1) for answer in answers]

    trainer = start(iterations=5, learning_rate=1e-2, max_kl=limit, reward=judge)
    record = trainer.fit()
    assert record.steps == 4 * last and len(seen) == last + 1
    assert re.search(rf"blew up: .* nats an answer in round {last}, more than max_kl", record.stopped)
    assert "the weights are those of the round before" in record.stopped
    assert same(weights(trainer), seen[last - 1]) and not same(seen[last - 1], seen[last])
    assert record.losses[-1]["step"] == 4 * last, "the log reaches the last step"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_reward_that_is_no_number_is_an_error(value, start):
    def judge(prompts, answers):
        return [0.5] * (len(answers) - 1) + [value]

    with pytest.raises(TrainingError, match="a reward of round 0 is not a finite number"):
        start(reward=judge).fit()


# --- what is learnt ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "rise"),
    [({}, 0.2), ({"group": 4}, 0.2), ({"method": "lora", "answers": 64}, 0.08)],  # LoRA leaves the head as it is
    ids=["ppo", "grpo", "ppo-lora"],
)
def test_the_reward_rises(kind, rise, start):
    """Capital letters: a quarter of what a random model writes, at first."""
    trainer = start(**({"iterations": 8, "answers": 32, "learning_rate": 1e-2, "spread": 0.1} | kind))
    trainer.fit()
    reward = column(trainer, "reward")
    assert reward[0] < 0.3 and sum(reward[-3:]) / 3 > reward[0] + rise


def test_a_high_price_holds_the_policy_near_its_start(start):
    free, held = (start(iterations=8, answers=32, price=price, spread=0.1) for price in (0.0, 5.0))
    for trainer in (free, held):
        trainer.fit()
    assert column(held, "kl")[-1] < 0.5 < 1.5 < column(free, "kl")[-1]
    assert column(held, "reward")[-1] < column(free, "reward")[-1]


def test_an_adaptive_price_moves_with_the_divergence(start):
    """Round 0 has none, so the price falls; a target that is passed at once makes it rise."""
    low, high = (start(iterations=3, price=0.5, target=target) for target in (1e-4, 1e4))
    for trainer in (low, high):
        trainer.fit()
    paid = column(low, "kl_price")
    assert paid[0] == 0.5 > paid[1] < paid[2]
    paid = column(high, "kl_price")
    assert paid[0] > paid[1] > paid[2]
