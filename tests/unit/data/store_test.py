"""The token store gives back what was written, and appears only when it is whole."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from graftlm.core.errors import GraftError
from graftlm.data.encode import Encoded
from graftlm.data.store import TokenStore


def document(tokens: list[int], targets: list[int]) -> Encoded:
    return Encoded(np.array(tokens, np.uint32), np.array(targets, bool))


DOCUMENTS = [
    document([5, 2**32 - 1, 7], [0, 1, 1]),
    document([9], [0]),
    document([1, 2], [1, 0]),
    document([3, 4, 5, 6], [0, 0, 0, 1]),
]


@pytest.mark.parametrize("group", [1, 2])
def test_documents_come_back(tmp_path, group):
    counted = []
    written = TokenStore.write(
        tmp_path / "s",
        (counted.append(1) or each for each in DOCUMENTS),
        group=group,
        kind="preference",
        accounting=lambda: {"kept": len(counted)},
    )
    for store in (written, TokenStore.open(tmp_path / "s")):
        assert store.samples == 4 // group
        assert store.sample_lengths.tolist() == ([3, 1, 2, 4] if group == 1 else [4, 6])
        assert store.target_count == 4
        assert (store.group, store.kind, store.accounting) == (group, "preference", {"kept": 4})
        found = [pair for sample in range(store.samples) for pair in store.documents(sample)]
        for (tokens, targets), expected in zip(found, DOCUMENTS, strict=True):
            assert tokens.tolist() == expected.tokens.tolist()
            assert targets.tolist() == expected.targets.tolist()


def test_a_store_gives_its_documents_to_be_written_again(tmp_path):
    valued = [replace(one, value=float(n)) for n, one in enumerate(DOCUMENTS)]
    again = TokenStore.write(tmp_path / "again", TokenStore.in_memory(valued).encoded(), group=2)
    assert again.values.tolist() == [0, 1, 2, 3]
    for made, expected in zip(again.encoded(), DOCUMENTS, strict=True):
        assert made.tokens.tolist() == expected.tokens.tolist()
        assert made.targets.tolist() == expected.targets.tolist()


@pytest.mark.parametrize("count", [2, 3, 4, 7])
def test_parts_join_without_a_seam(tmp_path, count, monkeypatch):
    monkeypatch.setattr("graftlm.data.store.PART", 3)
    documents = [document([n, n + 1][: 1 + n % 2], [0, 1][: 1 + n % 2]) for n in range(count)]
    store = TokenStore.write(tmp_path / "s", documents)
    assert store.tokens.tolist() == [int(token) for one in documents for token in one.tokens]
    assert store.offsets.tolist() == np.cumsum([0, *(len(one.tokens) for one in documents)]).tolist()


def test_tokens_are_memory_mapped_and_read_only(tmp_path):
    store = TokenStore.write(tmp_path / "s", DOCUMENTS)
    assert isinstance(store.tokens, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        store.tokens[0] = 1


def test_an_empty_store(tmp_path):
    store = TokenStore.write(tmp_path / "s", [])
    assert (store.samples, store.target_count, store.sample_lengths.tolist()) == (0, 0, [])


@pytest.mark.parametrize(
    ("documents", "group"),
    [
        ([document([], [])], 1),
        ([document([1, 2], [1])], 1),
        ([*DOCUMENTS, document([1], [1])], 2),
    ],
)
def test_what_would_shift_all_later_documents_is_refused(tmp_path, documents, group):
    with pytest.raises(ValueError, match="document"):
        TokenStore.write(tmp_path / "s", documents, group=group)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_store_is_a_clear_error(tmp_path):
    with pytest.raises(GraftError, match=r"meta\.json.*does not exist"):
        TokenStore.open(tmp_path / "absent")
