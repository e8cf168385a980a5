"""Head and cross-entropy in one step that never holds the [T, V] logits, gradients included.

−Σ log p over the targets is the loss of pre-training and instruction tuning, and its gradient by the logits is
known as soon as the logits are: softmax − one-hot. So both products of the backward pass are done on each chunk of
logits in the forward pass, and nothing is computed twice (the method of Liger-Kernel, arXiv 2410.10989).
Products of bf16 are summed in fp32, within a chunk and over the chunks.

Shapes: T tokens, B of them bearing a target, C targets of a chunk, D hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch

from graftlm.ops.cross_entropy import IGNORE, Head, token_log_probabilities

LOGITS_HELD = 2**30
"""Bytes of one chunk's fp32 logits on a GPU: 8,192 targets at a vocabulary of 32k, 1,766 at 152k."""


def linear_cross_entropy(hidden_TD: torch.Tensor, head: Head, targets_T: torch.Tensor, count: int) -> torch.Tensor:
    """−Σ log p(target) in nats, a scalar in fp32.

    Args:
        count: how many of the targets are not IGNORE; known to the host, so that nothing waits for the device.
    """
    plain = head.bias_V is None and head.scale == 1.0 and head.softcap is None
    if not (hidden_TD.is_cuda and plain and torch.is_grad_enabled()):
        return -token_log_probabilities(hidden_TD, head, targets_T).sum()
    bearing_B = torch.nonzero_static(targets_T != IGNORE, size=count)[:, 0]
    kind = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else head.weight_VD.dtype
    return _LinearCrossEntropy.apply(
        hidden_TD.index_select(0, bearing_B).to(kind), head.weight_VD.to(kind), targets_T[bearing_B]
    )


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_BD: torch.Tensor, weight_VD: torch.Tensor, targets_B: torch.Tensor) -> torch.Tensor:
        from graftlm.ops.kernels.cross_entropy import softmax_gradient

        (B, _), V = hidden_BD.shape, len(weight_VD)
        C = min(B, max(256, LOGITS_HELD // (4 * V)))
        logits_CV = hidden_BD.new_empty(C, V, dtype=torch.float32)
        gradient_CV = hidden_BD.new_empty(C, V)
        log_p_B = hidden_BD.new_empty(B, dtype=torch.float32)
        dhidden_BD = torch.empty_like(hidden_BD) if ctx.needs_input_grad[0] else None
        dweight_VD = torch.zeros_like(weight_VD, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        for start in range(0, B, C):
            here = slice(start, min(start + C, B))
            hidden_CD, size = hidden_BD[here], min(start + C, B) - start
            logits, gradient = logits_CV[:size], gradient_CV[:size]
            _product(hidden_CD, weight_VD.t(), out=logits)
            log_p_B[here] = softmax_gradient(logits, targets_B[here], gradient, IGNORE)
            if dhidden_BD is not None:
                torch.mm(gradient, weight_VD, out=dhidden_BD[here])
            if dweight_VD is not None:
                _add_product(dweight_VD, gradient.t(), hidden_CD)
        ctx.gradients = dhidden_BD, dweight_VD, weight_VD.dtype
        return -log_p_B.sum()

    @staticmethod
    def backward(ctx: Any, dloss: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        dhidden_BD, dweight_VD, kind = ctx.gradients
        ctx.gradients = None
        if dhidden_BD is not None:
            dhidden_BD *= dloss
        if dweight_VD is not None:
            dweight_VD = (dweight_VD * dloss).to(kind)
        return dhidden_BD, dweight_VD, None


def _product(a: torch.Tensor, b: torch.Tensor, *, out: torch.Tensor) -> None:
    """out = a·b, in fp32."""
    if a.dtype == torch.float32:
        torch.mm(a, b, out=out)
    else:
        torch.mm(a, b, out_dtype=torch.float32, out=out)


def _add_product(total: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """total += a·b, in fp32."""
    if a.dtype == torch.float32:
        total.addmm_(a, b)
    else:
        torch.addmm(total, a, b, out_dtype=torch.float32, out=total)
