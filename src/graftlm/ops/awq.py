"""AWQ (Lin et al., arXiv 2306.00978): channels with large activations get a finer grid.

Input channel i is scaled up by s_i before rounding and down by it where it is made, which changes nothing but the
rounding: s = (mean |x|)^α, the exponent that leaves the least error of the outputs. The paper's clipping is left out.

Shapes: O outputs, I inputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from graftlm.ops.int_weights import IntFormat, dequantise, quantise

EXPONENTS = [step / 20 for step in range(20)]
"""The paper's grid search; 0 is plain rounding."""


@torch.no_grad()
def channel_scales(
    weights: Sequence[torch.Tensor], gram_II: torch.Tensor, magnitude_I: torch.Tensor, form: IntFormat
) -> torch.Tensor:
    """[I] fp32: the factors to scale the input channels of `weights` [O, I] up by, which share their input.

    Args:
        gram_II: sum of x·xᵀ over calibration tokens, fp32.
        magnitude_I: anything proportional to the mean |x|.
    """
    candidates = [_scales(magnitude_I, exponent) for exponent in EXPONENTS]
    errors = [sum(_error(weight, gram_II, scales, form) for weight in weights) for scales in candidates]
    return candidates[errors.index(min(errors))]


def _scales(magnitude_I: torch.Tensor, exponent: float) -> torch.Tensor:
    """Around 1, so that the weights' range stays where it was."""
    magnitude_I = magnitude_I / magnitude_I.mean().clamp(min=1e-12)
    scales_I = magnitude_I.clamp(min=1e-4).pow(exponent)
    return scales_I / (scales_I.max() * scales_I.min()).sqrt()


def _error(weight_OI: torch.Tensor, gram_II: torch.Tensor, scales_I: torch.Tensor, form: IntFormat) -> float:
    rounded = quantise(weight_OI.float() * scales_I, form)
    difference = dequantise(rounded, torch.float32) / scales_I - weight_OI.float()
    return float(((difference @ gram_II) * difference).sum())
