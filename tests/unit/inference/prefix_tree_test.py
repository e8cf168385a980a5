"""What is packed, read back without a model: what each place of a row has seen is a sequence of tokens."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graftlm.inference.prefix_tree import PackedRequests, Request, pack_requests

Tokens = tuple[int, ...]


def request(context: list[int], option: list[int]) -> Request:
    return Request(np.array([*context, *option], dtype=np.int64), len(context))


def histories(packed: PackedRequests, kept: list[Tokens]) -> list[Tokens]:
    """What each of the keys, those known and the row's, has seen, itself included."""
    tree = packed.tree
    assert len(kept) == tree.known
    tokens = [history[-1] for history in kept] + tree.tokens_T.tolist()
    assert sum(tree.lengths) == len(tokens)
    found: list[Tokens] = []
    ends: list[int] = []
    for length, parent in zip(tree.lengths, tree.parents, strict=True):
        seen = found[ends[parent] - 1] if parent >= 0 else ()
        for _ in range(length):
            seen = (*seen, tokens[len(found)])
            found.append(seen)
        ends.append(len(found))
    assert found[: tree.known] == kept
    assert tree.positions_T.tolist() == [len(seen) - 1 for seen in found[tree.known :]]
    return found


def check(requests: list[Request], batch_tokens: int) -> list[PackedRequests]:
    """Every request is packed once, and each of its tokens is predicted from what stands before it."""
    kept: list[Tokens] = []
    done: list[int] = []
    rows = list(pack_requests(requests, batch_tokens))
    for packed in rows:
        found = histories(packed, kept)
        edges = [*packed.starts.tolist(), len(packed.target_S)]
        for place, number in enumerate(packed.numbers):
            tokens, context = requests[number].tokens.tolist(), requests[number].context
            mine = slice(edges[place], edges[place + 1])
            assert packed.target_S[mine].tolist() == tokens[context:]
            places = packed.scored_U[packed.place_S[mine]].tolist()
            assert [found[packed.tree.known + p] for p in places] == [
                tuple(tokens[:end]) for end in range(context, len(tokens))
            ]
        done += packed.numbers
        keep_P = packed.tree.keep_P
        kept = [] if keep_P is None else [found[p] for p in keep_P.tolist()]
    assert sorted(done) == list(range(len(requests)))
    return rows


tokens = st.lists(st.integers(0, 2), min_size=1, max_size=9)


@given(
    headers=st.lists(st.lists(st.integers(0, 70_000), min_size=0, max_size=40), min_size=1, max_size=3),
    asked=st.lists(st.tuples(st.integers(0, 2), tokens, tokens), min_size=1, max_size=24),
    batch_tokens=st.sampled_from([1, 20, 60, 10_000]),
)
@settings(max_examples=80, deadline=None)
def test_each_token_is_predicted_from_what_is_before_it(
    headers: list[list[int]], asked: list[tuple[int, list[int], list[int]]], batch_tokens: int
) -> None:
    check([request(headers[n % len(headers)] + middle, option) for n, middle, option in asked], batch_tokens)


HEADER = list(range(100, 160))
QUESTIONS = [[200 + n, 300 + n, 7, n, n, n, n, n] for n in range(12)]


def test_what_is_shared_is_in_the_row_once() -> None:
    asked = [request(HEADER + some, option) for some in QUESTIONS for option in ([1], [2], [3, 4], [3, 5, 6])]
    [packed] = check(asked, 10_000)
    # the header, the questions, and the tokens but the last of [3, 4] and [3, 5, 6]: 3 and 5
    assert len(packed.tree.tokens_T) == 60 + 12 * (8 + 2)
    assert len(packed.scored_U) == 12 * 3  # after the question, after 3, after 5
    assert len(packed.target_S) == 12 * 7


def test_the_next_row_begins_with_what_it_shares() -> None:
    rows = check([request(HEADER + some, [option]) for some in QUESTIONS for option in (1, 2)], 92)
    assert [row.tree.known for row in rows] == [0, 60]
    assert [len(row.tree.tokens_T) for row in rows] == [60 + 4 * 8, 8 * 8]


def test_a_context_whose_end_is_scored_again_runs_again() -> None:
    """The state that predicts an option is not kept with keys and values: all but the question's last token are."""
    rows = check([request(HEADER + QUESTIONS[0], [option] * 30) for option in (1, 2, 3)], 50)
    assert [row.tree.known for row in rows] == [0, 67, 67]
    assert [len(row.tree.tokens_T) for row in rows] == [60 + 8 + 29, 1 + 29, 1 + 29]


def test_a_word_that_a_few_of_many_share_is_no_node() -> None:
    """Two of 40 questions of 50 tokens begin alike by one token, which saves 1 in 100."""
    asked = [request([*HEADER, 1, *range(1000 * n, 1000 * n + 50)], [5]) for n in (1, 2)]
    asked += [request([*HEADER, n, *range(1000 * n, 1000 * n + 50)], [5]) for n in range(3, 41)]
    [packed] = check(asked, 9999)
    assert len(packed.tree.lengths) == 1 + 40
    [packed] = check([request([*HEADER, 1, 2, n], [5]) for n in range(40)], 9999)
    assert packed.tree.lengths == [62] + [1] * 40


@pytest.mark.parametrize("batch_tokens", [1, 10_000])
def test_a_chain_of_longer_and_longer_requests(batch_tokens: int) -> None:
    rows = check([request(HEADER[:n], [HEADER[n]]) for n in range(1, 60)], batch_tokens)
    assert max(len(row.tree.tokens_T) for row in rows) <= 59


def test_nothing_is_packed_as_nothing() -> None:
    assert check([], 100) == []
