"""How well images and texts find each other: recall at k, both ways."""

from __future__ import annotations

import torch

from graftlm.evaluation.statistics import Scores


def recall(cosine_QC: torch.Tensor, relevant_QC: torch.Tensor, k: int) -> Scores:
    """For each of Q queries, 1 where one of the k nearest of C candidates is relevant, else 0.

    Ties are broken against the system: a candidate that is relevant stands behind its equals.
    """
    best_Q = cosine_QC.masked_fill(~relevant_QC, -torch.inf).amax(dim=1, keepdim=True)
    ahead_Q = ((cosine_QC >= best_Q) & ~relevant_QC).sum(dim=1)
    return Scores.of((ahead_Q < k).double().tolist())
