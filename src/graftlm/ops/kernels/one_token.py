"""A decoder layer for one token in Triton, in four kernels that read each weight once: what decoding one sequence is.

Queries, keys and values are one product, gate and up another; norms, rotation, activation and residual sums are done
where the numbers are already in registers. A layer of the plain model takes about 20 kernels, whose starts and ends cost
as much as half the weights (measured: docs/notes/log.md).

The inputs of a packed weight's product lie in *word order*, so that neighbouring threads, which hold neighbouring words,
read neighbours, and as pairs: of a word with P numbers and W words a row, the inputs of numbers p and p + 4 (4 bits), p
and p + 1 (8 bits) stand side by side, pair by pair, W words of each.

Shapes: I inputs, O outputs, W words of a row, N groups of a row, H query heads, G key/value heads, L positions, D head
size, C chunks of positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@dataclass(frozen=True)
class Tile:
    """Outputs of a program, bytes of each row that it reads at a time, its warps, and reads under way at once."""

    outputs: int
    bytes: int
    warps: int
    stages: int


TILES = {16: Tile(4, 2048, 2, 3), 8: Tile(4, 1024, 4, 1), 4: Tile(4, 512, 1, 3)}
"""By bits of a weight."""

CHUNK = 64
"""Positions of an attention program, at least; there are 32 programs a key head at most."""


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

    def groups(self, tile: Tile) -> tuple[int, int, int]:
        """(groups of a row, groups in a tile, words of a group). A row with one scale is cut as the tile wants it."""
        in_tile = max(1, tile.bytes // self.words.element_size())
        if self.scales == 1:
            words = min(in_tile, triton.next_power_of_2(self.row))
            return triton.cdiv(self.row, words), 1, words
        words = self.row // self.scales
        return self.scales, min(triton.next_power_of_2(self.scales), max(1, in_tile // words)), words


@triton.jit
def _follow(OVERLAP: tl.constexpr):
    """Wait for the kernel before; the next one may already take its place on the card (programmatic dependent launch).

    A kernel of 10 µs would otherwise lose 2 to being started and to its last programs."""
    if OVERLAP:
        gdc_launch_dependents()
        gdc_wait()


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
def _store(X, i, x, real, WORDS, PLACES: tl.constexpr):
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
def _products(
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


@triton.jit
def _norm(SQUARES, eps, inputs, PARTS: tl.constexpr):
    """1 ÷ root mean square, from the parts that the stream's writers left."""
    return tl.rsqrt(tl.sum(tl.load(SQUARES + tl.arange(0, PARTS)), 0) / inputs + eps)


@triton.jit
def _write_stream(y, o, O, GAIN, REST, X, SQUARES, WORDS, PLACES: tl.constexpr):
    """The residual stream, and what the next norm makes of it but for the root mean square: · gain, in word order."""
    y = y.to(REST.dtype.element_ty).to(tl.float32)
    tl.store(REST + o, y, mask=o < O)
    gain = tl.load(GAIN + o, mask=o < O, other=0.0).to(tl.float32)
    _store(X, o, y * gain, o < O, WORDS, PLACES)
    tl.store(SQUARES + tl.program_id(0), tl.sum(tl.where(o < O, y * y, 0.0), 0))


