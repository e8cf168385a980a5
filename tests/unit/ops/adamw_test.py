"""AdamW in few bits: against torch's own, against exact means, and the kernel against its reference."""

from __future__ import annotations

import importlib.util
import os

import pytest
import torch

from graftlm.ops.adamw import SMALL, AdamWStep, adamw_reference_, new_slots
from graftlm.ops.philox import philox, random_bits
from graftlm.ops.rounding import (
    BLOCK,
    SIGNED,
    UNSIGNED,
    from_codes,
    join,
    round_stochastically,
    split,
    to_codes,
)

CPU = torch.device("cpu")
FORMATS = [
    (weights, moments, rounding)
    for weights, rounding in [
        (torch.float32, "stochastic"),
        (torch.bfloat16, "stochastic"),
        (torch.bfloat16, "nearest"),
        (torch.bfloat16, "master"),
    ]
    for moments in ("fp32", "bf16", "8bit")
]


def numbers(step: int = 1, **changes: float) -> AdamWStep:
    return AdamWStep(
        **{"learning_rate": 1e-2, "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, **changes},
        step=step,
        seed=3,
    )


def test_philox_gives_the_published_words():
    """Known answers of Random123's kat_vectors for philox4x32 with 7 rounds."""
    zero = torch.zeros(1, dtype=torch.long)
    assert [int(word) for word in philox(zero, 0, 0, 0, seed=0)] == [0x5F6FB709, 0x0D893F64, 0x4F121F81, 0x4F730A48]
    ones = torch.full((1,), 0xFFFFFFFF)
    found = philox(ones, *[0xFFFFFFFF] * 3, seed=0xFFFFFFFFFFFFFFFF)
    assert [int(word) for word in found] == [0x5207DDC2, 0x45165E59, 0x4D8EE751, 0x8C52F662]


def test_bits_are_uniform_and_differ_by_seed_step_and_number():
    counters = [(0, 0, 1), (1, 0, 1), (0, 1, 1), (0, 0, 2)]
    draws = [random_bits(5000, seed=s, number=n, step=t, device=CPU) for s, n, t in counters]
    for bits in draws:
        assert len(bits) == 5000 and int(bits.min()) >= 0 and int(bits.max()) < 2**32
        for shift in (0, 16, 24):
            assert abs(((bits >> shift) & 0xFF).double().mean() - 127.5) < 4 * 74 / 5000**0.5
    assert all((one == other).sum() < 3 for i, one in enumerate(draws) for other in draws[:i])
    assert torch.equal(draws[0], random_bits(5000, seed=0, number=0, step=1, device=CPU))


def test_stochastic_rounding_is_right_in_the_mean():
    """One bf16 step above 1 is 2⁻⁷; 1 + x is rounded up with the chance x / 2⁻⁷."""
    for share in (0.1, 0.5, 0.9):
        values = torch.full((40_000,), 1 + share * 2**-7)
        found = round_stochastically(values, random_bits(40_000, seed=0, number=0, step=1, device=CPU))
        assert set(found.tolist()) == {1.0, 1 + 2**-7}
        up = (found > 1).double().mean()
        assert abs(up - share) < 4 * (share * (1 - share) / 40_000) ** 0.5


def test_stochastic_rounding_keeps_what_bf16_can_say():
    exact = torch.tensor([0.0, -0.0, 1.0, -3.5, float("inf"), float("-inf")])
    bits = torch.full(exact.shape, 0xFFFFFFFF)
    assert torch.equal(round_stochastically(exact, bits).float(), exact)
    nan = torch.tensor([0x7FFFFFFF, 0x7FC00000], dtype=torch.int32).view(torch.float32)
    assert round_stochastically(nan, bits[:2]).isnan().all(), "the device's NaN would carry over into −0"


def test_the_two_halves_of_a_number_make_it_whole():
    torch.manual_seed(0)
    values = torch.cat([torch.randn(1000), torch.randn(1000) * 1e-20, torch.tensor([0.0, 65280.0, -1e30])])
    near, rest = split(values)
    assert torch.equal(join(near, rest), values)
    assert ((near.float() - values).abs() <= values.abs() * 2**-8).all()


@pytest.mark.parametrize("largest", [SIGNED, UNSIGNED])
def test_codes_are_right_in_the_mean_and_near(largest):
    torch.manual_seed(0)
    values = torch.randn(1000) * torch.logspace(-4, 0, 1000)
    values = values.abs() if largest == UNSIGNED else values
    drawn = [from_codes(*to_codes(values, largest, torch.rand(1000)), largest) for _ in range(400)]
    found = torch.stack(drawn)
    largest_N = torch.stack([block.abs().max() for block in values.split(BLOCK)])
    unit = largest_N.repeat_interleave(BLOCK)[:1000] / largest**2
    step = (2 * (values.abs() / unit).sqrt() + 1) * unit
    assert ((found - values).abs() <= step * 1.001).all()
    error = (found.mean(dim=0) - values).abs()
    if largest == UNSIGNED:  # a divisor is never 0: what lies below the first step is rounded up
        error = error[(values > unit)]
        step = step[(values > unit)]
    assert (error <= 5 * step / (2 * 400**0.5)).all()


def test_codes_of_nothing_and_of_the_largest():
    codes, scales = to_codes(torch.zeros(300), SIGNED, torch.rand(300))
    assert not codes.any() and not scales.any() and len(scales) == 2
    values = torch.tensor([3.0, -3.0, 1e-9, 0.0])
    codes, scales = to_codes(values, SIGNED, torch.full((4,), 0.999))
    assert codes.tolist() == [127, -127, 0, 0] and scales.tolist() == [3.0]
    codes, _ = to_codes(values.abs(), UNSIGNED, torch.full((4,), 0.999))
    assert codes.tolist() == [255, 255, 1, 0]


def test_fp32_is_torchs_adamw_to_the_last_bit():
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(7, 33))
    ours, slots = weight.detach().clone(), new_slots(weight.detach(), "fp32", "stochastic")
    optimizer = torch.optim.AdamW([weight], lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1, foreach=False, fused=False)
    for step in range(1, 6):
        weight.grad = torch.randn(7, 33)
        optimizer.step()
        adamw_reference_(ours, weight.grad, slots, numbers(step), rounding="stochastic", number=0, factor=None)
        assert torch.equal(ours, weight.detach())


