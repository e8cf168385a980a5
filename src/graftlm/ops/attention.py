"""Attention over packed rows: many documents end to end in one row, none of which sees another.

Shapes: T tokens in the row, H query heads, G key/value heads (H a multiple of G), D head size, N documents.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Literal

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

Kernel = Literal["documents", "varlen", "flex", "flash3", "flash4", "uniform", "by_length"]
"""documents: our Triton kernel; varlen: torch's (flash attention 2); flex: torch's compiled attention under a document
mask; flash3, flash4: those of the packages
`flash_attn_interface` and `flash_attn.cute`, where they are installed; uniform: SDPA, where all documents have one
length; by_length: SDPA over padded groups of documents, on any device."""
FLASH = {"flash3": "flash_attn_interface", "flash4": "flash_attn.cute"}

HALVES = (torch.bfloat16, torch.float16)
_OTHERS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


@dataclass(frozen=True)
class Layout:
    """Where the documents of a row lie, in the forms that the attention kernels take.

    Attributes:
        boundaries: [N + 1] int32, where each document starts; the last entry is T. On a GPU empty documents at the
            end make N a round number, so that rows of one length have one shape.
        longest: tokens of the longest document where every document has them, else 0 on a GPU.
        kernel: which kernel attends (see `choose_kernel`).
        blocks, backward_blocks: the blocks of `ops.kernels.document_attention`; None for the other kernels.
        mask: flex's; None for the other kernels.
    """

    boundaries: torch.Tensor
    longest: int
    kernel: Kernel = "by_length"
    blocks: torch.Tensor | None = None
    backward_blocks: torch.Tensor | None = None
    mask: BlockMask | None = None


def lay_out(boundaries: torch.Tensor, tokens: int, longest: int, kernel: Kernel) -> Layout:
    """The layout of a row of T = `tokens`. Nothing waits for the device.

    Args:
        boundaries: [N + 1] int32.
        longest: tokens of the longest document.
    """
    N = len(boundaries) - 1
    if kernel == "by_length" or longest * N == tokens:
        return Layout(boundaries, longest, "by_length" if kernel == "by_length" else "uniform")
    room = 1 << (max(N, tokens // 64) - 1).bit_length()
    boundaries = F.pad(boundaries, (0, room - N), value=tokens)
    if kernel == "varlen" or kernel in FLASH:
        return Layout(boundaries, max(2048, 1 << (longest - 1).bit_length()), kernel)
    if kernel == "flex":
        return Layout(boundaries, 0, kernel, mask=_document_mask(boundaries, tokens))
    from graftlm.ops.kernels.document_attention import BACKWARD_BLOCK, FORWARD_BLOCK, document_blocks

    blocks, backward_blocks = (document_blocks(boundaries, tokens, size) for size in (FORWARD_BLOCK, BACKWARD_BLOCK))
    return Layout(boundaries, 0, kernel, blocks, backward_blocks)


def packed_attention(
    query_THD: torch.Tensor,
    key_TGD: torch.Tensor,
    value_TGD: torch.Tensor,
    layout: Layout,
    *,
    scale: float | None = None,
    window: int | None = None,
) -> torch.Tensor:
    """Causal attention inside each document.

    Args:
        scale: factor on the scores; 1/sqrt(D) when None.
        window: a token sees itself and at most `window - 1` tokens before it (sliding-window models).

    Returns:
        [T, H, D].
    """
    if torch.is_autocast_enabled(query_THD.device.type):
        # Rotary embedding in fp32 leaves queries and keys in fp32 beside bf16 values; torch's own casts too.
        kind = torch.get_autocast_dtype(query_THD.device.type)
        query_THD, key_TGD, value_TGD = (x.to(kind) for x in (query_THD, key_TGD, value_TGD))
    qkv = query_THD, key_TGD, value_TGD
    if layout.kernel == "uniform":
        return _uniform(*qkv, layout.longest, scale, window)
    if layout.mask is not None:
        return _packed_by_flex(*qkv, layout.mask, scale, window)
    fits = query_THD.dtype in HALVES and value_TGD.shape[-1] == query_THD.shape[-1]
    if layout.kernel == "by_length" or not fits:
        return _packed_by_length(*qkv, layout.boundaries, scale, window)
    if layout.kernel == "varlen":
        return _packed_by_torch(*qkv, layout.boundaries, layout.longest, scale, window)
    if layout.kernel in FLASH:
        return _packed_by_flash(*qkv, layout, scale, window)
    from graftlm.ops.kernels.document_attention import document_attention

    assert layout.blocks is not None and layout.backward_blocks is not None
    scale = scale or query_THD.shape[-1] ** -0.5
    return document_attention(*qkv, layout.blocks, layout.backward_blocks, scale=scale, window=window)


def kernels_for(device: torch.device, head_size: int) -> list[Kernel]:
    """The kernels that can attend to packed rows here."""
    if device.type != "cuda" or head_size > 256 or head_size % 8:
        return ["by_length"]
    found: list[Kernel] = ["by_length"]
    if _varlen_kernel() is not None:
        found.append("varlen")
    if find_spec("triton"):
        found += ["documents", "flex"]
    return [*found, *(name for name, module in FLASH.items() if _installed(module))]  # type: ignore[list-item]


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


def _packed_by_torch(query, key, value, boundaries, longest, scale, window):  # type: ignore[no-untyped-def]
    groups = query.shape[1] // key.shape[1]
    if groups > 1:  # torch 2.11's kernel has no grouped-query argument; 2.13's has, at the same speed
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    sides = (-1 if window is None else window - 1, 0)
    return _varlen_kernel()(query, key, value, boundaries, boundaries, longest, longest, scale=scale, window_size=sides)


def _document_mask(boundaries: torch.Tensor, tokens: int) -> BlockMask:
    """Which tiles of a [T, T] row are seen, in whole or in part."""
    index_T = torch.arange(tokens, device=boundaries.device)
    document_T = torch.searchsorted(boundaries.to(index_T), index_T, right=True)

    def seen(batch, head, query, key):  # type: ignore[no-untyped-def]
        return (document_T[query] == document_T[key]) & (query >= key)

    return create_block_mask(seen, None, None, tokens, tokens, device=boundaries.device.type)


@cache
def _flex_kernel():  # type: ignore[no-untyped-def]
    return torch.compile(flex_attention, dynamic=False)


def _packed_by_flex(query, key, value, mask, scale, window):  # type: ignore[no-untyped-def]
    """FlexAttention (arXiv 2412.05496). A window hides scores; its tiles are not left out, as layers share the mask."""
    q, k, v = (x.transpose(0, 1)[None] for x in (query, key, value))  # [1, heads, T, D]
    attend = _flex_kernel() if q.is_cuda else flex_attention

    def near(score, batch, head, query, key):  # type: ignore[no-untyped-def]
        return torch.where(query - key < window, score, -float("inf"))

    score_mod, grouped = None if window is None else near, q.shape[1] != k.shape[1]
    return attend(q, k, v, score_mod=score_mod, block_mask=mask, scale=scale, enable_gqa=grouped)[0].transpose(0, 1)


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package around it
        return False


def _packed_by_flash(query, key, value, layout, scale, window):  # type: ignore[no-untyped-def]
    """Flash attention 3 (arXiv 2407.08608) or 4 by its own package; both take fewer key heads than query heads."""
    attend = import_module(FLASH[layout.kernel]).flash_attn_varlen_func
    sides = {} if window is None else {"window_size": (window - 1, 0)}  # they call no window by different names
    found = attend(
        query, key, value, cu_seqlens_q=layout.boundaries, cu_seqlens_k=layout.boundaries,
        max_seqlen_q=layout.longest, max_seqlen_k=layout.longest, softmax_scale=scale, causal=True, **sides,
    )  # fmt: skip
    return found[0] if isinstance(found, tuple) else found  # some versions give the normalisers, too


def _uniform(query, key, value, length, scale, window):  # type: ignore[no-untyped-def]
    """Documents of one length are a batch: cuDNN attends at 1.8 times the speed of torch's own kernel on an H200."""
    q, k, v = (x.unflatten(0, (-1, length)).transpose(1, 2) for x in (query, key, value))  # [N, heads, L, D]
    with sdpa_kernel([SDPBackend.CUDNN_ATTENTION, *_OTHERS], set_priority=True):
        out = _causal(q, k, v, scale, window)
    return out.transpose(1, 2).flatten(0, 1)


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
        attended = _causal(q, k, v, scale, window)
        out_THD[place_nL[real_nL]] = attended.transpose(1, 2)[real_nL]
    return out_THD


def _causal(q, k, v, scale, window):  # type: ignore[no-untyped-def]
    """[n, heads, L, D] → the same: causal attention of n documents of one length."""
    L, mask_LL = q.shape[2], None
    if window is not None and window < L:
        offset_L = torch.arange(L, device=q.device)
        distance_LL = offset_L[:, None] - offset_L[None, :]
        mask_LL = (distance_LL >= 0) & (distance_LL < window)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask_LL, is_causal=mask_LL is None, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
    )
