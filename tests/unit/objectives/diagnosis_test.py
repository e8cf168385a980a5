"""Made-up curves, and what is said of each."""

from __future__ import annotations

import pytest

from graftlm.core.receipts import Interval, PairQuality
from graftlm.objectives.diagnosis import diagnose


def curve(entries: int = 40, **ends: tuple[float, float] | float) -> list[dict[str, float]]:
    """A log whose metrics run in a straight line from the first value to the second."""
    pairs = {name: value if isinstance(value, tuple) else (value, value) for name, value in ends.items()}
    places = [number / (entries - 1) for number in range(entries)]
    return [{"step": place} | {name: a + place * (b - a) for name, (a, b) in pairs.items()} for place in places]


def dpo(chosen: float, rejected: float, *, accuracy: float = 0.9) -> list[dict[str, float]]:
    return curve(
        accuracy=(0.5, accuracy),
        margin=(0, 0.1 * (chosen - rejected)),
        chosen_drift=(0, chosen),
        rejected_drift=(0, rejected),
        chosen_log_p=(-1.5, -1.4),
        rejected_log_p=(-1.5, -1.6),
    )


def without_reference(chosen: float, rejected: float) -> list[dict[str, float]]:
    logs = {"chosen_log_p": (-1.0, -1.0 + chosen), "rejected_log_p": (-2.0, -2.0 + rejected)}
    return curve(accuracy=(0.5, 0.9), margin=(0, chosen - rejected), **logs)


def kto(desirable: float, undesirable: float, *, share: float = 0.5, z0: float = 0.5) -> list[dict[str, float]]:
    """Mean rewards of both kinds, put together as the objective reports them."""
    signed = share * desirable - (1 - share) * undesirable
    both = share * desirable + (1 - share) * undesirable
    return curve(
        accuracy=(0.3, 0.9), signed_reward=(0, signed), reward=(0, both), desirable_share=share, z0=(0, z0), log_p=-1.5
    )


def reward(margin: float, *, accuracy: float = 0.9) -> list[dict[str, float]]:
    return curve(accuracy=(0.5, accuracy), margin=(0.0, margin), chosen_reward=(0, 5), rejected_reward=(0, 5 - margin))


def quality(accuracy: float, *, low: float | None = None, length_correlation: float | None = 0.1) -> PairQuality:
    interval = Interval(value=accuracy, low=accuracy - 0.05 if low is None else low, high=accuracy + 0.05)
    return PairQuality(
        pairs=200,
        accuracy=interval,
        margin=0.5,
        length_correlation=length_correlation,
        calibration_error=0.1,
        calibration=[],
        histogram={},
    )


GOOD = quality(0.8)


