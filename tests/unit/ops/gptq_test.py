"""GPTQ and AWQ against plain rounding, where they must win and where they must agree."""

from __future__ import annotations

import torch

from graftlm.ops.awq import EXPONENTS, channel_scales
from graftlm.ops.gptq import gptq
from graftlm.ops.int_weights import IntFormat, dequantise, quantise

FORM = IntFormat(4, 32)


def error(rounded, weight, x) -> float:
    """‖x(Ŵ - W)ᵀ‖ by its definition, token by token."""
    return float((x @ (dequantise(rounded, torch.float32) - weight).T).norm() / (x @ weight.T).norm())


def correlated(tokens: int, inputs: int, rank: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    shared = torch.randn(tokens, rank, generator=generator) @ torch.randn(rank, inputs, generator=generator)
    return shared + 0.1 * torch.randn(tokens, inputs, generator=generator)


def weight_of(outputs: int, inputs: int) -> torch.Tensor:
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(2))


def test_gptq_loses_far_less_on_correlated_inputs():
    weight, (x, fresh) = weight_of(48, 160), correlated(1200, 160, 12).split(600)
    plain, better = quantise(weight, FORM), gptq(weight, x.T @ x, FORM)
    assert error(better, weight, x) < 0.4 * error(plain, weight, x)
    assert error(better, weight, fresh) < 0.5 * error(plain, weight, fresh), "also on tokens that it has not seen"


def test_gptq_is_plain_rounding_where_inputs_do_not_depend_on_each_other():
    weight = weight_of(8, 64)
    found, plain = gptq(weight, torch.diag(torch.arange(1.0, 65.0)), FORM), quantise(weight, FORM)
    assert torch.equal(found.words, plain.words)
    assert torch.equal(found.scale, plain.scale)


def test_gptq_of_two_columns_by_hand():
    """The first column's error e moves the second by -e·h₂₁/h₂₂ before it is rounded (h: the Gram matrix, damped)."""
    weight = torch.tensor([[7.0, 3.3, 0.0, 0.0], [7.0, 0.0, 2.4, 0.4]])
    gram = torch.diag(torch.tensor([100.0, 10.0, 8.0, 4.0]))
    gram[2, 3] = gram[3, 2] = 4.0
    found = dequantise(gptq(weight, gram, IntFormat(4, None)), torch.float32)
    assert found[0].tolist() == [7, 3, 0, 0]
    # e = 2.4 - 2; the fourth column: 0.4 + 0.4 · 4 / (4 + damping 0.01 · 30.5) = 0.77 → 1; plainly 0.4 → 0
    assert found[1].tolist() == [7, 0, 2, 1]
    assert dequantise(quantise(weight, IntFormat(4, None)), torch.float32)[1].tolist() == [7, 0, 2, 0]


def test_inputs_that_were_never_on_do_no_harm():
    weight, x = weight_of(8, 64), correlated(200, 64, 4)
    x[:, 5] = 0
    x[:, 40:44] = 0
    found = gptq(weight, x.T @ x, FORM)
    assert torch.isfinite(dequantise(found, torch.float32)).all()
    assert error(found, weight, x) < error(quantise(weight, FORM), weight, x)


def test_a_gram_matrix_of_one_token_is_enough():
    weight, x = weight_of(8, 64), correlated(1, 64, 1)
    assert torch.isfinite(dequantise(gptq(weight, x.T @ x, FORM), torch.float32)).all()


def test_awq_guards_salient_channels():
    generator = torch.Generator().manual_seed(3)
    weight, x = weight_of(48, 128), torch.randn(400, 128, generator=generator)
    x[:, [3, 50, 90]] *= 60
    scales = channel_scales([weight], x.T @ x, x.abs().sum(0), FORM)
    assert scales[[3, 50, 90]].min() > 2 * scales.median()
    rounded = dequantise(quantise(weight * scales, FORM), torch.float32) / scales
    lost = float((x @ (rounded - weight).T).norm() / (x @ weight.T).norm())
    assert lost < 0.6 * error(quantise(weight, FORM), weight, x)


def test_awq_never_chooses_what_is_worse_than_plain_rounding():
    weight, x = weight_of(16, 64), torch.randn(300, 64, generator=torch.Generator().manual_seed(4))
    assert EXPONENTS[0] == 0
    scales = channel_scales([weight], x.T @ x, x.abs().sum(0), FORM)
    rounded = dequantise(quantise(weight * scales, FORM), torch.float32) / scales
    assert float((x @ (rounded - weight).T).norm()) <= error(quantise(weight, FORM), weight, x) * float(
        (x @ weight.T).norm()
    ) * (1 + 1e-4)
