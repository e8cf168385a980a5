"""AWQ on a whole decoder layer: which channels can be scaled where they are made, and scaling them there."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from graftlm.models.calibration import Siblings, Visit
from graftlm.ops.awq import channel_scales
from graftlm.ops.int_weights import IntFormat

MAKERS = {"down_proj": "up_proj", "o_proj": "v_proj"}
"""Linear layers whose output channels are another's input channels, up to something that no factor changes: gate · up,
and the mean of values that attention takes (where each head has values of its own)."""


@torch.no_grad()
def scale_channels(visit: Visit, forms: Mapping[str, IntFormat]) -> list[str]:
    """Scale the input channels of the layer's linear layers for rounding to `forms`; their outputs stay.

    Returns:
        Layers whose input is made by something that cannot be scaled: they are left as they are.
    """
    before = visit.outputs()
    left: list[str] = []
    made = {name: layer for siblings in visit.found for name, layer in siblings.layers.items()}
    for siblings in visit.found:
        first = next(iter(siblings.layers))
        weights = [layer.weight for layer in siblings.layers.values()]
        scales_I = channel_scales(weights, siblings.gram_II, siblings.magnitude_I, forms[first])
        maker = _maker(siblings, first, made)
        if maker is None:
            left += siblings.layers
            continue
        _scale(siblings, maker, scales_I)
        if not _same(visit.outputs(), before):  # the maker scales otherwise, or feeds something else, too
            _scale(siblings, maker, 1 / scales_I)
            left += siblings.layers
    return left


def _maker(
    siblings: Siblings, first: str, made: Mapping[str, torch.nn.Linear]
) -> torch.nn.Module | None:
    if siblings.norm is not None:
        return siblings.norm
    parent, _, own = first.rpartition(".")
    maker = made.get(f"{parent}.{MAKERS.get(own, '')}")
    fits = maker is not None and maker.out_features == len(siblings.magnitude_I)
    return maker if fits else None


def _scale(siblings: Siblings, maker: torch.nn.Module, scales_I: torch.Tensor) -> None:
    """Inputs up, their maker's outputs down."""
    for layer in siblings.layers.values():
        layer.weight.copy_(layer.weight.float() * scales_I)
    for part in (maker.weight, getattr(maker, "bias", None)):
        if isinstance(part, torch.Tensor):
            factor = scales_I if part.ndim == 1 else scales_I[:, None]
            part.copy_(part.float() / factor)
    siblings.gram_II /= scales_I[:, None] * scales_I
    siblings.magnitude_I /= scales_I


def _same(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    """To rounding: an eighth of what 4 bits change, several times what bf16 does."""
    bound = 1e-4 if wanted.dtype == torch.float32 else 2e-2
    return bool((found.float() - wanted.float()).norm() <= bound * wanted.float().norm())
