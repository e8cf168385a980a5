"""Log-probabilities of target tokens straight from hidden states: the [T, vocabulary] logits are never kept.

Shapes: T tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

IGNORE = -100
"""The target of a position that bears no loss."""

LOGITS_KEPT = 64 * 2**20
"""Bytes of fp32 logits above which they are recomputed in the backward pass, a chunk at a time."""


@dataclass(frozen=True)
class Head:
    """A language-model head: logits = softcap(scale · (hidden Wᵀ + b)).

    `softcap` c is Gemma's c·tanh(x/c); `scale` is Cohere's and Granite's logit scaling.
    """

    weight_VD: torch.Tensor
    bias_V: torch.Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, hidden_TD: torch.Tensor) -> torch.Tensor:
        """[T, V] in fp32."""
        logits_TV = (
            F.linear(hidden_TD.to(self.weight_VD.dtype), self.weight_VD, self.bias_V).float() * self.scale
        )
        return logits_TV if self.softcap is None else self.softcap * torch.tanh(logits_TV / self.softcap)


def token_log_probabilities_reference(
    hidden_TD: torch.Tensor, head: Head, targets_T: torch.Tensor
) -> torch.Tensor:
    """log p(target) a position, [T] fp32; 0 where the target is IGNORE. All logits at once."""
    return -F.cross_entropy(head.logits(hidden_TD), targets_T, ignore_index=IGNORE, reduction="none")


def token_log_probabilities(hidden_TD: torch.Tensor, head: Head, targets_T: torch.Tensor) -> torch.Tensor:
    """The same, without the head where there is no target; long rows' logits are recomputed by chunks."""
    bearing_T = targets_T != IGNORE
    hidden_BD, targets_B = hidden_TD[bearing_T], targets_T[bearing_T]
    chunk = max(256, LOGITS_KEPT // (4 * head.weight_VD.shape[0]))
    if len(targets_B) <= chunk:
        found_B = token_log_probabilities_reference(hidden_BD, head, targets_B)
    else:
        found_B = torch.cat(
            [
                checkpoint(token_log_probabilities_reference, h, head, t, use_reentrant=False)
                for h, t in zip(hidden_BD.split(chunk), targets_B.split(chunk), strict=True)
            ]
        )
    return torch.zeros(len(targets_T), device=found_B.device).masked_scatter(bearing_T, found_B)
