"""New layers between the old ones, which alone are trained: LLaMA-Pro's block expansion (arXiv 2401.02415)."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from graftlm.core.errors import ModelError
from graftlm.models.adapters.freeze import train_in_fp32
from graftlm.models.adapters.prefix import prefix_of
from graftlm.models.trunk import causal_lm, hidden_states

OUTPUTS = ("o_proj", "out_proj", "c_proj", "dense", "down_proj", "dense_4h_to_h", "fc2", "w2")
"""Layers, by transformers' names, whose outputs attention and MLP add to the residual stream."""


@dataclass(frozen=True)
class Expand:
    """Split the layers into `blocks` groups (None: a quarter as many as there are layers), put a copy of each group's
    last layer behind it, and train the copies.

    What a copy adds is 0 at the start (its output projections are), so the deeper model begins as the old one exactly.
    """

    blocks: int | None = None

    def apply(self, model: nn.Module) -> nn.Module:
        """Raises ModelError when there are fewer layers, or the deeper model would not begin as the old one."""
        inner = causal_lm(model)
        parent, name = _layer_list(inner)
        layers = getattr(parent, name)
        N = len(layers)
        blocks = self.blocks or max(1, N // 4)
        if blocks > N:
            raise ModelError(f"it has {N} layers, not {blocks}", where="expand.blocks", fix=f"name at most {N}")
        if prefix_of(inner) is not None:
            raise ModelError("it has a prefix of as many layers", where="method: expand", fix="start from another one")
        inner.requires_grad_(False)
        before = _look(inner)
        sources = sorted({round((block + 1) * N / blocks) - 1 for block in range(blocks)})
        numbers = sorted([*range(N), *sources])
        kept_configs = {id(config): config for config in _configs(inner)}
        deeper: list[nn.Module] = []
        copies: list[nn.Module] = []
        for number in numbers:
            layer = layers[number]
            if layer in deeper:
                layer = copy.deepcopy(layer, dict(kept_configs))
                _silence(layer)
                copies.append(layer)
            deeper.append(layer)
        _renumber(deeper)
        setattr(parent, name, nn.ModuleList(deeper))
        for config in kept_configs.values():
            _deepen(config, numbers)
        if before is not None and not (torch.equal(before, _look(inner)) and _loads_alike(inner)):  # type: ignore[arg-type]
            raise ModelError(
                "with copies of its layers it is not what it was", where=type(inner).__name__, fix="use another method"
            )
        train_in_fp32(parameter for layer in copies for parameter in layer.parameters())
        return model


def _layer_list(inner: nn.Module) -> tuple[nn.Module, str]:
    """The module that holds the list of layers, and the list's name."""
    found = [
        (parent, name)
        for parent in inner.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.ModuleList) and child and all(isinstance(x, GradientCheckpointingLayer) for x in child)
    ]
    if len(found) != 1:
        raise ModelError(
            f"it has {len(found)} lists of layers, not one", where=type(inner).__name__, fix="use another method"
        )
    return found[0]


def _silence(layer: nn.Module) -> None:
    """What attention and MLP add becomes 0; experts hold theirs as parameters of their own."""
    for name, parameter in layer.named_parameters():
        parts = name.split(".")
        if parts[-1] in OUTPUTS or (len(parts) > 1 and parts[-2] in OUTPUTS):
            nn.init.zeros_(parameter)


def _renumber(layers: list[nn.Module]) -> None:
    """Attention finds its place in the cache by number."""
    for number, layer in enumerate(layers):
        for module in layer.modules():
            if isinstance(getattr(module, "layer_idx", None), int):
                module.layer_idx = number  # type: ignore[assignment]


def _configs(inner: PreTrainedModel) -> list[PretrainedConfig]:
    """Every configuration that a part of the model reads."""
    held = [getattr(module, "config", None) for module in inner.modules()]
    whole = [config for config in held if isinstance(config, PretrainedConfig)]
    found = {id(c): c for config in whole for c in (config, config.get_text_config())}
    return list(found.values())


def _deepen(config: PretrainedConfig, numbers: list[int]) -> None:
    """The new number of layers; lists with an entry a layer get the copies' entries."""
    N = numbers[-1] + 1
    for key, value in list(vars(config).items()):
        if "layer" in key and isinstance(value, list) and len(value) == N:
            setattr(config, key, [value[number] for number in numbers])
    if getattr(config, "num_hidden_layers", None) == N:
        config.num_hidden_layers = len(numbers)


def _loads_alike(inner: PreTrainedModel) -> bool:
    """Whether a model made from the configuration has the same layers: what one computes may depend on its number."""
    with torch.device("meta"):
        fresh = type(inner)(copy.deepcopy(inner.config))
    shapes = [{name: parameter.shape for name, parameter in one.named_parameters()} for one in (inner, fresh)]
    pairs = zip(_layer_modules(inner), _layer_modules(fresh), strict=False)
    return shapes[0] == shapes[1] and all(_plain_values(one) == _plain_values(other) for one, other in pairs)


def _layer_modules(inner: nn.Module) -> list[nn.Module]:
    parent, name = _layer_list(inner)
    return list(getattr(parent, name).modules())


def _plain_values(module: nn.Module) -> dict[str, object]:
    plain = {k: v for k, v in vars(module).items() if isinstance(v, int | float | str | None) and k[0] != "_"}
    return {name: value for name, value in plain.items() if name not in ("training", "gradient_checkpointing")}


@torch.no_grad()
def _look(inner: PreTrainedModel) -> torch.Tensor | None:
    """The hidden states of two short documents; None where there are no weights to compute with."""
    device = inner.get_input_embeddings().weight.device
    if device.type == "meta":
        return None
    boundaries = torch.tensor([0, 9, 16], dtype=torch.int32, device=device)  # type: ignore[arg-type]
    return hidden_states(inner.eval(), torch.arange(16, device=device), boundaries)  # type: ignore[arg-type]
