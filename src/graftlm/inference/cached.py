"""One batch of sequences running through a model: the owner of its cache, mask and positions.

Shapes: B rows, L positions so far, V vocabulary, D hidden size.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer

from graftlm.core.errors import ModelError
from graftlm.models.trunk import causal_lm


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Dropout off inside; afterwards every module is again in the state it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def position_limit(model: nn.Module) -> int | None:
    """The most positions the model has, or None when it states no limit (ALiBi models)."""
    return getattr(causal_lm(model).config.get_text_config(), "max_position_embeddings", None)


def model_device(model: nn.Module) -> torch.device:
    """Where the model takes its tokens."""
    return next(causal_lm(model).get_input_embeddings().parameters()).device


def _forward_names(module: nn.Module) -> frozenset[str]:
    """Names of the arguments that `forward` takes, also where a subclass passes them on as **kwargs."""
    forwards = [vars(base)["forward"] for base in type(module).__mro__ if "forward" in vars(base)]
    return frozenset(name for forward in forwards for name in inspect.signature(forward).parameters)


def takes_cache(model: nn.Module) -> bool:
    """Whether its cache is one that `CachedBatch` can own (Mamba's is not)."""
    return "past_key_values" in _forward_names(causal_lm(model))


class RoomyLayer(DynamicLayer):
    """A plain cache layer with room to grow: a step writes one position where transformers copies them all.

    Args:
        layer: the layer whose states it takes over.
        room: positions to keep free; more are added when they run out.
    """

    def __init__(self, layer: DynamicLayer, room: int) -> None:
        super().__init__()
        self.is_initialized = True
        self.dtype, self.device = layer.dtype, layer.device
        assert layer.keys is not None
        assert layer.values is not None
        self._length = layer.keys.shape[-2]
        self._keys_BHLD = _with_room(layer.keys, room)
        self._values_BHLD = _with_room(layer.values, room)
        self._show()

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append the states [B, H, N, D] of N new positions; return those of all positions."""
        start, self._length = self._length, self._length + key_states.shape[-2]
        if self._length > self._keys_BHLD.shape[-2]:
            self._keys_BHLD = _with_room(self._keys_BHLD, self._length)
            self._values_BHLD = _with_room(self._values_BHLD, self._length)
        self._keys_BHLD[:, :, start : self._length] = key_states
        self._values_BHLD[:, :, start : self._length] = value_states
        return self._show()

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep these rows, in this order."""
        self._keys_BHLD = self._keys_BHLD.index_select(0, beam_idx)
        self._values_BHLD = self._values_BHLD.index_select(0, beam_idx)
        self._show()

    def _show(self) -> tuple[Tensor, Tensor]:
        self.keys = self._keys_BHLD[:, :, : self._length]
        self.values = self._values_BHLD[:, :, : self._length]
        return self.keys, self.values


def _with_room(states_BHLD: Tensor, room: int) -> Tensor:
    B, H, L, D = states_BHLD.shape
    buffer_BHLD = states_BHLD.new_empty(B, H, L + room, D)
    buffer_BHLD[:, :, :L] = states_BHLD
    return buffer_BHLD


class CachedBatch:
    """Rows of unequal length, padded on the left, with their cache.

    Args:
        model: a transformers causal language model (peft-wrapped or not), in evaluation mode.
        rows: the tokens of each row, none empty.
        pad_id: any token id; its positions are masked.
        room: positions that the rows will grow by, at most.
    """

    def __init__(self, model: nn.Module, rows: Sequence[Sequence[int]], pad_id: int, *, room: int) -> None:
        self._model = causal_lm(model)
        self._decoder = getattr(self._model, self._model.base_model_prefix)
        self._model_arguments = _forward_names(self._model)
        self._decoder_arguments = _forward_names(self._decoder)
        self._room = room
        self._cache: Any = None
        self._width = max(len(row) for row in rows)
        device = model_device(model)
        padding = [self._width - len(row) for row in rows]
        tokens = [[pad_id] * pad + list(row) for pad, row in zip(padding, rows, strict=True)]
        self._tokens_BL = torch.tensor(tokens, device=device)
        columns_L = torch.arange(self._width + room, device=device)
        padding_B1 = torch.tensor(padding, device=device)[:, None]
        # [B, L + room]: a step takes a slice, none builds one
        self._mask_BL = (columns_L >= padding_B1).long()
        # A finished row may run on beside the others: its positions stay inside the table.
        last = (position_limit(model) or len(columns_L)) - 1
        self._positions_BL = (columns_L - padding_B1).clamp(min=0, max=last)

    @property
    def device(self) -> torch.device:
        return self._tokens_BL.device

    def prefill(self) -> Tensor:
        """Run the rows; return the logits after their last token, [B, V] fp32."""
        return self._last_logits(self._tokens_BL)

    def step(self, tokens_B: Tensor) -> Tensor:
        """Append a token to every row; return the logits after it, [B, V] fp32."""
        self._width += 1
        return self._last_logits(tokens_B[:, None])

    def extend(self, tokens_BC: Tensor) -> Tensor:
        """Append up to C tokens a row, padded on the right; return the hidden states, [B, C, D].

        The rows cannot grow further after that.
        """
        self._width += tokens_BC.shape[1]  # the padding needs no mask: nothing real comes after it
        output = self._decoder(**self._inputs(tokens_BC, self._decoder_arguments))
        return output.last_hidden_state

    def select(self, rows_R: Tensor) -> None:
        """Keep only these rows, in this order; a row named several times is copied."""
        self._cache.reorder_cache(rows_R)
        self._mask_BL = self._mask_BL.index_select(0, rows_R)
        self._positions_BL = self._positions_BL.index_select(0, rows_R)

    def _last_logits(self, tokens_BN: Tensor) -> Tensor:
        last = {"logits_to_keep": 1} if "logits_to_keep" in self._model_arguments else {}
        output = self._model(**self._inputs(tokens_BN, self._model_arguments), **last)
        if self._cache is None:
            self._cache = self._adopt(getattr(output, "past_key_values", None))
        return output.logits[:, -1].float()

    def _inputs(self, tokens_BN: Tensor, accepted: frozenset[str]) -> dict[str, Any]:
        inputs: dict[str, Any] = {
            "input_ids": tokens_BN,
            "attention_mask": self._mask_BL[:, : self._width],
            "past_key_values": self._cache,
            "use_cache": True,
        }
        if "position_ids" in accepted:  # BLOOM, for one, reads positions off the mask
            inputs["position_ids"] = self._positions_BL[:, self._width - tokens_BN.shape[1] : self._width]
        return inputs

    def _adopt(self, cache: Any) -> Cache:
        """The cache that the model made, with room to grow in its plain layers; other layers stay."""
        if not isinstance(cache, Cache):
            raise ModelError(
                f"{type(self._model).__name__} returns no key-value cache that transformers' Cache describes",
                fix="use the model's own generate()",
            )
        cache.layers = [
            RoomyLayer(layer, self._room) if type(layer) is DynamicLayer and layer.is_initialized else layer
            for layer in cache.layers
        ]
        return cache
