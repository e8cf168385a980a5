"""The MLP written out by hand equals the same MLP by autograd."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("triton")

from graftlm.ops.frozen import Frozen
from graftlm.ops.kernels.lora_swiglu import COLUMNS, PART, lora_swiglu
from graftlm.ops.lora_mlp import LoraMlp


@pytest.mark.parametrize(("T", "I", "r", "s"), [(37, 3 * COLUMNS + 5, 4, 8), (1, 16, 16, 16), (33, 2 * PART, 20, 3)])
@pytest.mark.parametrize("scaling", [(2.0, 2.0, 0.5), (1.0, 3.0, 2.0)])
def test_values_and_gradients_are_autograds(T, I, r, s, scaling, device, kind, close):
    generator = torch.Generator().manual_seed(I)
    D = 24

    def random(*shape: int) -> torch.Tensor:
        return (torch.randn(*shape, generator=generator) / shape[-1] ** 0.5).to(device, kind).requires_grad_()

    x, A, gate_B, up_B, down_A, down_B = (
        random(T, D), random(2 * r, D), random(I, r), random(I, r), random(s, I), random(D, s)
    )  # fmt: skip
    gate_up, down = random(2 * I, D).detach(), random(D, I).detach()
    inputs = (x, A, gate_B, up_B, down_A, down_B)
    fast = LoraMlp.apply(*inputs, Frozen(gate_up), Frozen(down), scaling)

    x32, A32, gate_B32, up_B32, down_A32, down_B32 = (tensor.float() for tensor in inputs)
    low = x32 @ A32.T
    gate, up = (x32 @ gate_up.float().T).split(I, dim=-1)
    gate = gate + scaling[0] * low[:, :r] @ gate_B32.T
    up = up + scaling[1] * low[:, r:] @ up_B32.T
    h = F.silu(gate) * up
    plain = h @ down.float().T + scaling[2] * (h @ down_A32.T) @ down_B32.T

    weights = torch.randn(T, D, generator=generator).to(device)
    gradients = [torch.autograd.grad((out.float() * weights).sum(), inputs) for out in (fast, plain)]
    close(fast, plain)
    for one, other in zip(*gradients, strict=True):
        close(one, other)


def test_the_largest_value_of_each_token_is_found(device, kind):
    I = 2 * PART + 64
    gate_up, low = torch.randn(5, 2 * I, device=device, dtype=kind), torch.zeros(5, 8, device=device, dtype=kind)
    zeros = torch.zeros(I, 4, device=device, dtype=kind)
    h, largest, _ = lora_swiglu(gate_up, low, zeros, zeros, zeros.T.contiguous())
    assert largest.shape[0] > 1
    assert torch.equal(largest.amax(0), h.abs().amax(-1).float())
