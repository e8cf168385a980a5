"""The AdamW step of `ops.adamw` as one Triton kernel: one launch a weight, each element read and written once."""

# mypy: disallow-untyped-defs=False

import torch
import triton
import triton.language as tl

from graftlm.ops.adamw import AdamWStep, Rounding, Slots

LANE = tl.constexpr(256)  # = rounding.BLOCK = philox.LANE: a quantisation block is what one word of Philox serves
PHILOX_ROUNDS = tl.constexpr(7)


@triton.jit
def _root_codes(magnitude, scale, squared: tl.constexpr, byte):
    """Codes (fp32, whole) of magnitude = scale · code² / squared, rounded by the chance `byte` / 256."""
    spread = magnitude * tl.where(scale > 1e-30, squared / scale, 0.0)
    below = tl.floor(tl.sqrt(spread))
    chance = (byte.to(tl.float32) + 0.5) * 0.00390625
    return below + tl.where(chance * (2 * below + 1) < spread - below * below, 1.0, 0.0)


@triton.jit
def _lane(
    w_ptr, rest_ptr, g_ptr, m_ptr, v_ptr, m_scale_ptr, v_scale_ptr,
    lane, bits, n, factor, kept, new1, beta2, new2, size, inverse_correction, eps,
    ROUNDING: tl.constexpr, CODES: tl.constexpr,
):  # fmt: skip
    """256 elements: one block of 8-bit moments."""
    at = lane * LANE + tl.arange(0, LANE)
    inside = at < n
    w = tl.load(w_ptr + at, mask=inside, other=0.0).to(tl.float32)
    g = tl.load(g_ptr + at, mask=inside, other=0.0).to(tl.float32) * factor
    if ROUNDING == "master":
        rest = tl.load(rest_ptr + at, mask=inside, other=0).to(tl.int32)
        w = (w.to(tl.int32, bitcast=True) + rest).to(tl.float32, bitcast=True)
    m = tl.load(m_ptr + at, mask=inside, other=0).to(tl.float32)
    v = tl.load(v_ptr + at, mask=inside, other=0).to(tl.float32)
    scaled = lane * LANE < n
    if CODES:
        m = m * tl.abs(m) * (tl.load(m_scale_ptr + lane, mask=scaled, other=0.0) * (1.0 / 127**2))
        v = v * v * (tl.load(v_scale_ptr + lane, mask=scaled, other=0.0) * (1.0 / 255**2))
        v = v * v

    w = w * kept
    m = m + (g - m) * new1
    v = v * beta2 + (new2 * g) * g
    root = tl.sqrt(v)
    w = w - size * (m / (root * inverse_correction + eps))

    if CODES:
        m_scale = tl.max(tl.abs(m), axis=0)
        v_scale = tl.max(root, axis=0)
        tl.store(m_scale_ptr + lane, m_scale, mask=scaled)
        tl.store(v_scale_ptr + lane, v_scale, mask=scaled)
        m_code = _root_codes(tl.abs(m), m_scale, 127.0**2, (bits >> 16) & 0xFF)
        v_code = _root_codes(root, v_scale, 255.0**2, bits >> 24)
        v_code = tl.where(root > 0, tl.maximum(v_code, 1.0), 0.0)
        tl.store(m_ptr + at, tl.where(m < 0, -m_code, m_code).to(tl.int32).to(tl.int8), mask=inside)
        tl.store(v_ptr + at, v_code.to(tl.int32).to(tl.uint8), mask=inside)
    else:
        tl.store(m_ptr + at, m.to(m_ptr.dtype.element_ty), mask=inside)
        tl.store(v_ptr + at, v.to(v_ptr.dtype.element_ty), mask=inside)

    if ROUNDING == "stochastic":
        raw = w.to(tl.uint32, bitcast=True) + (bits & 0xFFFF)
        w = tl.where(w == w, ((raw >> 16) << 16).to(tl.float32, bitcast=True), w)  # a NaN would carry over to −0
    if ROUNDING == "master":
        raw = w.to(tl.uint32, bitcast=True)
        upper = tl.where(w == w, raw + 0x8000, raw)
        upper = (upper >> 16) << 16
        rest = raw.to(tl.int32, bitcast=True) - upper.to(tl.int32, bitcast=True)
        tl.store(rest_ptr + at, rest.to(tl.int16), mask=inside)
        w = upper.to(tl.float32, bitcast=True)
    tl.store(w_ptr + at, w.to(w_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["number", "step", "seed"])
def _adamw(
    w_ptr, rest_ptr, g_ptr, m_ptr, v_ptr, m_scale_ptr, v_scale_ptr, factor_ptr,
    n, number, step, seed, kept, new1, beta2, new2, size, inverse_correction, eps,
    ROUNDING: tl.constexpr, CODES: tl.constexpr, RANDOM: tl.constexpr, CLIP: tl.constexpr,
):  # fmt: skip
    """1,024 elements: four lanes that share one Philox call."""
    block = tl.program_id(0)
    factor = 1.0
    if CLIP:
        factor = tl.load(factor_ptr)
    quad = (block * LANE + tl.arange(0, LANE)).to(tl.uint32)
    zero = quad * 0
    bits_0, bits_1, bits_2, bits_3 = quad, quad, quad, quad
    if RANDOM:
        bits_0, bits_1, bits_2, bits_3 = tl.philox(
            seed, quad, zero + number, zero + step, zero, PHILOX_ROUNDS
        )
    lane = block.to(tl.int64) * 4
    _lane(w_ptr, rest_ptr, g_ptr, m_ptr, v_ptr, m_scale_ptr, v_scale_ptr, lane, bits_0,
          n, factor, kept, new1, beta2, new2, size, inverse_correction, eps, ROUNDING, CODES)  # fmt: skip
    _lane(w_ptr, rest_ptr, g_ptr, m_ptr, v_ptr, m_scale_ptr, v_scale_ptr, lane + 1, bits_1,
          n, factor, kept, new1, beta2, new2, size, inverse_correction, eps, ROUNDING, CODES)  # fmt: skip
    _lane(w_ptr, rest_ptr, g_ptr, m_ptr, v_ptr, m_scale_ptr, v_scale_ptr, lane + 2, bits_2,
          n, factor, kept, new1, beta2, new2, size, inverse_correction, eps, ROUNDING, CODES)  # fmt: skip
    _lane(w_ptr, rest_ptr, g_ptr, m_ptr, v_ptr, m_scale_ptr, v_scale_ptr, lane + 3, bits_3,
          n, factor, kept, new1, beta2, new2, size, inverse_correction, eps, ROUNDING, CODES)  # fmt: skip


def adamw_kernel_(
    weight: torch.Tensor,
    gradient: torch.Tensor,
    slots: Slots,
    numbers: AdamWStep,
    *,
    rounding: Rounding,
    number: int,
    factor: torch.Tensor | None,
) -> None:
    """`adamw_reference_` by the kernel; a code may differ by one step where the last bit of a root does."""
    if weight.dtype == torch.float32:
        rounding = "nearest"
    codes, unused = "m_scale" in slots, weight  # a kernel's argument cannot be left out
    # 1 − β is taken in double precision: in fp32 it is 2.4e-7 too large.
    # One warp a program: 8 elements a thread load as 16 bytes, and a block's maximum needs no shared memory.
    _adamw[(triton.cdiv(weight.numel(), 4 * LANE.value),)](
        weight, slots.get("rest", unused), gradient.contiguous(), slots["m"], slots["v"],
        slots.get("m_scale", unused), slots.get("v_scale", unused), unused if factor is None else factor,
        weight.numel(), number, numbers.step, numbers.seed,
        numbers.kept, 1 - numbers.beta1, numbers.beta2, 1 - numbers.beta2, numbers.size,
        1 / numbers.root_correction, numbers.eps,
        ROUNDING=rounding, CODES=codes, RANDOM=codes or rounding == "stochastic", CLIP=factor is not None,
        num_warps=1,
    )  # fmt: skip
