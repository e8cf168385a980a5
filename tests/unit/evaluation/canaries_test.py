"""Exposure against its closed forms, and ranks against plain forward passes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from graftlm.evaluation.canaries import (
    Canary,
    chance_exposure,
    exposure,
    fit_skew_normal,
    make_canaries,
    measure_exposure,
    skew_normal_log_cdf,
)


def test_an_exact_exposure_by_hand() -> None:
    others = np.array([-1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0])
    assert exposure(-0.5, others, 8).bits == 3.0  # the best of eight
    assert exposure(-3.5, others, 8).bits == 1.0  # the fourth
    assert exposure(-9.0, others, 8).bits == 0.0  # the last
    assert exposure(-1.0, others, 8).bits == 2.0 and exposure(-1.0, others, 8).how == "exact"  # a tie counts against it


def test_who_knows_nothing_has_the_exposure_of_chance() -> None:
    assert chance_exposure(2) == pytest.approx((1 + 0) / 2)
    assert chance_exposure(10**6) == pytest.approx(1 / math.log(2), abs=1e-4)
    assert chance_exposure(1000) == pytest.approx(chance_exposure(1001), abs=1e-4), "the two formulae meet"
    random = np.random.default_rng(0)
    for space, sample in ((100, 99), (10**6, 999)):  # ranked whole, and by a sample
        drawn = [exposure(0.0, random.normal(random.normal(), 1, sample), space) for _ in range(300)]
        assert {one.how for one in drawn} <= ({"exact"} if sample == 99 else {"sampled", "extrapolated"})
    uniform = [exposure(own, random.normal(size=999), 10**6).bits for own in random.normal(size=3000)]
    assert np.mean(uniform) == pytest.approx(1 / math.log(2), abs=4 * np.std(uniform) / math.sqrt(3000))


def test_a_secret_outside_the_sample_is_extrapolated_by_the_tail() -> None:
    """−log p of the others is normal: the share that is likelier is Φ(-4)."""
    others = -np.random.default_rng(1).normal(30, 2, 20_000)
    found = exposure(-(30 - 8.0), others, 10**6)
    assert found.how == "extrapolated"
    assert found.bits == pytest.approx(-math.log2(0.5 * math.erfc(4 / math.sqrt(2))), abs=0.5)
    assert exposure(-1.0, others, 10**6).bits == pytest.approx(math.log2(10**6)), "never above the secret's bits"


@pytest.mark.parametrize("shape", [0.0, 2.0, -5.0])
def test_the_skew_normal_distribution(shape: float) -> None:
    random = np.random.default_rng(2)
    first, second = random.normal(size=(2, 400_000))
    delta = shape / math.sqrt(1 + shape**2)
    values = 3 + 2 * (delta * np.abs(first) + math.sqrt(1 - delta**2) * second)  # Azzalini's representation
    for at in (1.0, 3.0, 5.5):
        share = (values < at).mean()
        assert math.exp(skew_normal_log_cdf(at, 3, 2, shape)) == pytest.approx(share, abs=0.004)
    location, scale, found = fit_skew_normal(values)
    for at in (1.0, 3.0, 5.5):
        share = (values < at).mean()
        assert math.exp(skew_normal_log_cdf(at, location, scale, found)) == pytest.approx(share, abs=0.01)


def test_far_tails_keep_their_digits() -> None:
    normal = float(torch.special.log_ndtr(torch.tensor(-20.0)))
    assert skew_normal_log_cdf(-20.0, 0, 1, 0) == pytest.approx(normal, rel=1e-4)
    assert skew_normal_log_cdf(9.0, 0, 1, 0) == pytest.approx(0.0, abs=1e-6)


def test_canaries_differ_and_others_are_the_rest_of_the_space() -> None:
    made = make_canaries(50, 3, seed=1)
    assert len({one.before for one in made}) == 50 and all(len(one.secret) == 3 for one in made)
    assert made == make_canaries(50, 3, seed=1) != make_canaries(50, 3, seed=2)
    assert "access code" in made[0].text and "门禁密码" in made[1].text
    assert sorted([*made[0].others(999), made[0].secret]) == [f"{n:03d}" for n in range(1000)]
    large = Canary("a ", "123456", "")
    drawn = large.others(999)
    assert len(set(drawn)) == 999 and "123456" not in drawn and all(len(one) == 6 for one in drawn)
    assert large.others(999, seed=1) != drawn


@pytest.mark.parametrize("secret", ["3", "42"])
def test_a_rank_is_that_of_plain_forward_passes(tiny_model, secret: str) -> None:
    model = tiny_model("llama")

    def encode(texts):
        return [[1, *(10 + "abcdefghijklmnopqrstuvwxyz .0123456789".index(sign) for sign in text)] for text in texts]

    canary = Canary("the code is ", secret, ". so")
    found = measure_exposure(model, canary, encode)
    log_p = {}
    for number in range(canary.space):
        [tokens] = torch.tensor([encode([canary.with_secret(f"{number:0{len(secret)}d}")])])
        with torch.no_grad():
            plain = model(input_ids=tokens).logits.log_softmax(-1)[0, :-1]
        log_p[number] = float(plain.gather(1, tokens[0, 1:, None]).sum())
    rank = sorted(log_p.values(), reverse=True).index(log_p[int(secret)]) + 1
    assert found.how == "exact" and found.bits == pytest.approx(math.log2(canary.space) - math.log2(rank))
