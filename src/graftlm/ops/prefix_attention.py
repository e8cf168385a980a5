"""Attention of blank infilling: a context that sees itself both ways, and branches that see it and their own past.

A branch is one continuation of the context. In training there is one (all blanks of a sample, one after the other);
options of a question are several, none of which sees another. A document without context is one causal branch.

Shapes: B rows, Q queries, K keys, H heads, D head size; T tokens of a packed row, n documents of like length, padded
to L.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from graftlm.ops.attention import documents_of_like_length

CONTEXT = 0
"""The branch of the context; continuations are 1, 2 …"""


@dataclass(frozen=True)
class PrefixLayout:
    """Where the documents of a packed row lie, and what each token sees.

    Attributes:
        groups: for documents of like length: the place of each token in the row [n, L], whether it is one (False is
            padding) [n, L], and what it sees [n, 1, L, L].
        order: [T] the place of each token of the row among those of the groups.
    """

    groups: tuple[tuple[torch.Tensor, torch.Tensor, torch.Tensor], ...]
    order: torch.Tensor


def lay_out_prefixes(boundaries: torch.Tensor, branch_T: torch.Tensor) -> PrefixLayout:
    """
    Args:
        boundaries: [N + 1] int32, where each document starts; the last entry is T.
        branch_T: [T] the branch of each token; a document's context comes first.
    """
    groups, places = [], []
    for place_nL, real_nL in documents_of_like_length(boundaries):
        visible_nLL = sees(branch_T[place_nL]) & real_nL[:, None, :]
        groups.append((place_nL, real_nL, _with_oneself(visible_nLL)[:, None]))
        places.append(place_nL[real_nL])
    return PrefixLayout(tuple(groups), torch.cat(places).argsort())


def sees(branch_BL: torch.Tensor) -> torch.Tensor:
    """[B, L, L] bool: whether the token of a row (first L) sees another (second L)."""
    query_BL1, key_B1L = branch_BL[:, :, None], branch_BL[:, None, :]
    past_LL = torch.ones(branch_BL.shape[1], branch_BL.shape[1], dtype=torch.bool, device=branch_BL.device).tril()
    return (key_B1L == CONTEXT) | ((query_BL1 == key_B1L) & past_LL)


def visible_in_rows(branch_BL: torch.Tensor, real_BL: torch.Tensor) -> torch.Tensor:
    """[B, 1, L, L] bool for whole rows of which the tokens `real_BL` are not padding."""
    return _with_oneself(sees(branch_BL) & real_BL[:, None, :])[:, None]


def visible_from_cache(real_BK: torch.Tensor, queries: int) -> torch.Tensor:
    """[B, 1, Q, K] bool for the last Q tokens of rows of K, all of them continuations: what is not after them."""
    K = real_BK.shape[1]
    past_QK = torch.ones(queries, K, dtype=torch.bool, device=real_BK.device).tril(K - queries)
    return (real_BK.bool()[:, None, :] & past_QK)[:, None]


def prefix_attention(
    query_BHQD: torch.Tensor, key_BHKD: torch.Tensor, value_BHKD: torch.Tensor, visible: torch.Tensor | PrefixLayout
) -> torch.Tensor:
    """[B, H, Q, D]. The kernels of torch keep scores and softmax in fp32 whatever the inputs are.

    Args:
        visible: [B, 1, Q, K] bool, or the layout of one packed row (B = 1, Q = K = T).
    """
    if isinstance(visible, torch.Tensor):
        return F.scaled_dot_product_attention(query_BHQD, key_BHKD, value_BHKD, attn_mask=visible)
    qkv = [x[0].transpose(0, 1) for x in (query_BHQD, key_BHKD, value_BHKD)]  # [T, H, D]
    found = []
    for place_nL, real_nL, visible_n1LL in visible.groups:
        q, k, v = (x_THD[place_nL].transpose(1, 2) for x_THD in qkv)  # [n, H, L, D]
        found.append(F.scaled_dot_product_attention(q, k, v, attn_mask=visible_n1LL).transpose(1, 2)[real_nL])
    return torch.cat(found)[visible.order].transpose(0, 1)[None]


def _with_oneself(visible_BLL: torch.Tensor) -> torch.Tensor:
    """A softmax over nothing is not a number: padding sees itself."""
    return visible_BLL | torch.eye(visible_BLL.shape[-1], dtype=torch.bool, device=visible_BLL.device)
