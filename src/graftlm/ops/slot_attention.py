"""Attention of decoding: one new token in each slot of a cache whose slots hold sequences of their own length.

Shapes: S slots, H query heads, G key/value heads (H a multiple of G), L positions of a slot, D head size.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
import torch.nn.functional as F

HALVES = (torch.bfloat16, torch.float16)


def put_states(
    keys_SGLD: torch.Tensor,
    values_SGLD: torch.Tensor,
    key_BGD: torch.Tensor,
    value_BGD: torch.Tensor,
    position_B: torch.Tensor,
) -> None:
    """Write one new state into each of the first B slots, at its position."""
    if _has_kernel(key_BGD, value_BGD):
        from graftlm.ops.kernels.slot_attention import put_states_kernel

        put_states_kernel(keys_SGLD, values_SGLD, key_BGD, value_BGD, position_B)
        return
    row_B = torch.arange(len(key_BGD), device=key_BGD.device)
    keys_SGLD[row_B, :, position_B], values_SGLD[row_B, :, position_B] = key_BGD, value_BGD


def _has_kernel(one: torch.Tensor, other: torch.Tensor) -> bool:
    D = one.shape[-1]
    fits = one.is_cuda and one.dtype in HALVES and D in (16, 32, 64, 128, 256) and other.shape[-1] == D
    return fits and find_spec("triton") is not None


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
        keys_SGLD, values_SGLD: may have more slots than there are queries; those are not looked at.
        lengths_S: positions that hold a token, the query's own included; of an empty slot 0, whose result is 0 or
            means nothing.
        scale: factor on the scores; 1/sqrt(D) when None.
        window: only so many last positions are seen.

    Returns:
        [S, H, D].
    """
    scale = scale or query_SHD.shape[-1] ** -0.5
    if _has_kernel(query_SHD, values_SGLD):
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
    S, L = len(query_SHD), keys_SGLD.shape[2] if lengths_S.is_cuda else max(1, int(lengths_S.max()))
    place_L, last_S1 = torch.arange(L, device=lengths_S.device), lengths_S[:, None]
    seen_SL = place_L < last_S1.clamp(min=1)  # an empty slot sees one position: no softmax is of nothing
    if window is not None:
        seen_SL &= place_L >= last_S1 - window
    out_SH1D = F.scaled_dot_product_attention(
        query_SHD[:, :, None], keys_SGLD[:S, :, :L], values_SGLD[:S, :, :L], attn_mask=seen_SL[:, None, None],
        scale=scale, enable_gqa=query_SHD.shape[1] != keys_SGLD.shape[1],
    )  # fmt: skip
    return out_SH1D[:, :, 0]
