"""Attention of decoding: new tokens in each slot of a cache whose slots hold sequences of their own length.

Shapes: S slots, B slots of a step, K new tokens of each, H query heads, G key/value heads (H a multiple of G),
    L positions of a slot, D head size.
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


def put_several_states(
    keys_SGLD: torch.Tensor,
    values_SGLD: torch.Tensor,
    key_BGKD: torch.Tensor,
    value_BGKD: torch.Tensor,
    position_BK: torch.Tensor,
) -> None:
    """Write K new states into each of the first B slots, at their positions."""
    row_B1 = torch.arange(len(key_BGKD), device=key_BGKD.device)[:, None]
    for states_SGLD, new_BGKD in ((keys_SGLD, key_BGKD), (values_SGLD, value_BGKD)):
        states_SGLD[row_B1, :, position_BK] = new_BGKD.transpose(1, 2)


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
    """The same by torch's attention under a mask."""
    return several_slot_attention(
        query_SHD[:, :, None], keys_SGLD, values_SGLD, lengths_S[:, None], scale=scale, window=window
    )[:, :, 0]


def several_slot_attention(
    query_SHKD: torch.Tensor,
    keys_SGLD: torch.Tensor,
    values_SGLD: torch.Tensor,
    lengths_SK: torch.Tensor,
    *,
    scale: float | None = None,
    window: int | None = None,
) -> torch.Tensor:
    """`slot_attention` of K queries of each slot, each with its own length: [S, H, K, D].

    On a CPU over no more positions than the longest slot has.
    """
    S, L = len(query_SHKD), keys_SGLD.shape[2] if lengths_SK.is_cuda else max(1, int(lengths_SK.max()))
    return F.scaled_dot_product_attention(
        query_SHKD, keys_SGLD[:S, :, :L], values_SGLD[:S, :, :L], attn_mask=filled_slots(lengths_SK, L, window),
        scale=scale, enable_gqa=query_SHKD.shape[1] != keys_SGLD.shape[1],
    )  # fmt: skip


def filled_slots(lengths_SK: torch.Tensor, positions: int, window: int | None) -> torch.Tensor:
    """[S, 1, K, L] bool: what each new token of each slot sees of its L = `positions` places.

    Args:
        lengths_SK: places that hold a token, that one's included; where it is 0, one is seen: no softmax is of nothing.
    """
    place_L, end_SK1 = torch.arange(positions, device=lengths_SK.device), lengths_SK[..., None]
    seen_SKL = place_L < end_SK1.clamp(min=1)
    if window is not None:
        seen_SKL &= place_L >= end_SK1 - window
    return seen_SKL[:, None]
