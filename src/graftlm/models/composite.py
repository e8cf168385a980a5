"""Language models made of several: ensembles of whole models, and what the generation and scoring engines need of them.

The engines ask a model for a decoder, a linear head, embeddings and one cache. A composite answers them all, so it is
generated from and scored like any other model. Shapes: B rows, L positions, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from graftlm.core.errors import ModelError
from graftlm.models.trunk import decoder_of, output_head


class JointCache(Cache):
    """Several caches as one: its layers are theirs, end to end."""

    def __init__(self, caches: Sequence[Cache]) -> None:
        self.caches = list(caches)

    @property
    def layers(self) -> list[Any]:
        return [layer for cache in self.caches for layer in cache.layers]

    @layers.setter
    def layers(self, layers: list[Any]) -> None:
        ends = accumulate((len(cache.layers) for cache in self.caches), initial=0)
        for cache, (start, end) in zip(self.caches, pairwise(list(ends)), strict=True):
            cache.layers = layers[start:end]


def caches_of(joint: Cache | None, use_cache: bool, count: int) -> list[Cache | None]:
    """The cache of each part: those of the joint one, new ones, or none."""
    if isinstance(joint, JointCache):
        return list(joint.caches)
    return [DynamicCache() if use_cache else None for _ in range(count)]


class CompositeModel(nn.Module):
    """A decoder of one's own under a linear head, dressed as a transformers causal language model.

    Args:
        trunk: (input_ids, attention_mask, position_ids, past_key_values, use_cache) → the last hidden states.
        head: hidden states → logits.
        embedding: any token embedding of the parts; tells where tokens go.
        positions: the most positions that all parts have.
    """

    base_model_prefix = "trunk"
    graft_packs = False  # padded rows
    is_quantized = False

    def __init__(self, trunk: nn.Module, head: nn.Module, embedding: nn.Module, positions: int | None) -> None:
        super().__init__()
        self.trunk, self.head = trunk, head
        self._embedding = [embedding]  # no parameter of its own
        weight = head.weight
        assert isinstance(weight, Tensor)
        sizes = {"vocab_size": weight.shape[0], "hidden_size": weight.shape[1], "max_position_embeddings": positions}
        self.config = PretrainedConfig.from_dict(sizes)

    def get_input_embeddings(self) -> nn.Module:
        return self._embedding[0]

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool = False,
        logits_to_keep: int = 0,
    ) -> CausalLMOutputWithPast:
        """Logits [B, L, V], or of the last `logits_to_keep` positions."""
        output = self.trunk(input_ids, attention_mask, position_ids, past_key_values, use_cache)
        logits = self.head(output.last_hidden_state[:, -logits_to_keep:])
        return CausalLMOutputWithPast(logits=logits, past_key_values=output.past_key_values)


class _Beside(nn.Module):
    """Decoders beside each other: hidden states [B, L, D₁ + D₂ + …]."""

    def __init__(self, decoders: Sequence[nn.Module]) -> None:
        super().__init__()
        self.decoders = nn.ModuleList(decoders)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool = False,
    ) -> BaseModelOutputWithPast:
        caches = caches_of(past_key_values, use_cache, len(self.decoders))
        states = [
            decoder(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=cache,
                use_cache=use_cache,
            ).last_hidden_state
            for decoder, cache in zip(self.decoders, caches, strict=True)
        ]
        joint = JointCache([cache for cache in caches if cache is not None]) if use_cache else None
        return BaseModelOutputWithPast(last_hidden_state=torch.cat(states, dim=-1), past_key_values=joint)


def ensemble(models: Sequence[PreTrainedModel], weights: Sequence[float]) -> CompositeModel:
    """One model whose log-probabilities are the weighted mean of several models' (normalised again).

    Σ wᵢ log pᵢ differs from Σ wᵢ Wᵢhᵢ by a number that is the same for every token, so the ensemble is exactly a model
    whose hidden state is all hidden states end to end and whose head is all heads, times their weights, side by side.

    Args:
        models: causal language models with the same tokenizer.
        weights: one each; divided by their sum.

    Raises:
        ModelError: vocabularies of different sizes, or a head that is not linear (Gemma 2 caps its logits).
    """
    if len(models) != len(weights) or not models or sum(weights) <= 0:
        raise ModelError("an ensemble needs models and as many weights, with a sum above 0", where="ensemble")
    heads = [output_head(model) for model in models]
    sizes = {int(head.weight_VD.shape[0]) for head in heads}
    if len(sizes) > 1:
        raise ModelError(
            f"vocabularies of {' and '.join(map(str, sorted(sizes)))} tokens",
            where="ensemble",
            fix="take models with one tokenizer",
        )
    if any(head.softcap is not None for head in heads):
        raise ModelError("a model caps its logits: their mean is no linear head", where="ensemble")
    shares = [weight / sum(weights) * head.scale for weight, head in zip(weights, heads, strict=True)]
    columns = [share * head.weight_VD.detach() for share, head in zip(shares, heads, strict=True)]
    biases = [share * one.bias_V.detach() for share, one in zip(shares, heads, strict=True) if one.bias_V is not None]
    head = nn.Linear(sum(part.shape[1] for part in columns), sizes.pop(), bias=bool(biases), device="meta")
    head.weight = nn.Parameter(torch.cat(columns, dim=1), requires_grad=False)
    if biases:
        head.bias = nn.Parameter(torch.stack(biases).sum(0), requires_grad=False)
    limits = [getattr(model.config.get_text_config(), "max_position_embeddings", None) for model in models]
    positions = min((limit for limit in limits if limit), default=None)
    trunk = _Beside([decoder_of(model) for model in models])
    return CompositeModel(trunk, head, models[0].get_input_embeddings(), positions).eval()
