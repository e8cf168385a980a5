"""How alike two models' next-token distributions are on the same tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from graftlm.models.trunk import hidden_states, output_head


@dataclass(frozen=True)
class Agreement:
    """Of one model with another, at every position of the same rows.

    Attributes:
        kl: mean KL(one ‖ other) in nats a token.
        greedy: share of the positions where both have the same likeliest token.
        positions: how many.
    """

    kl: float
    greedy: float
    positions: int


@torch.inference_mode()
def agreement(one: torch.nn.Module, other: torch.nn.Module, rows_RL: torch.Tensor) -> Agreement:
    """Compare two models that `prepare_trunk` has seen, row by row; the logits of one row exist at a time."""
    kl = same = 0.0
    for row_L in rows_RL:
        log_p, log_q = _log_probabilities(one, row_L), _log_probabilities(other, row_L)
        kl += float((log_p.exp() * (log_p - log_q)).sum())
        same += float((log_p.argmax(-1) == log_q.argmax(-1)).sum())
    return Agreement(kl / rows_RL.numel(), same / rows_RL.numel(), rows_RL.numel())


def _log_probabilities(model: torch.nn.Module, row_L: torch.Tensor) -> torch.Tensor:
    """[L, V] fp32."""
    boundaries = torch.tensor([0, len(row_L)], dtype=torch.int32, device=row_L.device)
    return output_head(model).logits(hidden_states(model, row_L, boundaries)).log_softmax(-1)
