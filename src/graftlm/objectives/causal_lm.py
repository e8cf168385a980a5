"""Causal language modelling: pre-training (every token is a target), instruction tuning (answers are)."""

from __future__ import annotations

import torch

from graftlm.data.packing import PackedBatch
from graftlm.models.trunk import hidden_states, output_head
from graftlm.objectives.answers import answer_log_probabilities
from graftlm.ops.linear_cross_entropy import linear_cross_entropy
from graftlm.training.objective import Loss


class CausalLM:
    """−Σ log p(target), one unit a target token."""

    def units(self, batch: PackedBatch) -> int:
        return batch.target_count

    def __call__(self, model: torch.nn.Module, batch: PackedBatch) -> Loss:
        hidden_TD = hidden_states(model, batch.tokens, batch.boundaries, batch.longest)
        total = linear_cross_entropy(hidden_TD, output_head(model), batch.targets, batch.target_count)
        return Loss(total, batch.target_count)


class PerExample:
    """−Σ mean log p(target) of each example, one unit an example: an answer of one token weighs as much as one of 300.

    So BLOOMZ was tuned, whose mixture has long answers beside labels of a word (Muennighoff et al., arXiv 2211.01786).
    An example without targets is one whose loss is 0.
    """

    def units(self, batch: PackedBatch) -> int:
        return batch.documents

    def __call__(self, model: torch.nn.Module, batch: PackedBatch) -> Loss:
        return Loss(-answer_log_probabilities(model, batch).mean_log_p.sum(), batch.documents)
