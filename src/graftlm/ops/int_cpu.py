"""A few tokens through an integer weight on a CPU: torch's own kernels, which keep the weight in a form of their own.

One core (AVX-512), 4096 × 4096, bf16, one token: 0.9 ms in 4 bits and 1.3 ms in 8, plain bf16 4.2 ms. From about 8
tokens on they are slower than plain bf16; for fp32 they have only a slow loop.

Shapes: T tokens, O outputs, I inputs, G groups.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from graftlm.ops.int_weights import IntWeight, unpack

FEW = 8

GROUPS = (32, 64, 128, 256)
"""Group sizes that the 4-bit kernel has; rows of 4 bits are given to it as groups that share a scale."""


@dataclass(frozen=True)
class CpuForm:
    """A weight as torch's kernel wants it; `group` is None for 8 bits."""

    numbers: torch.Tensor
    scales: torch.Tensor
    group: int | None

    def product(self, x_TI: torch.Tensor) -> torch.Tensor:
        """[T, O]: x·Wᵀ in bf16."""
        if self.group is None:
            return torch._weight_int8pack_mm(x_TI, self.numbers, self.scales)
        return torch._weight_int4pack_mm_for_cpu(x_TI, self.numbers, self.group, self.scales)


def cpu_form(weight: IntWeight) -> CpuForm | None:
    """The weight in bf16's kernel form; None where torch has no kernel for it."""
    if not hasattr(torch, "_weight_int4pack_mm_for_cpu") or weight.scale.dtype != torch.bfloat16:
        return None
    O, I = weight.shape
    if weight.bits == 8:
        rows = weight.zero is None and weight.group == I
        return CpuForm(unpack(weight.words, 8, I), weight.scale[:, 0].contiguous(), None) if rows else None
    group = next((size for size in reversed(GROUPS) if weight.group % size == 0 and I % size == 0), None)
    if group is None or O % 16:
        return None
    scale_OG = weight.scale.repeat_interleave(weight.group // group, 1)
    if weight.zero is None:
        shift_OG = torch.zeros_like(scale_OG)
    else:
        zero_OG = unpack(weight.zero.t(), 4, O).t().repeat_interleave(weight.group // group, 1)
        shift_OG = -zero_OG * scale_OG
    numbers = torch._convert_weight_to_int4pack_for_cpu(unpack(weight.words, 4, I).int() + 8, 1)
    return CpuForm(numbers, torch.stack((scale_OG, shift_OG), -1).transpose(0, 1).contiguous(), group)
