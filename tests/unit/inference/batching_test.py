from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from graftlm.inference.batching import batches_by_length


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 200), st.integers(1, 9))
def test_every_item_once_within_budget_longest_first(lengths: list[int], tokens: int, size: int) -> None:
    batches = batches_by_length(lengths, batch_tokens=tokens, batch_size=size)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) <= size
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= tokens
    order = [lengths[index] for batch in batches for index in batch]
    assert order == sorted(order, reverse=True)


def test_a_batch_is_filled() -> None:
    assert len(batches_by_length([10] * 64, batch_tokens=640, batch_size=64)) == 1
