"""Attention with a learnt prefix: every token sees P keys and values in front of those of its own document.

Shapes: T tokens in the row, B rows, H query heads, G key/value heads (H a multiple of G), L queries, S keys,
    D head size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from graftlm.ops.attention import documents_of_like_length


@dataclass(frozen=True)
class PrefixStates:
    """What one layer's attention finds in front of every document: [P, G, D] each."""

    key_PGD: torch.Tensor
    value_PGD: torch.Tensor


def packed_attention_behind(
    query_THD: torch.Tensor,
    key_TGD: torch.Tensor,
    value_TGD: torch.Tensor,
    prefix: PrefixStates,
    boundaries: torch.Tensor,
    *,
    scale: float | None = None,
    window: int | None = None,
) -> torch.Tensor:
    """[T, H, D]: causal attention inside each document behind the prefix.

    Documents of like length form one padded batch. A sliding window does not move the prefix out of sight.
    """
    T, H, _ = query_THD.shape
    out_THD = query_THD.new_zeros(T, H, value_TGD.shape[-1])
    for place_BL, real_BL in documents_of_like_length(boundaries):
        q, k, v = (x[place_BL].transpose(1, 2) for x in (query_THD, key_TGD, value_TGD))
        attended = attention_behind(q, k, v, prefix, causal_mask(place_BL.shape[1], window, q.device), scale=scale)
        out_THD[place_BL[real_BL]] = attended.transpose(1, 2)[real_BL].to(out_THD.dtype)
    return out_THD


def attention_behind(
    query_BHLD: torch.Tensor,
    key_BGSD: torch.Tensor,
    value_BGSD: torch.Tensor,
    prefix: PrefixStates,
    mask: torch.Tensor | None,
    *,
    scale: float | None = None,
) -> torch.Tensor:
    """[B, H, L, D].

    Args:
        mask: [B or 1, 1 or H, L, S] of what is seen beside the prefix, bool or additive; None: one query sees all keys,
            more of them are the last L and see what is before them.
    """
    B, P = len(query_BHLD), len(prefix.key_PGD)
    if mask is None:
        mask = causal_mask(query_BHLD.shape[2], None, query_BHLD.device, key_BGSD.shape[2])
    key, value = (
        torch.cat([states.to(own.dtype).transpose(0, 1).expand(B, -1, -1, -1), own], dim=2)
        for states, own in ((prefix.key_PGD, key_BGSD), (prefix.value_PGD, value_BGSD))
    )
    mask = F.pad(mask, (P, 0), value=True if mask.dtype == torch.bool else 0.0)
    return F.scaled_dot_product_attention(
        query_BHLD, key, value, attn_mask=mask, scale=scale, enable_gqa=query_BHLD.shape[1] != key.shape[1]
    )


def causal_mask(queries: int, window: int | None, device: torch.device, keys: int | None = None) -> torch.Tensor:
    """[1, 1, L, S] bool; the queries are the last of the keys."""
    keys = keys or queries
    query_L, key_S = torch.arange(keys - queries, keys, device=device), torch.arange(keys, device=device)
    distance_LS = query_L[:, None] - key_S[None, :]
    seen_LS = distance_LS >= 0
    return (seen_LS if window is None else seen_LS & (distance_LS < window))[None, None]
