"""Cutting encoded samples to a number of tokens, and counting what that costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np

from graftlm.data.encode import Encoded

Item = TypeVar("Item", Encoded, tuple[Encoded, Encoded])


@dataclass(frozen=True, slots=True)
class Truncation:
    """What a token limit cost. Counts tokens of every document; a pair is two documents and one sample.

    Attributes:
        samples_cut: samples that lost tokens and were kept.
        samples_dropped: samples left without any target (for a pair: in either answer), not kept.
        tokens_cut: tokens lost, those of dropped samples included.
        targets_cut: targets among them.
    """

    samples_cut: int = 0
    samples_dropped: int = 0
    tokens_cut: int = 0
    targets_cut: int = 0


@dataclass(frozen=True, slots=True)
class Truncated(Generic[Item]):
    """Items within a token limit.

    Attributes:
        items: what was kept, in order.
        kept: for each item its index in the input.
        truncation: what was lost.
    """

    items: list[Item]
    kept: list[int]
    truncation: Truncation


def truncate(encoded: Sequence[Item], max_tokens: int) -> Truncated[Item]:
    """Cut documents to `max_tokens` from the right; drop those left without a target.

    Pairs of documents lose the beginning of their prompt first: what is learnt are the answers, which stand at the end.
    A sample that has no target before the cut is dropped, too: it could only dilute a batch.
    """
    if max_tokens < 2:
        raise ValueError("max_tokens must be at least 2: one token to read and one to predict")
    items: list[Item] = []
    kept: list[int] = []
    cut = dropped = tokens_cut = targets_cut = 0
    for index, item in enumerate(encoded):
        if isinstance(item, Encoded) and len(item.tokens) <= max_tokens and item.targets.any():
            items.append(item)  # nearly every document of most sets: counting its tokens would take 4 µs
            kept.append(index)
            continue
        short = _shortened(item, max_tokens)
        usable = all(one.targets.any() for one in _documents(short))
        tokens, targets = _size(item)
        tokens_left, targets_left = _size(short) if usable else (0, 0)
        tokens_cut += tokens - tokens_left
        targets_cut += targets - targets_left
        if not usable:
            dropped += 1
            continue
        cut += tokens_left < tokens
        items.append(short)
        kept.append(index)
    return Truncated(items, kept, Truncation(cut, dropped, tokens_cut, targets_cut))


def _documents(item: Encoded | tuple[Encoded, Encoded]) -> tuple[Encoded, ...]:
    return item if isinstance(item, tuple) else (item,)


def _shortened(item: Item, max_tokens: int) -> Item:
    if isinstance(item, tuple):
        excess = max(len(one.tokens) for one in item) - max_tokens
        first, second = (_without_beginning(one, excess) for one in item)
        return _cut(first, max_tokens), _cut(second, max_tokens)
    return _cut(item, max_tokens)


def _without_beginning(document: Encoded, excess: int) -> Encoded:
    """The document without `excess` tokens behind its first (which may be a bos), as far as its prompt has them.

    Both answers of a pair lose the same part of their common prompt, so that they stay answers to one question.
    """
    prompt = int(document.targets.argmax()) if document.targets.any() else 0
    cut = np.arange(1, max(1, min(1 + excess, prompt)))
    if not len(cut):
        return document
    return replace(document, tokens=np.delete(document.tokens, cut), targets=np.delete(document.targets, cut))


def _cut(document: Encoded, max_tokens: int) -> Encoded:
    return replace(document, tokens=document.tokens[:max_tokens], targets=document.targets[:max_tokens])


def _size(item: Encoded | tuple[Encoded, Encoded]) -> tuple[int, int]:
    """(tokens, targets) over the documents of a sample."""
    documents = _documents(item)
    return sum(len(one.tokens) for one in documents), sum(int(one.targets.sum()) for one in documents)
