"""fp32 numbers kept in fewer bits: stochastic rounding to bf16, an fp32 number in two halves, 8-bit blocks.

Shapes: n elements, N = ⌈n / 256⌉ blocks of them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

BLOCK = 256
"""Elements that share a scale: 4 bytes of scale in 256, and one outlier spoils few neighbours."""

NOTHING = 1e-30
"""A block whose largest magnitude is below this is all 0: the reciprocals of smaller scales would overflow."""

SIGNED, UNSIGNED = 127, 255
"""Largest 8-bit codes of numbers with and without a sign."""


def round_stochastically(values: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    """fp32 → bf16, up or down with the probabilities that make the mean exact (to 2⁻¹⁶ of a step).

    A bf16 weight of 1 has steps of 2⁻⁷; an update of 1e-5 would be lost every time if the nearest were taken.

    Args:
        bits: int64 in [0, 2³²), of the same shape; the low 16 bits are used.
    """
    raw = values.view(torch.int32) + (bits & 0xFFFF).to(torch.int32)
    return torch.where(values.isnan(), values, (raw & -0x10000).view(torch.float32)).to(torch.bfloat16)


def split(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """fp32 → the nearest bf16, and the int16 that is missing from it; `join` gives all 32 bits back.

    Kalamkar et al., arXiv 2005.04680: a master copy for 2 bytes a weight instead of 4.
    """
    raw = values.view(torch.int32)
    upper = torch.where(values.isnan(), raw, raw + 0x8000) & -0x10000
    return upper.view(torch.float32).to(torch.bfloat16), (raw - upper).to(torch.int16)


def join(near: torch.Tensor, rest: torch.Tensor) -> torch.Tensor:
    """The fp32 numbers that `split` parted."""
    return (near.float().view(torch.int32) + rest.to(torch.int32)).view(torch.float32)


def to_codes(values: torch.Tensor, largest_code: int, chance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[n] fp32 → [n] 8-bit codes and [N] fp32 scales, each block in units of its largest magnitude.

    Block-wise 8-bit states are Dettmers et al.'s (arXiv 2110.02861). Their dynamic code is a table; here
    magnitude = scale · (code / largest)², which also has fine steps near 0 (6e-5 of the largest, signed) and needs
    no table. Rounding is stochastic and exact in the mean: with the nearest code, a momentum that moves by less
    than half a step would never move.

    Args:
        largest_code: SIGNED (int8 codes) or UNSIGNED (uint8; values ≥ 0, and only 0 gets code 0: these
            are divisors).
        chance: [n] fp32, from 1/512 to 511/512.
    """
    scale_N = in_blocks(values.abs()).amax(dim=1)
    unit_N = (largest_code**2 / scale_N).where(scale_N > NOTHING, 0.0)
    spread_n = values.abs() * unit_N.repeat_interleave(BLOCK)[: len(values)]
    below_n = spread_n.sqrt().floor()
    code_n = below_n + (chance * (2 * below_n + 1) < spread_n - below_n * below_n)
    if largest_code == UNSIGNED:
        return code_n.clamp(min=1).where(values > 0, 0.0).to(torch.uint8), scale_N
    return (code_n * values.sign()).to(torch.int8), scale_N


def from_codes(code_n: torch.Tensor, scale_N: torch.Tensor, largest_code: int) -> torch.Tensor:
    """[n] fp32."""
    code_n = code_n.float()
    return code_n * code_n.abs() * (scale_N / largest_code**2).repeat_interleave(BLOCK)[: len(code_n)]


def in_blocks(values_n: torch.Tensor) -> torch.Tensor:
    """[N, 256]; the last block is filled with 0."""
    return F.pad(values_n, (0, -len(values_n) % BLOCK)).view(-1, BLOCK)
