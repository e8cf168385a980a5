"""Which layers get how many bits: the least error of the layers' outputs within a budget of bits a weight."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from graftlm.models.calibration import Siblings, output_error, visit_layers
from graftlm.ops.int_weights import IntFormat, dequantise, quantise

KEPT = 16
"""Bits of a weight that stays as it is."""

CHOICES = (4, 8, KEPT)

Names = tuple[str, ...]
"""Layers that share an input; they get the same bits, because vLLM computes them as one."""


def measured_errors(
    model: torch.nn.Module, rows_RL: torch.Tensor, form_of: Mapping[int, Mapping[str, IntFormat]]
) -> dict[Names, dict[int, float]]:
    """For layers that share an input: bits → squared error of their outputs by that of the outputs themselves.

    Args:
        form_of: bits → layer → its format.
    """
    found = {}
    for visit in visit_layers(model, rows_RL):
        for siblings in visit.found:
            errors = {bits: _error(siblings, forms) for bits, forms in form_of.items()}
            found[tuple(siblings.layers)] = errors | {KEPT: 0.0}
    return found


def _error(siblings: Siblings, forms: Mapping[str, IntFormat]) -> float:
    lost = whole = 0.0
    for name, layer in siblings.layers.items():
        rounded = dequantise(quantise(layer.weight, forms[name]), torch.float32)
        lost += output_error(rounded - layer.weight, siblings.gram_II)
        whole += output_error(layer.weight, siblings.gram_II)
    return lost / whole if whole else 0.0


def choose_bits(
    errors: Mapping[Names, Mapping[int, float]], weights: Mapping[Names, int], mean_bits: float
) -> dict[Names, int]:
    """Begin with the fewest bits everywhere; give more where a bit saves the most error, as long as the mean allows.

    Args:
        errors: bits → relative error, for each.
        weights: how many weights each has.
        mean_bits: at most so many bits a weight; scales not counted.
    """
    chosen = dict.fromkeys(errors, CHOICES[0])
    left = (mean_bits - CHOICES[0]) * sum(weights.values())
    while True:
        steps = [
            ((errors[names][bits] - errors[names][more]) / ((more - bits) * weights[names]), names, more)
            for names, bits in chosen.items()
            for more in CHOICES
            if more > bits and (more - bits) * weights[names] <= left
        ]
        if not steps:
            return chosen
        _, names, more = max(steps)
        left -= (more - chosen[names]) * weights[names]
        chosen[names] = more
