"""Requests that begin alike, packed as trees: found by sorting, cut to a budget of tokens.

A request is a context and a continuation; what runs is all of it but its last token. Sorted, requests with a common
beginning stand side by side, and a stretch of them is a tree: the header that all questions of a subject share, the
questions, the options.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, zip_longest

import numpy as np
import torch
from torch import Tensor

from graftlm.models.token_tree import TokenTree

Ids = np.ndarray
KEPT = 16
"""Fewer tokens are not kept for the next row but run again."""
WORTH = 32
"""A common beginning is a node of its own if it saves at least one in so many of the tokens behind it. Each node costs
all that descends from it another pass of attention; a first word that a few of 100 questions share is not worth it."""


@dataclass(frozen=True)
class Request:
    """
    Attributes:
        tokens: of context and continuation.
        context: how many are the context's.
    """

    tokens: Ids
    context: int


@dataclass(frozen=True)
class PackedRequests:
    """Requests in one row.

    Attributes:
        numbers: which requests they are.
        scored_U: places in the row whose states predict a token that is scored, ascending.
        place_S, target_S: for each scored token, request by request, which of these places, and the token.
        starts: where each request's scored tokens begin among them.
    """

    numbers: list[int]
    tree: TokenTree
    scored_U: Tensor
    place_S: Tensor
    target_S: Tensor
    starts: Ids


@dataclass(frozen=True)
class _Node:
    parent: int
    begin: int  # position of its first token
    place: int  # of that token in the row


@dataclass(frozen=True)
class _Row:
    """Different sequences side by side in their order.

    Attributes:
        owners: the numbers of the requests of each.
        common: tokens that each shares with the one before it.
        known: tokens that the first shares with the row before, and that run there.
    """

    sequences: list[Ids]
    owners: list[list[int]]
    common: list[int]
    known: int


def pack_requests(
    requests: Sequence[Request], batch_tokens: int, *, shared: bool = True
) -> Iterator[PackedRequests]:
    """Rows of about `batch_tokens` tokens; a request that is longer gets a row of its own.

    What the sequences of a row share with those of the row before is kept from there, if it is not scored.

    Args:
        shared: whether anything is; else each node is a whole sequence.
    """
    owners: dict[bytes, list[int]] = {}
    for number, request in enumerate(requests):
        owners.setdefault(request.tokens[:-1].astype(">u4").tobytes(), []).append(number)  # bytes sort as numbers do
    keys = sorted(owners)
    sequences = [np.frombuffer(key, ">u4").astype(np.int64) for key in keys]
    common = [0, *(_common(one, other) if shared else 0 for one, other in pairwise(sequences))]
    rows = []
    for first, last in _cuts([len(some) for some in sequences], common, batch_tokens):
        members = [owners[key] for key in keys[first:last]]
        unscored = min(requests[number].context for some in members for number in some) - 1
        known = min(common[first], unscored)
        rows.append(_Row(sequences[first:last], members, common[first:last], known if known >= KEPT else 0))
    for row, following in zip_longest(rows, rows[1:]):
        yield _pack(requests, row, following.known if following else 0)


def _cuts(lengths: list[int], common: list[int], batch_tokens: int) -> list[tuple[int, int]]:
    """Stretches that add about `batch_tokens` tokens each to what came before."""
    edges, filled = [0], 0
    for place, length in enumerate(lengths):
        added = length - common[place]
        if filled and filled + added > batch_tokens:
            edges.append(place)
            filled = 0
        filled += added
    return list(pairwise([*edges, len(lengths)])) if lengths else []


def _common(one: Ids, other: Ids) -> int:
    """How many tokens two sequences begin with alike."""
    length = min(len(one), len(other))
    differs = one[:length] != other[:length]
    return int(differs.argmax()) if differs.any() else length


def _pack(requests: Sequence[Request], row: _Row, kept: int) -> PackedRequests:
    """
    Args:
        kept: tokens of its last sequence that the next row begins with.
    """
    nodes, ends, tokens, positions = _grow(row)
    numbers, starts, places, targets = [], [0], [], []
    for end, some in zip(ends, row.owners, strict=True):
        for number in some:
            request = requests[number]
            numbers.append(number)
            places.append(_places(nodes, end, request.context - 1, len(request.tokens) - 1))
            targets.append(request.tokens[request.context :])
            starts.append(starts[-1] + len(targets[-1]))
    scored_U, place_S = np.unique(np.concatenate(places), return_inverse=True)
    tree = TokenTree(
        torch.from_numpy(np.concatenate(tokens)[row.known :]),
        torch.from_numpy(np.concatenate(positions)[row.known :]),
        [len(some) for some in tokens],
        [node.parent for node in nodes],
        row.known,
        torch.from_numpy(_places(nodes, ends[-1], 0, kept)) if kept else None,
    )
    return PackedRequests(
        numbers,
        tree,
        torch.from_numpy(scored_U - row.known),
        torch.from_numpy(place_S.reshape(-1)),
        torch.from_numpy(np.concatenate(targets)),
        np.array(starts[:-1]),
    )


def _grow(row: _Row) -> tuple[list[_Node], list[int], list[Ids], list[Ids]]:
    """The nodes in the order of the row, the node in which each sequence ends, and the tokens and positions of each
    node. What is known are whole nodes, the first ones."""
    sequences, common = row.sequences, row.common
    nodes: list[_Node] = []
    ends = [-1] * len(sequences)
    tokens: list[Ids] = []
    positions: list[Ids] = []
    place = 0
    stretches = [(*stretch, 0, -1) for stretch in reversed(_children(sequences, common, 0, len(sequences), 0))]
    while stretches:
        first, last, begin, parent = stretches.pop()
        until = min(common[first + 1 : last], default=len(sequences[first]))
        if first == 0 and begin < row.known < until:
            until = row.known
        if until > begin:
            nodes.append(_Node(parent, begin, place))
            tokens.append(sequences[first][begin:until])
            positions.append(np.arange(begin, until))
            place, parent = place + until - begin, len(nodes) - 1
        if len(sequences[first]) == until:  # sorted: only the first can end here
            ends[first], first = parent, first + 1
        found = _children(sequences, common, first, last, until) if first < last else []
        stretches += [(*stretch, until, parent) for stretch in reversed(found)]
    return nodes, ends, tokens, positions


def _children(
    sequences: list[Ids], common: list[int], first: int, last: int, begin: int
) -> list[tuple[int, int]]:
    """Stretches of the sequences [first, last), which share `begin` tokens: each one that shares more and is worth it,
    and every other sequence alone."""
    found = []
    edges = [first, *(place for place in range(first + 1, last) if common[place] == begin), last]
    for one, other in pairwise(edges):
        until = min(common[one + 1 : other], default=begin)
        behind = sum(len(sequence) - until for sequence in sequences[one:other])
        if (until - begin) * (other - one - 1) * WORTH >= behind:
            found.append((one, other))
        else:
            found += [(place, place + 1) for place in range(one, other)]
    return found


def _places(nodes: list[_Node], end: int, first: int, last: int) -> Ids:
    """Where the tokens at the positions [first, last) of the sequence that ends in node `end` stand in the row."""
    found: list[Ids] = []
    while last > first:
        node = nodes[end]
        begin = max(first, node.begin)
        if begin < last:
            found.append(np.arange(begin, last) + (node.place - node.begin))
            last = begin
        end = node.parent
    return np.concatenate(found[::-1])
