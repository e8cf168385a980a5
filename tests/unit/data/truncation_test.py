"""The limit of tokens: what is cut and dropped, and that both are counted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from graftlm.data.encode import Encoded
from graftlm.data.truncation import Truncation, truncate


def document(tokens: int, targets: Sequence[int]) -> Encoded:
    mask = np.zeros(tokens, dtype=bool)
    mask[list(targets)] = True
    return Encoded(np.arange(tokens, dtype=np.uint32), mask)


def test_truncation_counts_what_it_costs() -> None:
    documents = [document(4, [2, 3]), document(8, [2, 3, 7]), document(9, [6, 7, 8]), document(3, [])]
    short = truncate(documents, 5)
    assert short.kept == [0, 1]
    assert [len(one.tokens) for one in short.items] == [4, 5]
    assert short.items[1].targets.tolist() == [False, False, True, True, False]
    assert short.truncation == Truncation(
        samples_cut=1, samples_dropped=2, tokens_cut=3 + 9 + 3, targets_cut=4
    )
    before, after = sum(len(d.tokens) for d in documents), sum(len(d.tokens) for d in short.items)
    assert before - after == short.truncation.tokens_cut


def test_a_pair_loses_the_beginning_of_its_prompt_and_keeps_its_answers() -> None:
    short = truncate([(document(8, [6, 7]), document(10, [6, 7, 8, 9]))], 6)
    first, second = short.items[0]
    assert first.tokens.tolist() == [0, 5, 6, 7] and first.targets.tolist() == [False, False, True, True]
    assert second.tokens.tolist() == [0, 5, 6, 7, 8, 9], "both lose the same part of the common prompt"
    assert short.truncation == Truncation(samples_cut=1, samples_dropped=0, tokens_cut=8, targets_cut=0)


def test_an_answer_longer_than_the_limit_is_cut_and_a_pair_without_an_answer_dropped() -> None:
    pairs = [(document(4, [2, 3]), document(9, range(2, 9))), (document(4, []), document(6, [5]))]
    short = truncate(pairs, 5)
    assert short.kept == [0] and short.items[0][1].tokens.tolist() == [0, 2, 3, 4, 5]
    assert short.truncation == Truncation(samples_cut=1, samples_dropped=1, tokens_cut=1 + 4 + 10, targets_cut=3 + 1)


def test_a_limit_leaves_room_for_a_token_to_predict() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        truncate([document(4, [3])], 1)
