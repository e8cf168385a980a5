"""SwiGLU between LoRA layers in one pass over memory (Triton).

The adapters of the gate and up projection are products over a rank of 16 or so: done here, tile by tile, they cost no
memory traffic, while as matmuls of their own each writes and reads a tensor as large as the projection's output. The
same pass multiplies with the down projection's A, and finds the largest value of each token for a cast to 8 bits.

Shapes: T tokens, I inner size, r rank of gate and up, s rank of down, P parts that the columns are split into (so that
enough programs run at once; what they sum up is added afterwards).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

ROWS, COLUMNS, WARPS = 32, 64, 2
"""A tile. Larger ones spill registers: 16 × 512 takes a hundred times as long."""

PART = 1408
"""Columns of one part, at least: 8 parts at an inner size of 11,008."""


@triton.jit
def _small(POINTER, rows, row_stride, mask_rows, R: tl.constexpr, RP: tl.constexpr, offset: tl.constexpr):
    """[rows, RP] of a [., R] matrix that starts at column `offset`; zeros behind column R."""
    r = tl.arange(0, RP)
    place = rows.to(tl.int64)[:, None] * row_stride + offset + r[None, :]
    return tl.load(POINTER + place, mask=mask_rows[:, None] & (r < R)[None, :], other=0.0)


@triton.jit
def _gate_and_up(GU, t, real, c, wide, xg, xu, BG, BU, I, R: tl.constexpr, RP: tl.constexpr):
    """Gate and up projection with their adapters, [ROWS, COLUMNS] in fp32."""
    place = t.to(tl.int64)[:, None] * (2 * I) + c[None, :]
    bg, bu = _small(BG, c, R, wide, R, RP, 0), _small(BU, c, R, wide, R, RP, 0)
    g = tl.load(GU + place, mask=real, other=0.0).to(tl.float32) + tl.dot(xg, tl.trans(bg))
    u = tl.load(GU + place + I, mask=real, other=0.0).to(tl.float32) + tl.dot(xu, tl.trans(bu))
    return g, u, bg, bu


@triton.jit
def _forward(
    GU, XA, BG, BU, AD, H, LARGEST, XD, T, I, part,
    R: tl.constexpr, RP: tl.constexpr, S: tl.constexpr, SP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    t = tl.program_id(0) * BM + tl.arange(0, BM)
    xg, xu = _small(XA, t, 2 * R, t < T, R, RP, 0), _small(XA, t, 2 * R, t < T, R, RP, R)
    largest = tl.zeros([BM], tl.float32)
    xd = tl.zeros([BM, SP], tl.float32)
    p = tl.program_id(1)
    for start in range(p * part, tl.minimum(I, p * part + part), BN):
        c = start + tl.arange(0, BN)
        real = (t < T)[:, None] & (c < I)[None, :]
        g, u, _, _ = _gate_and_up(GU, t, real, c, c < I, xg, xu, BG, BU, I, R, RP)
        h = (g * tl.sigmoid(g) * u).to(H.dtype.element_ty)
        tl.store(H + t.to(tl.int64)[:, None] * I + c[None, :], h, mask=real)
        s = tl.arange(0, SP)
        ad = tl.load(AD + s[:, None] * I + c[None, :], mask=(s < S)[:, None] & (c < I)[None, :], other=0.0)
        xd = tl.dot(h, tl.trans(ad), xd)
        largest = tl.maximum(largest, tl.max(tl.abs(h.to(tl.float32)), 1))
    s = tl.arange(0, SP)
    place = (p * T + t.to(tl.int64))[:, None] * S + s[None, :]
    tl.store(XD + place, xd, mask=(t < T)[:, None] & (s < S)[None, :])
    tl.store(LARGEST + p * T + t, largest, mask=t < T)


@triton.jit
def _backward(
    DH, DXD, GU, XA, BG, BU, AD, DGU, LARGEST, DXA, H, T, I, part,
    R: tl.constexpr, RP: tl.constexpr, S: tl.constexpr, SP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    t = tl.program_id(0) * BM + tl.arange(0, BM)
    xg, xu = _small(XA, t, 2 * R, t < T, R, RP, 0), _small(XA, t, 2 * R, t < T, R, RP, R)
    dxd = _small(DXD, t, S, t < T, S, SP, 0)
    largest = tl.zeros([BM], tl.float32)
    dxg, dxu = tl.zeros([BM, RP], tl.float32), tl.zeros([BM, RP], tl.float32)
    p = tl.program_id(1)
    for start in range(p * part, tl.minimum(I, p * part + part), BN):
        c = start + tl.arange(0, BN)
        real = (t < T)[:, None] & (c < I)[None, :]
        g, u, bg, bu = _gate_and_up(GU, t, real, c, c < I, xg, xu, BG, BU, I, R, RP)
        s = tl.arange(0, SP)
        ad = tl.load(AD + s[:, None] * I + c[None, :], mask=(s < S)[:, None] & (c < I)[None, :], other=0.0)
        place = t.to(tl.int64)[:, None] * I + c[None, :]
        dh = tl.load(DH + place, mask=real, other=0.0).to(tl.float32) + tl.dot(dxd, ad)
        sig = tl.sigmoid(g)
        silu = g * sig
        tl.store(H + place, (silu * u).to(H.dtype.element_ty), mask=real)
        dg = (dh * u * sig * (1.0 + g - silu)).to(DGU.dtype.element_ty)
        du = (dh * silu).to(DGU.dtype.element_ty)
        place = t.to(tl.int64)[:, None] * (2 * I) + c[None, :]
        tl.store(DGU + place, dg, mask=real)
        tl.store(DGU + place + I, du, mask=real)
        dxg, dxu = tl.dot(dg, bg, dxg), tl.dot(du, bu, dxu)
        here = tl.maximum(tl.max(tl.abs(dg.to(tl.float32)), 1), tl.max(tl.abs(du.to(tl.float32)), 1))
        largest = tl.maximum(largest, here)
    r = tl.arange(0, RP)
    place = (p * T + t.to(tl.int64))[:, None] * (2 * R) + r[None, :]
    real_r = (t < T)[:, None] & (r < R)[None, :]
    tl.store(DXA + place, dxg, mask=real_r)
    tl.store(DXA + place + R, dxu, mask=real_r)
    tl.store(LARGEST + p * T + t, largest, mask=t < T)


@torch.library.custom_op("graft::lora_swiglu", mutates_args=())
def lora_swiglu(
    gate_up_T2I: torch.Tensor, low_T2r: torch.Tensor, gate_B: torch.Tensor, up_B: torch.Tensor, down_A: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """silu(gate + low·Bᵀ) · (up + low·Bᵀ).

    Args:
        gate_up_T2I: both projections by the frozen weights, side by side.
        low_T2r: the input times both A matrices, scaled.
        gate_B, up_B: [I, r].
        down_A: [s, I].

    Returns:
        h [T, I]; its largest absolute values [P, T] in fp32; h·Aᵀ of the down projection [P, T, s] in fp32.
    """
    T, I = len(gate_up_T2I), gate_up_T2I.shape[1] // 2
    h, largest, low = _forward_buffers(gate_up_T2I, down_A)
    _forward[(triton.cdiv(T, ROWS), len(low))](
        gate_up_T2I, low_T2r, gate_B, up_B, down_A, h, largest, low, T, I, _part(I), **_constants(low_T2r, down_A)
    )
    return h, largest, low


@lora_swiglu.register_fake
def _(gate_up_T2I, low_T2r, gate_B, up_B, down_A):
    return _forward_buffers(gate_up_T2I, down_A)


@torch.library.custom_op("graft::lora_swiglu_backward", mutates_args=())
def lora_swiglu_backward(
    dh_TI: torch.Tensor, dlow_Ts: torch.Tensor, gate_up_T2I: torch.Tensor, low_T2r: torch.Tensor,
    gate_B: torch.Tensor, up_B: torch.Tensor, down_A: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Gradients, from that of h through the down projection's frozen weight and through its A.

    Returns:
        gradient of gate and up [T, 2I]; its largest absolute values [P, T] in fp32; gradient of low [P, T, 2r] in
        fp32; h [T, I], computed again.
    """
    T, I = dh_TI.shape
    dgu, largest, dlow, h = _backward_buffers(gate_up_T2I, low_T2r)
    _backward[(triton.cdiv(T, ROWS), len(dlow))](
        dh_TI.contiguous(), dlow_Ts.contiguous(), gate_up_T2I, low_T2r, gate_B, up_B, down_A, dgu, largest, dlow, h,
        T, I, _part(I), **_constants(low_T2r, down_A),
    )  # fmt: skip
    return dgu, largest, dlow, h


