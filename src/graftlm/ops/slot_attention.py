"""Attention of decoding: one new token in each slot of a cache whose slots hold sequences of their own length.

Shapes: S slots, H query heads, G key/value heads (H a multiple of G), L positions of a slot, D head size.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
import torch.nn.functional as F

HALVES = (torch.bfloat16, torch.float16)


def slot_attention(
    query_SHD: torch.Tensor,
    keys_SGLD: torch.Tensor,
    values_SGLD: torch.Tensor,
    lengths_S: torch.Tensor,
    *,
    scale: float | None = None,
    window: int | None = None,
) -> torch.Tensor:
    """Softmax attention of each slot's query over the first `lengths_S` positions of that slot.

    Args:
        lengths_S: positions that hold a token, the query's own included; of an empty slot 0, whose result is 0 or
            means nothing.
        scale: factor on the scores; 1/sqrt(D) when None.
        window: only so many last positions are seen.

    Returns:
        [S, H, D].
    """
    D = query_SHD.shape[-1]
    scale = scale or D**-0.5
    fits = query_SHD.is_cuda and query_SHD.dtype in HALVES and D in (16, 32, 64, 128, 256) and find_spec("triton")
    if fits and values_SGLD.shape[-1] == D:
        from graftlm.ops.kernels.slot_attention import slot_attention_kernel

        return slot_attention_kernel(query_SHD, keys_SGLD, values_SGLD, lengths_S, scale, window or 0)
    return slot_attention_reference(query_SHD, keys_SGLD, values_SGLD, lengths_S, scale=scale, window=window)


def slot_attention_reference(
    query_SHD: torch.Tensor,
    keys_SGLD: torch.Tensor,
    values_SGLD: torch.Tensor,
    lengths_S: torch.Tensor,
    *,
    scale: float,
    window: int | None = None,
) -> torch.Tensor:
    """The same by torch's attention under a mask; on a CPU over no more positions than the longest slot has."""
    L = keys_SGLD.shape[2] if lengths_S.is_cuda else max(1, int(lengths_S.max()))
    place_L, last_S1 = torch.arange(L, device=lengths_S.device), lengths_S[:, None]
    seen_SL = place_L < last_S1.clamp(min=1)  # an empty slot sees one position: no softmax is of nothing
    if window is not None:
        seen_SL &= place_L >= last_S1 - window
    out_SH1D = F.scaled_dot_product_attention(
        query_SHD[:, :, None], keys_SGLD[:, :, :L], values_SGLD[:, :, :L], attn_mask=seen_SL[:, None, None],
        scale=scale, enable_gqa=query_SHD.shape[1] != keys_SGLD.shape[1],
    )  # fmt: skip
    return out_SH1D[:, :, 0]