def test_the_factor_scales_the_gradient():
    found = []
    for gradient, factor in [(torch.full((5,), 0.5), None), (torch.full((5,), 2.0), torch.tensor(0.25))]:
        weight = torch.ones(5)
        slots = new_slots(weight, "fp32", "stochastic")
        adamw_reference_(weight, gradient, slots, numbers(), rounding="stochastic", number=0, factor=factor)
        found.append((weight, slots["m"], slots["v"]))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_a_small_weight_keeps_fp32_moments():
    assert new_slots(torch.zeros(SMALL - 1), "8bit", "stochastic")["m"].dtype == torch.float32
    large = new_slots(torch.zeros(SMALL + 1, dtype=torch.bfloat16), "8bit", "master")
    assert {name: slot.dtype for name, slot in large.items()} == {
        "m": torch.int8, "v": torch.uint8, "m_scale": torch.float32, "v_scale": torch.float32, "rest": torch.int16,
    }  # fmt: skip
    assert large["m_scale"].shape == (17,)


def three_steps(update, device: torch.device, weights: torch.dtype, moments, rounding) -> dict[str, torch.Tensor]:
    """Weight and slots after three steps from the same start, on the CPU."""
    torch.manual_seed(0)
    weight = torch.randn(5, 1031).to(device, weights)
    slots = new_slots(weight, moments, rounding)
    for step in range(1, 4):
        gradient = (torch.randn(5, 1031) * torch.logspace(-3, 0, 1031)).to(device, weights)
        factor = torch.tensor(0.7, device=device) if step == 2 else None
        update(weight, gradient, slots, numbers(step), rounding=rounding, number=5, factor=factor)
    return {name: tensor.cpu() for name, tensor in {"weight": weight, **slots}.items()}


def assert_kernel_is_reference(device: torch.device, weights: torch.dtype, moments, rounding) -> None:
    """Equal but for the last bit of roots and quotients; that bit may turn a rounding the other way."""
    from graftlm.ops.kernels.adamw import adamw_kernel_

    wanted = three_steps(adamw_reference_, CPU, weights, moments, rounding)
    found = three_steps(adamw_kernel_, device, weights, moments, rounding)
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype
        if name == "rest":  # where the weight is rounded the other way, so is what is missing from it
            whole = [join(one["weight"], one["rest"]) for one in (found, wanted)]
            torch.testing.assert_close(whole[0], whole[1], atol=3e-3 if moments != "fp32" else 1e-6, rtol=1e-5)
            continue
        one, other = found[name].double(), tensor.double()
        step = {"m": 1.0, "v": 1.0}.get(name) if tensor.dtype in (torch.int8, torch.uint8) else None
        bound = step if step else other.abs() * (1e-5 if tensor.dtype == torch.float32 else 2**-7) + 1e-6
        near = (one - other).abs() <= bound
        assert near.double().mean() > 0.999, f"{name}: {(one - other).abs().max()}"
        if tensor.dtype == torch.float32:
            continue
        same = (one == other).double().mean()
        # The square of every 40th bf16 gradient times 0.05 lies half-way between two bf16 numbers.
        least = 0.95 if torch.bfloat16 == weights == wanted["m"].dtype else 0.99
        assert same > least, f"{name}: {same:.3%} are equal"


@pytest.mark.gpu
@pytest.mark.parametrize(("weights", "moments", "rounding"), FORMATS)
def test_the_kernel_is_the_reference(weights, moments, rounding):
    assert_kernel_is_reference(torch.device("cuda"), weights, moments, rounding)


@pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1" or importlib.util.find_spec("triton") is None,
    reason="needs triton and TRITON_INTERPRET=1",
)
@pytest.mark.parametrize(
    ("weights", "moments", "rounding"),
    # The interpreter of Triton 3.6 cuts fp32 off where a device rounds to the nearest bf16.
    [case for case in FORMATS if case[1] != "bf16" and case[2] != "nearest"],
)
def test_the_interpreted_kernel_is_the_reference(weights, moments, rounding):
    assert_kernel_is_reference(CPU, weights, moments, rounding)
