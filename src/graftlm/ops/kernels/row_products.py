"""The product of one row with a weight in 16, 8 or 4 bits, inside a Triton kernel: each weight is read once.

The inputs of a packed weight's product lie in *word order*, so that neighbouring threads, which hold neighbouring words,
read neighbours, and as pairs: of a word with P numbers and W words a row, the inputs of numbers p and p + 4 (4 bits), p
and p + 1 (8 bits) stand side by side, pair by pair, W words of each.

Shapes: I inputs, O outputs, W words of a row, N groups of a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl


@dataclass(frozen=True)
class Tile:
    """Outputs of a program, bytes of each row that it reads at a time, its warps, and reads under way at once."""

    outputs: int
    bytes: int
    warps: int
    stages: int


TILES = {16: Tile(4, 2048, 2, 3), 8: Tile(4, 1024, 4, 1), 4: Tile(4, 512, 1, 3)}
"""By bits of a weight."""

@dataclass(frozen=True)
class RowWeight:
    """A weight [O, I] as the kernels read it: bf16, or packed words with their scales."""

    words: torch.Tensor
    scale: torch.Tensor | None
    zero: torch.Tensor | None
    bias: torch.Tensor | None
    inputs: int
    bits: int

    @property
    def outputs(self) -> int:
        return len(self.words)

    @property
    def row(self) -> int:
        """Words of a row."""
        return self.words.shape[1]

    @property
    def places(self) -> int:
        """Numbers of a word."""
        return 32 // self.bits if self.bits < 16 else 1

    def parts(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Words, scales, zero points, bias; something to point at where there is none."""
        return (
            self.words,
            self.words if self.scale is None else self.scale,
            self.words if self.zero is None else self.zero,
            self.words if self.bias is None else self.bias,
        )

    @property
    def halves(self) -> bool:
        """Whether products are made in fp16 pairs: instructions that only a GPU has."""
        return self.bits < 16 and self.words.is_cuda

    @property
    def scales(self) -> int:
        """Scales of a row."""
        return 1 if self.scale is None else self.scale.shape[1]

    def tiling(self) -> tuple[Tile, int, int, int]:
        """Its tile; groups of a row, groups in a tile, words of a group."""
        tile = TILES[self.bits]
        return tile, *self.groups(tile)

    def groups(self, tile: Tile) -> tuple[int, int, int]:
        """(groups of a row, groups in a tile, words of a group). A row with one scale is cut as the tile wants it."""
        in_tile = max(1, tile.bytes // self.words.element_size())
        if self.scales == 1:
            words = min(in_tile, triton.next_power_of_2(self.row))
            return triton.cdiv(self.row, words), 1, words
        words = self.row // self.scales
        return self.scales, min(triton.next_power_of_2(self.scales), max(1, in_tile // words)), words


@triton.jit
def _numbers(words, p: tl.constexpr, BITS: tl.constexpr):
    """2^e + the number at place p of each word, as fp32, and 2^e: the number's bits behind a fixed exponent e.

    No conversion, and in 4 bits one shift serves two places; e is at most 11, so that 2^e costs fp32 no digit of bf16.
    """
    RIGHT: tl.constexpr = 8 * p - 15 if BITS == 8 else (12 if p == 7 else 8 * ((p + 1) // 2) - 16)
    AT: tl.constexpr = BITS * p - RIGHT
    MASK: tl.constexpr = ((1 << BITS) - 1) << AT
    EXPONENT: tl.constexpr = (150 - AT) << 23
    OFFSET: tl.constexpr = 1 << (23 - AT)
    if RIGHT < 0:
        words = words << -RIGHT
    else:
        words = words >> RIGHT
    return ((words & MASK) | EXPONENT).to(tl.float32, bitcast=True), OFFSET


_EIGHT_PRODUCTS: tl.constexpr = tl.constexpr("""{
.reg .b32 w, n, sum; .reg .f16 low, high; .reg .f32 one, other;
lop3.b32 n, $1, 0x000f000f, 0x64006400, 0xea;
sub.f16x2 n, n, $6;
mul.f16x2 sum, n, $2;
shr.u32 w, $1, 4;
lop3.b32 n, w, 0x000f000f, 0x64006400, 0xea;
sub.f16x2 n, n, $6;
fma.rn.f16x2 sum, n, $3, sum;
shr.u32 w, $1, 8;
lop3.b32 n, w, 0x000f000f, 0x64006400, 0xea;
sub.f16x2 n, n, $6;
fma.rn.f16x2 sum, n, $4, sum;
shr.u32 w, $1, 12;
lop3.b32 n, w, 0x000f000f, 0x64006400, 0xea;
sub.f16x2 n, n, $6;
fma.rn.f16x2 sum, n, $5, sum;
mov.b32 {low, high}, sum;
cvt.f32.f16 one, low;
cvt.f32.f16 other, high;
add.f32 $0, one, other;
}""")
_FOUR_PRODUCTS: tl.constexpr = tl.constexpr("""{
.reg .b32 n, sum; .reg .f16 low, high; .reg .f32 one, other;
prmt.b32 n, $1, 0x48484848, 0x4140;
sub.f16x2 n, n, $4;
mul.f16x2 sum, n, $2;
prmt.b32 n, $1, 0x48484848, 0x4342;
sub.f16x2 n, n, $4;
fma.rn.f16x2 sum, n, $3, sum;
mov.b32 {low, high}, sum;
cvt.f32.f16 one, low;
cvt.f32.f16 other, high;
add.f32 $0, one, other;
}""")
"""The products of a word's numbers with pairs of inputs in fp16, and their sum.

Number n behind an exponent of fp16 is 1,024 + n (4 bits) or a 128th of that (8 bits) exactly; inputs
were bf16, so a product is rounded by 2^-12 of itself at most; four (two) are added in fp16, the sums in fp32. Whole
numbers run at half the rate of fp16 pairs: unpacking 4 bits to fp32 took 33 µs for the 90M weights of gate and up, whose
bytes take 11 (one H200)."""


@triton.jit
def _halves(X, words, w, real, zero, W, BITS: tl.constexpr):
    """Σ (number - zero) · x of each word; X: fp16 pairs; zero [BO, BN, 1]."""
    PAIRS = X.to(tl.pointer_type(tl.int32), bitcast=True)
    x0 = tl.load(PAIRS + w, mask=real, other=0)[None, :, :]
    x1 = tl.load(PAIRS + W + w, mask=real, other=0)[None, :, :]
    if BITS == 4:
        x2 = tl.load(PAIRS + 2 * W + w, mask=real, other=0)[None, :, :]
        x3 = tl.load(PAIRS + 3 * W + w, mask=real, other=0)[None, :, :]
        zeros = 0x64006400 + (zero << 16) + zero
        return tl.inline_asm_elementwise(
            _EIGHT_PRODUCTS, "=f,r,r,r,r,r,r", [words, x0, x1, x2, x3, zeros], dtype=tl.float32, is_pure=True, pack=1
        )  # fmt: skip
    zeros = 0x48004800 + (zero << 16) + zero
    return tl.inline_asm_elementwise(
        _FOUR_PRODUCTS, "=f,r,r,r,r", [words, x0, x1, zeros], dtype=tl.float32, is_pure=True, pack=1
    )  # fmt: skip


@triton.jit
def _at(i, WORDS, PLACES: tl.constexpr):
    """Where input i lies in word order."""
    if PLACES == 8:
        return ((i % 4) * WORDS + i // 8) * 2 + i % 8 // 4
    if PLACES == 4:
        return (i % 4 // 2 * WORDS + i // 4) * 2 + i % 2
    return i


@triton.jit
def store_input(X, i, x, real, WORDS, PLACES: tl.constexpr):
    """Input i of a product; in fp16 a sixteenth or a quarter of it: it is not normalised yet, and sums must fit."""
    if X.dtype.element_ty == tl.float16:
        x = x / (16 if PLACES == 8 else 4)
    tl.store(X + _at(i, WORDS, PLACES), x, mask=real)


@triton.jit
def _grid(
    SCALE, ZERO, o, n, O, N, SCALES, FACTOR: tl.constexpr, BITS: tl.constexpr, HAS_ZERO: tl.constexpr
):  # fmt: skip
    """FACTOR · scale, and zero point, [BO, BN] of outputs o and groups n."""
    PLACES: tl.constexpr = 32 // BITS
    real = (o < O)[:, None] & (n < N)[None, :]
    own = tl.minimum(n, SCALES - 1)[None, :]  # a row may have one scale for all
    scale = tl.load(SCALE + o[:, None] * SCALES + own, mask=real, other=0.0).to(tl.float32) * FACTOR
    zero = tl.full(scale.shape, 1 << (BITS - 1), tl.int32)
    if HAS_ZERO:  # packed with half the range added, as the numbers are
        packed = tl.load(ZERO + (o // PLACES)[:, None] * SCALES + own, mask=real, other=0)
        zero = (packed >> ((o % PLACES) * BITS)[:, None]) & ((1 << BITS) - 1)
    return scale, zero


@triton.jit
def _packed(
    X, words, w, real, zero, W, BITS: tl.constexpr, BO: tl.constexpr, BN: tl.constexpr, WORDS: tl.constexpr
):  # fmt: skip
    """Σ (number - zero) · x of each word [BO, BN, WORDS]; zero [BO, BN]."""
    if X.dtype.element_ty == tl.float16:
        return _halves(X, words, w, real, zero[:, :, None], W, BITS)
    PLACES: tl.constexpr = 32 // BITS
    part = tl.zeros([BO, BN, WORDS], tl.float32)
    whole = tl.zeros([BN, WORDS], tl.float32)
    offset = tl.zeros([BN, WORDS], tl.float32)
    for p in tl.static_range(PLACES):
        x = tl.load(X + _at(w * PLACES + p, W, PLACES), mask=real, other=0.0).to(tl.float32)
        numbers, own = _numbers(words, p, BITS)
        part += numbers * x[None, :, :]
        whole += x
        offset += own * x
    return part - offset[None, :, :] - zero.to(tl.float32)[:, :, None] * whole[None, :, :]


@triton.jit
def row_products(
    X, WEIGHT, SCALE, ZERO, WEIGHT2, SCALE2, ZERO2, o, O, W, N, SCALES,
    BITS: tl.constexpr, HAS_ZERO: tl.constexpr, PAIR: tl.constexpr, BO: tl.constexpr, BN: tl.constexpr,
    WORDS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Outputs `o` [BO] of weight · x, and of a second weight if PAIR; a tile is BN groups of WORDS words."""
    FACTOR: tl.constexpr = (16 if BITS == 4 else 512) if X.dtype.element_ty == tl.float16 else 1
    real_o = (o < O)[:, None, None]
    row = o.to(tl.int64)[:, None, None] * W
    total = tl.zeros([BO, BN, WORDS], tl.float32)
    total2 = tl.zeros([BO, BN, WORDS], tl.float32)
    for start in tl.range(0, N, BN, num_stages=STAGES):
        n = start + tl.arange(0, BN)
        w = n[:, None] * WORDS + tl.arange(0, WORDS)[None, :]
        real = (w < W) & (n < N)[:, None]
        # Past the first cache, which is for x.
        words = tl.load(WEIGHT + row + w[None, :, :], mask=real_o & real[None, :, :], other=0, cache_modifier=".cg")
        if PAIR:
            words2 = tl.load(WEIGHT2 + row + w[None, :, :], mask=real_o & real[None, :, :], other=0, cache_modifier=".cg")
        if BITS == 16:
            x = tl.load(X + w, mask=real, other=0.0).to(tl.float32)
            total += words.to(tl.float32) * x[None, :, :]
            if PAIR:
                total2 += words2.to(tl.float32) * x[None, :, :]
        else:
            scale, zero = _grid(SCALE, ZERO, o, n, O, N, SCALES, FACTOR, BITS, HAS_ZERO)
            part = _packed(X, words, w, real, zero, W, BITS, BO, BN, WORDS)
            total += scale[:, :, None] * part
            if PAIR:
                scale, zero = _grid(SCALE2, ZERO2, o, n, O, N, SCALES, FACTOR, BITS, HAS_ZERO)
                total2 += scale[:, :, None] * _packed(X, words2, w, real, zero, W, BITS, BO, BN, WORDS)
    return tl.sum(tl.sum(total, 2), 1), tl.sum(tl.sum(total2, 2), 1)
