"""A text made of a text: −Σ log p(target token), one unit a target token.

A document of a row is its source and behind it its target, which bears all of the targets. Documents of like length are
padded together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from graftlm.data.packing import PackedBatch
from graftlm.models.seq2seq import decoder_states, seq2seq_head, shifted
from graftlm.ops.attention import documents_of_like_length
from graftlm.ops.cross_entropy import IGNORE
from graftlm.ops.linear_cross_entropy import linear_cross_entropy
from graftlm.training.objective import Loss


@dataclass(frozen=True)
class Pairs:
    """Sources [n, L] and targets [n, M] of like length, padded on the right; `said` is False for a target's padding."""

    source: torch.Tensor
    real: torch.Tensor
    target: torch.Tensor
    said: torch.Tensor


def pairs_of(batch: PackedBatch) -> Iterator[Pairs]:
    """The documents of a row as padded batches; those without a target, which only fill up the row, are left out."""
    for place_nL, real_nL in documents_of_like_length(batch.boundaries):
        tokens_nL = batch.tokens[place_nL]
        bears_nL = (batch.targets[place_nL] != IGNORE) & real_nL
        counts_n = bears_nL.sum(1)
        kept_n = counts_n > 0
        tokens_nL, counts_n, lengths_n = tokens_nL[kept_n], counts_n[kept_n], real_nL.sum(1)[kept_n]
        if not len(tokens_nL):
            continue
        sources_n = lengths_n - counts_n
        L, M = int(sources_n.max()), int(counts_n.max())
        offset_M = torch.arange(M, device=tokens_nL.device)
        place_nM = (sources_n[:, None] + offset_M).clamp(max=tokens_nL.shape[1] - 1)
        yield Pairs(
            tokens_nL[:, :L],
            torch.arange(L, device=tokens_nL.device) < sources_n[:, None],
            tokens_nL.gather(1, place_nM),
            offset_M < counts_n[:, None],
        )


class SourceToTarget:
    """Of an encoder–decoder."""

    def units(self, batch: PackedBatch) -> int:
        return batch.target_count

    def __call__(self, model: torch.nn.Module, batch: PackedBatch) -> Loss:
        head = seq2seq_head(model)
        total = torch.zeros((), device=batch.tokens.device)
        for pairs in pairs_of(batch):
            states_nMD = decoder_states(model, pairs.source, pairs.real, shifted(model, pairs.target))
            targets_nM = pairs.target.masked_fill(~pairs.said, IGNORE)
            count = int(pairs.said.sum())
            total = total + linear_cross_entropy(states_nMD.flatten(0, 1), head, targets_nM.flatten(), count)
        return Loss(total, batch.target_count)
