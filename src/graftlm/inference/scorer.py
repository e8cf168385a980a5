"""Log-likelihoods of the options of a question (those of whole documents: likelihood.py).

Shapes: B contexts, R rows (one a continuation), C continuation tokens, S scored positions, D hidden size,
    V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from graftlm.core.errors import DataError
from graftlm.inference.batching import batches_by_length
from graftlm.inference.cached import CachedBatch, evaluation_mode, position_limit
from graftlm.models.trunk import output_head
from graftlm.ops.cross_entropy import token_statistics


@dataclass(frozen=True, slots=True)
class Score:
    """The likelihood of a continuation after its context.

    Attributes:
        log_probability: sum of log p in nats over the continuation's tokens.
        tokens: how many tokens that are.
        greedy: whether each of them is the model's most likely token.
    """

    log_probability: float
    tokens: int
    greedy: bool


def score_choices(
    model: nn.Module,
    contexts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[Sequence[int]]],
    *,
    pad_id: int,
    batch_tokens: int = 32_768,
    batch_size: int = 64,
    on_progress: Callable[[int], None] | None = None,
) -> list[list[Score]]:
    """Score every continuation of every context; a context runs once, however many continuations it has.

    Args:
        model: a transformers causal language model; its training state is restored.
        contexts: the tokens of each context, none empty.
        continuations: for each context, the tokens of each of its continuations, none empty.
        pad_id: any token id; padding is masked.
        batch_tokens: cache positions that a batch may occupy; halve it when memory runs out.
        batch_size: contexts that run together, at most.
        on_progress: called with the number of contexts that a batch has finished.

    Returns:
        A score for each continuation, in the order given.

    Raises:
        DataError: a context or a continuation has no tokens, or both together exceed the model's positions.
        ValueError: the two lists differ in length.
    """
    _check(contexts, continuations, position_limit(model))
    footprints = [
        (len(context) + max((len(option) for option in options), default=0)) * max(1, len(options))
        for context, options in zip(contexts, continuations, strict=True)
    ]
    scores: list[list[Score]] = [[] for _ in contexts]
    with evaluation_mode(model):
        for batch in batches_by_length(footprints, batch_tokens=batch_tokens, batch_size=batch_size):
            options_of = [continuations[index] for index in batch]
            found = _score_batch(model, [contexts[index] for index in batch], options_of, pad_id)
            for index, options in zip(batch, found, strict=True):
                scores[index] = options
            if on_progress is not None:
                on_progress(len(batch))
    return scores


def _check(
    contexts: Sequence[Sequence[int]], continuations: Sequence[Sequence[Sequence[int]]], limit: int | None
) -> None:
    if len(contexts) != len(continuations):
        raise ValueError(f"{len(contexts)} contexts but continuations for {len(continuations)}")
    for index, (context, options) in enumerate(zip(contexts, continuations, strict=True)):
        where = f"item {index}"
        if not len(context):
            raise DataError("the context has no tokens", where=where)
        if not all(len(option) for option in options):
            raise DataError("an option has no tokens", where=where, fix="remove it")
        longest = len(context) + max((len(option) for option in options), default=0)
        if limit is not None and longest > limit + 1:  # the last token is predicted, never read
            reason = f"context and option have {longest} tokens, the model {limit} positions"
            raise DataError(reason, where=where, fix="shorten the context")


@torch.inference_mode()
def _score_batch(
    model: nn.Module,
    contexts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[Sequence[int]]],
    pad_id: int,
) -> list[list[Score]]:
    owner = [place for place, options in enumerate(continuations) for _ in options]
    rows = [option for options in continuations for option in options]
    if not rows:
        return [[] for _ in contexts]
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
    scores: list[list[Score]] = [[] for _ in contexts]
    for place, row, log_p, is_greedy in zip(owner, rows, sums, greedy, strict=True):
        scores[place].append(Score(log_probability=log_p, tokens=len(row), greedy=is_greedy))
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
