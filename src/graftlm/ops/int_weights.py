"""Weights as whole numbers of 8 or 4 bits with a scale a row, or a group of a row: storage and products.

Rows: GLM-130B (arXiv 2210.02414, section 4), scale = largest absolute value ÷ (2^(b-1) - 1), rounded to nearest.
Groups keep an outlier's harm inside its group. Activations stay as they are (W8A16, W4A16).

Numbers lie in 32-bit words as compressed-tensors' `pack-quantized` has them: column 0 in the lowest bits, 2^(b-1)
added, so that transformers and vLLM read the same bytes.

Shapes: T tokens, O outputs, I inputs, G groups of a row, W words of a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

Bits = Literal[4, 8]

CHUNK = 2**19
"""Weights that a CPU dequantises at a time: 2 MiB in fp32 stay in a core's cache. One core, 4096 × 4096, one token in
fp32: 6 ms in 8 bits and 21 ms in 4, against 82 and 87 ms where the whole weight is written to memory and read again."""

FUSED_ROWS = 64
"""Most rows that the GPU kernel multiplies itself. It reads 0.5 bytes a weight, dequantising first moves 4.5 (read,
write, read again); from here on that time hides behind the arithmetic, which cuBLAS does faster."""


@dataclass(frozen=True)
class IntFormat:
    """How a weight is rounded.

    Attributes:
        group: inputs that share a scale; None: the whole row.
        symmetric: zero stays zero and -2^(b-1) is not used; else the numbers span the group's smallest to largest.
    """

    bits: Bits = 4
    group: int | None = 64
    symmetric: bool = True


@dataclass(frozen=True)
class IntWeight:
    """A weight [O, I] ≈ (numbers - zero) · scale.

    Attributes:
        words: [O, W] int32.
        scale: [O, G].
        zero: [O · bits ÷ 32, G] int32, packed along the outputs; None where it is 0.
        inputs: I.
    """

    words: torch.Tensor
    scale: torch.Tensor
    zero: torch.Tensor | None
    inputs: int
    bits: Bits

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.words), self.inputs

    @property
    def group(self) -> int:
        return self.inputs // self.scale.shape[1]

    @property
    def bytes(self) -> int:
        parts = (self.words, self.scale, self.zero)
        return sum(part.numel() * part.element_size() for part in parts if part is not None)

    def rows(self, start: int, end: int) -> IntWeight:
        """Some outputs; both ends are multiples of 8."""
        step = 32 // self.bits
        zero = None if self.zero is None else self.zero[start // step : -(-end // step)]
        return IntWeight(self.words[start:end], self.scale[start:end], zero, self.inputs, self.bits)


def quantise(weight_OI: torch.Tensor, form: IntFormat) -> IntWeight:
    """Round to nearest: every entry ends within half a scale of where it was.

    Raises:
        ValueError: the group does not divide the inputs.
    """
    scale_OG, zero_OG = fit_grid(weight_OI, form)
    return from_numbers(round_to_grid(weight_OI, scale_OG, zero_OG, form.bits), scale_OG, zero_OG, form.bits)


def from_numbers(
    numbers_OI: torch.Tensor, scale_OG: torch.Tensor, zero_OG: torch.Tensor | None, bits: Bits
) -> IntWeight:
    """The packed weight of int8 numbers and int8 zeros."""
    zero = None if zero_OG is None else pack(zero_OG.t(), bits).t().contiguous()
    return IntWeight(pack(numbers_OI, bits), scale_OG, zero, numbers_OI.shape[1], bits)


def fit_grid(weight_OI: torch.Tensor, form: IntFormat) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(scale [O, G] in the weight's format, zero [O, G] int8 or None) that cover each group. A group of zeros has
    scale 1: 0 would make NaN."""
    O, I = weight_OI.shape
    size = form.group or I
    if I % size:
        raise ValueError(f"groups of {size} do not divide {I} inputs")
    groups_OGg = weight_OI.float().view(O, I // size, size)
    half = 2 ** (form.bits - 1)
    if form.symmetric:
        scale_OG = _scale(groups_OGg.abs().amax(-1) / (half - 1), weight_OI.dtype)
        return scale_OG, None
    low_OG, high_OG = groups_OGg.amin(-1).clamp(max=0), groups_OGg.amax(-1).clamp(min=0)
    scale_OG = _scale((high_OG - low_OG) / (2 * half - 1), weight_OI.dtype)
    zero_OG = (-half - low_OG / scale_OG.float()).round().clamp(-half, half - 1).to(torch.int8)
    return scale_OG, zero_OG


def _scale(wanted: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    scale = wanted.to(dtype)
    return torch.where(scale > 0, scale, torch.ones_like(scale))


def round_to_grid(
    weight_OI: torch.Tensor, scale_OG: torch.Tensor, zero_OG: torch.Tensor | None, bits: Bits
) -> torch.Tensor:
    """[O, I] int8: the nearest numbers of the grid."""
    half = 2 ** (bits - 1)
    steps_OGg = weight_OI.float().view(*scale_OG.shape, -1) / scale_OG.float()[..., None]
    numbers = steps_OGg.round()
    if zero_OG is None:
        return numbers.clamp(1 - half, half - 1).to(torch.int8).view(weight_OI.shape)
    return (numbers + zero_OG[..., None]).clamp(-half, half - 1).to(torch.int8).view(weight_OI.shape)


def pack(numbers_RK: torch.Tensor, bits: Bits) -> torch.Tensor:
    """int8 numbers [R, K] → int32 words [R, ⌈K · bits ÷ 32⌉]; the last word is filled with zero bits."""
    numbers = numbers_RK.to(torch.int16) + 2 ** (bits - 1)
    numbers = torch.nn.functional.pad(numbers, (0, -numbers_RK.shape[1] % (32 // bits))).to(torch.uint8)
    if bits == 4:
        numbers = numbers[:, 0::2] | numbers[:, 1::2] << 4
    return numbers.reshape(-1).view(torch.int32).view(len(numbers), -1)


def unpack(words_RW: torch.Tensor, bits: Bits, count: int) -> torch.Tensor:
    """int32 words → the first `count` int8 numbers of each row."""
    numbers = words_RW.reshape(-1).view(torch.uint8).view(len(words_RW), -1)
    if bits == 8:
        return (numbers[:, :count] ^ 128).view(torch.int8)
    numbers = torch.stack((numbers & 15, numbers >> 4), -1).flatten(1)
    return numbers[:, :count].view(torch.int8) - 8


def glm_bytes(words_RW: torch.Tensor) -> torch.Tensor:
    """4-bit words as GLM-130B and ChatGLM store them: uint8 [R, 4W], the even column in the high half, no offset."""
    swapped = words_RW.contiguous().view(torch.uint8)
    return (swapped >> 4 | swapped << 4) ^ 0x88


def dequantise(weight: IntWeight, dtype: torch.dtype) -> torch.Tensor:
    """The weight [O, I] that the numbers stand for."""
    O, I = weight.shape
    numbers_OGg = unpack(weight.words, weight.bits, I).view(*weight.scale.shape, -1).to(dtype)
    if weight.zero is not None:
        numbers_OGg = numbers_OGg - unpack(weight.zero.t(), weight.bits, O).t()[..., None].to(dtype)
    return (numbers_OGg * weight.scale.to(dtype)[..., None]).view(O, I)


def product(x: torch.Tensor, weight: IntWeight) -> torch.Tensor:
    """x·Wᵀ: [..., I] → [..., O] in x's format; differentiable by x."""
    if torch.is_grad_enabled() and x.requires_grad:
        return _Product.apply(x, weight)
    return _forward(x, weight)


class _Product(torch.autograd.Function):
    """Keeps the packed weight for the backward pass, not the dequantised one."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: IntWeight) -> torch.Tensor:
        ctx.weight = weight
        return _forward(x, weight)

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor, None]:
        return dy @ dequantise(ctx.weight, dy.dtype), None


def _forward(x: torch.Tensor, weight: IntWeight) -> torch.Tensor:
    x_TI = x.reshape(-1, weight.inputs)
    y_TO = _forward_gpu(x_TI, weight) if x.is_cuda else _forward_cpu(x_TI, weight)
    return y_TO.view(*x.shape[:-1], -1)


def _forward_gpu(x_TI: torch.Tensor, weight: IntWeight) -> torch.Tensor:
    from graftlm.ops.kernels.int_matmul import dequantised, int_product

    if len(x_TI) <= FUSED_ROWS:
        return int_product(x_TI, weight.words, weight.scale, weight.zero, weight.inputs, weight.bits)
    return x_TI @ dequantised(weight, x_TI.dtype).t()


def _forward_cpu(x_TI: torch.Tensor, weight: IntWeight) -> torch.Tensor:
    O, I = weight.shape
    size = max(8, CHUNK // I // 8 * 8)
    parts = (weight.rows(start, min(O, start + size)) for start in range(0, O, size))
    return torch.cat([x_TI @ dequantise(part, x_TI.dtype).t() for part in parts], dim=-1)
