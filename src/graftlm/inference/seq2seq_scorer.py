"""Log-likelihoods of the targets that an encoder–decoder may say to a source; a source is encoded once.

Shapes: B sources, R rows (one a target), L source tokens, M target tokens, D hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from graftlm.inference.batching import batches_by_length
from graftlm.inference.cached import model_device
from graftlm.inference.cached_scorer import Found
from graftlm.models.seq2seq import encoded_source, seq2seq_head, shifted, target_states
from graftlm.ops.cross_entropy import token_statistics

Tokens = Sequence[int]


def score_targets(
    model: nn.Module,
    sources: Sequence[Tokens],
    targets: Sequence[Sequence[Tokens]],
    *,
    batch_tokens: int,
    batch_size: int,
) -> Iterator[tuple[list[int], list[list[Found]]]]:
    """Score every target of every source; arguments and results are those of `cached_scorer.score_cached`."""
    footprints = [
        (len(source) + max(len(target) for target in some)) * len(some)
        for source, some in zip(sources, targets, strict=True)
    ]
    for batch in batches_by_length(footprints, batch_tokens=batch_tokens, batch_size=batch_size):
        yield batch, _score_batch(model, [sources[number] for number in batch], [targets[number] for number in batch])


@torch.inference_mode()
def _score_batch(
    model: nn.Module, sources: Sequence[Tokens], targets: Sequence[Sequence[Tokens]]
) -> list[list[Found]]:
    device = model_device(model)
    source_BL, real_BL = _padded(sources, device)
    target_RM, said_RM = _padded([target for some in targets for target in some], device)
    owner_R = torch.tensor([place for place, some in enumerate(targets) for _ in some], device=device)
    encoded_BLD = encoded_source(model, source_BL, real_BL)
    hidden_RMD = target_states(model, encoded_BLD[owner_R], real_BL[owner_R], shifted(model, target_RM))
    found = token_statistics(hidden_RMD[said_RM], seq2seq_head(model), target_RM[said_RM], greedy=True)
    assert found.greedy is not None
    log_p_RM, best_RM = torch.zeros_like(target_RM, dtype=torch.float64), ~said_RM
    log_p_RM[said_RM], best_RM[said_RM] = found.log_probability.double(), found.greedy
    rows = iter(zip(log_p_RM.sum(dim=1).tolist(), best_RM.all(dim=1).tolist(), strict=True))
    return [[next(rows) for _ in some] for some in targets]


def _padded(rows: Sequence[Tokens], device: torch.device) -> tuple[Tensor, Tensor]:
    """Tokens, padded on the right, and whether each is one, both [rows, longest]."""
    longest = max(len(row) for row in rows)
    tokens = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return tokens, torch.arange(longest, device=device) < lengths[:, None]
