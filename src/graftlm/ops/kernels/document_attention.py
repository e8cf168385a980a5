"""Causal attention inside the documents of a packed row, as Triton kernels (FlashAttention-2, arXiv 2307.08691).

Torch's variable-length kernel starts a block of threads for every block of the longest document in every document
and is made for tiles of 128 queries. Real rows hold dozens of documents of some hundred tokens: here the grid is the
list of blocks that exist, and keys of grouped heads are read where they lie instead of being repeated.

Shapes: T tokens, H query heads, G key/value heads, D head size, B blocks.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

FORWARD_BLOCK, BACKWARD_BLOCK = 64, 64
"""Tokens of one block: queries of the forward pass, keys and queries of the two backward passes."""

TILES = {"forward": (64, 4, 3), "keys": (32, 4, 2), "queries": (32, 4, 2)}
"""Of each pass: tokens of a step along the other side, warps, pipeline stages."""

LOG2E = tl.constexpr(1.4426950408889634)


def document_blocks(boundaries: torch.Tensor, tokens: int, size: int) -> torch.Tensor:
    """[3, B] int32: each block's first token and its document's begin and end; empty blocks are (0, 0, 0).

    B is a function of T and the number of boundaries alone, and nothing waits for the device.
    """
    begin_N, end_N = boundaries[:-1].long(), boundaries[1:].long()
    blocks_N = (end_N - begin_N + size - 1) // size
    last_N = blocks_N.cumsum(0)
    index_B = torch.arange(tokens // size + len(begin_N), device=boundaries.device)
    document_B = torch.searchsorted(last_N, index_B, right=True)
    exists_B = document_B < len(begin_N)
    document_B = document_B.clamp(max=len(begin_N) - 1)
    first_B = begin_N[document_B] + (index_B - last_N[document_B] + blocks_N[document_B]) * size
    return (torch.stack([first_B, begin_N[document_B], end_N[document_B]]) * exists_B).int()


@triton.jit
def _forward(
    Q, K, V, OUT, LSE, BLOCKS, T, scale, sq_t, sq_h, sk_t, sk_g, sv_t, sv_g,
    B: tl.constexpr, GROUP: tl.constexpr, WINDOW: tl.constexpr, H: tl.constexpr, D: tl.constexpr, DP: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    block, h = tl.program_id(0), tl.program_id(1)
    first, begin, end = tl.load(BLOCKS + block), tl.load(BLOCKS + B + block), tl.load(BLOCKS + 2 * B + block)
    if first >= end:
        return
    g = h // GROUP
    d = tl.arange(0, DP)
    m = first + tl.arange(0, BM)
    real_m = (m < end)[:, None] & (d < D)[None, :]
    q = tl.load(Q + m.to(tl.int64)[:, None] * sq_t + h * sq_h + d[None, :], mask=real_m, other=0.0)
    best = tl.full([BM], float("-inf"), tl.float32)
    total = tl.zeros([BM], tl.float32)
    out = tl.zeros([BM, DP], tl.float32)
    low = begin
    if WINDOW > 0:
        low = begin + tl.maximum(first - WINDOW + 1 - begin, 0) // BN * BN
    for start in range(low, first, BN):  # whole tiles before the diagonal
        best, total, out = _attend(
            q, K, V, best, total, out, start, m, first, g, scale, sk_t, sk_g, sv_t, sv_g, False, WINDOW, D, DP, BN
        )
    for start in range(first, tl.minimum(first + BM, end), BN):
        best, total, out = _attend(
            q, K, V, best, total, out, start, m, end, g, scale, sk_t, sk_g, sv_t, sv_g, True, WINDOW, D, DP, BN
        )
    out = out / total[:, None]
    tl.store(OUT + (m.to(tl.int64)[:, None] * H + h) * D + d[None, :], out.to(OUT.dtype.element_ty), mask=real_m)
    tl.store(LSE + h * T + m, best + tl.log2(total), mask=m < end)


@triton.jit
def _attend(
    q, K, V, best, total, out, start, m, end, g, scale, sk_t, sk_g, sv_t, sv_g,
    DIAGONAL: tl.constexpr, WINDOW: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    n, d = start + tl.arange(0, BN), tl.arange(0, DP)
    real_n = (n < end)[:, None] & (d < D)[None, :]
    k = tl.load(K + n.to(tl.int64)[:, None] * sk_t + g * sk_g + d[None, :], mask=real_n, other=0.0)
    scores = tl.dot(q, tl.trans(k)) * (scale * LOG2E)  # in powers of two
    if DIAGONAL:
        scores = tl.where(m[:, None] >= n[None, :], scores, float("-inf"))
    if WINDOW > 0:
        scores = tl.where(m[:, None] - n[None, :] < WINDOW, scores, float("-inf"))
    new = tl.maximum(best, tl.max(scores, 1))
    safe = new
    if WINDOW > 0:  # a row may see nothing of this tile
        safe = tl.where(new == float("-inf"), 0.0, new)
    p = tl.exp2(scores - safe[:, None])
    shrink = tl.exp2(best - safe)
    v = tl.load(V + n.to(tl.int64)[:, None] * sv_t + g * sv_g + d[None, :], mask=real_n, other=0.0)
    out = tl.dot(p.to(v.dtype), v, out * shrink[:, None])
    return new, total * shrink + tl.sum(p, 1), out


@triton.jit
def _delta(OUT, DOUT, DELTA, T, s_t, s_h, H: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, BM: tl.constexpr):
    """Σ_d out · dout of each token and head."""
    m, h, d = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1), tl.arange(0, DP)
    real = (m < T)[:, None] & (d < D)[None, :]
    at = m.to(tl.int64)[:, None]
    out = tl.load(OUT + (at * H + h) * D + d[None, :], mask=real, other=0.0).to(tl.float32)
    dout = tl.load(DOUT + at * s_t + h * s_h + d[None, :], mask=real, other=0.0).to(tl.float32)
    tl.store(DELTA + h * T + m, tl.sum(out * dout, 1), mask=m < T)


@triton.jit
def _key_gradients(
    Q, K, V, DOUT, LSE, DELTA, DK, DV, BLOCKS, T, scale,
    sq_t, sq_h, sk_t, sk_g, sv_t, sv_g, so_t, so_h,
    B: tl.constexpr, G: tl.constexpr, GROUP: tl.constexpr, WINDOW: tl.constexpr, D: tl.constexpr, DP: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    block, g = tl.program_id(0), tl.program_id(1)
    first, end = tl.load(BLOCKS + block), tl.load(BLOCKS + 2 * B + block)
    if first >= end:
        return
    d = tl.arange(0, DP)
    n = first + tl.arange(0, BN)
    real_n = (n < end)[:, None] & (d < D)[None, :]
    k = tl.load(K + n.to(tl.int64)[:, None] * sk_t + g * sk_g + d[None, :], mask=real_n, other=0.0)
    v = tl.load(V + n.to(tl.int64)[:, None] * sv_t + g * sv_g + d[None, :], mask=real_n, other=0.0)
    dk, dv = tl.zeros([BN, DP], tl.float32), tl.zeros([BN, DP], tl.float32)
    high = end
    if WINDOW > 0:
        high = tl.minimum(end, first + BN + WINDOW - 1)
    for member in range(GROUP):
        h = g * GROUP + member
        for start in range(first, tl.minimum(first + BN, end), BM):
            dk, dv = _key_step(
                Q, DOUT, LSE + h * T, DELTA + h * T, k, v, dk, dv, start, n, end, h, scale,
                sq_t, sq_h, so_t, so_h, True, WINDOW, D, DP, BM,
            )  # fmt: skip
        for start in range(first + BN, high, BM):
            dk, dv = _key_step(
                Q, DOUT, LSE + h * T, DELTA + h * T, k, v, dk, dv, start, n, end, h, scale,
                sq_t, sq_h, so_t, so_h, False, WINDOW, D, DP, BM,
            )  # fmt: skip
    place = (n.to(tl.int64)[:, None] * G + g) * D + d[None, :]
    tl.store(DK + place, (dk * scale).to(DK.dtype.element_ty), mask=real_n)
    tl.store(DV + place, dv.to(DV.dtype.element_ty), mask=real_n)


@triton.jit
def _key_step(
    Q, DOUT, LSE, DELTA, k, v, dk, dv, start, n, end, h, scale, sq_t, sq_h, so_t, so_h,
    DIAGONAL: tl.constexpr, WINDOW: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    m, d = start + tl.arange(0, BM), tl.arange(0, DP)
    at = m.to(tl.int64)[:, None]
    real_m = (m < end)[:, None] & (d < D)[None, :]
    q = tl.load(Q + at * sq_t + h * sq_h + d[None, :], mask=real_m, other=0.0)
    lse = tl.load(LSE + m, mask=m < end, other=float("inf"))  # no query, no probability
    p_nm = tl.exp2(tl.dot(k, tl.trans(q)) * (scale * LOG2E) - lse[None, :])
    if DIAGONAL:
        p_nm = tl.where(m[None, :] >= n[:, None], p_nm, 0.0)
    if WINDOW > 0:
        p_nm = tl.where(m[None, :] - n[:, None] < WINDOW, p_nm, 0.0)
    dout = tl.load(DOUT + at * so_t + h * so_h + d[None, :], mask=real_m, other=0.0)
    dv = tl.dot(p_nm.to(dout.dtype), dout, dv)
    delta = tl.load(DELTA + m, mask=m < end, other=0.0)
    ds_nm = p_nm * (tl.dot(v, tl.trans(dout)) - delta[None, :])
    return tl.dot(ds_nm.to(q.dtype), q, dk), dv


@triton.jit
def _query_gradients(
    Q, K, V, DOUT, LSE, DELTA, DQ, BLOCKS, T, scale,
    sq_t, sq_h, sk_t, sk_g, sv_t, sv_g, so_t, so_h,
    B: tl.constexpr, GROUP: tl.constexpr, WINDOW: tl.constexpr, H: tl.constexpr, D: tl.constexpr, DP: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    block, h = tl.program_id(0), tl.program_id(1)
    first, begin, end = tl.load(BLOCKS + block), tl.load(BLOCKS + B + block), tl.load(BLOCKS + 2 * B + block)
    if first >= end:
        return
    g = h // GROUP
    d = tl.arange(0, DP)
    m = first + tl.arange(0, BM)
    at = m.to(tl.int64)[:, None]
    real_m = (m < end)[:, None] & (d < D)[None, :]
    q = tl.load(Q + at * sq_t + h * sq_h + d[None, :], mask=real_m, other=0.0)
    dout = tl.load(DOUT + at * so_t + h * so_h + d[None, :], mask=real_m, other=0.0)
    lse = tl.load(LSE + h * T + m, mask=m < end, other=float("inf"))
    delta = tl.load(DELTA + h * T + m, mask=m < end, other=0.0)
    dq = tl.zeros([BM, DP], tl.float32)
    low = begin
    if WINDOW > 0:
        low = begin + tl.maximum(first - WINDOW + 1 - begin, 0) // BN * BN
    for start in range(low, first, BN):
        dq = _query_step(
            q, dout, lse, delta, K, V, dq, start, m, first, g, scale, sk_t, sk_g, sv_t, sv_g, False, WINDOW, D, DP, BN
        )
    for start in range(first, tl.minimum(first + BM, end), BN):
        dq = _query_step(
            q, dout, lse, delta, K, V, dq, start, m, end, g, scale, sk_t, sk_g, sv_t, sv_g, True, WINDOW, D, DP, BN
        )
    tl.store(DQ + (at * H + h) * D + d[None, :], (dq * scale).to(DQ.dtype.element_ty), mask=real_m)


@triton.jit
def _query_step(
    q, dout, lse, delta, K, V, dq, start, m, end, g, scale, sk_t, sk_g, sv_t, sv_g,
    DIAGONAL: tl.constexpr, WINDOW: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    n, d = start + tl.arange(0, BN), tl.arange(0, DP)
    real_n = (n < end)[:, None] & (d < D)[None, :]
    k = tl.load(K + n.to(tl.int64)[:, None] * sk_t + g * sk_g + d[None, :], mask=real_n, other=0.0)
    v = tl.load(V + n.to(tl.int64)[:, None] * sv_t + g * sv_g + d[None, :], mask=real_n, other=0.0)
    p = tl.exp2(tl.dot(q, tl.trans(k)) * (scale * LOG2E) - lse[:, None])
    if DIAGONAL:
        p = tl.where(m[:, None] >= n[None, :], p, 0.0)
    if WINDOW > 0:
        p = tl.where(m[:, None] - n[None, :] < WINDOW, p, 0.0)
    ds = p * (tl.dot(dout, tl.trans(v)) - delta[:, None])
    return tl.dot(ds.to(k.dtype), k, dq)


@torch.library.custom_op("graft::document_attention", mutates_args=())
def _attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, blocks: torch.Tensor, backward_blocks: torch.Tensor,
    scale: float, window: int,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    T, H, D = q.shape
    q, k, v = (_last_contiguous(x) for x in (q, k, v))
    out, lse = q.new_empty(T, H, D), q.new_empty(H, T, dtype=torch.float32)
    _forward[(blocks.shape[1], H)](
        q, k, v, out, lse, blocks, T, scale, *q.stride()[:2], *k.stride()[:2], *v.stride()[:2],
        B=blocks.shape[1], GROUP=H // k.shape[1], WINDOW=window, H=H, D=D, DP=max(16, triton.next_power_of_2(D)),
        BM=FORWARD_BLOCK, BN=TILES["forward"][0], **_launch("forward"),
    )  # fmt: skip
    return out, lse


@_attention.register_fake
def _attention_shapes(q, k, v, blocks, backward_blocks, scale, window):
    T, H, D = q.shape
    return q.new_empty(T, H, D), q.new_empty(H, T, dtype=torch.float32)


@torch.library.custom_op("graft::document_attention_backward", mutates_args=())
def _attention_backward(
    dout: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, lse: torch.Tensor,
    blocks: torch.Tensor, backward_blocks: torch.Tensor, scale: float, window: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    (T, H, D), G = q.shape, k.shape[1]
    q, k, v, dout = (_last_contiguous(x) for x in (q, k, v, dout))
    delta = torch.empty_like(lse)
    dq, dk, dv = q.new_empty(T, H, D), k.new_empty(T, G, D), v.new_empty(T, G, D)
    sizes: dict[str, Any] = {"WINDOW": window, "GROUP": H // G, "D": D, "DP": max(16, triton.next_power_of_2(D))}
    _delta[(triton.cdiv(T, 64), H)](out, dout, delta, T, *dout.stride()[:2], H=H, D=D, DP=sizes["DP"], BM=64)
    strides = (*q.stride()[:2], *k.stride()[:2], *v.stride()[:2], *dout.stride()[:2])
    _key_gradients[(backward_blocks.shape[1], G)](
        q, k, v, dout, lse, delta, dk, dv, backward_blocks, T, scale, *strides,
        B=backward_blocks.shape[1], G=G, BM=TILES["keys"][0], BN=BACKWARD_BLOCK, **sizes, **_launch("keys"),
    )  # fmt: skip
    _query_gradients[(backward_blocks.shape[1], H)](
        q, k, v, dout, lse, delta, dq, backward_blocks, T, scale, *strides,
        B=backward_blocks.shape[1], H=H, BM=BACKWARD_BLOCK, BN=TILES["queries"][0], **sizes, **_launch("queries"),
    )  # fmt: skip
    return dq, dk, dv


@_attention_backward.register_fake
def _attention_backward_shapes(dout, q, k, v, out, lse, blocks, backward_blocks, scale, window):
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _keep(ctx, inputs, output):
    q, k, v, blocks, backward_blocks, ctx.scale, ctx.window = inputs
    ctx.save_for_backward(q, k, v, *output, blocks, backward_blocks)


def _gradients(ctx, dout, _):
    q, k, v, out, lse, blocks, backward_blocks = ctx.saved_tensors
    found = _attention_backward(dout, q, k, v, out, lse, blocks, backward_blocks, ctx.scale, ctx.window)
    return *found, None, None, None, None


_attention.register_autograd(_gradients, setup_context=_keep)


def document_attention(
    query_THD: torch.Tensor,
    key_TGD: torch.Tensor,
    value_TGD: torch.Tensor,
    blocks: torch.Tensor,
    backward_blocks: torch.Tensor,
    *,
    scale: float,
    window: int | None = None,
) -> torch.Tensor:
    """[T, H, D]; attention of `packed_attention`.

    Args:
        blocks, backward_blocks: `document_blocks` of FORWARD_BLOCK and of BACKWARD_BLOCK tokens.
    """
    return _attention(query_THD, key_TGD, value_TGD, blocks, backward_blocks, scale, window or 0)[0]


def _last_contiguous(x: torch.Tensor) -> torch.Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _launch(which: str) -> dict[str, int]:
    _, warps, stages = TILES[which]
    return {"num_warps": warps, "num_stages": stages}
