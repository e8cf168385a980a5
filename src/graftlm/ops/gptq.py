"""GPTQ (Frantar et al., arXiv 2210.17323): round column by column, and let the columns behind make up for the error.

Minimises ‖(W - Ŵ)x‖² over calibration tokens. The grid is fixed before the first column is rounded, from the weight as
it is, so columns can be rounded in the order of how much they matter and the layout stays that of plain rounding.

Shapes: O outputs, I inputs, G groups.
"""

from __future__ import annotations

import torch

from graftlm.ops.int_weights import IntFormat, IntWeight, fit_grid, from_numbers, round_to_grid

BLOCK = 128
"""Columns whose errors are kept back and applied to all columns behind at once."""

DAMPING = 0.01
"""Of the mean of the Hessian's diagonal, added to the diagonal (the paper's 1 %); ten times more where it fails."""


@torch.no_grad()
def gptq(weight_OI: torch.Tensor, gram_II: torch.Tensor, form: IntFormat) -> IntWeight:
    """The rounded weight.

    Args:
        gram_II: sum of x·xᵀ over calibration tokens, fp32.
    """
    scale_OG, zero_OG = fit_grid(weight_OI, form)
    weight = weight_OI.float().clone()
    silent_I = gram_II.diagonal() == 0  # inputs that were never on: nothing depends on them
    order_I = gram_II.diagonal().argsort(descending=True, stable=True)
    factor_II = _factor((gram_II + torch.diag(silent_I.float()))[order_I][:, order_I])
    weight = weight[:, order_I]
    group_I = order_I // (weight_OI.shape[1] // scale_OG.shape[1])
    numbers = torch.empty_like(weight, dtype=torch.int8)
    for start in range(0, len(order_I), BLOCK):
        end = min(start + BLOCK, len(order_I))
        block, errors = weight[:, start:end], torch.empty_like(weight[:, start:end])
        for c in range(end - start):
            scale = scale_OG[:, group_I[start + c], None]
            zero = None if zero_OG is None else zero_OG[:, group_I[start + c], None]
            column = round_to_grid(block[:, c : c + 1], scale, zero, form.bits)
            numbers[:, start + c] = column[:, 0]
            steps = column.float() if zero is None else column.float() - zero.float()
            row = factor_II[start + c, start + c : end]
            errors[:, c : c + 1] = (block[:, c : c + 1] - steps * scale.float()) / row[0]
            block[:, c:] -= errors[:, c : c + 1] * row
        weight[:, end:] -= errors @ factor_II[start:end, end:]
    return from_numbers(numbers[:, order_I.argsort()], scale_OG, zero_OG, form.bits)


def _factor(gram_II: torch.Tensor) -> torch.Tensor:
    """Upper triangular U with UᵀU = (gram + damping)⁻¹."""
    mean = gram_II.diagonal().mean()
    for damping in (DAMPING, 10 * DAMPING, 1.0):
        damped = gram_II + damping * mean * torch.eye(len(gram_II), device=gram_II.device)
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
        if not failed:
            return upper
    raise ValueError("the calibration tokens' Gram matrix is not positive definite")
