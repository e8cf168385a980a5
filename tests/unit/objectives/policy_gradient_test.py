"""The numbers of policy optimisation, against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from graftlm.objectives.policy_gradient import (
    adapted_price,
    clipped_policy_loss,
    clipped_value_loss,
    generalised_advantages,
    group_advantages,
    importance_weights,
    kl_k1,
    kl_k3,
)

# Two answers, of two tokens and of one; what stands behind the end of the second must not matter.
REWARDS_RL = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
VALUES_RL = torch.tensor([[0.5, 0.25], [1.0, 9.0]])
REAL_RL = torch.tensor([[True, True], [True, False]])


def advantages(discount: float, gae_lambda: float) -> tuple[list[list[float]], list[list[float]]]:
    found = generalised_advantages(REWARDS_RL, VALUES_RL, REAL_RL, discount=discount, gae_lambda=gae_lambda)
    return found[0].tolist(), found[1].tolist()


def test_generalised_advantages_of_unequal_answers() -> None:
    """delta = (1 + 0.5·0.25 - 0.5, 2 - 0.25) and (3 - 1); A_0 = 0.625 + 0.25 · 1.75."""
    found, returns = advantages(discount=0.5, gae_lambda=0.5)
    assert found == [[1.0625, 1.75], [2.0, 0.0]]
    assert returns == [[1.5625, 2.0], [3.0, 0.0]]


def test_with_lambda_0_an_advantage_is_one_step_of_surprise() -> None:
    assert advantages(discount=1.0, gae_lambda=0.0)[0] == [[1 + 0.25 - 0.5, 2 - 0.25], [2.0, 0.0]]


def test_with_lambda_1_a_return_is_all_that_is_still_to_come() -> None:
    found, returns = advantages(discount=1.0, gae_lambda=1.0)
    assert returns == [[3.0, 2.0], [3.0, 0.0]]
    assert found == [[2.5, 1.75], [2.0, 0.0]]


def test_behind_the_end_the_value_is_0() -> None:
    """Neither the value there nor a reward there reaches the answer."""
    found = []
    for behind in (0.0, 1e6):
        rewards_RL, values_RL = REWARDS_RL.clone(), VALUES_RL.clone()
        rewards_RL[1, 1] = values_RL[1, 1] = behind
        found.append(generalised_advantages(rewards_RL, values_RL, REAL_RL, discount=0.9, gae_lambda=0.9))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_both_estimators_have_the_divergence_as_their_mean() -> None:
    p, reference = torch.tensor([0.7, 0.3]), torch.tensor([0.4, 0.6])
    exact = 0.7 * math.log(0.7 / 0.4) + 0.3 * math.log(0.3 / 0.6)
    k1, k3 = kl_k1(p.log(), reference.log()), kl_k3(p.log(), reference.log())
    assert float((p * k1).sum()) == pytest.approx(exact, abs=1e-6)
    assert float((p * k3).sum()) == pytest.approx(exact, abs=1e-6)
    assert k1.tolist() == pytest.approx([math.log(0.7 / 0.4), math.log(0.3 / 0.6)])
    assert k3.tolist() == pytest.approx([0.4 / 0.7 - 1 - math.log(0.4 / 0.7), 2 - 1 - math.log(2)])
    assert k1.min() < 0 < k3.min()


def test_k3_keeps_its_digits_where_the_two_agree() -> None:
    """d²/2 for a small difference d; exp(d) - 1 - d in fp32 would be 0 or rounding noise."""
    assert float(kl_k3(torch.tensor([0.0]), torch.tensor([1e-3]))) == pytest.approx(5e-7, rel=1e-2)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient", "clipped"),
    [
        (1.0, 2.0, -2.0, -2.0, False),
        (1.1, 2.0, -2.2, -2.2, False),
        (1.5, 2.0, -2.4, 0.0, True),  # likely enough already
        (0.5, 2.0, -1.0, -1.0, False),  # too unlikely: goes back
        (1.5, -2.0, 3.0, 3.0, False),  # too likely: goes back
        (0.5, -2.0, 1.6, 0.0, True),  # unlikely enough already
        (0.9, -2.0, 1.8, 1.8, False),
        (1.5, 0.0, 0.0, 0.0, False),
    ],
)
def test_the_clipped_policy_loss(ratio: float, advantage: float, loss: float, gradient: float, clipped: bool) -> None:
    old_A = torch.tensor([math.log(0.2)])
    log_p_A = (old_A + math.log(ratio)).requires_grad_()
    found = clipped_policy_loss(log_p_A, old_A, torch.tensor([advantage]), clip=0.2)
    found.loss.sum().backward()
    assert found.loss.item() == pytest.approx(loss, rel=1e-5)
    assert float(log_p_A.grad) == pytest.approx(gradient, rel=1e-5)  # type: ignore[arg-type]
    assert (bool(found.clipped), float(found.ratio)) == (clipped, pytest.approx(ratio, rel=1e-5))
    assert not found.ratio.requires_grad


@pytest.mark.parametrize(
    ("value", "target", "loss", "gradient"),
    [
        (0.1, 2.0, 0.5 * 1.9**2, -1.9),  # near the old value: the squared error
        (1.0, 2.0, 0.5 * 1.8**2, 0.0),  # held at 0.2, whose error is the larger: no pull
        (1.0, 0.0, 0.5, 1.0),  # its own error is the larger: pulled back
        (-1.0, -2.0, 0.5 * 1.8**2, 0.0),
        (-1.0, 0.0, 0.5, -1.0),
    ],
)
def test_the_clipped_value_loss(value: float, target: float, loss: float, gradient: float) -> None:
    value_A = torch.tensor([value], requires_grad=True)
    found = clipped_value_loss(value_A, torch.zeros(1), torch.tensor([target]), clip=0.2)
    found.sum().backward()
    assert found.item() == pytest.approx(loss)
    assert float(value_A.grad) == pytest.approx(gradient)  # type: ignore[arg-type]


def test_group_advantages() -> None:
    rewards_R = torch.tensor([1.0, 2.0, 3.0, 0.1, 0.1, 0.1])
    by_spread = group_advantages(rewards_R, 3, "grpo")
    assert by_spread[:3].tolist() == pytest.approx([-1, 0, 1], abs=2e-4)  # the standard deviation is 1
    by_others = group_advantages(rewards_R, 3, "rloo")
    assert by_others[:3].tolist() == pytest.approx([1 - 2.5, 2 - 2, 3 - 1.5])
    assert not by_spread[3:].any() and not by_others[3:].any(), "not even rounding noise of a mean of 0.1"


def test_rloo_leaves_one_out() -> None:
    rewards_R = torch.randn(24, generator=torch.Generator().manual_seed(0))
    expected: list[Tensor] = []
    for place, reward in enumerate(rewards_R):
        group = range(place // 4 * 4, place // 4 * 4 + 4)
        expected.append(reward - torch.stack([rewards_R[other] for other in group if other != place]).mean())
    torch.testing.assert_close(group_advantages(rewards_R, 4, "rloo"), torch.stack(expected))


@pytest.mark.parametrize(("kl", "factor"), [(10, 1.0), (11, 1.1), (9, 0.9), (12, 1.2), (1000, 1.2), (0, 0.8)])
def test_the_price_follows_the_divergence(kl: float, factor: float) -> None:
    """A target of 10 nats; a round moves the price by 20 % at most."""
    assert adapted_price(0.5, kl, 10.0) == pytest.approx(0.5 * factor)


def test_importance_weights_are_ratios_up_to_a_limit() -> None:
    old_A, engine_A = torch.tensor([0.3, 0.6, 0.9]).log(), torch.tensor([0.6, 0.4, 0.3]).log()
    assert importance_weights(old_A, engine_A).tolist() == pytest.approx([0.5, 1.5, 2.0])
    assert importance_weights(old_A, engine_A, limit=5.0).tolist() == pytest.approx([0.5, 1.5, 3.0])
