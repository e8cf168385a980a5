"""Casting in both orders at once is casting, and transposing."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from graftlm.ops.kernels.float8 import cast_both


@pytest.mark.gpu
@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("shape", [(128, 64), (70, 131)])
def test_both_orders_are_torchs_cast(kind, shape):
    x = torch.randn(*shape, device="cuda", dtype=torch.bfloat16)
    largest = torch.finfo(kind).max
    scale = x.abs().amax().float() / largest
    rows, columns = cast_both(x, scale, kind, largest)
    wanted = (x.float() / scale).clamp(-largest, largest).to(kind)
    assert torch.equal(rows.float(), wanted.float())
    assert torch.equal(columns.float(), wanted.float().T)


def test_both_orders_hold_the_same_numbers(device):
    """The interpreter rounds otherwise than the hardware, so only the places are compared here."""
    x = torch.randn(70, 131, device=device)
    rows, columns = cast_both(x, x.abs().amax() / 448, torch.float8_e4m3fn, 448.0)
    assert torch.equal(rows.float(), columns.float().T)
    assert torch.equal(rows.float().sign()[x.abs() > 0.5], x.sign()[x.abs() > 0.5])
