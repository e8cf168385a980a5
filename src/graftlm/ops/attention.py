"""Attention over packed rows: many documents end to end in one row, none of which sees another.

Shapes: T tokens in the row, H query heads, G key/value heads (H a multiple of G), D head size, N documents.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import torch
import torch.nn.functional as F


def packed_attention(
    query_THD: torch.Tensor,
    key_TGD: torch.Tensor,
    value_TGD: torch.Tensor,
    boundaries: torch.Tensor,
    longest: int,
    *,
    scale: float | None = None,
    window: int | None = None,
) -> torch.Tensor:
    """Causal attention inside each document.

    Args:
        boundaries: [N + 1] int32, where each document starts; the last entry is T.
        longest: tokens of the longest document.
        scale: factor on the scores; 1/sqrt(D) when None.
        window: a token sees itself and at most `window - 1` tokens before it (sliding-window models).

    Returns:
        [T, H, D].
    """
    if torch.is_autocast_enabled(query_THD.device.type):
        # Rotary embedding in fp32 leaves queries and keys in fp32 beside bf16 values; torch's own casts too.
        kind = torch.get_autocast_dtype(query_THD.device.type)
        query_THD, key_TGD, value_TGD = (x.to(kind) for x in (query_THD, key_TGD, value_TGD))
    if _kernel_takes(query_THD, value_TGD):
        return _packed_by_kernel(query_THD, key_TGD, value_TGD, boundaries, longest, scale, window)
    return _packed_by_length(query_THD, key_TGD, value_TGD, boundaries, scale, window)


def documents_of_like_length(boundaries: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Group documents by the power of two above their length: for each group, where its padded rows stand.

    A row of 2,048 tokens falls into at most 12 groups, and less than half of each is padding.

    Yields:
        place_nL: [n, L] index of each token in the packed row (padding: of any token).
        real_nL: [n, L] bool; False for padding, which is on the right.
    """
    starts_N, lengths_N = boundaries[:-1].long(), boundaries.diff().long()
    bucket_N = torch.ceil(torch.log2(lengths_N.clamp(min=1).double())).long()
    for bucket in bucket_N[lengths_N > 0].unique().tolist():
        members = (bucket_N == bucket) & (lengths_N > 0)
        lengths_n = lengths_N[members]
        offset_L = torch.arange(int(lengths_n.max()), device=boundaries.device)
        real_nL = offset_L < lengths_n[:, None]
        yield (starts_N[members][:, None] + offset_L).where(real_nL, 0), real_nL


def packed_attention_reference(
    query_THD: torch.Tensor,
    key_TGD: torch.Tensor,
    value_TGD: torch.Tensor,
    boundaries: torch.Tensor,
    *,
    scale: float | None = None,
    window: int | None = None,
) -> torch.Tensor:
    """The same by its definition: one softmax over the whole row under a [T, T] mask. For tests."""
    T, H, D = query_THD.shape
    index_T = torch.arange(T, device=query_THD.device)
    document_T = torch.searchsorted(boundaries.to(index_T), index_T, right=True)
    distance_TT = index_T[:, None] - index_T[None, :]
    visible_TT = (document_T[:, None] == document_T[None, :]) & (distance_TT >= 0)
    if window is not None:
        visible_TT &= distance_TT < window
    groups = H // key_TGD.shape[1]
    key_THD, value_THD = (x.repeat_interleave(groups, dim=1) for x in (key_TGD, value_TGD))
    scores_HTT = torch.einsum("qhd,khd->hqk", query_THD.float(), key_THD.float()) * (scale or D**-0.5)
    weights_HTT = scores_HTT.masked_fill(~visible_TT, float("-inf")).softmax(dim=-1)
    return torch.einsum("hqk,khd->qhd", weights_HTT, value_THD.float()).to(query_THD.dtype)


@cache
def _varlen_kernel():  # type: ignore[no-untyped-def]
    """torch's variable-length attention (flash attention 2), where this torch has it."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn


def _kernel_takes(query_THD: torch.Tensor, value_TGD: torch.Tensor) -> bool:
    D = query_THD.shape[-1]
    fits = query_THD.is_cuda and query_THD.dtype in (torch.bfloat16, torch.float16)
    return fits and D <= 256 and D % 8 == 0 and value_TGD.shape[-1] == D and _varlen_kernel() is not None


def _packed_by_kernel(query, key, value, boundaries, longest, scale, window):  # type: ignore[no-untyped-def]
    groups = query.shape[1] // key.shape[1]
    if groups > 1:  # torch 2.11's kernel has no grouped-query argument; 2.13's has, at the same speed
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    sides = (-1 if window is None else window - 1, 0)
    return _varlen_kernel()(
        query, key, value, boundaries, boundaries, longest, longest, scale=scale, window_size=sides
    )


def _packed_by_length(
    query_THD: torch.Tensor,
    key_TGD: torch.Tensor,
    value_TGD: torch.Tensor,
    boundaries: torch.Tensor,
    scale: float | None,
    window: int | None,
) -> torch.Tensor:
    """Any device: documents of like length form one padded batch.

    A row of 2,048 tokens may hold a hundred documents, so one call a document costs more in overhead than in
    arithmetic, and one masked [T, T] call wastes most of it. Padding is on the right, where causality already
    hides it.
    """
    T, H, _ = query_THD.shape
    out_THD = query_THD.new_zeros(T, H, value_TGD.shape[-1])
    for place_nL, real_nL in documents_of_like_length(boundaries):
        q, k, v = (x[place_nL].transpose(1, 2) for x in (query_THD, key_TGD, value_TGD))  # [n, heads, L, D]
        mask_LL, causal = None, True
        if window is not None and window < place_nL.shape[1]:
            offset_L = torch.arange(place_nL.shape[1], device=query_THD.device)
            distance_LL = offset_L[:, None] - offset_L[None, :]
            mask_LL, causal = (distance_LL >= 0) & (distance_LL < window), False
        attended = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask_LL, is_causal=causal, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
        )
        out_THD[place_nL[real_nL]] = attended.transpose(1, 2)[real_nL]
    return out_THD
