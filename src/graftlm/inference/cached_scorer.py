"""Log-likelihoods of options where contexts are rows of a cache: what any causal language model can do.

Shapes: B contexts, R rows (one a continuation), C continuation tokens, S scored positions, D hidden size,
    V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from graftlm.inference.batching import batches_by_length
from graftlm.inference.cached import CachedBatch
from graftlm.models.trunk import output_head
from graftlm.ops.cross_entropy import token_statistics

Found = tuple[float, bool]
"""Sum of log p in nats over a continuation's tokens, and whether each is the model's most likely one."""


def score_cached(
    model: nn.Module,
    contexts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[Sequence[int]]],
    *,
    pad_id: int,
    batch_tokens: int,
    batch_size: int,
) -> Iterator[tuple[list[int], list[list[Found]]]]:
    """Score every continuation of every context; a context runs once, however many continuations it has.

    Args:
        model: in evaluation mode; the rest as in `scorer.score_choices`.

    Yields:
        The numbers of the contexts of a batch, and the scores of each one's continuations.
    """
    footprints = [
        (len(context) + max(len(option) for option in options)) * len(options)
        for context, options in zip(contexts, continuations, strict=True)
    ]
    for batch in batches_by_length(footprints, batch_tokens=batch_tokens, batch_size=batch_size):
        options = [continuations[number] for number in batch]
        yield batch, _score_batch(model, [contexts[number] for number in batch], options, pad_id)


@torch.inference_mode()
def _score_batch(
    model: nn.Module,
    contexts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[Sequence[int]]],
    pad_id: int,
) -> list[list[Found]]:
    owner = [place for place, options in enumerate(continuations) for _ in options]
    rows = [option for options in continuations for option in options]
    longest = max(len(row) for row in rows)
    batch = CachedBatch(model, contexts, pad_id, room=longest - 1)
    first_BV = batch.prefill()
    owner_R = torch.tensor(owner, device=batch.device)
    tokens_RC, valid_RC = _pad_right(rows, pad_id, batch.device)
    log_p_RC, best_RC = tokens_RC.new_zeros(tokens_RC.shape, dtype=torch.float32), valid_RC.logical_not()
    # A context's last logits predict the first token of all its continuations.
    log_p_RC[:, 0], best_RC[:, 0] = _judge_shared(first_BV, owner_R, tokens_RC[:, 0])
    if longest > 1:
        batch.select(owner_R)
        hidden_RCD = batch.extend(tokens_RC[:, :-1])
        scored_RC = valid_RC[:, 1:]
        targets_S = tokens_RC[:, 1:][scored_RC]
        found = token_statistics(hidden_RCD[scored_RC], output_head(model), targets_S, greedy=True)
        assert found.greedy is not None
        log_p_RC[:, 1:][scored_RC], best_RC[:, 1:][scored_RC] = found.log_probability, found.greedy
    sums, greedy = log_p_RC.double().sum(dim=1).tolist(), best_RC.all(dim=1).tolist()
    scores: list[list[Found]] = [[] for _ in contexts]
    for place, log_p, is_greedy in zip(owner, sums, greedy, strict=True):
        scores[place].append((log_p, is_greedy))
    return scores


def _pad_right(rows: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Tokens and their validity, both [R, C]."""
    longest = max(len(row) for row in rows)
    tokens_RC = torch.tensor([[*row, *[pad_id] * (longest - len(row))] for row in rows], device=device)
    lengths_R = torch.tensor([len(row) for row in rows], device=device)
    return tokens_RC, torch.arange(longest, device=device) < lengths_R[:, None]


def _judge_shared(logits_BV: Tensor, owner_R: Tensor, targets_R: Tensor) -> tuple[Tensor, Tensor]:
    """log p of a target a row, and whether it is the most likely token, from logits that rows share."""
    log_p_R = logits_BV[owner_R, targets_R] - logits_BV.logsumexp(dim=-1)[owner_R]
    return log_p_R, logits_BV.argmax(dim=-1)[owner_R] == targets_R
