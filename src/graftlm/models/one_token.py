"""Decoder layers for one token of one sequence, by kernels that do a layer in five launches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch

from graftlm.models.quant_linear import QuantLinear
from graftlm.models.trunk import decoder_of

if TYPE_CHECKING:
    from graftlm.ops.kernels.one_token import LayerWeights, Workspace
    from graftlm.ops.kernels.row_products import RowWeight

LAYERS = frozenset({"LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer"})
"""Layers of transformers that compute what the kernels compute; tests hold them against it."""

NORMS = frozenset({"LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm"})


class OneTokenLayers:
    """All decoder layers of a model for one token; keeps what passes from kernel to kernel."""

    def __init__(self, layers: Sequence[torch.nn.Module]) -> None:
        self.layers = layers
        self._weights = [_weights(*pair) for pair in zip(layers, [*layers[1:], layers[-1]], strict=True)]
        self._space: Workspace | None = None

    def run(
        self, place: int, hidden_11D: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, length_1: torch.Tensor
    ) -> torch.Tensor:
        """The output of the layer at `place`, [1, 1, D]; overwritten by the next layer."""
        from graftlm.ops.kernels.one_token import Workspace, enter, run_layer

        attention: Any = self.layers[place].self_attn
        weights, keys, values = self._weights[place], attention.graft_keys[0], attention.graft_values[0]
        if self._space is None:
            self._space = Workspace(weights, keys.shape[-1], keys.shape[1])
        if place == 0:
            enter(self._space, hidden_11D.view(-1), weights)
        run_layer(weights, self._space, keys, values, length_1, cos.view(-1), sin.view(-1))
        return self._space.stream.view(1, 1, -1)


@contextmanager
def one_token_layers(model: torch.nn.Module) -> Iterator[None]:
    """Inside, the model's decoder layers are done by the kernels: for steps of one sequence in a cache of slots."""
    decoder: Any = decoder_of(model)
    layers = list(decoder.layers)
    every = OneTokenLayers(layers)
    for place, layer in enumerate(layers):
        layer._compiled_call_impl = partial(_call, every, place)
    try:
        yield
    finally:
        for layer in layers:
            layer._compiled_call_impl = None


def _call(
    every: OneTokenLayers, place: int, hidden_states: torch.Tensor, *,
    position_embeddings: tuple[torch.Tensor, torch.Tensor], graft_lengths: torch.Tensor, **others: Any,
) -> torch.Tensor:  # fmt: skip
    """As transformers' model code calls a layer."""
    return every.run(place, hidden_states, *position_embeddings, graft_lengths)


def takes_one_token(model: torch.nn.Module) -> bool:
    """Whether the kernels can do all layers of this model: a GPU's bf16, layers of the Llama kind, nothing wrapped."""
    layers: Any = getattr(decoder_of(model), "layers", ())
    return len(layers) > 0 and find_spec("triton") is not None and all(_fits(layer) for layer in layers)


def _fits(layer: torch.nn.Module) -> bool:
    if type(layer).__name__ not in LAYERS or type(layer.input_layernorm).__name__ not in NORMS:
        return False
    attention: Any = layer.self_attn
    mlp: Any = layer.mlp
    if type(mlp.act_fn).__name__ not in ("SiLU", "SiLUActivation") or attention.head_dim & (attention.head_dim - 1):
        return False
    one_format = ((attention.q_proj, attention.k_proj, attention.v_proj), (mlp.gate_proj, mlp.up_proj))
    linear = [*one_format[0], attention.o_proj, *one_format[1], mlp.down_proj]
    if any(type(module) not in (torch.nn.Linear, QuantLinear) for module in linear):
        return False
    if any(module.bias is not None for module in (mlp.gate_proj, mlp.up_proj)):
        return False
    return all(_readable(module) for module in linear) and all(
        len({(_form(module), module.bias is None) for module in modules}) == 1 for modules in one_format
    )


def _form(module: Any) -> object:
    return module.form if isinstance(module, QuantLinear) else None


def _readable(module: Any) -> bool:
    if not isinstance(module, QuantLinear):
        return module.weight.dtype == torch.bfloat16
    words = module.weight_packed.shape[1] // module.weight_scale.shape[1]
    whole = module.in_features % (32 // module.bits) == 0 and module.weight_scale.dtype == torch.bfloat16
    return whole and (module.weight_scale.shape[1] == 1 or not words & (words - 1))


def _weights(layer: Any, follows: Any) -> LayerWeights:
    """Of a layer and the one behind it; behind the last there is none, and what it prepares is not read."""
    from graftlm.ops.kernels.one_token import LayerWeights

    attention, mlp = layer.self_attn, layer.mlp
    heads = [getattr(attention, name, None) for name in ("q_norm", "k_norm")]
    return LayerWeights(
        **{name: _row_weight(getattr(attention, f"{name}_proj")) for name in "qkvo"},
        **{name: _row_weight(getattr(mlp, f"{name}_proj")) for name in ("gate", "up", "down")},
        gain=layer.input_layernorm.weight.data,
        middle_gain=layer.post_attention_layernorm.weight.data,
        next_gain=follows.input_layernorm.weight.data,
        q_gain=None if heads[0] is None else heads[0].weight.data,
        k_gain=None if heads[1] is None else heads[1].weight.data,
        following=_row_weight(follows.self_attn.q_proj),
        eps=layer.input_layernorm.variance_epsilon,
        scale=attention.scaling,
        window=getattr(attention, "sliding_window", getattr(attention.config, "sliding_window", None)) or 0,
    )


def _row_weight(module: Any) -> RowWeight:
    from graftlm.ops.kernels.row_products import RowWeight

    bias = None if module.bias is None else module.bias.data
    if isinstance(module, QuantLinear):
        numbers = module.numbers
        return RowWeight(numbers.words, numbers.scale, numbers.zero, bias, module.in_features, module.bits)
    return RowWeight(module.weight.data, None, None, bias, module.in_features, 16)
