"""What a decoder computes for one text, step by step: hooks on its modules write down what comes out of each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

from graftlm.core.errors import ModelError
from graftlm.models.trunk import causal_lm, output_head

ATTENTION = "graft-anatomy"


@dataclass(frozen=True)
class Step:
    """What one module made.

    Attributes:
        name: the module's name inside its block, as `self_attn.q_proj`.
        values_TN: [T, N]
    """

    name: str
    values_TN: torch.Tensor


@dataclass(frozen=True)
class Attention:
    """
    Attributes:
        query_HTK: [H, T, K] as they meet the keys: turned by their positions where the family does so.
        key_GTK: [G, T, K]
        value_GTK: [G, T, K]
        scores_HTT: query i · key j, scaled; -inf where j may not be seen.
        weights_HTT: softmax of the scores over j.
    """

    query_HTK: torch.Tensor
    key_GTK: torch.Tensor
    value_GTK: torch.Tensor
    scores_HTT: torch.Tensor
    weights_HTT: torch.Tensor


@dataclass
class Block:
    """
    Attributes:
        before_TD: the tokens' vectors that came in.
        steps: in the order in which they were computed.
        after_TD: the vectors that went out.
        guess_V: logits of the last token, were this the last block.
    """

    before_TD: torch.Tensor
    steps: list[Step | Attention] = field(default_factory=list)
    after_TD: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    guess_V: torch.Tensor = field(default_factory=lambda: torch.empty(0))


@dataclass(frozen=True)
class Anatomy:
    """
    Attributes:
        blocks: the first one's `before_TD` are the embeddings.
        normed_TD: after the last norm.
        logits_TV: how well each token of the vocabulary follows.
    """

    blocks: list[Block]
    normed_TD: torch.Tensor
    logits_TV: torch.Tensor


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """transformers' attention entry, the long way round; what it finds is left at the module for its hook."""
    each = query.shape[1] // key.shape[1]
    scores = query @ key.repeat_interleave(each, 1).mT * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    hidden_TT = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    if attention_mask is not None:
        hidden_TT = attention_mask < 0  # the mask is added in other attentions: 0 where a token may be seen
    scores = scores.masked_fill(hidden_TT, -torch.inf)
    weights = scores.softmax(-1)
    module.graft_anatomy = Attention(query[0], key[0], value[0], scores[0], weights[0])  # type: ignore[assignment]
    return (weights @ value.repeat_interleave(each, 1)).transpose(1, 2).contiguous(), weights


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, ALL_MASK_ATTENTION_FUNCTIONS["eager"])


@torch.no_grad()
def dissect(model: PreTrainedModel, tokens: list[int]) -> Anatomy:
    """Run one text through a decoder on the CPU, and keep all. Families whose attention is closed to others (BLOOM)
    show none.

    Raises:
        ModelError: the model has no list of blocks to look into.
    """
    inner = causal_lm(model)
    decoder = getattr(inner, inner.base_model_prefix, None) or inner.model
    layers = next((part for part in decoder.children() if isinstance(part, torch.nn.ModuleList)), None)
    if layers is None:
        raise ModelError("it is not a chain of blocks", where=type(inner).__name__, fix="explain a decoder")
    blocks: list[Block] = []
    hooks = [hook for layer in layers for hook in _watch(layer, blocks)]
    own = inner.config._attn_implementation
    if inner._supports_attention_backend:
        inner.set_attn_implementation(ATTENTION)
    try:
        output = inner(input_ids=torch.tensor([tokens]), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
        inner.set_attn_implementation(own)
    last_norm, head = _last_norm(decoder), output_head(inner)
    for block in blocks:
        block.guess_V = head.logits(last_norm(block.after_TD[-1:]))[0]
    return Anatomy(blocks, last_norm(blocks[-1].after_TD), output.logits[0])


def _watch(layer: torch.nn.Module, blocks: list[Block]) -> list[Any]:
    """Hooks that open a block when the layer is called, fill it, and close it."""

    def begin(module: torch.nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        blocks.append(Block(_rows(given[0] if given else named["hidden_states"])))

    def end(module: torch.nn.Module, given: tuple[Any, ...], made: Any) -> None:
        blocks[-1].after_TD = _rows(made)

    hooks = [layer.register_forward_pre_hook(begin, with_kwargs=True), layer.register_forward_hook(end)]
    for name, module in layer.named_modules():
        if next(module.children(), None) is None and next(module.parameters(), None) is not None:
            hooks.append(module.register_forward_hook(_note(name, layer, blocks)))
    return hooks


def _note(name: str, layer: torch.nn.Module, blocks: list[Block]) -> Any:
    """A hook that writes down what a module made, and the attention before it if that has just been computed."""

    def hook(module: torch.nn.Module, given: tuple[Any, ...], made: Any) -> None:
        for part in layer.modules():
            found = part.__dict__.pop("graft_anatomy", None)
            if found is not None:
                blocks[-1].steps.append(found)
        blocks[-1].steps.append(Step(name, _rows(made, len(blocks[-1].before_TD))))

    return hook


def _rows(made: Any, T: int | None = None) -> torch.Tensor:
    """[T, N] of a module's output: the first of a tuple, without its batch, heads side by side."""
    values = made[0] if isinstance(made, tuple) else made
    if values.ndim == 2:
        return values
    if T is not None and values.shape[1] != T:
        values = values.transpose(1, 2)
    return values[0].reshape(values.shape[1], -1)


def _last_norm(decoder: torch.nn.Module) -> torch.nn.Module:
    """The norm after the blocks: the last child that is one (an embedding's norm comes before them)."""
    norms = [part for part in decoder.children() if "norm" in type(part).__name__.lower()]
    return norms[-1]
