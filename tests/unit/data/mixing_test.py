"""Mixing: the shares are those of the tokens, all along; the order changes nothing but the order."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from graftlm.core.errors import DataError
from graftlm.data.mixing import Mixture, hash_seed, mix
from graftlm.data.packing import pack


def lengths_around(mean: int, count: int, seed: int) -> list[int]:
    random = np.random.default_rng(seed)
    return np.clip(random.lognormal(np.log(mean), 0.6, count), 2, 500).astype(int).tolist()


@pytest.fixture
def two_blocks(make_store):
    """Documents of the one block are ten times as long as those of the other."""
    return {"short": make_store(lengths_around(20, 4000, 1)), "long": make_store(lengths_around(200, 600, 2))}


SHARES = {"short": 0.3, "long": 0.7}


def multiset(mixture: Mixture) -> list[tuple[int, int]]:
    return sorted(zip(mixture.block.tolist(), mixture.sample.tolist(), strict=True))


@pytest.mark.parametrize("shares", [SHARES, {"short": 3.0, "long": 7.0}])
def test_shares_and_total_are_of_tokens(two_blocks, shares):
    mixture = mix(two_blocks, shares, 300_000, "hybrid", seed=1)
    assert mixture.lengths.sum() == pytest.approx(300_000, rel=0.005)
    assert mixture.realised_shares() == pytest.approx(SHARES, abs=0.003)
    for block, sample, length in zip(mixture.block, mixture.sample, mixture.lengths, strict=True):
        assert mixture.stores[block].sample_lengths[sample] == length


@pytest.mark.parametrize("row_tokens", [512, 2048])
def test_any_stretch_of_200_rows_has_the_shares(two_blocks, row_tokens):
    """Measured on the packed rows, as they are trained on."""
    plan = pack(mix(two_blocks, SHARES, 450 * row_tokens, "hybrid", seed=1), row_tokens=row_tokens)
    long_tokens, all_tokens = [], []
    for a, b in pairwise(plan.row_edges):
        chosen = plan.order[a:b]
        lengths = plan.mixture.lengths[chosen]
        all_tokens.append(lengths.sum())
        long_tokens.append(lengths[plan.mixture.block[chosen] == 1].sum())
    stretch = np.ones(200)
    shares = np.convolve(long_tokens, stretch, "valid") / np.convolve(all_tokens, stretch, "valid")
    print(f"share of the long block in stretches of 200 rows: {shares.min():.4f} to {shares.max():.4f}")
    assert len(shares) > 100
    assert np.abs(shares - 0.7).max() < 0.01


def test_sequential_has_the_same_samples_block_after_block(two_blocks):
    hybrid = mix(two_blocks, SHARES, 300_000, "hybrid", seed=1)
    sequential = mix(two_blocks, SHARES, 300_000, "sequential", seed=1)
    assert multiset(hybrid) == multiset(sequential)
    assert (np.diff(sequential.block) >= 0).all()
    assert np.abs(np.diff(hybrid.block)).sum() > 100
    turned = mix(dict(reversed(two_blocks.items())), SHARES, 300_000, "sequential", seed=1)
    assert turned.names == ("long", "short")


def test_a_row_of_a_sequential_mix_stays_in_its_block_but_at_the_seam(two_blocks):
    plan = pack(mix(two_blocks, SHARES, 300_000, "sequential", seed=1), row_tokens=1024)
    block_of_row = [plan.mixture.block[plan.order[a:b]].mean() for a, b in pairwise(plan.row_edges)]
    first_long, last_short = block_of_row.index(1.0), len(block_of_row) - 1 - block_of_row[::-1].index(0.0)
    assert last_short - first_long < 40, "packing looks at 512 samples at a time, no further"


def test_epochs_are_whole_before_the_next_begins(make_store):
    store = make_store([10] * 50)
    mixture = mix({"a": store}, {"a": 1}, 50 * 10 * 2 + 200, "hybrid", seed=1)
    first, second, rest = mixture.sample[:50], mixture.sample[50:100], mixture.sample[100:]
    assert sorted(first) == sorted(second) == list(range(50))
    assert first.tolist() != second.tolist()
    assert len(rest) == 20 == len(set(rest.tolist()))


def test_the_draw_ends_at_the_nearest_sample(make_store):
    store = make_store([10] * 50)
    for tokens, samples in ((94, 9), (96, 10), (104, 10), (106, 11)):
        assert len(mix({"a": store}, {"a": 1}, tokens, "hybrid", 0).sample) == samples


def test_the_seed_decides(two_blocks):
    one, same, other = (mix(two_blocks, SHARES, 200_000, "hybrid", seed) for seed in (1, 1, 2))
    assert one.sample.tolist() == same.sample.tolist()
    assert one.sample.tolist() != other.sample.tolist()
    assert hash_seed(1, 0) == hash_seed(1, 0) != hash_seed(1, 1)


def test_blocks_of_one_size_are_shuffled_apart(make_store):
    stores = {"a": make_store([10] * 100), "b": make_store([10] * 100)}
    mixture = mix(stores, {"a": 1, "b": 1}, 2000, "hybrid", seed=1)
    assert mixture.sample[mixture.block == 0].tolist() != mixture.sample[mixture.block == 1].tolist()


def test_an_empty_block_is_named(make_store):
    with pytest.raises(DataError, match=r"data\.empty: no usable sample"):
        mix({"full": make_store([5]), "empty": make_store([])}, {"full": 1, "empty": 1}, 100, "hybrid", 0)
