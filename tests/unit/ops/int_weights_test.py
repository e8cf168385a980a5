"""Integer weights: what rounding may do, what packing must not, and what outliers cost; against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graftlm.ops.int_cpu import FEW, cpu_form
from graftlm.ops.int_weights import (
    IntFormat,
    dequantise,
    from_numbers,
    glm_bytes,
    pack,
    product,
    quantise,
    unpack,
)

FORMATS = [IntFormat(bits, group, symmetric) for bits in (4, 8) for group in (None, 32) for symmetric in (True, False)]


def gaussian(rows: int = 64, columns: int = 1024, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def relative_error(weight: torch.Tensor, form: IntFormat, columns: slice = slice(None)) -> float:
    difference = (dequantise(quantise(weight, form), torch.float32) - weight.float())[:, columns]
    return float(difference.norm() / weight[:, columns].float().norm())


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 9), columns=st.integers(1, 40), bits=st.sampled_from([4, 8]), seed=st.integers(0, 2**31 - 1)
)
def test_unpacking_undoes_packing(rows, columns, bits, seed):
    half = 2 ** (bits - 1)
    numbers = torch.from_numpy(np.random.default_rng(seed).integers(-half, half, (rows, columns), dtype=np.int8))
    words = pack(numbers, bits)
    assert words.dtype == torch.int32
    assert words.shape == (rows, -(-columns * bits // 32))
    assert torch.equal(unpack(words, bits, columns), numbers)


def test_the_layout_by_hand():
    """Column 0 in the lowest bits, half the range added; GLM: the even column in the high half, two's complement."""
    words = pack(torch.tensor([[-7, 5, 0, 1, -1, 7, -8, 2]], dtype=torch.int8), 4)
    nibbles = [(int(words[0, 0]) >> 4 * place) & 15 for place in range(8)]
    assert nibbles == [1, 13, 8, 9, 7, 15, 0, 10]
    assert glm_bytes(words).tolist() == [[0x95, 0x01, 0xF7, 0x82]]
    eight = pack(torch.tensor([[-128, 127, 0, -1]], dtype=torch.int8), 8)
    assert eight.view(torch.uint8).tolist() == [[0, 255, 128, 127]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_no_entry_moves_by_more_than_half_a_scale(form, dtype):
    weight = gaussian(24, 256).to(dtype)
    weight[0, :3] = torch.tensor([9.0, -11.0, 0.0])
    packed = quantise(weight, form)
    moved = (dequantise(packed, torch.float32) - weight.float()).abs().view(*packed.scale.shape, -1)
    scale = packed.scale.float()[..., None]
    # A range from smallest to largest is itself rounded to bf16: by up to 2^bits / 512 steps at its ends.
    slack = 1e-5 if form.symmetric or dtype == torch.float32 else 2**form.bits / 512
    assert (moved <= scale * (0.5 + slack)).all()
    assert (moved > 0.4 * scale).any(), "rounding to nearest comes near the bound"


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_rows_of_zeros_stay_zeros(form):
    weight = gaussian(16, 64)
    weight[3] = 0
    found = dequantise(quantise(weight, form), torch.float32)
    assert torch.isfinite(found).all()
    assert not found[3].any()


@pytest.mark.parametrize(
    ("form", "error"), [(IntFormat(8, None), 0.0079), (IntFormat(4, None), 0.142), (IntFormat(4, 128), 0.117)]
)
def test_gaussian_rows_lose_what_is_known(form, error):
    assert relative_error(gaussian(), form) == pytest.approx(error, rel=0.03)


def test_an_outlier_column_ruins_rows_and_groups_hold_it():
    weight = gaussian()
    weight[:, 7] *= 20 / weight[:, 7].abs() * weight[:, 7].abs().mean()
    others = slice(128, None)
    assert relative_error(weight, IntFormat(4, None), others) > 0.5
    assert relative_error(weight, IntFormat(4, 128), others) == pytest.approx(0.117, rel=0.03)


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_products_and_gradients_are_the_dequantised_weights(form):
    packed = quantise(gaussian(40, 96), form)
    plain = dequantise(packed, torch.float32)
    for x in (gaussian(3, 96).view(3, 1, 96), gaussian(96, 1).view(96)):
        one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
        found, wanted = product(one, packed), other @ plain.T
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-4)
        gradients = [torch.autograd.grad(y.square().sum(), leaf)[0] for y, leaf in ((found, one), (wanted, other))]
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-2)


def test_large_weights_are_dequantised_in_parts(monkeypatch):
    monkeypatch.setattr("graftlm.ops.int_weights.CHUNK", 96 * 8)
    packed = quantise(gaussian(44, 96), IntFormat(4, 32, symmetric=False))  # 5 parts of 8 outputs and one of 4
    x = gaussian(5, 96)
    torch.testing.assert_close(product(x, packed), x @ dequantise(packed, torch.float32).T, rtol=1e-5, atol=1e-4)


def test_groups_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="groups of 64 do not divide 96"):
        quantise(gaussian(4, 96), IntFormat(4, 64))


@pytest.mark.parametrize(
    "form", [IntFormat(4, 64), IntFormat(4, None), IntFormat(4, 32, symmetric=False), IntFormat(8, None)], ids=str
)
def test_torchs_kernels_for_few_tokens_give_the_same(form):
    packed = quantise(gaussian(64, 256).bfloat16(), form)
    few = cpu_form(packed)
    if few is None:
        pytest.skip("this torch has no such kernel")
    x = gaussian(FEW, 256).bfloat16()
    wanted = x.float() @ dequantise(packed, torch.float32).T
    assert (few.product(x).float() - wanted).norm() < 5e-3 * wanted.norm()


def test_where_torch_has_no_kernel_there_is_no_form():
    assert cpu_form(quantise(gaussian(64, 256), IntFormat(4, 64))) is None, "fp32"
    assert cpu_form(quantise(gaussian(64, 256).bfloat16(), IntFormat(8, 64))) is None
    assert cpu_form(quantise(gaussian(24, 256).bfloat16(), IntFormat(4, 64))) is None


def test_numbers_make_the_weight_that_they_say():
    numbers = torch.tensor([[1, -2, 3, -4]], dtype=torch.int8)
    scale, zero = torch.tensor([[0.5, 2.0]]), torch.tensor([[1, -1]], dtype=torch.int8)
    assert dequantise(from_numbers(numbers, scale, None, 4), torch.float32).tolist() == [[0.5, -1.0, 6.0, -8.0]]
    assert dequantise(from_numbers(numbers, scale, zero, 4), torch.float32).tolist() == [[0.0, -1.5, 8.0, -6.0]]
