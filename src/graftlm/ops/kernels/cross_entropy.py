"""Cross-entropy of a chunk of logits and its gradient, in two passes over each row (Triton)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

COLUMNS = 4096
"""Logits of one step along a row."""


@triton.jit
def _rows(LOGITS, TARGETS, LOG_P, GRADIENT, V, IGNORE: tl.constexpr, BV: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    target = tl.load(TARGETS + row)
    here, there = LOGITS + row * V, GRADIENT + row * V
    if target == IGNORE:
        for start in range(0, V, BV):
            v = start + tl.arange(0, BV)
            tl.store(there + v, tl.zeros([BV], GRADIENT.dtype.element_ty), mask=v < V)
        tl.store(LOG_P + row, 0.0)
        return
    best, total = float("-inf"), 0.0
    for start in range(0, V, BV):
        v = start + tl.arange(0, BV)
        x = tl.load(here + v, mask=v < V, other=float("-inf")).to(tl.float32)
        new = tl.maximum(best, tl.max(x, 0))
        total = total * tl.exp(best - new) + tl.sum(tl.exp(x - new), 0)
        best = new
    normaliser = best + tl.log(total)
    tl.store(LOG_P + row, tl.load(here + target).to(tl.float32) - normaliser)
    for start in range(0, V, BV):
        v = start + tl.arange(0, BV)
        x = tl.load(here + v, mask=v < V, other=float("-inf")).to(tl.float32)
        p = tl.exp(x - normaliser) - tl.where(v == target, 1.0, 0.0)
        tl.store(there + v, p.to(GRADIENT.dtype.element_ty), mask=v < V)


def softmax_gradient(
    logits_CV: torch.Tensor, targets_C: torch.Tensor, gradient_CV: torch.Tensor, ignore: int
) -> torch.Tensor:
    """log p of each target, [C] fp32; writes the gradient of −log p by the logits to `gradient_CV`.

    Rows whose target is `ignore` have log p 0 and no gradient. All [C, V] tensors are contiguous.
    """
    C, V = logits_CV.shape
    log_p_C = torch.empty(C, device=logits_CV.device)
    columns = min(COLUMNS, triton.next_power_of_2(V))
    _rows[(C,)](logits_CV, targets_C, log_p_C, gradient_CV, V, IGNORE=ignore, BV=columns, num_warps=8)
    return log_p_C
