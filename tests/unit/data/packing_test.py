"""Packing: every sample once, no row over budget, rows full, and each row what a naive construction gives."""

from __future__ import annotations

import itertools
import time
from collections import Counter

import numpy as np
import pytest
import torch

from graftlm.core.errors import DataError
from graftlm.data.encode import Encoded
from graftlm.data.mixing import Mixture, mix
from graftlm.data.packing import PackedBatch, PackingPlan, join, pack, pack_samples
from graftlm.data.store import TokenStore
from graftlm.objectives.causal_lm import CausalLM
from graftlm.ops.cross_entropy import IGNORE


def lognormal(count: int, *, mean: float = 335, longest: int = 2048, seed: int = 0) -> np.ndarray:
    sigma = 1.0
    drawn = np.random.default_rng(seed).lognormal(np.log(mean) - sigma**2 / 2, sigma, count)
    return np.clip(drawn, 1, longest).astype(np.int64)


def bare_mixture(lengths: np.ndarray, blocks: int = 1) -> Mixture:
    """Lengths without stores: enough to pack, not to build rows."""
    n = len(lengths)
    return Mixture(tuple("abcdefgh"[:blocks]), (), np.arange(n) % blocks, np.arange(n), lengths)


def check_plan(plan: PackingPlan) -> None:
    assert sorted(plan.order) == list(range(len(plan.mixture.lengths))), "every sample exactly once"
    sums = np.add.reduceat(plan.mixture.lengths[plan.order], plan.row_edges[:-1])
    assert sums.max() <= plan.row_tokens
    assert (np.diff(plan.row_edges) > 0).all()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("count", [1, 7, 511, 512, 513, 5000])
def test_every_sample_once_and_no_row_over_budget(count, seed):
    check_plan(pack(bare_mixture(lognormal(count, seed=seed)), row_tokens=2048))


@pytest.mark.parametrize("row_tokens", [2048, 4096])
def test_rows_get_full(row_tokens):
    plan = pack(bare_mixture(lognormal(20_000)), row_tokens=row_tokens)
    check_plan(plan)
    print(f"rows of {row_tokens}: {plan.fill:.2%} full")
    assert plan.fill >= 0.95


def test_fill_is_real_tokens_over_budget():
    plan = pack(bare_mixture(np.array([6, 5, 4])), row_tokens=10)
    assert plan.rows == 2
    assert plan.fill == 15 / 20


@pytest.mark.parametrize("blocks", [1, 4])
def test_packing_is_fast(blocks):
    mixture = bare_mixture(lognormal(200_000), blocks)
    start = time.process_time()  # what else the machine does is no fault of ours
    plan = pack(mixture, row_tokens=2048)
    seconds = time.process_time() - start
    print(f"200,000 samples of {blocks} blocks packed in {seconds:.2f} s, rows {plan.fill:.2%} full")
    assert seconds < 5


def test_an_over_long_sample_is_an_error_with_a_fix():
    with pytest.raises(DataError, match=r"12 tokens does not fit a row of 10(?s:.*)fix: raise `row_tokens`"):
        pack(bare_mixture(np.array([3, 12])), row_tokens=10)


def test_no_samples_no_rows():
    plan = pack(bare_mixture(np.zeros(0, np.int64)), row_tokens=10)
    assert (plan.rows, plan.steps) == (0, 0)


def test_steps_and_their_rows():
    plan = pack(bare_mixture(np.full(7, 10)), row_tokens=10, rows_per_step=3)
    assert plan.steps == 3
    assert [list(plan.step_rows(step)) for step in range(3)] == [[0, 1, 2], [3, 4, 5], [6]]


def naive_row(plan: PackingPlan, number: int) -> dict[str, list[int]]:
    """Token by token, document by document."""
    tokens: list[int] = []
    targets: list[int] = []
    boundaries, names = [0], []
    for index in plan.order[plan.row_edges[number] : plan.row_edges[number + 1]]:
        block, sample = int(plan.mixture.block[index]), int(plan.mixture.sample[index])
        store = plan.mixture.stores[block]
        for place, (ids, wanted) in enumerate(store.documents(sample)):
            for i in range(len(ids)):
                tokens.append(int(ids[i]))
                has_next = i + 1 < len(ids)
                targets.append(int(ids[i + 1]) if has_next and wanted[i + 1] else IGNORE)
            boundaries.append(len(tokens))
            names.append((block, sample * store.group + place))
    return {"tokens": tokens, "targets": targets, "boundaries": boundaries, "names": names}


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("pad_to", [None, 64])
def test_rows_equal_the_naive_construction(make_store, group, pad_to):
    random = np.random.default_rng(3)
    stores = {
        name: make_store(random.integers(1, 20, 40).tolist(), group=group, seed=seed)
        for name, seed in (("a", 1), ("b", 2))
    }
    mixture = mix(stores, {"a": 1, "b": 1}, 1200, "hybrid", seed=0)
    plan = pack(mixture, row_tokens=64)
    check_plan(plan)
    number_of: dict[tuple[int, int], set[int]] = {}
    padded = 0
    for number in range(plan.rows):
        batch, expected = plan.row(number, pad_to=pad_to), naive_row(plan, number)
        real = len(expected["tokens"])
        assert batch.tokens[:real].tolist() == expected["tokens"]
        assert batch.targets[:real].tolist() == expected["targets"]
        assert batch.target_count == sum(target != IGNORE for target in expected["targets"])
        assert batch.padding == (0 if pad_to is None else 64 - real)
        edges = expected["boundaries"] + ([64] if batch.padding else [])
        assert batch.boundaries.tolist() == edges
        assert (batch.tokens.dtype, batch.targets.dtype, batch.boundaries.dtype) == (
            torch.int64, torch.int64, torch.int32,
        )  # fmt: skip
        if pad_to is not None:
            assert len(batch.tokens) == len(batch.targets) == 64
            assert (batch.targets[real:] == IGNORE).all()
        if batch.padding:
            padded += 1
            assert batch.document[-1] == -1
        for name, document in zip(expected["names"], batch.document.tolist(), strict=False):
            number_of.setdefault(name, set()).add(document)
    assert pad_to is None or padded > 0
    assert all(len(numbers) == 1 for numbers in number_of.values()), "a document keeps its number"
    assert len(set.union(*number_of.values())) == len(number_of), "and no two share one"


