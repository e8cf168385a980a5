"""Log-likelihoods of the options of a question (those of whole documents: likelihood.py).

What questions have in common runs once: equal requests, the header of all questions of a subject, a question's text
before its options, the tokens that options begin with. The callers know nothing of it: it is found in the tokens
(`prefix_tree`). Where a model cannot take such a tree, or its attention has a window that is shorter, contexts run as
rows of a cache (`cached_scorer`); where it has no such cache, whole requests run. An encoder–decoder encodes contexts
and says continuations (`seq2seq_scorer`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from graftlm.core.errors import DataError
from graftlm.inference.blanks import blank_config
from graftlm.inference.cached import evaluation_mode, model_device, position_limit, takes_cache
from graftlm.inference.cached_scorer import Found, score_cached
from graftlm.inference.prefix_tree import PackedRequests, Request, pack_requests
from graftlm.inference.seq2seq_scorer import score_targets
from graftlm.models.token_tree import KeptStates, takes_trees, tree_states
from graftlm.models.trunk import attention_window, causal_lm, hidden_states, output_head, prepare_trunk
from graftlm.ops.cross_entropy import shared_statistics

Key = tuple[tuple[int, ...], tuple[int, ...]]
"""A context and one of its continuations."""

CPU_ROW = 2048
"""Tokens of a row on a CPU, at most: longer rows are slower there, their activations leave the caches."""


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
    """Score every continuation of every context; what they have in common runs once.

    Args:
        model: a transformers causal language model or encoder–decoder; its training state is restored.
        contexts: the tokens of each context, none empty.
        continuations: for each context, the tokens of each of its continuations, none empty.
        pad_id: any token id; padding is masked.
        batch_tokens: tokens that run together; halve it when memory runs out.
        batch_size: contexts that run together, at most, where they are rows of a cache.
        on_progress: called with the number of contexts that a batch has finished.

    Returns:
        A score for each continuation, in the order given.

    Raises:
        DataError: a context or a continuation has no tokens, or both together exceed the model's positions.
        ValueError: the two lists differ in length.
    """
    _check(contexts, continuations, position_limit(model))
    keys: list[list[Key]] = []
    for context, options in zip(contexts, continuations, strict=True):
        before = tuple(context)
        keys.append([(before, tuple(option)) for option in options])
    distinct = list(dict.fromkeys(key for some in keys for key in some))
    found: dict[Key, Found] = {}
    progress = _Progress(keys, on_progress)
    with evaluation_mode(model):
        for batch in _batches(model, distinct, pad_id, batch_tokens, batch_size):
            found |= batch
            progress.advance(batch)
    return [[Score(found[key][0], len(key[1]), found[key][1]) for key in some] for some in keys]


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


class _Progress:
    """Tells how many contexts are finished: those of whose options none is left."""

    def __init__(self, keys: Sequence[Sequence[Key]], tell: Callable[[int], None] | None) -> None:
        self._tell = tell or (lambda count: None)
        self._left = [len(set(some)) for some in keys]
        self._owners: dict[Key, list[int]] = {}
        for number, some in enumerate(keys):
            for key in set(some):
                self._owners.setdefault(key, []).append(number)
        if empty := self._left.count(0):
            self._tell(empty)

    def advance(self, done: Iterable[Key]) -> None:
        counts = Counter(owner for key in done for owner in self._owners[key])
        for owner, count in counts.items():
            self._left[owner] -= count
        if finished := sum(not self._left[owner] for owner in counts):
            self._tell(finished)


def _batches(
    model: nn.Module, keys: list[Key], pad_id: int, batch_tokens: int, batch_size: int
) -> Iterator[dict[Key, Found]]:
    """Scores of different requests, batch by batch, in the first of four ways that the model can go."""
    if causal_lm(model).config.is_encoder_decoder:
        rows, options = _by_context(keys)
        batches = score_targets(model, rows, options, batch_tokens=batch_tokens, batch_size=batch_size)
        yield from _named(rows, options, batches)
        return
    if not hasattr(causal_lm(model), "graft_packs"):
        prepare_trunk(model)
    trees = blank_config(model) is None and takes_trees(model)  # a blank's context sees itself both ways
    longest = (attention_window(model) or np.inf) if trees else 0
    short: list[Key] = []
    long: list[Key] = []
    for key in keys:
        (short if len(key[0]) + len(key[1]) - 1 <= longest else long).append(key)
    yield from _packed(model, short, batch_tokens, shared=True)
    if not takes_cache(model):
        yield from _packed(model, long, batch_tokens, shared=False)
        return
    rows, options = _by_context(long)
    batches = score_cached(model, rows, options, pad_id=pad_id, batch_tokens=batch_tokens, batch_size=batch_size)
    yield from _named(rows, options, batches)


def _by_context(keys: list[Key]) -> tuple[list[tuple[int, ...]], list[list[tuple[int, ...]]]]:
    """The different contexts, and the continuations of each."""
    found: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for context, option in keys:
        found.setdefault(context, []).append(option)
    return list(found), list(found.values())


def _named(
    contexts: list[tuple[int, ...]],
    options: list[list[tuple[int, ...]]],
    batches: Iterable[tuple[list[int], list[list[Found]]]],
) -> Iterator[dict[Key, Found]]:
    for numbers, found in batches:
        yield {
            (contexts[number], option): score
            for number, scores in zip(numbers, found, strict=True)
            for option, score in zip(options[number], scores, strict=True)
        }


def _packed(model: nn.Module, keys: list[Key], batch_tokens: int, *, shared: bool) -> Iterator[dict[Key, Found]]:
    requests = [Request(np.array([*context, *option], dtype=np.int64), len(context)) for context, option in keys]
    if model_device(model).type == "cpu":
        batch_tokens = min(batch_tokens, CPU_ROW)
    states = KeptStates()
    for packed in pack_requests(requests, batch_tokens, shared=shared):
        scores = _score_row(model, packed, states if shared else None)
        yield {keys[number]: score for number, score in zip(packed.numbers, scores, strict=True)}


@torch.inference_mode()
def _score_row(model: nn.Module, packed: PackedRequests, states: KeptStates | None) -> list[Found]:
    """A score for each request of a row, in its order; without states the row's nodes are whole sequences."""
    if states is not None:
        hidden_TD = tree_states(model, packed.tree, states)
    else:
        bounds = torch.tensor([0, *packed.tree.lengths]).cumsum(0).int()
        device = model_device(model)
        hidden_TD = hidden_states(model, packed.tree.tokens_T.to(device), bounds.to(device))
    hidden_UD = hidden_TD[packed.scored_U.to(hidden_TD.device)]
    log_p_S, greedy_S = shared_statistics(hidden_UD, output_head(model), packed.place_S, packed.target_S)
    sums = np.add.reduceat(log_p_S.double().cpu().numpy(), packed.starts)
    greedy = np.logical_and.reduceat(greedy_S.cpu().numpy(), packed.starts)
    return list(zip(sums.tolist(), greedy.tolist(), strict=True))
