"""One step of decoding for the first slots of a cache: a forward pass, on a GPU as a CUDA graph.

A step of a 7B model is a thousand small kernels that take 2 to 10 µs each; launched one by one from Python they take
four times the time that reading the weights takes. A graph launches them all at once, but for one number of slots:
steps are rounded up to a few numbers, each captured when it is met for the first time.

Shapes: S slots in all, B slots of a step, V vocabulary.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from graftlm.models.acceleration import compiled_for_decoding
from graftlm.models.one_token import one_token_layers, takes_one_token
from graftlm.models.slots import SlotCache
from graftlm.models.trunk import next_states, output_head, several_next_states

SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256)


class NextToken:
    """Logits after one more token in each of the first B slots.

    Args:
        model: a language model that takes packed rows; in evaluation mode, its weights stay where they are.
        cache: with S slots of `positions`.
        compile: compile the layers that a graph is made of: some ten seconds once, and then faster steps.

    Attributes:
        tokens_S: the last token of each slot, whose states are not in the cache yet.
        lengths_S: positions of each slot that are in the cache; 0: the slot is empty.
    """

    def __init__(
        self, model: nn.Module, cache: SlotCache, slots: int, positions: int, device: torch.device, *, compile: bool
    ) -> None:
        self._model, self._cache, self._last_place, self._compile = model, cache, positions - 1, compile
        self._head = output_head(model)
        self.tokens_S = torch.zeros(slots, dtype=torch.long, device=device)
        self.lengths_S = torch.zeros(slots, dtype=torch.long, device=device)
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}

    def rounded(self, count: int) -> int:
        """The slots of a step for so many."""
        slots = len(self.tokens_S)
        if not self.tokens_S.is_cuda:
            return count
        return min(slots, next((size for size in SIZES if size >= count), -(-count // 64) * 64))

    def logits(self, B: int) -> Tensor:
        """[B, V] fp32, to be used before the next call. Empty slots give logits that mean nothing."""
        if not self.tokens_S.is_cuda:
            return self._forward(B)
        if B not in self._graphs:
            self._graphs[B] = self._capture(B)
        graph, logits_BV = self._graphs[B]
        graph.replay()
        return logits_BV

    def append(self, tokens_B: Tensor) -> None:
        """The chosen tokens are the last ones now; empty slots stay empty."""
        B = len(tokens_B)
        self.tokens_S[:B] = tokens_B
        self.lengths_S[:B] += (self.lengths_S[:B] > 0).long()

    def logits_of_several(self, tokens_BK: Tensor) -> Tensor:
        """[B, K, V] fp32 after each of K more tokens in the first B slots, whose lengths stay as they are.

        The first is the slot's last token. Without a graph: K changes from step to step.
        """
        start_B1 = self.lengths_S[: len(tokens_BK), None]
        # Padding behind a row's own tokens ends in the last place, which no token of an answer needs.
        position_BK = (start_B1 + torch.arange(tokens_BK.shape[1], device=tokens_BK.device)).clamp(max=self._last_place)
        self._cache.expect_tokens(position_BK)
        with self._cache.on(self._model):
            states_BKD = several_next_states(
                self._model, tokens_BK, position_BK, (position_BK + 1) * (start_B1 > 0), self._cache
            )
        return self._head.logits(states_BKD.flatten(0, 1)).unflatten(0, tokens_BK.shape)

    def append_several(self, tokens_B: Tensor, counts_B: Tensor) -> None:
        """So many tokens were added to each of the first B slots, the last of them being these."""
        B = len(tokens_B)
        self.tokens_S[:B] = tokens_B
        self.lengths_S[:B] += counts_B

    def _forward(self, B: int) -> Tensor:
        # A slot that is full, or empty, writes into a place that nothing reads.
        position_B = self.lengths_S[:B].clamp(max=self._last_place)
        self._cache.expect_tokens(position_B)
        seen_B = (position_B + 1) * (self.lengths_S[:B] > 0)
        with self._cache.on(self._model):
            states_BD = next_states(self._model, self.tokens_S[:B], position_B, seen_B, self._cache)
        return self._head.logits(states_BD)

    def _capture(self, B: int) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        with self._fast_layers(B):
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(2):  # libraries set themselves up, layers and kernels are compiled
                    self._forward(B)
            torch.cuda.current_stream().wait_stream(stream)
            with torch.cuda.graph(graph):
                logits_BV = self._forward(B)
        return graph, logits_BV

    def _fast_layers(self, B: int) -> AbstractContextManager[None]:
        if B == 1 and takes_one_token(self._model):
            return one_token_layers(self._model)
        return compiled_for_decoding(self._model) if self._compile else nullcontext()