def test_pairs_stay_together(make_store):
    store = make_store(np.random.default_rng(0).integers(1, 30, 200).tolist(), group=2)
    plan = pack(mix({"a": store}, {"a": 1}, int(store.offsets[-1]), "hybrid", 0), row_tokens=64)
    seen: Counter[int] = Counter()
    for number in range(plan.rows):
        documents = plan.row(number).document.tolist()
        assert documents[0::2] == [document - 1 for document in documents[1::2]]
        assert all(document % 2 == 0 for document in documents[0::2])
        seen.update(documents)
    assert set(seen.values()) == {1}
    assert len(seen) == 200


def test_held_out_documents_have_other_numbers(make_store):
    store = make_store([5, 6])
    train = pack(mix({"a": store}, {"a": 1}, 11, "hybrid", 0), row_tokens=16)
    mixture = Mixture(("a",), (store,), np.zeros(2, int), np.arange(2), store.sample_lengths, first_block=1)
    held_out = pack(mixture, row_tokens=16)
    assert not set(train.row(0).document.tolist()) & set(held_out.row(0).document.tolist())


def documents_of(row: PackedBatch) -> list[tuple[int, float, list[int], list[int]]]:
    """Number, value, tokens and targets of each document, padding left out."""
    spans = list(itertools.pairwise(row.boundaries.tolist()))[: row.documents]
    return [
        (int(row.document[n]), float(row.value[n]), row.tokens[start:end].tolist(), row.targets[start:end].tolist())
        for n, (start, end) in enumerate(spans)
    ]


@pytest.mark.parametrize("pad_to", [None, 96])
def test_joined_rows_hold_the_documents_of_each_row_in_order(pad_to):
    documents = [Encoded(np.arange(3, 3 + n, dtype=np.uint32), np.arange(n) % 3 > 0, n / 4) for n in (9, 20, 13, 4, 30)]
    store = TokenStore.in_memory(documents)
    plan = pack_samples(store, 32)
    rows = [plan.row(number) for number in range(plan.rows)]
    assert len(rows) == 3
    joined = join(rows, pad_to)
    assert documents_of(joined) == [document for row in rows for document in documents_of(row)]
    assert {number for number, *_ in documents_of(joined)} == set(range(5))
    assert joined.documents == 5
    assert joined.target_count == sum(row.target_count for row in rows) == int((joined.targets != IGNORE).sum())
    assert joined.longest == 30
    assert (joined.boundaries.dtype, joined.document.dtype) == (torch.int32, torch.int64)
    n = 9 + 20 + 13 + 4 + 30
    assert joined.padding == (0 if pad_to is None else 96 - n)
    assert len(joined.tokens) == len(joined.targets) == joined.boundaries[-1] == (pad_to or n)


@pytest.mark.parametrize("pad_to", [64, 128])
def test_padding_comes_last_and_trains_nothing(make_plan, pad_to):
    plan = make_plan([20, 10, 25, 7], row_tokens=32)
    rows = [plan.row(number) for number in range(plan.rows)]
    joined = join(rows, pad_to)
    assert joined.padding == pad_to - 62 > 0
    assert 62 in joined.boundaries and joined.boundaries[-1] == pad_to
    assert (joined.targets[62:] == IGNORE).all()
    assert (joined.document[4:] == -1).all() and (joined.value[4:] == 0).all() and len(joined.document) > 4
    assert joined.documents == 4
    assert joined.longest == joined.boundaries.diff().max()


def test_a_row_alone_stays_as_it_is(make_plan):
    row = make_plan([20], row_tokens=32).row(0)
    assert join([row]) is join([row], 20) is row
    padded, built = join([row], 32), make_plan([20], row_tokens=32).row(0, pad_to=32)
    for name in ("tokens", "targets", "boundaries", "document", "value"):
        assert torch.equal(getattr(padded, name), getattr(built, name)), name
    assert (padded.padding, padded.longest, padded.documents) == (built.padding, built.longest, built.documents)


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "mamba"])
def test_joined_rows_have_the_loss_and_gradients_of_each_row_by_itself(tiny_model, make_plan, family):
    """With the last target of one row leaking into the next, or attention across, both would differ."""
    plan = make_plan([20, 11, 25, 7, 30, 3], row_tokens=32)
    rows = [plan.row(number) for number in range(plan.rows)]
    assert len(rows) >= 3
    found = []
    for batches in (rows, [join(rows)], [join(rows, 32 * len(rows))]):
        model = tiny_model(family)
        losses = [CausalLM()(model, batch) for batch in batches]
        total = sum(loss.total for loss in losses)
        weights = [p for p in model.parameters() if p.requires_grad]
        found.append((total.item(), sum(loss.units for loss in losses), torch.autograd.grad(total, weights)))
    for total, units, gradients in found[1:]:
        assert total == pytest.approx(found[0][0], rel=1e-5)
        assert units == found[0][1] > 0
        for one, other in zip(gradients, found[0][2], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