@lora_swiglu_backward.register_fake
def _(dh_TI, dlow_Ts, gate_up_T2I, low_T2r, gate_B, up_B, down_A):
    return _backward_buffers(gate_up_T2I, low_T2r)


def _part(I: int) -> int:
    return triton.cdiv(triton.cdiv(I, max(1, I // PART)), COLUMNS) * COLUMNS


def _forward_buffers(gate_up_T2I, down_A):
    T, I = len(gate_up_T2I), gate_up_T2I.shape[1] // 2
    P = triton.cdiv(I, _part(I))
    wide = gate_up_T2I.new_empty
    return wide(T, I), wide(P, T, dtype=torch.float32), wide(P, T, len(down_A), dtype=torch.float32)


def _backward_buffers(gate_up_T2I, low_T2r):
    T, I = len(gate_up_T2I), gate_up_T2I.shape[1] // 2
    P = triton.cdiv(I, _part(I))
    wide = gate_up_T2I.new_empty
    largest, dlow = wide(P, T, dtype=torch.float32), wide(P, *low_T2r.shape, dtype=torch.float32)
    return wide(T, 2 * I), largest, dlow, wide(T, I)


def _constants(low_T2r, down_A):
    """Ranks, the powers of two (16 at least) that tensor cores multiply, and the tile."""
    r, s = low_T2r.shape[1] // 2, len(down_A)
    padded = {"RP": max(16, triton.next_power_of_2(r)), "SP": max(16, triton.next_power_of_2(s))}
    return {"R": r, "S": s, **padded, "BM": ROWS, "BN": COLUMNS, "num_warps": WARPS}
