"""Products in 8-bit floating point are near the products, forward and backward."""

from __future__ import annotations

import torch

from graftlm.ops.float8 import quantise_rows, trained_product
from graftlm.ops.frozen import Frozen, FrozenSiblings


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float(((found.float() - wanted.float()).norm() / wanted.float().norm()).detach())


def frozen(weight: torch.Tensor) -> Frozen:
    return Frozen(weight).forward_in_8_bits().backward_in_8_bits()


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def test_each_row_has_a_scale_of_its_own():
    x = random(4, 64, seed=0)
    x[1] *= 1000
    x[2] = 0
    rows, scale = quantise_rows(x)
    assert relative(rows.float() * scale, x) < 0.04
    assert relative(rows[0].float() * scale[0], x[0]) < 0.04  # not drowned by its large neighbour
    assert not rows[2].float().any()


def test_a_frozen_weight_multiplies_both_ways():
    x, w, dy = random(32, 64, seed=1).requires_grad_(), random(48, 64, seed=2), random(32, 48, seed=3)
    (y,) = FrozenSiblings.apply(x, frozen(w), None, (frozen(w),))
    (dx,) = torch.autograd.grad(y, x, dy)
    assert relative(y, x.float() @ w.float().T) < 0.06  # e4m3 has 3 bits: 2.6 % an operand
    assert relative(dx, dy.float() @ w.float()) < 0.06


def test_a_trained_weight_has_its_gradient():
    x, w, dy = random(32, 64, seed=1).requires_grad_(), random(48, 64, seed=2).requires_grad_(), random(32, 48, seed=3)
    y = trained_product(x, w)
    dx, dw = torch.autograd.grad(y, (x, w), dy)
    assert relative(y, x.float() @ w.float().T) < 0.06
    assert relative(dx, dy.float() @ w.float()) < 0.1  # e5m2 has 2 bits: 5 %
    assert relative(dw, dy.float().T @ x.float()) < 0.1
