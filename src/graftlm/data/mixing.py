"""Typed mixing: how much of each block of data is trained on, and in which order.

Every block (general or domain, text or instructions) has a share of the *tokens*. `hybrid` interleaves the
blocks so that any stretch of training holds them in these shares (XuanYuan 2.0's hybrid tuning, arXiv
2305.12002); `sequential` trains the same samples block after block, in the order in which the recipe lists
them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from graftlm.core.errors import DataError
from graftlm.data.store import TokenStore

Order = Literal["hybrid", "sequential"]


@dataclass(frozen=True)
class Mixture:
    """Samples in training order.

    Attributes:
        names, stores: the blocks.
        block: [n] index of the block of each sample.
        sample: [n] index of the sample in its block's store.
        lengths: [n] tokens of each sample.
        first_block: number of the first block, so that training and held-out blocks are numbered apart.
    """

    names: tuple[str, ...]
    stores: tuple[TokenStore, ...]
    block: np.ndarray
    sample: np.ndarray
    lengths: np.ndarray
    first_block: int = 0

    def realised_shares(self) -> dict[str, float]:
        """Share of all tokens that each block has."""
        tokens = np.bincount(self.block, self.lengths, minlength=len(self.names))
        return {name: float(tokens[i] / max(tokens.sum(), 1)) for i, name in enumerate(self.names)}


def mix(
    stores: Mapping[str, TokenStore], shares: Mapping[str, float], tokens: int, order: Order, seed: int
) -> Mixture:
    """Draw about `tokens` tokens: `shares[name]` of them from each block, over and over its shuffled samples.

    Each sample is given the moment at which it is due: the fraction of its block's quota that stands before
    it. Sorting by these moments is the interleaving; adding the block's place first is the sequential order.
    """
    total = sum(shares.values())
    blocks, samples, lengths, due = [], [], [], []
    for place, (name, store) in enumerate(stores.items()):
        if store.samples == 0:
            raise DataError(
                "no usable sample is left", where=f"data.{name}", fix="see `graft check` for the reasons"
            )
        quota = tokens * shares[name] / total
        drawn = _draw(store.sample_lengths, quota, seed=hash_seed(seed, place))
        drawn_lengths = store.sample_lengths[drawn]
        moment = (np.cumsum(drawn_lengths) - drawn_lengths / 2) / max(quota, 1)
        blocks.append(np.full(len(drawn), place))
        samples.append(drawn)
        lengths.append(drawn_lengths)
        due.append(moment + (place * 1e6 if order == "sequential" else 0))
    turn = np.argsort(np.concatenate(due), kind="stable")
    return Mixture(
        tuple(stores),
        tuple(stores.values()),
        np.concatenate(blocks)[turn],
        np.concatenate(samples)[turn],
        np.concatenate(lengths)[turn],
    )


def hash_seed(seed: int, part: int) -> int:
    """A seed of its own for each part of a run."""
    return int(np.random.SeedSequence([seed, part]).generate_state(1)[0])


def _draw(sample_lengths: np.ndarray, quota: float, seed: int) -> np.ndarray:
    """Sample indices, shuffled epoch after epoch, until `quota` tokens are reached, to the nearest."""
    random = np.random.default_rng(seed)
    epochs = int(np.ceil(quota / sample_lengths.sum())) if quota > 0 else 0
    order = [random.permutation(len(sample_lengths)) for _ in range(epochs)]
    drawn = np.concatenate(order) if order else np.zeros(0, np.int64)
    ends = np.cumsum(sample_lengths[drawn])
    return drawn[: int(np.searchsorted(ends - sample_lengths[drawn] / 2, quota))]
