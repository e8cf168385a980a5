"""The model that learns from its own answers: a trunk, perhaps a value head, and what it was before."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from graftlm.data.packing import PackedBatch
from graftlm.models.trunk import causal_lm, hidden_states, output_head
from graftlm.ops.cross_entropy import IGNORE, TokenStatistics, token_statistics


class Policy(nn.Module):
    """A trainable language model with its reference.

    With LoRA the reference is the same trunk with the adapter off; with full tuning it is a frozen copy. The value
    head reads the policy's hidden states, so one trunk serves policy, value and reference.

    Args:
        model: made trainable already; as it stands it is the reference.
        value: whether to add a value head (fp32; it starts at 0).
    """

    def __init__(self, model: nn.Module, *, value: bool) -> None:
        super().__init__()
        self.model = model
        frozen = None if isinstance(model, PeftModel) else copy.deepcopy(model).requires_grad_(False).eval()
        self._frozen = (frozen,)  # in a tuple: no part of this module's parameters
        self.value_head: nn.Linear | None = None
        if value:
            weight = output_head(model).weight_VD
            self.value_head = nn.Linear(weight.shape[1], 1, device=weight.device, dtype=torch.float32)
            nn.init.zeros_(self.value_head.weight)
            nn.init.zeros_(self.value_head.bias)

    def get_base_model(self) -> PreTrainedModel:
        """The transformers model inside, so that everything that takes a model takes a policy."""
        return causal_lm(self.model)

    @contextmanager
    def reference(self) -> Iterator[nn.Module]:
        """The model as it was before training."""
        if self._frozen[0] is not None:
            yield self._frozen[0]
            return
        assert isinstance(self.model, PeftModel)
        with self.model.disable_adapter():
            yield self.model

    def look(self, batch: PackedBatch, *, entropy: bool = False) -> tuple[TokenStatistics, Tensor | None]:
        """Statistics of the row's A answer tokens, and the values [A] before each of them (None without a head)."""
        hidden_TD = hidden_states(self, batch.tokens, batch.boundaries, batch.longest)
        statistics = token_statistics(hidden_TD, output_head(self), batch.targets, entropy=entropy)
        if self.value_head is None:
            return statistics, None
        with torch.autocast(hidden_TD.device.type, enabled=False):
            values_A = self.value_head(hidden_TD[batch.targets != IGNORE].float())[:, 0]
        return statistics, values_A


def answer_token_log_probabilities(model: nn.Module, batch: PackedBatch) -> Tensor:
    """[A] log p of the row's answer tokens, in their order."""
    hidden_TD = hidden_states(model, batch.tokens, batch.boundaries, batch.longest)
    return token_statistics(hidden_TD, output_head(model), batch.targets).log_probability
