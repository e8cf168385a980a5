"""One line about the rounds of a policy: each of its verdicts, and when it is given."""

from __future__ import annotations

from typing import Any

import pytest

from graftlm.alignment.diagnosis import diagnose_policy

GOOD = {"reward": (0.0, 1.0), "reward_spread": (1.0, 1.0), "kl": (0.0, 3.0), "tokens": (10, 11), "finished": (1, 1)}


def rounds(**changes: tuple[float, float]) -> list[dict[str, float]]:
    """Twenty rounds, from the first value to the second in equal steps."""
    ends = GOOD | changes
    return [{name: first + (last - first) * place / 19 for name, (first, last) in ends.items()} for place in range(20)]


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "the reward rises, as it should"),
        ({"reward": (0.0, 0.05)}, "the reward did not rise"),
        ({"reward": (1.0, 0.0)}, "the reward did not rise"),
        ({"finished": (0.9, 0.1)}, "answers no longer end by themselves"),
        ({"finished": (0.1, 0.1)}, "the reward rises, as it should"),  # it was like that before
        ({"tokens": (10, 40)}, "more than twice as long"),
        ({"groups_kept": (0.0, 0.5)}, "nearly all groups had equal rewards"),
        ({"groups_kept": (0.5, 0.0)}, "the reward rises, as it should"),  # all right at last
    ],
)
def test_verdicts(changes: dict[str, Any], verdict: str) -> None:
    assert verdict in diagnose_policy(rounds(**changes))


def test_it_names_the_ends() -> None:
    """Means of the first and the last two of twenty rounds."""
    assert diagnose_policy(rounds()).startswith("reward 0.03 → 0.97, 2.92 nats an answer from the start model: ")


def test_one_round_and_none() -> None:
    assert "did not rise" in diagnose_policy(rounds()[:1])
    assert diagnose_policy([]) == ""


def test_a_group_credit_that_kept_nothing_is_not_taken_for_none() -> None:
    assert "equal rewards" in diagnose_policy(rounds(groups_kept=(0.0, 0.0), reward=(0.0, 0.0)))