@pytest.mark.parametrize(
    ("kind", "losses", "pairs", "said"),
    [
        ("dpo", dpo(0.03, -0.05), None, ["nothing moved (chosen +0.03", "raise the rate or train longer"]),
        ("dpo", dpo(4, -6), GOOD, ["the better answers rise and the worse fall", "as it should be"]),
        ("dpo", dpo(-0.2, -9), GOOD, ["the better answers stay and the worse fall", "as it should be"]),
        ("dpo", dpo(3, -0.2), GOOD, ["the better answers rise and the worse stay", "as it should be"]),
        ("dpo", dpo(-3, -8), GOOD, ["both log-probabilities fall (chosen −", "nats an answer)", "(sft_weight)"]),
        ("dpo", dpo(5, 2), GOOD, ["both log-probabilities rise, the better answers' more", "as it should be"]),
        ("dpo", dpo(2, 5), GOOD, ["the worse answers' as much", "lower sft_weight"]),
        ("dpo", dpo(-4, 1), GOOD, ["the worse answers gain on the better ones", "which is which"]),
        ("dpo", dpo(-4, -2), GOOD, ["the worse answers gain on the better ones"]),
        ("dpo", dpo(0, 3), GOOD, ["the better answers do not gain on the worse"]),
        ("dpo", dpo(4, -6), quality(0.52), ["near chance (0.52, 0.88 in training)", "the pairs by heart"]),
        ("dpo", dpo(4, -6), quality(0.8, length_correlation=0.8), ["longer answers score", "0.8", "or use simpo"]),
        ("dpo", dpo(4, -6), quality(0.8, length_correlation=-0.7), ["shorter answers score", "correlation −0.7"]),
        (
            "orpo",
            without_reference(-0.31, -0.8),
            None,
            ["(chosen −0.29, rejected −0.74 nats a token)", "raise the SFT"],
        ),
        (
            "simpo",
            without_reference(-0.31, -0.8),
            None,
            ["both log-probabilities fall", "add the SFT term (sft_weight)"],
        ),
        ("orpo", without_reference(0.5, 0.2), None, ["both log-probabilities rise, the better answers' more"]),
        ("simpo", without_reference(0.3, -0.4), GOOD, ["the better answers rise and the worse fall"]),
        ("simpo", without_reference(0.004, -0.004), GOOD, ["nothing moved"]),
        (
            "kto",
            kto(0.5, -0.5),
            None,
            ["the better answers rise and the worse fall (desirable +0.48, undesirable −0.48"],
        ),
        ("kto", kto(0.5, -0.2, share=0.8), None, ["desirable +0.48, undesirable −0.19 of reward"]),
        ("kto", kto(0.001, -0.002), None, ["nothing moved"]),
        ("kto", kto(-0.5, -0.9), None, ["both kinds of answers fall", "raise desirable_weight"]),
        ("kto", kto(0.9, 0.4, share=0.9), None, ["both kinds of answers rise", "raise undesirable_weight"]),
        ("kto", kto(0.5, -0.5, z0=30), None, ["drifts on unrelated answers", "nats): lower the rate"]),
        ("kto", kto(0.5, -0.5), quality(0.5), ["near chance", "the answers by heart"]),
        ("kto", kto(0.4, 0.0, share=1.0), None, ["the better answers rise and the worse stay"]),
        ("reward", reward(2.0), GOOD, ["the better answers score higher (held-out accuracy 0.80): as it should be"]),
        ("reward", reward(2.0, accuracy=0.75), None, ["(training accuracy 0.74): as it should be"]),
        ("reward", reward(0.02), GOOD, ["nothing moved"]),
        ("reward", reward(-1.0), GOOD, ["the worse answers gain on the better ones"]),
        ("reward", reward(2.0), quality(0.55), ["near chance", "the pairs by heart"]),
    ],
)
def test_each_curve_has_its_line(kind, losses, pairs, said):
    line = diagnose(losses, kind=kind, pairs=pairs)
    assert all(part in line for part in said), line
    assert "\n" not in line


def test_simpo_is_not_advised_to_itself_nor_to_reward_models():
    biased = quality(0.8, length_correlation=0.8)
    for kind, losses in (("simpo", without_reference(0.3, -0.4)), ("reward", reward(2.0))):
        line = diagnose(losses, kind=kind, pairs=biased)
        assert line.endswith("(length correlation 0.8): if that is not what is wanted, balance the pairs' lengths")


@pytest.mark.parametrize(
    ("losses", "pairs"),
    [
        (dpo(4, -6), quality(0.59, low=0.53)),  # low, but better than a coin
        (dpo(4, -6), quality(0.7, low=0.45)),  # few pairs, no verdict
        (dpo(4, -6, accuracy=0.6), quality(0.52)),  # no better on its own pairs
        (dpo(4, -6), quality(0.8, length_correlation=0.5)),
        (dpo(4, -6), quality(0.8, length_correlation=None)),
    ],
)
def test_doubtful_signs_are_not_named(losses, pairs):
    assert diagnose(losses, kind="dpo", pairs=pairs).endswith("as it should be")


def test_the_rules_have_an_order():
    """Nothing moved comes before all; learning by heart before length, length before the direction."""
    bad_pairs = quality(0.52, length_correlation=0.9)
    assert diagnose(dpo(0, 0), kind="dpo", pairs=bad_pairs).startswith("nothing moved")
    assert "by heart" in diagnose(dpo(-3, -8), kind="dpo", pairs=bad_pairs)
    assert "longer answers" in diagnose(dpo(-3, -8), kind="dpo", pairs=quality(0.8, length_correlation=0.9))


def test_the_first_and_the_last_tenth_count():
    """A spike in the middle and one odd entry at the end do not change the verdict."""
    losses = dpo(4, -6)
    losses[20]["chosen_drift"] = -1000.0
    losses[-1]["chosen_drift"] = 1.0
    assert "the better answers rise and the worse fall" in diagnose(losses, kind="dpo", pairs=None)


def test_short_logs_and_other_stages():
    assert diagnose([], kind="dpo", pairs=None) == ""
    assert diagnose(dpo(4, -6), kind="sft", pairs=None) == ""
    assert "as it should be" in diagnose(dpo(4, -6)[-1:], kind="dpo", pairs=None)
