"""The product of one row with a matrix in Triton, for decoding one sequence: it is as fast as the weights can be read.

Matrix libraries multiply tiles; with one row they reach about two thirds of the memory's bandwidth.
Shapes: I inputs, O outputs.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

OUTPUTS, INPUTS, WARPS = 4, 1024, 4
"""Of a tile: each thread reads 32 weights, 16 bytes at a time."""


@triton.jit
def _product(X, W, Y, O, I, BO: tl.constexpr, BI: tl.constexpr):
    o = tl.program_id(0) * BO + tl.arange(0, BO)
    total = tl.zeros([BO, BI], tl.float32)
    for start in range(0, I, BI):
        i = start + tl.arange(0, BI)
        x = tl.load(X + i, mask=i < I, other=0.0).to(tl.float32)
        place = o.to(tl.int64)[:, None] * I + i[None, :]
        w = tl.load(W + place, mask=(o < O)[:, None] & (i < I)[None, :], other=0.0, eviction_policy="evict_first")
        total += w.to(tl.float32) * x[None, :]
    tl.store(Y + o, tl.sum(total, 1), mask=o < O)


@torch.library.custom_op("graft::one_row", mutates_args=())
def one_row(x_1I: torch.Tensor, weight_OI: torch.Tensor) -> torch.Tensor:
    """[1, O]: x·Wᵀ, summed in fp32."""
    O, I = weight_OI.shape
    y_1O = x_1I.new_empty(1, O)
    _product[(triton.cdiv(O, OUTPUTS),)](
        x_1I.contiguous(), weight_OI.contiguous(), y_1O, O, I, BO=OUTPUTS, BI=INPUTS, num_warps=WARPS
    )
    return y_1O


@one_row.register_fake
def _(x_1I, weight_OI):
    return x_1I.new_empty(1, len(weight_OI))
