"""Credit of hand-made rollouts, worked out by hand."""

from __future__ import annotations

import pytest
import torch

from graftlm.alignment.credit import GroupCredit, ValueCredit
from graftlm.alignment.rollouts import Rollouts


def rollouts(lengths: list[int], rewards: list[float], **per_token: list[float]) -> Rollouts:
    count = len(lengths)
    return Rollouts(
        tokens=[[5] * (2 + length) for length in lengths],
        prompt_lengths=[2] * count,
        finished_R=torch.ones(count, dtype=torch.bool),
        rewards_R=torch.tensor(rewards),
        kept_R=torch.ones(count, dtype=torch.bool),
        per_token={name: torch.tensor(values) for name, values in per_token.items()},
    )


def two_answers(rewards: list[float], value: list[float] | None = None) -> Rollouts:
    """Of two tokens and of one; 0.2, 0.4 and 0.1 nats above the reference."""
    return rollouts(
        [2, 1], rewards, old=[-1.0, -2.0, -1.0], reference=[-1.2, -2.4, -1.1], value=value or [0.0, 0.0, 0.0]
    )


def credit(**changes: float | bool | None) -> ValueCredit:
    settings = {"price": 0.5, "target": None, "whiten": True, "discount": 1.0, "gae_lambda": 1.0} | changes
    return ValueCredit(**settings)  # type: ignore[arg-type]


def test_the_reward_is_paid_at_the_end_and_divergence_at_every_token() -> None:
    """Rewards 1 and 3 whiten to -1 and 1; half a nat's price makes -0.1, -0.2 and -0.05."""
    made = two_answers([1.0, 3.0])
    figures = credit().assign(made)
    expected = torch.tensor([-0.1 - 0.2 - 1, -0.2 - 1, -0.05 + 1])
    torch.testing.assert_close(made.per_token["return"], expected)
    wanted = (expected - expected.mean()) / expected.std(correction=0)
    torch.testing.assert_close(made.per_token["advantage"], wanted)
    assert figures == {"kl_price": 0.5, "value_explains": pytest.approx(0.0, abs=1e-6)}
    assert made.kept_R.all()


def test_unwhitened_rewards_are_paid_as_they_are() -> None:
    made = two_answers([1.0, 3.0])
    credit(whiten=False, price=0.0).assign(made)
    assert made.per_token["return"].tolist() == [1.0, 1.0, 3.0]


def test_a_perfect_value_function_explains_all_and_leaves_nothing_to_learn() -> None:
    made = two_answers([1.0, 3.0], value=[1.0, 1.0, 3.0])
    figures = credit(whiten=False, price=0.0).assign(made)
    assert figures["value_explains"] == pytest.approx(1.0)
    assert made.per_token["advantage"].abs().max() < 1e-6


def test_later_rounds_are_measured_by_the_first() -> None:
    """Answers that all got better by 10 are better by ten of the first round's standard deviations."""
    same = credit(price=0.0)
    same.assign(two_answers([1.0, 3.0]))
    later = two_answers([11.0, 13.0])
    same.assign(later)
    assert later.per_token["return"].tolist() == [9.0, 9.0, 11.0]


def test_equal_rewards_do_not_blow_up() -> None:
    made = two_answers([1.0, 1.0])
    credit().assign(made)
    assert made.per_token["advantage"].isfinite().all()


@pytest.mark.parametrize(("target", "sign"), [(0.1, 1), (0.35, 0), (9.0, -1)])
def test_the_price_rises_above_the_target_and_falls_below(target: float, sign: int) -> None:
    """0.35 nats an answer: three and a half times the first target, next to nothing of the last."""
    adaptive = credit(target=target)
    figures = adaptive.assign(two_answers([1.0, 3.0]))
    assert figures["kl_price"] == 0.5, "the price that this round paid"
    assert adaptive.price == pytest.approx(0.5 * (1 + 0.2 * sign), rel=1e-6)


def test_restored_credit_goes_on_alike() -> None:
    first = credit(target=0.1)
    first.assign(two_answers([1.0, 3.0]))
    again = credit(target=0.1)
    again.restore(first.state())
    made = [two_answers([2.0, 9.0]), two_answers([2.0, 9.0])]
    assert first.assign(made[0]) == again.assign(made[1])
    assert torch.equal(made[0].per_token["return"], made[1].per_token["return"])
    assert first.state() == again.state() != credit(target=0.1).state()


def test_groups_of_equal_rewards_are_dropped() -> None:
    made = rollouts([1, 2, 1, 1], [0.0, 1.0, 2.0, 2.0])
    assert GroupCredit(2, "rloo").assign(made) == {"groups_kept": 0.5}
    assert made.kept_R.tolist() == [True, True, False, False]
    assert made.per_token["advantage"].tolist() == [-1.0, 1.0, 1.0, 0.0, 0.0], "every token has its answer's"
