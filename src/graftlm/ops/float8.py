"""Matrix products in 8-bit floating point (e4m3), each row of each operand with a scale of its own.

Twice the arithmetic of bf16 on a Hopper card. Rows are scaled to the format's largest number (dynamic scaling); the
product is summed in fp32 and scaled back. Method: Micikevicius et al., arXiv 2209.05433.

Shapes: T tokens, I inputs, O outputs.
"""

from __future__ import annotations

from typing import Any

import torch

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2

LARGEST = torch.finfo(E4M3).max

SMALLEST_SCALE = 1e-12


def quantise_rows(x_RK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(e4m3 [R, K], fp32 scale [R, 1]) with x ≈ e4m3 · scale."""
    return quantise_rows_by(x_RK, x_RK.abs().amax(dim=-1, keepdim=True))


def quantise_rows_by(x_RK: torch.Tensor, largest_R1: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same where the largest absolute value of each row is known."""
    scale_R1 = largest_R1.float().clamp(min=SMALLEST_SCALE) / LARGEST
    return (x_RK.float() / scale_R1).clamp(-LARGEST, LARGEST).to(E4M3), scale_R1


def scaled_product(
    a_RK: torch.Tensor, a_scale_R1: torch.Tensor, b_CK: torch.Tensor, b_scale_C1: torch.Tensor
) -> torch.Tensor:
    """[R, C] bf16: a·bᵀ. Both operands lie row by row, as the hardware wants them; a CPU has no such product."""
    if not a_RK.is_cuda:
        return ((a_RK.float() * a_scale_R1) @ (b_CK.float() * b_scale_C1).t()).bfloat16()
    return torch._scaled_mm(
        a_RK, b_CK.t(), scale_a=a_scale_R1, scale_b=b_scale_C1.t(), out_dtype=torch.bfloat16, use_fast_accum=True
    )


class _TrainedProduct(torch.autograd.Function):
    """x·Wᵀ, and both products of its backward pass, in 8 bits: one scale a tensor.

    The weight gradient sums over the tokens, for which scales of tokens are of no use; and with one scale, one pass
    casts into both orders. Gradients have fewer bits of precision and more of range (e5m2), as their source advises.
    """

    @staticmethod
    def forward(ctx: Any, x_TI: torch.Tensor, weight_OI: torch.Tensor) -> torch.Tensor:
        x8_TI, x8_IT, x_scale = quantise(x_TI, E4M3)
        w8_OI, w8_IO, w_scale = quantise(weight_OI, E4M3)
        ctx.save_for_backward(x8_IT, x_scale, w8_IO, w_scale)
        return tensor_product(x8_TI, x_scale, w8_OI, w_scale)

    @staticmethod
    def backward(ctx: Any, dy_TO: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x8_IT, x_scale, w8_IO, w_scale = ctx.saved_tensors
        dy8_TO, dy8_OT, dy_scale = quantise(dy_TO, E5M2)
        dx_TI = tensor_product(dy8_TO, dy_scale, w8_IO, w_scale)
        return dx_TI, tensor_product(dy8_OT, dy_scale, x8_IT, x_scale)


def trained_product(x_TI: torch.Tensor, weight_OI: torch.Tensor) -> torch.Tensor:
    """[T, O] bf16: x·Wᵀ; differentiable by both."""
    return _TrainedProduct.apply(x_TI, weight_OI)


def quantise(x_RK: torch.Tensor, kind: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """([R, K], [K, R], fp32 scale []) with x ≈ 8-bit number · scale."""
    largest = torch.finfo(kind).max
    scale = x_RK.abs().amax().float().clamp(min=SMALLEST_SCALE) / largest
    if x_RK.is_cuda:
        from graftlm.ops.kernels.float8 import cast_both

        return *cast_both(x_RK, scale, kind, largest), scale
    rows = (x_RK.float() / scale).clamp(-largest, largest).to(kind)
    return rows, rows.t().contiguous(), scale


def tensor_product(
    a_RK: torch.Tensor, a_scale: torch.Tensor, b_CK: torch.Tensor, b_scale: torch.Tensor
) -> torch.Tensor:
    """[R, C] bf16: a·bᵀ with one scale each."""
    if not a_RK.is_cuda:
        return ((a_RK.float() * a_scale) @ (b_CK.float() * b_scale).t()).bfloat16()
    return torch._scaled_mm(
        a_RK, b_CK.t(), scale_a=a_scale, scale_b=b_scale, out_dtype=torch.bfloat16, use_fast_accum=True
    )
