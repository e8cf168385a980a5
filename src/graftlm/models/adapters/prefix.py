"""P-Tuning v2 (arXiv 2110.07602) as ChatGLM2-6B has it: learnt keys and values in front of every layer's own.

Prefix keys are not rotated and real positions start at 0, as if nothing stood in front. peft's PrefixTuning lays the
prefix into the cache and so shifts every position by its length; with `position_ids = arange(T) - P` both are equal.
The prefix stays a part of the model: it cannot be merged into weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel

from graftlm.core.errors import ModelError
from graftlm.models.trunk import attention_modules, causal_lm, hidden_states
from graftlm.ops.learnt_prefix import PrefixStates

ATTRIBUTE = "graft_prefix"


class PrefixEncoder(nn.Module):
    """Makes the prefix of all layers: an embedding of P rows of layers · 2 · heads · head size, perhaps projected.

    Args:
        tokens: P.
        heads: key/value heads of a layer.
        hidden: width of the two-layer tanh MLP behind the embedding; None: no MLP.
        dropout: share of the prefix's values that are dropped in training; one draw a pass and layer serves all
            documents of the pass.
        std: of the embedding's first values, as torch's own 1.0.
    """

    def __init__(
        self, tokens: int, layers: int, heads: int, head_size: int, *, hidden: int | None, dropout: float, std: float
    ) -> None:
        super().__init__()
        self.shape = (tokens, 2 * layers, heads, head_size)
        width = 2 * layers * heads * head_size
        self.embedding = nn.Embedding(tokens, width)
        nn.init.normal_(self.embedding.weight, std=std)
        self.transform: nn.Sequential | None = None
        if hidden is not None:
            self.transform = nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, width))
        self.dropout = dropout

    def flat(self) -> torch.Tensor:
        """[P, layers · 2 · heads · head size]: all that is saved."""
        prefix = self.embedding.weight
        return prefix if self.transform is None else self.transform(prefix)

    def layer(self, number: int) -> PrefixStates:
        """One layer's keys and values; each layer asks for its own, so that recomputing layers stays right."""
        P, _, heads, size = self.shape
        part = slice(2 * number * heads * size, 2 * (number + 1) * heads * size)
        with torch.autocast(self.embedding.weight.device.type, enabled=False):
            prefix = self.embedding.weight
            if self.transform is None:
                prefix = prefix[:, part]
            else:
                first, tanh, last = self.transform
                assert isinstance(last, nn.Linear)
                prefix = F.linear(tanh(first(prefix)), last.weight[part], last.bias[part])
        prefix = F.dropout(prefix, self.dropout, self.training).view(P, 2, heads, size)
        return PrefixStates(prefix[:, 0], prefix[:, 1])


@dataclass(frozen=True)
class LayerPrefix:
    """What an attention module holds: no module itself, so the encoder's weights stand in one place only."""

    encoder: PrefixEncoder
    number: int

    def states(self) -> PrefixStates:
        return self.encoder.layer(self.number)


@dataclass(frozen=True)
class Prefix:
    """Train a prefix (fp32) on frozen weights as loaded, be they quantised or not. A model that has a prefix goes on
    with it."""

    tokens: int = 128
    projection: bool = False
    hidden: int | None = None
    dropout: float = 0.1
    std: float = 1.0

    def apply(self, model: nn.Module) -> nn.Module:
        """Raises ModelError when the model's attention takes no prefix, or it has one of another length."""
        inner = causal_lm(model)
        inner.requires_grad_(False)
        encoder = prefix_of(inner)
        if encoder is None:
            self._add(inner)
        elif encoder.shape[0] != self.tokens or self.projection:
            raise ModelError(
                f"it has a prefix of {encoder.shape[0]} tokens already",
                where="ptuning.tokens",
                fix=f"go on with it (tokens: {encoder.shape[0]}, projection: false), or start from another model",
            )
        else:
            encoder.requires_grad_(True)
            encoder.dropout = self.dropout
        return model

    def _add(self, inner: PreTrainedModel) -> None:
        config = inner.config.get_text_config()
        heads = getattr(config, "num_attention_heads", None)
        if heads is None:
            raise _no_prefix(inner, "it has no attention")
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        heads = getattr(config, "num_key_value_heads", None) or heads
        encoder = PrefixEncoder(
            self.tokens,
            config.num_hidden_layers,
            heads,
            size,
            hidden=(self.hidden or config.hidden_size) if self.projection else None,
            dropout=self.dropout,
            std=self.std,
        )
        attach_prefix(inner, encoder)


def prefix_of(model: nn.Module) -> PrefixEncoder | None:
    return getattr(causal_lm(model), ATTRIBUTE, None)


def attach_prefix(inner: PreTrainedModel, encoder: PrefixEncoder) -> None:
    """Make the encoder a part of the model, which has the prefix from now on.

    Raises:
        ModelError: the model's attention does not go through `trunk`'s entry, or its layers differ in shape.
    """
    weight = inner.get_input_embeddings().weight
    encoder.to(weight.device)  # type: ignore[arg-type]
    modules = attention_modules(inner)
    on_meta = bool(weight.is_meta)
    if list(modules) != list(range(encoder.shape[1] // 2)) or not (on_meta or inner.graft_packs):
        raise _no_prefix(inner, "its attention is its own")
    for number, module in modules.items():
        module.graft_prefix = LayerPrefix(encoder, number)  # type: ignore[assignment]
    inner.graft_prefix = encoder
    inner.graft_kernel = "by_length"  # type: ignore[assignment]
    encoder.train(inner.training)
    if on_meta:
        return
    tokens_T = torch.arange(5, device=weight.device)  # type: ignore[arg-type]
    try:
        with torch.no_grad():
            hidden_states(inner, tokens_T, torch.tensor([0, 2, 5], dtype=torch.int32, device=tokens_T.device))
    except (NotImplementedError, RuntimeError) as error:
        raise _no_prefix(inner, str(error).splitlines()[0]) from error


def _no_prefix(inner: nn.Module, why: str) -> ModelError:
    return ModelError(f"it takes no prefix: {why}", where=type(inner).__name__, fix="use method: lora")
