"""Cast to 8-bit floating point in both orders at once (Triton)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

TILE = 64


@triton.jit
def _cast(X, SCALE, ROWS, COLUMNS, R, K, LARGEST: tl.constexpr, TILE: tl.constexpr):
    r = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    k = tl.program_id(1).to(tl.int64) * TILE + tl.arange(0, TILE)
    real = (r < R)[:, None] & (k < K)[None, :]
    x = tl.load(X + r[:, None] * K + k[None, :], mask=real, other=0.0).to(tl.float32) / tl.load(SCALE)
    x8 = tl.clamp(x, -LARGEST, LARGEST).to(ROWS.dtype.element_ty)
    tl.store(ROWS + r[:, None] * K + k[None, :], x8, mask=real)
    tl.store(COLUMNS + k[:, None] * R + r[None, :], tl.trans(x8), mask=tl.trans(real))


@torch.library.custom_op("graft::cast_both", mutates_args=())
def cast_both(
    x_RK: torch.Tensor, scale: torch.Tensor, kind: torch.dtype, largest: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """x ÷ scale in an 8-bit format, as [R, K] and as [K, R], both contiguous; one pass over x.

    Args:
        scale: [] fp32.
        largest: the format's largest number; values beyond it are set to it.
    """
    R, K = x_RK.shape
    rows, columns = x_RK.new_empty(R, K, dtype=kind), x_RK.new_empty(K, R, dtype=kind)
    grid = (triton.cdiv(R, TILE), triton.cdiv(K, TILE))
    _cast[grid](x_RK.contiguous(), scale, rows, columns, R, K, LARGEST=largest, TILE=TILE, num_warps=4)
    return rows, columns


@cast_both.register_fake
def _(x_RK, scale, kind, largest):
    R, K = x_RK.shape
    return x_RK.new_empty(R, K, dtype=kind), x_RK.new_empty(K, R, dtype=kind)
