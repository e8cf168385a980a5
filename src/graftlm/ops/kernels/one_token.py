"""A decoder layer for one token in Triton, in five kernels that read each weight once: what decoding one sequence is.

Queries, keys and values are one product, gate and up another; norms, rotation, activation and residual sums are done
where the numbers are already in registers. A layer of the plain model takes about 20 kernels, whose starts and ends cost
as much as half the weights (measured: docs/notes/log.md).

Shapes: I inputs, O outputs, W words of a row, N groups of a row, H query heads, G key/value heads, L positions, D head
size, C chunks of positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from graftlm.ops.kernels.row_products import TILES, RowWeight, row_products, store_input

CHUNK = 64
"""Positions of an attention program, at least; there are 32 programs a key head at most."""


@triton.jit
def _follow(OVERLAP: tl.constexpr):
    """Wait for the kernel before; the next one may already take its place on the card (programmatic dependent launch).

    A kernel of 10 µs would otherwise lose 2 to being started and to its last programs."""
    if OVERLAP:
        gdc_launch_dependents()
        gdc_wait()


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
    store_input(X, o, y * gain, o < O, WORDS, PLACES)
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
    y, _ = row_products(
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
    gate, up = row_products(X, WG, SG, ZG, WU, SU, ZU, o, O, W, N, SCALES, BITS, HAS_ZERO, True, BO, BN, WORDS, STAGES)
    norm = _norm(SQUARES, eps, I, PARTS)
    gate, up = gate * norm, up * norm
    y = gate / (1 + tl.exp(-gate)) * up
    store_input(Y, o, y, o < O, OUT_WORDS, OUT_PLACES)


@triton.jit
def _onto_stream(
    X, WEIGHT, SCALE, ZERO, BIAS, REST, GAIN, NEXT, SQUARES, O, W, N, SCALES, OUT_WORDS,
    BITS: tl.constexpr, HAS_ZERO: tl.constexpr, HAS_BIAS: tl.constexpr, OUT_PLACES: tl.constexpr, BO: tl.constexpr,
    BN: tl.constexpr, WORDS: tl.constexpr, STAGES: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """The residual stream and a product: in place, and as the next product's input."""
    _follow(OVERLAP)
    o = tl.program_id(0) * BO + tl.arange(0, BO)
    y, _ = row_products(
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
            store_input(Y, i, y, d < D, OUT_WORDS, OUT_PLACES)


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
    tile, N, BN, WORDS = layer.q.tiling()
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
    tile, N, BN, WORDS = layer.gate.tiling()
    (wg, sg, zg, _), (wu, su, zu, _) = layer.gate.parts(), layer.up.parts()
    outputs = max(1, tile.outputs // 2)  # of each of the two
    _gate_up[(triton.cdiv(layer.gate.outputs, outputs),)](
        space.inputs("gate", layer.gate), space.middle_squares, layer.eps, wg, wu, sg, su, zg, zu,
        space.inputs("down", layer.down), layer.gate.outputs, I, layer.gate.row, N, layer.gate.scales, layer.down.row, BITS=layer.gate.bits,
        HAS_ZERO=layer.gate.zero is not None, OUT_PLACES=layer.down.places, PARTS=len(space.middle_squares),
        BO=outputs, BN=BN, WORDS=WORDS, STAGES=tile.stages, num_warps=tile.warps, **space.launch,
    )  # fmt: skip
    _add("down", layer.down, space, layer.next_gain, space.squares, "q", layer.following)


def _add(
    name: str, weight: RowWeight, space: Workspace, gain: torch.Tensor, squares: torch.Tensor, next_name: str,
    following: RowWeight,
) -> None:  # fmt: skip
    """Stream += weight · its inputs, and the inputs of the next product."""
    tile, N, BN, WORDS = weight.tiling()
    words, scale, zero, bias = weight.parts()
    _onto_stream[(triton.cdiv(weight.outputs, tile.outputs),)](
        space.inputs(name, weight), words, scale, zero, bias, space.stream, gain, space.inputs(next_name, following),
        squares, weight.outputs, weight.row, N, weight.scales, following.row, BITS=weight.bits,
        HAS_ZERO=weight.zero is not None, HAS_BIAS=weight.bias is not None, OUT_PLACES=following.places,
        BO=tile.outputs, BN=BN, WORDS=WORDS, STAGES=tile.stages, num_warps=tile.warps, **space.launch,
    )  # fmt: skip
