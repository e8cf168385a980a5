"""Log-probabilities of target tokens straight from hidden states: the [T, vocabulary] logits are never kept.

Shapes: T tokens, B of them bearing a target, D hidden size, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

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
        logits_TV = F.linear(hidden_TD.to(self.weight_VD.dtype), self.weight_VD, self.bias_V).float() * self.scale
        return logits_TV if self.softcap is None else self.softcap * torch.tanh(logits_TV / self.softcap)


class TokenStatistics(NamedTuple):
    """What is known of each target once its logits exist; B positions that bear a target, in ascending order.

    Attributes:
        log_probability: [B] fp32; log p(target) in nats.
        entropy: [B] fp32; of the whole distribution, in nats; None unless asked for.
        greedy: [B] bool; the target is the most likely token; None unless asked for; bears no gradient.
    """

    log_probability: torch.Tensor
    entropy: torch.Tensor | None
    greedy: torch.Tensor | None


def token_statistics_reference(
    hidden_TD: torch.Tensor, head: Head, targets_T: torch.Tensor, *, entropy: bool = False, greedy: bool = False
) -> TokenStatistics:
    """All logits at once, each number by its definition."""
    logits_TV, bearing_T = head.logits(hidden_TD), targets_T != IGNORE
    p_TV = logits_TV.softmax(dim=-1)
    return TokenStatistics(
        -F.cross_entropy(logits_TV, targets_T, ignore_index=IGNORE, reduction="none")[bearing_T],
        torch.special.entr(p_TV).sum(dim=-1)[bearing_T] if entropy else None,
        (logits_TV.argmax(dim=-1) == targets_T)[bearing_T] if greedy else None,
    )


def token_statistics(
    hidden_TD: torch.Tensor, head: Head, targets_T: torch.Tensor, *, entropy: bool = False, greedy: bool = False
) -> TokenStatistics:
    """The same, without the head where there is no target; long rows' logits are recomputed by chunks.

    Log-probability and entropy are differentiable. One pass over the logits gives all that is asked for.
    """
    bearing_T = targets_T != IGNORE
    hidden_BD, targets_B = hidden_TD[bearing_T], targets_T[bearing_T]
    chunk = max(256, LOGITS_KEPT // (4 * head.weight_VD.shape[0]))
    if len(targets_B) <= chunk:
        return _chunk_statistics(hidden_BD, head, targets_B, entropy, greedy)
    parts = [
        checkpoint(_chunk_statistics, h, head, t, entropy, greedy, use_reentrant=False)
        for h, t in zip(hidden_BD.split(chunk), targets_B.split(chunk), strict=True)
    ]
    return TokenStatistics(
        torch.cat([part.log_probability for part in parts]),
        torch.cat([part.entropy for part in parts]) if entropy else None,
        torch.cat([part.greedy for part in parts]) if greedy else None,
    )


@torch.inference_mode()
def shared_statistics(
    hidden_UD: torch.Tensor, head: Head, place_S: torch.Tensor, target_S: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """log p in nats [S] fp32, and whether it is the most likely token [S], of S targets that share U positions.

    The head runs once a position, whatever the number of targets there; its logits are kept by chunks.

    Args:
        place_S: which of the U positions predicts each target; on the CPU.
        target_S: the targets; on the CPU, too.
    """
    order_S = place_S.argsort(stable=True)
    place_S, target_S = place_S[order_S], target_S[order_S]
    chunk = max(256, LOGITS_KEPT // (4 * head.weight_VD.shape[0]))
    edges = torch.searchsorted(place_S, torch.arange(0, len(hidden_UD) + chunk, chunk)).tolist()
    log_ps, greedies = [], []
    for number, states_CD in enumerate(hidden_UD.split(chunk)):
        some = slice(edges[number], edges[number + 1])
        row_C, wanted_C = ((x[some]).to(hidden_UD.device) for x in (place_S - number * chunk, target_S))
        logits_CV = head.logits(states_CD)
        log_ps.append(logits_CV[row_C, wanted_C] - logits_CV.logsumexp(dim=-1)[row_C])
        greedies.append(logits_CV.argmax(dim=-1)[row_C] == wanted_C)
    back_S = order_S.argsort().to(hidden_UD.device)
    return torch.cat(log_ps)[back_S], torch.cat(greedies)[back_S]


def _chunk_statistics(
    hidden_BD: torch.Tensor, head: Head, targets_B: torch.Tensor, entropy: bool, greedy: bool
) -> TokenStatistics:
    logits_BV = head.logits(hidden_BD)
    greedy_B = logits_BV.argmax(dim=-1) == targets_B if greedy else None
    log_p_BV = logits_BV.log_softmax(dim=-1)
    return TokenStatistics(
        log_p_BV.gather(1, targets_B[:, None])[:, 0],
        -(log_p_BV.exp() * log_p_BV).sum(dim=-1) if entropy else None,
        greedy_B,
    )


def token_log_probabilities_reference(hidden_TD: torch.Tensor, head: Head, targets_T: torch.Tensor) -> torch.Tensor:
    """log p(target) a position, [T] fp32; 0 where the target is IGNORE. All logits at once."""
    return -F.cross_entropy(head.logits(hidden_TD), targets_T, ignore_index=IGNORE, reduction="none")


def token_log_probabilities(hidden_TD: torch.Tensor, head: Head, targets_T: torch.Tensor) -> torch.Tensor:
    """The same from `token_statistics`, which see."""
    found_B = token_statistics(hidden_TD, head, targets_T).log_probability
    return torch.zeros(len(targets_T), device=found_B.device).masked_scatter(targets_T != IGNORE, found_B)
