"""Two ways to lay out a rotary head: pairs (2i, 2i + 1), as its inventors have it, or transformers' two halves.

arXiv 2104.09864. The rows of the query and key projections are reordered, so that either code computes the same.
"""

from __future__ import annotations

import torch


def halves_from_pairs(weight_OD: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of [heads · K, D] from interleaved pairs to the two halves of each head."""
    O, D = weight_OD.shape
    return weight_OD.reshape(heads, O // heads // 2, 2, D).transpose(1, 2).reshape(O, D)


def pairs_from_halves(weight_OD: torch.Tensor, heads: int) -> torch.Tensor:
    """The way back, bit for bit."""
    O, D = weight_OD.shape
    return weight_OD.reshape(heads, 2, O // heads // 2, D).transpose(1, 2).reshape(O, D)
