"""The cache of the engine: keys and values of S sequences at once, each in a slot of L positions, allocated once.

Fixed addresses are what CUDA graphs need, and a slot that becomes free takes the next sequence without moving others.
The states of a layer hang on its attention module while the model runs, not in a list by layer number: a compiled layer
that looked its number up would be compiled anew for each layer.

Shapes: S slots, B slots of a step, K new tokens of each, L positions, G key/value heads, D head size,
    T tokens of packed prompts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers.cache_utils import Cache

from graftlm.ops.slot_attention import put_several_states, put_states


class SlotCache(Cache):
    """Keys and values of a whole model, for `models.trunk.prompt_states` and `next_states`.

    To transformers it is a cache that gives new states back as they are; the attention entry calls `take_in`.

    Args:
        slots, positions: how many sequences it holds, and how long each may be.
    """

    def __init__(self, slots: int, positions: int) -> None:
        super().__init__(layers=[])
        self._shape = slots, positions
        self._states: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        self._slot_T: Tensor | None = None
        self._position_T: Tensor | None = None
        self._position: Tensor | None = None  # [B] or [B, K]

    def expect_prompts(self, slot_T: Tensor, position_T: Tensor) -> None:
        """The next states are those of packed prompts: slot and position of each token."""
        self._slot_T, self._position_T, self._position = slot_T, position_T, None

    def expect_tokens(self, position: Tensor) -> None:
        """The next states are those of one token [B] or several [B, K] in each of the first slots, at these positions.

        What is written at a position that holds a token takes its place: tokens that were guessed wrongly need no
        removal, they are not seen and the next ones overwrite them.
        """
        self._slot_T, self._position_T, self._position = None, None, position

    @contextmanager
    def on(self, model: nn.Module) -> Iterator[None]:
        """Inside, the model's attention modules hold their states."""
        for module, (keys, values) in self._states.items():
            module.graft_keys, module.graft_values = keys, values
        try:
            yield
        finally:
            for module in model.modules():
                if hasattr(module, "graft_keys"):
                    self._states[module] = module.graft_keys, module.graft_values  # type: ignore[assignment]
                    del module.graft_keys, module.graft_values

    def take_in(self, module: Any, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Put new states into their places.

        Args:
            key, value: of prompts [1, G, T, D], which come back as they are, since prompts see nothing else; of
                decoding [B, G, K, D].

        Returns:
            What is attended to: of decoding all slots [S, G, L, D].
        """
        if self._slot_T is not None:
            if not hasattr(module, "graft_keys"):
                slots, positions = self._shape
                module.graft_keys, module.graft_values = (
                    states.new_zeros(slots, states.shape[1], positions, states.shape[3]) for states in (key, value)
                )
            module.graft_keys[self._slot_T, :, self._position_T] = key[0].transpose(0, 1)
            module.graft_values[self._slot_T, :, self._position_T] = value[0].transpose(0, 1)
            return key, value
        assert self._position is not None
        if self._position.ndim == 2:
            put_several_states(module.graft_keys, module.graft_values, key, value, self._position)
        else:
            put_states(module.graft_keys, module.graft_values, key[:, :, 0], value[:, :, 0], self._position)
        return module.graft_keys, module.graft_values

    def copy_slot(self, source: int, targets: list[int], length: int) -> None:
        """The first positions of a slot into others."""
        for pair in self._states.values():
            for states in pair:
                states[targets, :, :length] = states[source, :, :length]

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0  # positions are given with each call
