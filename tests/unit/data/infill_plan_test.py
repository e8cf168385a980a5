"""Rows of blank-infilling samples: their budget, their lengths, and what is left of the texts in them."""

from __future__ import annotations

import numpy as np
import pytest

from graftlm.data.blank_infilling import GMASK, MASK, SMASK, Marks, Masking
from graftlm.data.encode import Encoded
from graftlm.data.infill_plan import plan_infilling
from graftlm.data.mixing import mix
from graftlm.data.store import TokenStore
from graftlm.ops.cross_entropy import IGNORE

MARKS = Marks(mask=3, smask=4, gmask=5, sop=6, eop=7)


def text(random: np.random.Generator, length: int) -> Encoded:
    return Encoded(np.array([1, *random.integers(10, 90, length - 1)], np.uint32), np.arange(length) > 0)


def texts(lengths, seed: int = 0) -> TokenStore:
    random = np.random.default_rng(seed)
    return TokenStore.in_memory([text(random, length) for length in lengths])


def plan_of(stores, *, tokens: int = 0, row_tokens: int = 2048, **options):
    tokens = tokens or sum(int(store.offsets[-1]) for store in stores.values())
    shares = {name: float(store.offsets[-1]) for name, store in stores.items()}
    mixture = mix(stores, shares, tokens, "hybrid", seed=3)
    options = {"rows_per_step": 1, "masking": Masking(), "seed": 0, "marks": MARKS} | options
    return plan_infilling(mixture, row_tokens=row_tokens, **options)


def test_the_budget_of_tokens_is_seven_to_three():
    plan = plan_of({"a": texts(np.random.default_rng(0).integers(2, 2048, 3000))})
    sizes = plan.parts.end - plan.parts.start
    share = sizes[plan.parts.kind == GMASK].sum() / sizes.sum()
    assert abs(share - 0.7) < 0.03  # 3,000 texts: 3.3 standard deviations
    assert sizes[plan.parts.kind == MASK].max() <= 512
    assert sizes[plan.parts.kind == GMASK].max() > 1500


def test_every_token_of_a_long_text_is_in_one_part():
    plan = plan_of({"a": texts([2000])}, masking=Masking(shares=(1.0, 0.0, 0.0)))
    assert plan.parts.start.tolist() == [0, 500, 1000, 1500]
    assert plan.parts.end.tolist() == [500, 1000, 1500, 2000]


@pytest.mark.parametrize("row_tokens", [64, 256, 2048])
@pytest.mark.parametrize("shares", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0.3, 0.2, 0.5)])
def test_rows_are_never_longer_than_their_budget(row_tokens, shares):
    ends_V = np.zeros(90, bool)
    ends_V[10:60] = True  # sentences of one or two tokens: the most marks that there can be
    store = texts(np.random.default_rng(1).integers(2, row_tokens, 300))
    plan = plan_of({"a": store}, row_tokens=row_tokens, masking=Masking(shares=shares), ends_V=ends_V)
    longest = 0
    for number in range(plan.rows):
        row = plan.row(number)
        T = len(row.tokens)
        longest = max(longest, T)
        assert len(row.targets) == len(row.positions) == len(row.branch) == T == row.boundaries[-1]
        assert row.target_count == int((row.targets != IGNORE).sum()) > 0
        assert row.targets[row.branch == 0].eq(IGNORE).all()
        assert row.targets[row.branch == 1].ne(IGNORE).all()
    assert 0.8 * row_tokens < longest <= row_tokens
    assert sorted(plan.order.tolist()) == list(range(len(plan.parts.entry)))


def test_a_row_holds_its_samples_end_to_end():
    plan = plan_of({"a": texts([30, 40, 50, 60])}, row_tokens=256)
    row, at = plan.row(0), 0
    for number, place in enumerate(plan.order[: plan.row_edges[1]].tolist()):
        sample = plan.sample(place)
        here = slice(at, at + len(sample.tokens))
        assert row.boundaries[number] == at
        assert row.tokens[here].tolist() == sample.tokens.tolist()
        assert row.targets[here].tolist() == sample.targets.tolist()
        assert row.positions[here].tolist() == sample.positions.tolist()
        assert row.branch[here].tolist() == [0] * sample.context + [1] * (len(sample.tokens) - sample.context)
        at = here.stop


def test_a_conversation_gives_a_tail_an_answer():
    tokens = np.array([1, 20, 21, 30, 31, 2, 22, 32, 2], np.uint32)
    targets = np.array([0, 0, 0, 1, 1, 1, 0, 1, 1], bool)
    chats = TokenStore.in_memory([Encoded(tokens, targets)] * 3, kind="chat")
    plan = plan_of({"text": texts([40] * 5), "chat": chats})
    chat_parts = np.flatnonzero(plan.mixture.block == 1).tolist()
    assert len(chat_parts) == 6
    assert (plan.parts.kind[chat_parts] == GMASK).all()
    one, other = (plan.sample(place) for place in chat_parts[:2])
    assert one.tokens.tolist() == [1, 20, 21, 5, 6, 30, 31]
    assert one.targets.tolist() == [IGNORE] * 4 + [30, 31, 2]
    assert other.tokens.tolist() == [1, 20, 21, 30, 31, 2, 22, 5, 6, 32]
    assert other.targets.tolist() == [IGNORE] * 8 + [32, 2]


def test_sentences_are_masked_whole_and_a_single_one_by_spans():
    ends_V = np.zeros(90, bool)
    ends_V[10] = True
    sentence = [11, 12, 13, 10]
    documents = [[1, *sentence * 20]] * 40 + [[1, *sentence]] * 40
    store = TokenStore.in_memory([Encoded(np.array(one, np.uint32), np.arange(len(one)) > 0) for one in documents])
    plan = plan_of({"a": store}, masking=Masking(shares=(0, 1, 0)), ends_V=ends_V)
    for place, kind in enumerate(plan.parts.kind.tolist()):
        sample = plan.sample(place)
        filled = sample.targets[sample.context :].tolist()
        if plan.parts.end[place] == 5:
            assert kind == MASK
        else:
            assert kind == SMASK
            assert filled == [*sentence, MARKS.eop] * (len(filled) // 5)
            assert len(filled) // 5 == 3  # of twenty: 15 %


def test_a_text_of_one_token_is_left_out():
    plan = plan_of({"a": texts([1, 1, 30, 1])})
    assert len(plan.parts.entry) == 1


def test_a_plan_is_a_function_of_its_seed():
    store = texts([100] * 50)
    one, same, other = (plan_of({"a": store}, seed=seed) for seed in (0, 0, 1))
    assert one.row(0).tokens.tolist() == same.row(0).tokens.tolist()
    assert one.row(0).tokens.tolist() != other.row(0).tokens.tolist()


def test_rows_join_into_one():
    plan = plan_of({"a": texts([100] * 50)}, row_tokens=256)
    rows = [plan.row(number) for number in range(3)]
    joined = plan.join(rows)
    assert joined.tokens.tolist() == [token for row in rows for token in row.tokens.tolist()]
    assert joined.positions.tolist() == [place for row in rows for place in row.positions.tolist()]
    assert joined.branch.tolist() == [number for row in rows for number in row.branch.tolist()]
    assert joined.target_count == sum(row.target_count for row in rows)
    assert plan.join(rows[:1], 256).tokens.tolist() == rows[0].tokens.tolist()
