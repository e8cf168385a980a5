"""Attention of decoding in Triton: each slot's keys and values are read once, as far as they go.

A program reads one chunk of one slot's keys and values for all query heads that share them; a second kernel joins the
chunks (flash decoding: Dao et al., https://pytorch.org/blog/flash-decoding/). Chunks behind a slot's length end at once.

Shapes: S slots, H query heads, G key/value heads, L positions, D head size, C chunks.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 64
"""Positions of a step."""
CHUNK = 256
"""Positions of a program, at least: a slot of 2,048 positions has 8 programs a key head."""


@triton.jit
def _chunks(
    Q, K, V, LENGTHS, OUT, TOP, SUM, scale, window, chunk, S, H, G, L, C,
    slot_stride, head_stride, R: tl.constexpr, RP: tl.constexpr, D: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    s, g, c = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(LENGTHS + s).to(tl.int32)
    first = tl.where(window > 0, tl.maximum(length - window, 0), 0)
    start = tl.maximum(c * chunk, first // BN * BN)
    end = tl.minimum(length, (c + 1) * chunk)
    r, d = tl.arange(0, RP), tl.arange(0, D)
    heads = g * R + r
    q = tl.load(Q + (s * H + heads)[:, None] * D + d[None, :], mask=(r < R)[:, None], other=0.0)
    top, total = tl.full([RP], -float("inf"), tl.float32), tl.zeros([RP], tl.float32)
    out = tl.zeros([RP, D], tl.float32)
    base = s.to(tl.int64) * slot_stride + g.to(tl.int64) * head_stride
    for begin in range(start, end, BN):
        n = begin + tl.arange(0, BN)
        real = (n < end) & (n >= first)
        place = base + n[:, None] * D + d[None, :]
        k = tl.load(K + place, mask=real[:, None], other=0.0)
        scores = tl.where(real[None, :], tl.dot(q, tl.trans(k)) * scale, -float("inf"))
        new_top = tl.maximum(top, tl.max(scores, 1))
        new_top = tl.where(new_top == -float("inf"), 0.0, new_top)
        weight, shrink = tl.exp(scores - new_top[:, None]), tl.exp(top - new_top)
        v = tl.load(V + place, mask=real[:, None], other=0.0)
        out = tl.dot(weight.to(v.dtype), v, out * shrink[:, None])
        total = total * shrink + tl.sum(weight, 1)
        top = new_top
    place = (s * H + heads) * C + c
    tl.store(OUT + place[:, None] * D + d[None, :], out, mask=(r < R)[:, None])
    tl.store(TOP + place, top, mask=r < R)
    tl.store(SUM + place, total, mask=r < R)


@triton.jit
def _join(OUT, TOP, SUM, FOUND, C, CP: tl.constexpr, D: tl.constexpr):
    row = tl.program_id(0)
    c, d = tl.arange(0, CP), tl.arange(0, D)
    place = row * C + c
    total = tl.load(SUM + place, mask=c < C, other=0.0)
    top = tl.where(total > 0, tl.load(TOP + place, mask=c < C, other=-float("inf")), -float("inf"))
    most = tl.max(top, 0)
    factor = tl.where(total > 0, tl.exp(top - tl.where(most == -float("inf"), 0.0, most)), 0.0)
    out = tl.load(OUT + place[:, None] * D + d[None, :], mask=(c < C)[:, None], other=0.0)
    whole = tl.maximum(tl.sum(total * factor, 0), 1e-30)  # an empty slot has none
    tl.store(FOUND + row * D + d, tl.sum(out * factor[:, None], 0) / whole)


@triton.jit
def _put(KEYS, VALUES, KEY, VALUE, POSITIONS, G, slot_stride, head_stride, D: tl.constexpr):
    s, g, d = tl.program_id(0), tl.program_id(1), tl.arange(0, D)
    position = tl.load(POSITIONS + s).to(tl.int64)
    there = s.to(tl.int64) * slot_stride + g.to(tl.int64) * head_stride + position * D + d
    here = (s * G + g) * D + d
    tl.store(KEYS + there, tl.load(KEY + here))
    tl.store(VALUES + there, tl.load(VALUE + here))


@torch.library.custom_op("graft::put_states", mutates_args=("keys_SGLD", "values_SGLD"))
def put_states_kernel(
    keys_SGLD: torch.Tensor, values_SGLD: torch.Tensor, key_BGD: torch.Tensor, value_BGD: torch.Tensor,
    position_B: torch.Tensor,
) -> None:  # fmt: skip
    """One new state in each of the first slots. An operator of its own, because a compiler that meets an indexed
    write copies the whole cache to be on the safe side."""
    B, G, D = key_BGD.shape
    assert keys_SGLD.stride() == values_SGLD.stride()
    _put[(B, G)](
        keys_SGLD, values_SGLD, key_BGD.contiguous(), value_BGD.contiguous(), position_B, G,
        keys_SGLD.stride(0), keys_SGLD.stride(1), D=D, num_warps=1,
    )  # fmt: skip


@put_states_kernel.register_fake
def _(keys_SGLD, values_SGLD, key_BGD, value_BGD, position_B):
    return None


@torch.library.custom_op("graft::slot_attention", mutates_args=())
def slot_attention_kernel(
    query_SHD: torch.Tensor, keys_SGLD: torch.Tensor, values_SGLD: torch.Tensor, lengths_S: torch.Tensor,
    scale: float, window: int,
) -> torch.Tensor:  # fmt: skip
    """`ops.slot_attention.slot_attention`; window 0: none. The cache may have more slots than there are queries."""
    (S, H, D), (G, L) = query_SHD.shape, keys_SGLD.shape[1:3]
    assert keys_SGLD.stride() == values_SGLD.stride()
    assert keys_SGLD.stride()[2:] == (D, 1)
    C = max(1, triton.cdiv(L, CHUNK))
    partial = query_SHD.new_empty
    out = partial(S, H, C, D, dtype=torch.float32)
    top, total = (partial(S, H, C, dtype=torch.float32) for _ in range(2))
    found = torch.empty_like(query_SHD, memory_format=torch.contiguous_format)
    _chunks[(S, G, C)](
        query_SHD.contiguous(), keys_SGLD, values_SGLD, lengths_S, out, top, total, scale, window, CHUNK, S, H, G, L, C,
        keys_SGLD.stride(0), keys_SGLD.stride(1), R=H // G, RP=max(16, triton.next_power_of_2(H // G)), D=D, BN=BLOCK,
        num_warps=4,
    )  # fmt: skip
    _join[(S * H,)](out, top, total, found, C, CP=triton.next_power_of_2(C), D=D, num_warps=1)
    return found


@slot_attention_kernel.register_fake
def _(query_SHD, keys_SGLD, values_SGLD, lengths_S, scale, window):
    return torch.empty_like(query_SHD, memory_format=torch.contiguous_format)