@triton.jit
def _enter(STREAM, GAIN, REST, X, SQUARES, O, WORDS, PLACES: tl.constexpr, BO: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """The embedded token becomes the residual stream."""
    _follow(OVERLAP)
    o = tl.program_id(0) * BO + tl.arange(0, BO)
    y = tl.load(STREAM + o, mask=o < O, other=0.0).to(tl.float32)
    _write_stream(y, o, O, GAIN, REST, X, SQUARES, WORDS, PLACES)


@triton.jit
def _qkv(
    X, SQUARES, eps, WQ, WK, WV, SQ, SK, SV, ZQ, ZK, ZV, BQ, BK, BV, Y, OQ, OK, I, W, N, SCALES,
    BITS: tl.constexpr, HAS_ZERO: tl.constexpr, HAS_BIAS: tl.constexpr, PARTS: tl.constexpr, BO: tl.constexpr,
    BN: tl.constexpr, WORDS: tl.constexpr, STAGES: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Queries, keys and values of the normalised stream, one behind the other."""
    _follow(OVERLAP)
    start = tl.program_id(0) * BO
    weight, scale, zero, bias, first = WQ, SQ, ZQ, BQ, start
    if start >= OQ + OK:
        weight, scale, zero, bias, first = WV, SV, ZV, BV, start - OQ - OK
    elif start >= OQ:
        weight, scale, zero, bias, first = WK, SK, ZK, BK, start - OQ
    o = first + tl.arange(0, BO)
    O = tl.where(start >= OQ, OK, OQ)
    y, _ = _products(
        X, weight, scale, zero, weight, scale, zero, o, O, W, N, SCALES, BITS, HAS_ZERO, False, BO, BN, WORDS, STAGES
    )  # fmt: skip
    y *= _norm(SQUARES, eps, I, PARTS)
    if HAS_BIAS:
        y += tl.load(bias + o).to(tl.float32)
    tl.store(Y + start + tl.arange(0, BO), y)


@triton.jit
def _gate_up(
    X, SQUARES, eps, WG, WU, SG, SU, ZG, ZU, Y, O, I, W, N, SCALES, OUT_WORDS,
    BITS: tl.constexpr, HAS_ZERO: tl.constexpr, OUT_PLACES: tl.constexpr, PARTS: tl.constexpr, BO: tl.constexpr,
    BN: tl.constexpr, WORDS: tl.constexpr, STAGES: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """silu(gate) · up of the normalised stream, in the word order of the next product."""
    _follow(OVERLAP)
    o = tl.program_id(0) * BO + tl.arange(0, BO)
    gate, up = _products(X, WG, SG, ZG, WU, SU, ZU, o, O, W, N, SCALES, BITS, HAS_ZERO, True, BO, BN, WORDS, STAGES)
    norm = _norm(SQUARES, eps, I, PARTS)
    gate, up = gate * norm, up * norm
    y = gate / (1 + tl.exp(-gate)) * up
    _store(Y, o, y, o < O, OUT_WORDS, OUT_PLACES)


@triton.jit
def _onto_stream(
    X, WEIGHT, SCALE, ZERO, BIAS, REST, GAIN, NEXT, SQUARES, O, W, N, SCALES, OUT_WORDS,
    BITS: tl.constexpr, HAS_ZERO: tl.constexpr, HAS_BIAS: tl.constexpr, OUT_PLACES: tl.constexpr, BO: tl.constexpr,
    BN: tl.constexpr, WORDS: tl.constexpr, STAGES: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """The residual stream and a product: in place, and as the next product's input."""
    _follow(OVERLAP)
    o = tl.program_id(0) * BO + tl.arange(0, BO)
    y, _ = _products(
        X, WEIGHT, SCALE, ZERO, WEIGHT, SCALE, ZERO, o, O, W, N, SCALES, BITS, HAS_ZERO, False, BO, BN, WORDS, STAGES
    )  # fmt: skip
    if HAS_BIAS:
        y += tl.load(BIAS + o, mask=o < O, other=0.0).to(tl.float32)
    y += tl.load(REST + o, mask=o < O, other=0.0).to(tl.float32)
    _write_stream(y, o, O, GAIN, REST, NEXT, SQUARES, OUT_WORDS, OUT_PLACES)


@triton.jit
def _rotated(STATES, GAIN, COS, SIN, eps, h, real, D: tl.constexpr, HAS_GAIN: tl.constexpr):
    """Rotated states [R, D] of heads h [R], normalised first if there is a gain (Qwen3)."""
    d = tl.arange(0, D)
    across = (d + D // 2) % D
    own = tl.load(STATES + h[:, None] * D + d[None, :], mask=real[:, None], other=0.0).to(tl.float32)
    other = tl.load(STATES + h[:, None] * D + across[None, :], mask=real[:, None], other=0.0).to(tl.float32)
    if HAS_GAIN:
        norm = tl.rsqrt(tl.sum(own * own, 1) / D + eps)[:, None]
        own *= norm * tl.load(GAIN + d).to(tl.float32)[None, :]
        other *= norm * tl.load(GAIN + across).to(tl.float32)[None, :]
    cos, sin = tl.load(COS + d).to(tl.float32), tl.load(SIN + d).to(tl.float32)
    sin = tl.where(d < D // 2, -sin, sin)
    return own * cos[None, :] + other * sin[None, :]


@triton.jit
def _attention(
    QKV, QGAIN, KGAIN, COS, SIN, eps, K, V, LENGTHS, OUT, TOP, SUM, DONE, Y, scale, window, chunk, H, G, C, OUT_WORDS,
    head_stride, HAS_GAIN: tl.constexpr, OUT_PLACES: tl.constexpr, R: tl.constexpr, RP: tl.constexpr, D: tl.constexpr,
    BN: tl.constexpr, CP: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """One chunk of positions for the query heads of one key head. The chunk that holds the new token stores its key and
    value; whichever program is the last of its head joins the chunks."""
    _follow(OVERLAP)
    g, c = tl.program_id(0), tl.program_id(1)
    length = tl.load(LENGTHS).to(tl.int32)
    last = tl.maximum(length - 1, 0)  # of an empty slot: a place that nothing reads
    first = tl.where(window > 0, tl.maximum(length - window, 0), 0)
    chunks = last // chunk + 1
    if c >= chunks:
        return
    r, d = tl.arange(0, RP), tl.arange(0, D)
    heads = g * R + r
    real_r = r < R
    q = _rotated(QKV, QGAIN, COS, SIN, eps, heads, real_r, D, HAS_GAIN).to(K.dtype.element_ty)
    base = g.to(tl.int64) * head_stride
    top, total = tl.full([RP], -float("inf"), tl.float32), tl.zeros([RP], tl.float32)
    out = tl.zeros([RP, D], tl.float32)
    if c == chunks - 1:
        one = tl.zeros([1], tl.int32)
        k = _rotated(QKV + H * D, KGAIN, COS, SIN, eps, g + one, one == 0, D, HAS_GAIN).to(K.dtype.element_ty)
        v = tl.load(QKV + (H + G + g) * D + d)[None, :]
        place = base + last * D + d[None, :]
        tl.store(K + place, k)
        tl.store(V + place, v.to(V.dtype.element_ty))
        top = tl.sum(q.to(tl.float32) * k.to(tl.float32), 1) * scale
        total += 1.0
        out += v.to(tl.float32)
    for begin in range(tl.maximum(c * chunk, first // BN * BN), tl.minimum(last, (c + 1) * chunk), BN):
        n = begin + tl.arange(0, BN)
        seen = (n < last) & (n >= first)
        place = base + n[:, None] * D + d[None, :]
        k = tl.load(K + place, mask=seen[:, None], other=0.0)
        v = tl.load(V + place, mask=seen[:, None], other=0.0)
        scores = tl.where(seen[None, :], tl.dot(q, tl.trans(k), input_precision="ieee") * scale, -float("inf"))
        new_top = tl.maximum(top, tl.max(scores, 1))
        new_top = tl.where(new_top == -float("inf"), 0.0, new_top)
        weight, shrink = tl.exp(scores - new_top[:, None]), tl.exp(top - new_top)
        out = tl.dot(weight.to(v.dtype), v, out * shrink[:, None], input_precision="ieee")
        total = total * shrink + tl.sum(weight, 1)
        top = new_top
    place = heads * C + c
    tl.store(OUT + place[:, None] * D + d[None, :], out, mask=real_r[:, None])
    tl.store(TOP + place, top, mask=real_r)
    tl.store(SUM + place, total, mask=real_r)
    tl.debug_barrier()  # all of this program's stores stand before its arrival
    if tl.atomic_add(DONE + g, 1, sem="acq_rel") == chunks - 1:
        tl.store(DONE + g, 0)
        for head in range(g * R, g * R + R):
            j = tl.arange(0, CP)
            there = head * C + j
            total_j = tl.load(SUM + there, mask=j < chunks, other=0.0)
            top_j = tl.where(total_j > 0, tl.load(TOP + there, mask=j < chunks, other=0.0), -float("inf"))
            factor = tl.where(total_j > 0, tl.exp(top_j - tl.max(top_j, 0)), 0.0)
            parts = tl.load(OUT + there[:, None] * D + d[None, :], mask=(j < chunks)[:, None], other=0.0)
            y = tl.sum(parts * factor[:, None], 0) / tl.sum(total_j * factor, 0)
            i = head * D + d
            _store(Y, i, y, d < D, OUT_WORDS, OUT_PLACES)


@dataclass(frozen=True)
class LayerWeights:
    """A decoder layer of the Llama kind: pre-norm with root mean squares, rotated heads, gated MLP.

    Attributes:
        q, k, v; gate, up: weights of one format each.
        gain, middle_gain, next_gain: of the norms before attention, before the MLP, and of what follows the layer.
        q_gain, k_gain: of the norms of heads, or None.
        following: weight of the product that follows the layer.
        eps: of all norms.
        scale, window: of attention; window 0: none.
    """

    q: RowWeight
    k: RowWeight
    v: RowWeight
    o: RowWeight
    gate: RowWeight
    up: RowWeight
    down: RowWeight
    gain: torch.Tensor
    middle_gain: torch.Tensor
    next_gain: torch.Tensor
    q_gain: torch.Tensor | None
    k_gain: torch.Tensor | None
    following: RowWeight
    eps: float
    scale: float
    window: int


class Workspace:
    """What passes from kernel to kernel, at fixed addresses; one serves all layers.

    Args:
        layer: any layer; all have one shape.
        head_size, positions: D and L.
    """

    def __init__(self, layer: LayerWeights, head_size: int, positions: int) -> None:
        I, like = layer.o.outputs, layer.gain
        H, G = layer.q.outputs // head_size, layer.k.outputs // head_size
        self.H, self.G, self.D = H, G, head_size
        self.chunk = max(CHUNK, triton.cdiv(positions, 32 * CHUNK) * CHUNK)
        self.C = triton.cdiv(positions, self.chunk)
        self.stream, self.qkv = like.new_empty(I), like.new_empty((H + 2 * G) * head_size)
        self._inputs: dict[tuple[str, bool], torch.Tensor] = {}
        self._like = like
        parts = triton.next_power_of_2(triton.cdiv(I, min(tile.outputs for tile in TILES.values())))
        self.squares, self.middle_squares = (like.new_zeros(parts, dtype=torch.float32) for _ in range(2))
        self.out = like.new_empty(H, self.C, head_size, dtype=torch.float32)
        self.top, self.total = (like.new_empty(H, self.C, dtype=torch.float32) for _ in range(2))
        overlap = like.is_cuda and torch.cuda.get_device_capability(like.device) >= (9, 0)
        self.launch = {"OVERLAP": overlap} | ({"launch_pdl": True} if overlap else {})
        self.done = torch.zeros(G, dtype=torch.int32, device=like.device)

    def inputs(self, of: str, weight: RowWeight) -> torch.Tensor:
        """What the product of a weight reads."""
        halves = weight.halves
        if (of, halves) not in self._inputs:
            dtype = torch.float16 if halves else self._like.dtype
            self._inputs[of, halves] = self._like.new_empty(weight.inputs, dtype=dtype)
        return self._inputs[of, halves]


def enter(space: Workspace, token_I: torch.Tensor, layer: LayerWeights) -> None:
    """The embedded token becomes the residual stream, ready for the first layer."""
    outputs = TILES[layer.down.bits].outputs  # as many parts of squares as later layers leave
    I = len(token_I)
    _enter[(triton.cdiv(I, outputs),)](
        token_I, layer.gain, space.stream, space.inputs("q", layer.q), space.squares, I, layer.q.row, PLACES=layer.q.places,
        BO=outputs, num_warps=1, **space.launch,
    )  # fmt: skip


def run_layer(
    layer: LayerWeights, space: Workspace, keys_GLD: torch.Tensor, values_GLD: torch.Tensor, length_1: torch.Tensor,
    cos_D: torch.Tensor, sin_D: torch.Tensor,
) -> None:  # fmt: skip
    """One token through a layer: `space.stream` becomes the layer's output, the cache takes its key and value in.

    Args:
        keys_GLD, values_GLD: of one sequence.
        length_1: positions that are seen, the token's own included, on the device.
        cos_D, sin_D: of its position.
    """
    I = layer.o.outputs
    tile, N, BN, WORDS = _tiling(layer.q)
    (wq, sq, zq, bq), (wk, sk, zk, bk), (wv, sv, zv, bv) = layer.q.parts(), layer.k.parts(), layer.v.parts()
    _qkv[(triton.cdiv(layer.q.outputs + 2 * layer.k.outputs, tile.outputs),)](
        space.inputs("q", layer.q), space.squares, layer.eps, wq, wk, wv, sq, sk, sv, zq, zk, zv, bq, bk, bv, space.qkv,
        layer.q.outputs, layer.k.outputs, I, layer.q.row, N, layer.q.scales, BITS=layer.q.bits,
        HAS_ZERO=layer.q.zero is not None, HAS_BIAS=layer.q.bias is not None, PARTS=len(space.squares),
        BO=tile.outputs, BN=BN, WORDS=WORDS, STAGES=tile.stages, num_warps=tile.warps, **space.launch,
    )  # fmt: skip
    H, G, D, C = space.H, space.G, space.D, space.C
    _attention[(G, C)](
        space.qkv, layer.gain if layer.q_gain is None else layer.q_gain,
        layer.gain if layer.k_gain is None else layer.k_gain, cos_D, sin_D, layer.eps, keys_GLD, values_GLD, length_1,
        space.out, space.top, space.total, space.done, space.inputs("o", layer.o), layer.scale, layer.window, space.chunk, H, G, C,
        layer.o.row, keys_GLD.stride(0), HAS_GAIN=layer.q_gain is not None, OUT_PLACES=layer.o.places, R=H // G,
        RP=max(16, triton.next_power_of_2(H // G)), D=D, BN=CHUNK, CP=triton.next_power_of_2(C),
        num_warps=4, **space.launch,
    )  # fmt: skip
    _add("o", layer.o, space, layer.middle_gain, space.middle_squares, "gate", layer.gate)
    tile, N, BN, WORDS = _tiling(layer.gate)
    (wg, sg, zg, _), (wu, su, zu, _) = layer.gate.parts(), layer.up.parts()
    outputs = max(1, tile.outputs // 2)  # of each of the two
    _gate_up[(triton.cdiv(layer.gate.outputs, outputs),)](
        space.inputs("gate", layer.gate), space.middle_squares, layer.eps, wg, wu, sg, su, zg, zu,
        space.inputs("down", layer.down), layer.gate.outputs, I, layer.gate.row, N, layer.gate.scales, layer.down.row, BITS=layer.gate.bits,
        HAS_ZERO=layer.gate.zero is not None, OUT_PLACES=layer.down.places, PARTS=len(space.middle_squares),
        BO=outputs, BN=BN, WORDS=WORDS, STAGES=tile.stages, num_warps=tile.warps, **space.launch,
    )  # fmt: skip
    _add("down", layer.down, space, layer.next_gain, space.squares, "q", layer.following)


def _tiling(weight: RowWeight) -> tuple[Tile, int, int, int]:
    tile = TILES[weight.bits]
    return tile, *weight.groups(tile)


def _add(
    name: str, weight: RowWeight, space: Workspace, gain: torch.Tensor, squares: torch.Tensor, next_name: str,
    following: RowWeight,
) -> None:  # fmt: skip
    """Stream += weight · its inputs, and the inputs of the next product."""
    tile, N, BN, WORDS = _tiling(weight)
    words, scale, zero, bias = weight.parts()
    _onto_stream[(triton.cdiv(weight.outputs, tile.outputs),)](
        space.inputs(name, weight), words, scale, zero, bias, space.stream, gain, space.inputs(next_name, following),
        squares, weight.outputs, weight.row, N, weight.scales, following.row, BITS=weight.bits,
        HAS_ZERO=weight.zero is not None, HAS_BIAS=weight.bias is not None, OUT_PLACES=following.places,
        BO=tile.outputs, BN=BN, WORDS=WORDS, STAGES=tile.stages, num_warps=tile.warps, **space.launch,
    )  # fmt: skip
