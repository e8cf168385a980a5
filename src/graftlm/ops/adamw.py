"""One AdamW step (Loshchilov and Hutter, arXiv 1711.05101) on weights and moments of few bits.

Weights are fp32 or bf16, moments fp32, bf16 or 8 bits in blocks. Each element is read once and written once:

| weights     | moments | bytes a parameter and step (bf16 gradient) | floor of 7B at 4.3 TB/s |
|-------------|---------|--------------------------------------------|-------------------------|
| fp32        | fp32    | 28 (fp32 gradient)                         | 46 ms                   |
| bf16        | fp32    | 22                                         | 36 ms                   |
| bf16        | bf16    | 14                                         | 23 ms                   |
| bf16        | 8-bit   | 10.1                                       | 16 ms                   |
| bf16 master | fp32    | 26                                         | 42 ms                   |
| bf16 master | bf16    | 18                                         | 29 ms                   |
| bf16 master | 8-bit   | 14.1                                       | 23 ms                   |
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

from graftlm.ops.philox import random_bits
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

Moments = Literal["fp32", "bf16", "8bit"]
Rounding = Literal["stochastic", "nearest", "master"]

SMALL = 4096
"""Weights of fewer elements (norms, biases) keep fp32 moments instead of 8-bit ones, as in Dettmers et al."""

Slots = dict[str, torch.Tensor]
"""What the optimizer keeps of one weight: `m`, `v`, with 8 bits `m_scale`, `v_scale`, with a master copy `rest`."""


@dataclass(frozen=True)
class AdamWStep:
    """The numbers of one step.

    Attributes:
        step: this one's, from 1.
        seed: of the rounding.
    """

    learning_rate: float
    weight_decay: float
    beta1: float
    beta2: float
    eps: float
    step: int
    seed: int = 0

    @property
    def kept(self) -> float:
        """Factor of the weight decay on the weights."""
        return 1 - self.learning_rate * self.weight_decay

    @property
    def size(self) -> float:
        return self.learning_rate / (1 - self.beta1**self.step)

    @property
    def root_correction(self) -> float:
        return math.sqrt(1 - self.beta2**self.step)


def new_slots(weight: torch.Tensor, moments: Moments, rounding: Rounding) -> Slots:
    """Zeroed slots for a weight. A master copy starts as the bf16 weight itself."""
    if moments == "8bit" and weight.numel() >= SMALL:
        scale_N = torch.zeros(-(-weight.numel() // BLOCK), dtype=torch.float32, device=weight.device)
        slots = {
            "m": torch.zeros_like(weight, dtype=torch.int8),
            "v": torch.zeros_like(weight, dtype=torch.uint8),
            "m_scale": scale_N,
            "v_scale": scale_N.clone(),
        }
    else:
        dtype = torch.bfloat16 if moments == "bf16" else torch.float32
        slots = {name: torch.zeros_like(weight, dtype=dtype) for name in ("m", "v")}
    if rounding == "master" and weight.dtype == torch.bfloat16:
        slots["rest"] = torch.zeros_like(weight, dtype=torch.int16)
    return slots


@torch.no_grad()
def adamw_(
    weight: torch.Tensor,
    gradient: torch.Tensor,
    slots: Slots,
    numbers: AdamWStep,
    *,
    rounding: Rounding,
    number: int,
    factor: torch.Tensor | None = None,
) -> None:
    """Update one weight and its slots in place: by the Triton kernel on a CUDA device, else by the reference.

    Args:
        weight: contiguous, fp32 or bf16.
        gradient: of the weight's shape, any format.
        rounding: how a new bf16 weight is made; an fp32 one needs none.
        number: of the weight; with seed and step it decides the rounding.
        factor: one fp32 number on the weight's device that the gradient is multiplied by: clipping without
            another pass and without waiting for the device. None: 1.
    """
    if not weight.numel():
        return  # a process's shard of a short vector may be empty
    if weight.is_cuda:
        from graftlm.ops.kernels.adamw import adamw_kernel_

        adamw_kernel_(weight, gradient, slots, numbers, rounding=rounding, number=number, factor=factor)
    else:
        adamw_reference_(weight, gradient, slots, numbers, rounding=rounding, number=number, factor=factor)


def adamw_reference_(
    weight: torch.Tensor,
    gradient: torch.Tensor,
    slots: Slots,
    numbers: AdamWStep,
    *,
    rounding: Rounding,
    number: int,
    factor: torch.Tensor | None,
) -> None:
    """In fp32 the same operations in the same order as torch's own loop."""
    codes, in_bf16 = "m_scale" in slots, weight.dtype == torch.bfloat16
    bits_n = torch.empty(0)
    if codes or (in_bf16 and rounding == "stochastic"):
        bits_n = random_bits(
            weight.numel(), seed=numbers.seed, number=number, step=numbers.step, device=weight.device
        )
    w_n = join(weight.view(-1), slots["rest"].view(-1)) if "rest" in slots else weight.view(-1).float()
    g_n = gradient.reshape(-1).float()
    if factor is not None:
        g_n = g_n * factor
    m_n, v_n = _moments(slots)
    w_n.mul_(numbers.kept)
    m_n.lerp_(g_n, 1 - numbers.beta1)
    v_n.mul_(numbers.beta2).addcmul_(g_n, g_n, value=1 - numbers.beta2)
    w_n.addcdiv_(m_n, (v_n.sqrt() / numbers.root_correction).add_(numbers.eps), value=-numbers.size)
    if not codes:
        # Nearest: with β₂ = 0.95 a moment moves by up to 5 % a step, and bf16's steps are 0.4 to 0.8 %.
        slots["m"].view(-1).copy_(m_n)
        slots["v"].view(-1).copy_(v_n)
    else:
        m_code, m_scale = to_codes(m_n, SIGNED, _chance(bits_n, 16))
        v_code, v_scale = to_codes(v_n.sqrt(), UNSIGNED, _chance(bits_n, 24))  # the root is what divides
        slots["m"].view(-1).copy_(m_code)
        slots["v"].view(-1).copy_(v_code)
        slots["m_scale"].copy_(m_scale)
        slots["v_scale"].copy_(v_scale)
    if "rest" in slots:
        w_n, rest_n = split(w_n)
        slots["rest"].view(-1).copy_(rest_n)
    elif in_bf16 and rounding == "stochastic":
        w_n = round_stochastically(w_n, bits_n)
    weight.view(-1).copy_(w_n)


def _moments(slots: Slots) -> tuple[torch.Tensor, torch.Tensor]:
    """Both moments as [n] fp32; those that are kept in fp32 are the slots themselves."""
    m_n, v_n = slots["m"].view(-1), slots["v"].view(-1)
    if "m_scale" not in slots:
        return m_n.float(), v_n.float()
    return from_codes(m_n, slots["m_scale"], SIGNED), from_codes(v_n, slots["v_scale"], UNSIGNED).square()


def _chance(bits_n: torch.Tensor, shift: int) -> torch.Tensor:
    """[n] fp32 in (0, 1) from eight of the bits."""
    return (((bits_n >> shift) & 0xFF).float() + 0.5) * 2**-8
