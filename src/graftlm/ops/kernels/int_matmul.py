"""Products with weights of 4 or 8 bits, unpacked in registers (Triton).

A word holds 8 or 4 numbers of one row; each is shifted out, and what they are off by is made up for afterwards. For one
or two tokens a product is a sum over each row on the plain cores; for more, tensor cores multiply tiles, and the inputs
are split into parts so that enough programs read at once.

Shapes: T tokens, O outputs, I inputs, G groups of a row, W words of a row, S parts of the inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from graftlm.ops.int_weights import IntWeight

VECTOR_TOKENS = 2
"""Most tokens that go through the plain cores: each reads the weight again, from the cache."""

PROGRAMS = 264
"""Programs that keep a card busy: two on each of the 132 multiprocessors of an H100 or H200."""


@dataclass(frozen=True)
class Tile:
    """Outputs and inputs of a program's tile, warps, and loads under way at once."""

    outputs: int
    inputs: int
    warps: int
    stages: int


VECTOR = Tile(outputs=8, inputs=1024, warps=4, stages=2)
MATRIX = Tile(outputs=64, inputs=64, warps=4, stages=4)


@triton.jit
def _group_scale(SCALE, ZERO, o, g, real, G, HAS_ZERO: tl.constexpr, BITS: tl.constexpr):
    """Scale of outputs `o` in group `g`, and the number that stands for zero: half the range, and the zero point."""
    scale = tl.load(SCALE + o * G + g, mask=real, other=0.0).to(tl.float32)
    zero = tl.full(scale.shape, 1 << (BITS - 1), tl.int32)
    if HAS_ZERO:
        PER: tl.constexpr = 32 // BITS
        word = tl.load(ZERO + (o // PER) * G + g, mask=real, other=0)
        # The zero point is packed with half the range added, just as numbers are.
        zero = (word >> ((o % PER) * BITS).to(tl.int32)) & ((1 << BITS) - 1)
    return scale, zero.to(tl.float32)


@triton.jit
def _vector(
    X, WORDS, SCALE, ZERO, Y, O, I, W, G, group,
    HAS_ZERO: tl.constexpr, BITS: tl.constexpr, BO: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    PER: tl.constexpr = 32 // BITS
    MASK: tl.constexpr = (1 << BITS) - 1
    o = (tl.program_id(0) * BO + tl.arange(0, BO)).to(tl.int64)[:, None]
    t = tl.program_id(1)
    place = tl.arange(0, PER)
    total = tl.zeros([BO, BW], tl.float32)
    for start in range(0, W, BW):
        w = start + tl.arange(0, BW)
        real = (o < O) & (w < W)[None, :]
        words = tl.load(WORDS + o * W + w[None, :], mask=real, other=0)
        numbers = ((words[:, :, None] >> (place * BITS)[None, None, :]) & MASK).to(tl.float32)
        i = w[:, None] * PER + place[None, :]
        x = tl.load(X + t * I + i, mask=i < I, other=0.0).to(tl.float32)
        scale, zero = _group_scale(SCALE, ZERO, o, ((w * PER) // group)[None, :], real, G, HAS_ZERO, BITS)
        total += scale * (tl.sum(numbers * x[None, :, :], 2) - zero * tl.sum(x, 1)[None, :])
    o = tl.program_id(0) * BO + tl.arange(0, BO)
    tl.store(Y + t * O + o, tl.sum(total, 1).to(Y.dtype.element_ty), mask=o < O)


@triton.jit
def _tile_of_numbers(WORDS, o, start, O, W, BITS: tl.constexpr, BO: tl.constexpr, BI: tl.constexpr):
    """[BO, BI] int32 in 0 … 2^BITS - 1."""
    PER: tl.constexpr = 32 // BITS
    w = start // PER + tl.arange(0, BI // PER)
    real = (o < O)[:, None] & (w < W)[None, :]
    words = tl.load(WORDS + o.to(tl.int64)[:, None] * W + w[None, :], mask=real, other=0)
    numbers = (words[:, :, None] >> (tl.arange(0, PER) * BITS)[None, None, :]) & ((1 << BITS) - 1)
    return tl.reshape(numbers, [BO, BI])


@triton.jit
def _matrix(
    X, WORDS, SCALE, ZERO, Y, T, O, I, W, G, group, steps,
    HAS_ZERO: tl.constexpr, BITS: tl.constexpr, BT: tl.constexpr, BO: tl.constexpr, BI: tl.constexpr,
):  # fmt: skip
    o = tl.program_id(0) * BO + tl.arange(0, BO)
    t = tl.program_id(1) * BT + tl.arange(0, BT)
    part = tl.program_id(2)
    total = tl.zeros([BT, BO], tl.float32)
    for step in range(part * steps, part * steps + steps):
        start = step * BI
        numbers = _tile_of_numbers(WORDS, o, start, O, W, BITS, BO, BI)
        i = start + tl.arange(0, BI)
        x = tl.load(X + t[:, None] * I + i[None, :], mask=(t < T)[:, None] & (i < I)[None, :], other=0.0)
        g = tl.minimum(start // group, G - 1)
        scale, zero = _group_scale(SCALE, ZERO, o.to(tl.int64), g, o < O, G, HAS_ZERO, BITS)
        weight = (numbers - zero.to(tl.int32)[:, None]).to(x.dtype)  # at most 8 bits: exact in bf16
        total += tl.dot(x, tl.trans(weight), input_precision="ieee") * scale[None, :]
    place = (part * T + t.to(tl.int64))[:, None] * O + o[None, :]
    tl.store(Y + place, total.to(Y.dtype.element_ty), mask=(t < T)[:, None] & (o < O)[None, :])


@triton.jit
def _plain(
    WORDS, SCALE, ZERO, OUT, O, I, W, G, group,
    HAS_ZERO: tl.constexpr, BITS: tl.constexpr, BO: tl.constexpr, BI: tl.constexpr,
):  # fmt: skip
    o = tl.program_id(0) * BO + tl.arange(0, BO)
    start = tl.program_id(1) * BI
    i = start + tl.arange(0, BI)
    numbers = _tile_of_numbers(WORDS, o, start, O, W, BITS, BO, BI)
    g = tl.minimum(start // group, G - 1)
    scale, zero = _group_scale(SCALE, ZERO, o.to(tl.int64), g, o < O, G, HAS_ZERO, BITS)
    weight = (numbers - zero.to(tl.int32)[:, None]).to(tl.float32) * scale[:, None]
    real = (o < O)[:, None] & (i < I)[None, :]
    tl.store(OUT + o.to(tl.int64)[:, None] * I + i[None, :], weight.to(OUT.dtype.element_ty), mask=real)


def fused_product(x_TI: torch.Tensor, weight: IntWeight, tile: Tile | None = None) -> torch.Tensor:
    """x·Ŵᵀ [T, O] in x's format, summed in fp32; groups are multiples of 32 or rows.

    Args:
        tile: another than the default, to be measured.
    """
    x_TI = x_TI.contiguous()
    return _by_vectors(x_TI, weight, tile) if len(x_TI) <= VECTOR_TOKENS else _by_tiles(x_TI, weight, tile)


@torch.library.custom_op("graft::int_product", mutates_args=())
def int_product(
    x_TI: torch.Tensor, words: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | None, inputs: int, bits: int
) -> torch.Tensor:
    """`fused_product` as one operator, which compilers and CUDA graphs take as it is."""
    return fused_product(x_TI, IntWeight(words, scale, zero, inputs, bits))  # type: ignore[arg-type]


@int_product.register_fake
def _(x_TI, words, scale, zero, inputs, bits):
    return x_TI.new_empty(len(x_TI), len(words))


def _by_vectors(x_TI: torch.Tensor, weight: IntWeight, tile: Tile | None) -> torch.Tensor:
    tile = tile or VECTOR
    (O, I), T = weight.shape, len(x_TI)
    words = min(triton.next_power_of_2(weight.words.shape[1]), tile.inputs * weight.bits // 32)
    y = x_TI.new_empty(T, O)
    _vector[(triton.cdiv(O, tile.outputs), T)](
        x_TI, weight.words, weight.scale, _zero(weight), y, O, I, weight.words.shape[1], weight.scale.shape[1],
        weight.group, HAS_ZERO=weight.zero is not None, BITS=weight.bits, BO=tile.outputs, BW=words,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return y


def _by_tiles(x_TI: torch.Tensor, weight: IntWeight, tile: Tile | None) -> torch.Tensor:
    tile = tile or MATRIX
    (O, I), T = weight.shape, len(x_TI)
    rows, inputs = min(64, max(16, triton.next_power_of_2(T))), _tile_inputs(weight, tile)
    blocks = triton.cdiv(O, tile.outputs) * triton.cdiv(T, rows)
    all_steps = triton.cdiv(I, inputs)
    steps = triton.cdiv(all_steps, max(1, min(8, PROGRAMS // blocks, all_steps)))
    parts = triton.cdiv(all_steps, steps)
    y = x_TI.new_empty(parts, T, O, dtype=x_TI.dtype if parts == 1 else torch.float32)
    _matrix[(triton.cdiv(O, tile.outputs), triton.cdiv(T, rows), parts)](
        x_TI, weight.words, weight.scale, _zero(weight), y, T, O, I, weight.words.shape[1], weight.scale.shape[1],
        weight.group, steps, HAS_ZERO=weight.zero is not None, BITS=weight.bits, BT=rows, BO=tile.outputs, BI=inputs,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return y[0] if parts == 1 else y.sum(0).to(x_TI.dtype)


def dequantised(weight: IntWeight, dtype: torch.dtype) -> torch.Tensor:
    """The weight [O, I] in one pass: half a byte or one is read, two are written."""
    O, I = weight.shape
    inputs = _tile_inputs(weight, MATRIX)
    out = torch.empty(O, I, dtype=dtype, device=weight.words.device)
    _plain[(triton.cdiv(O, MATRIX.outputs), triton.cdiv(I, inputs))](
        weight.words, weight.scale, _zero(weight), out, O, I, weight.words.shape[1], weight.scale.shape[1],
        weight.group, HAS_ZERO=weight.zero is not None, BITS=weight.bits, BO=MATRIX.outputs, BI=inputs, num_warps=4,
    )  # fmt: skip
    return out


def _tile_inputs(weight: IntWeight, tile: Tile) -> int:
    """Inputs of a tile, a power of two; all of them share a scale."""
    return tile.inputs if weight.scale.shape[1] == 1 else min(tile.inputs, weight.group & -weight.group)


def _zero(weight: IntWeight) -> torch.Tensor:
    """Something to point at where there is no zero point."""
    return weight.words if weight.zero is None else weight.zero
