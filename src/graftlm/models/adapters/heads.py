"""Some attention heads are trained, the rest stays: their rows of q, k and v and their columns of the output.

What is trained are parameters of their own, which take their places in the frozen weight in each forward pass. So
neither gradients nor weight decay can reach any other entry, and the optimizer keeps nothing for it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers.pytorch_utils import Conv1D

from graftlm.core.errors import ModelError
from graftlm.models.adapters.head_slices import Slices, head_count, head_slices
from graftlm.models.trunk import attention_modules, causal_lm

Head = tuple[int, int]
"""(layer, head), both from 0."""


class ChosenLinear(nn.Linear):
    """A linear layer some rows or columns of which are trained. An existing layer becomes one by its class.

    Attributes:
        dim, places: where in the weight `chosen` belongs.
        chosen_bias: of the same places, for rows with biases.
    """

    dim: int
    places: torch.Tensor
    chosen: nn.Parameter
    chosen_bias: nn.Parameter | None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, whole_weight(self), whole_bias(self))


class ChosenConv1D(Conv1D):
    """The same of transformers' transposed linear layer."""

    dim: int
    places: torch.Tensor
    chosen: nn.Parameter
    chosen_bias: nn.Parameter | None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, whole_weight(self).t(), whole_bias(self))


Chosen = ChosenLinear | ChosenConv1D
CHOSEN: dict[type[nn.Module], type[Chosen]] = {nn.Linear: ChosenLinear, Conv1D: ChosenConv1D}


@dataclass(frozen=True)
class Heads:
    """Train these heads (fp32); everything else stays as loaded."""

    chosen: tuple[Head, ...]

    def apply(self, model: nn.Module) -> nn.Module:
        """Raises ModelError when there is no such head, or the attention's layout is not known."""
        inner = causal_lm(model)
        inner.requires_grad_(False)
        attentions, H = attention_modules(inner), head_count(inner.config)
        by_layer: dict[int, set[int]] = defaultdict(set)
        for layer, head in self.chosen:
            if layer not in attentions or not 0 <= head < H:
                raise ModelError(
                    f"there is no head {layer}.{head}",
                    where="heads.chosen",
                    fix=f"it has {len(attentions)} layers of {H} heads, both counted from 0",
                )
            by_layer[layer].add(head)
        for layer, heads in by_layer.items():
            _train(head_slices(attentions[layer], inner.config, heads))
        return model


def _train(slices: list[Slices]) -> None:
    """Slices of one layer (of a fused projection) become one parameter."""
    by_layer: dict[nn.Module, list[Slices]] = defaultdict(list)
    for one in slices:
        by_layer[one.layer].append(one)
    for layer, parts in by_layer.items():
        if type(layer) not in CHOSEN:
            raise ModelError(
                "its heads cannot be trained by themselves", where=type(layer).__name__, fix="use weights as they are"
            )
        layer.__class__ = CHOSEN[type(layer)]
        assert isinstance(layer, Chosen)
        layer.dim, places = parts[0].dim, torch.cat([part.places for part in parts]).to(layer.weight.device)
        layer.register_buffer("places", places, persistent=False)
        layer.chosen = nn.Parameter(layer.weight.detach().index_select(layer.dim, places).float())
        layer.chosen_bias = None
        if layer.bias is not None and parts[0].side == "out":  # an output's bias belongs to all heads
            layer.chosen_bias = nn.Parameter(layer.bias.detach().index_select(0, places).float())


def whole_weight(layer: Chosen) -> torch.Tensor:
    """The frozen weight with the trained slices in their places, in its own format."""
    return layer.weight.index_copy(layer.dim, layer.places, layer.chosen.to(layer.weight.dtype))


def whole_bias(layer: Chosen) -> torch.Tensor | None:
    if layer.chosen_bias is None:
        return layer.bias
    return layer.bias.index_copy(0, layer.places, layer.chosen_bias.to(layer.bias.dtype))


def merge_heads(model: nn.Module) -> None:
    """Lay what was trained into the weights, whose layers are plain again; they take its format."""
    for layer in model.modules():
        if not isinstance(layer, Chosen):
            continue
        with torch.no_grad():
            layer.weight.data = layer.weight.float()
            layer.weight.data = whole_weight(layer)
            if layer.chosen_bias is not None:
                layer.bias.data = layer.bias.float()
                layer.bias.data = layer.bias.index_copy(0, layer.places, layer.chosen_bias)
        del layer.chosen, layer.chosen_bias, layer.places, layer.dim
        layer.__class__ = nn.Linear if isinstance(layer, ChosenLinear) else Conv1D  # type: ignore[assignment]


def copied_weights(model: nn.Module) -> int:
    """Weights that each pass puts together anew and keeps for its backward half."""
    return sum(layer.weight.numel() for layer in model.modules() if isinstance(layer, Chosen))


def head_importance(model: nn.Module, losses: Iterable[Callable[[], torch.Tensor]]) -> torch.Tensor:
    """[layers, H] fp32: Σ |weight · gradient of the summed losses| over a head's rows of q and columns of the output.

    The first-order change of the loss when a weight goes to 0, as in Molchanov et al., arXiv 1906.10771.

    Args:
        losses: each gives one loss to go backward through.
    """
    inner = causal_lm(model)
    inner.requires_grad_(False)
    attentions, H = attention_modules(inner), head_count(inner.config)
    slices = [
        [[s for s in head_slices(attention, inner.config, {head}) if s.own] for head in range(H)]
        for attention in attentions.values()
    ]
    weights = {id(s.layer): s.layer.weight for layer in slices for head in layer for s in head}
    for weight in weights.values():
        weight.requires_grad_(True)
    for loss in losses:
        loss().backward()
    found = torch.tensor([[sum(_movement(s) for s in head) for head in layer] for layer in slices])
    for weight in weights.values():
        weight.requires_grad_(False).grad = None
    return found


def _movement(slices: Slices) -> float:
    weight = slices.layer.weight
    assert isinstance(weight, torch.Tensor) and weight.grad is not None
    places = slices.places.to(weight.device)
    own, gradient = (x.index_select(slices.dim, places).float() for x in (weight.detach(), weight.grad))
    return float((own * gradient).abs().sum())


def most_important(importance_LH: torch.Tensor, count: int) -> tuple[Head, ...]:
    """The `count` heads of greatest importance, in the order of the model."""
    H = importance_LH.shape[1]
    chosen = importance_LH.flatten().topk(min(count, importance_LH.numel())).indices.sort().values.tolist()
    return tuple((number // H, number % H) for number in chosen)
