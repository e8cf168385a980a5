"""The n-gram index against plain loops over all pairs of places."""

from __future__ import annotations

import random

import numpy as np
import pytest

from graftlm.evaluation.metrics import split_words
from graftlm.evaluation.overlap import MOST_PASSAGES, MOST_TEXTS, SKIPS, PassageIndex, agreement, joined


def words(rng: random.Random, count: int, vocabulary: int = 400) -> list[str]:
    return [f"w{rng.randrange(vocabulary)}" for _ in range(count)]


def covered_by_hand(passage: list[str], row: list[str], n: int) -> set[int]:
    """LLaMA 2's rule, place by place: n equal units, then on to the last equal one before the fifth that differs."""
    width, places = min(n, len(passage)), set[int]()
    for at in range(len(row) - width + 1):
        for place in range(len(passage) - width + 1):
            if row[at : at + width] != passage[place : place + width]:
                continue
            differ = 0
            for step in range(min(len(row) - at, len(passage) - place)):
                same = row[at + step] == passage[place + step]
                differ += not same
                if differ > SKIPS:
                    break
                if same:
                    places.add(place + step)
    return places


@pytest.mark.parametrize("n", [8, 10, 13])
def test_it_finds_what_plain_loops_find(n: int) -> None:
    rng = random.Random(n)
    passages = [words(rng, rng.choice([5, 8, 11, 30, 60])) for _ in range(40)]
    rows = []
    for _ in range(120):
        row = words(rng, rng.randrange(0, 50))
        source = rng.choice(passages)
        copied = source[rng.randrange(len(source)) :][: rng.randrange(4, 60)]
        for _ in range(rng.choice([0, 0, 1, 3, 8])):
            copied[rng.randrange(len(copied))] = "changed"
        rows.append([*row, *copied, *words(rng, rng.randrange(0, 9))])
    index = PassageIndex([" ".join(passage) for passage in passages], n=n)
    found: dict[tuple[int, int], set[int]] = {}
    for start in range(0, len(rows), 50):
        for stretch in index.search([" ".join(row) for row in rows[start : start + 50]]):
            key = stretch.passage, start + stretch.text
            found.setdefault(key, set()).update(np.flatnonzero(stretch.covered).tolist())
            assert stretch.exact >= min(n, len(passages[stretch.passage])) and index.is_evidence(stretch)
    expected = {}
    for number, passage in enumerate(passages):
        for place, row in enumerate(rows):
            hand = covered_by_hand(passage, row, n) if len(passage) >= 8 else set()
            if hand:
                expected[number, place] = hand
    assert len(expected) > 15
    assert found == expected
    assert [index.is_judged(number) for number in range(40)] == [len(passage) >= 8 for passage in passages]


def test_an_agreement_by_hand() -> None:
    passage = np.array([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14], dtype=np.uint32)
    row = np.array([0, 0, 3, 4, 5, 90, 7, 91, 92, 10, 93, 12, 94, 14, 0], dtype=np.uint32)
    covered, exact = agreement(row, passage, 2, 2)
    assert exact == 3
    assert np.flatnonzero(covered).tolist() == [2, 3, 4, 6, 9, 11]  # 90, 91, 92, 93 differ; 94 would be the fifth
    assert agreement(row, passage, 3, 3)[0].tolist() == covered.tolist(), "the whole exact stretch, wherever it was met"


def test_case_width_and_spacing_do_not_count_and_a_unit_is_a_chinese_character() -> None:
    index = PassageIndex(["治疗高血压的一线药物包括哪几类", "The daily dose of Ramipril is 10 mg, they say"])
    rows = ["题：治疗 高血压 的 一线药物，包括哪几类？", "ＴＨＥ DAILY dose\nof ramipril is 10 mg -- they say so"]
    found = index.search(rows)
    assert [(one.passage, one.text, one.covered.all()) for one in found] == [(0, 0, True), (1, 1, True)] or [
        (one.passage, one.text, one.covered.all()) for one in found
    ] == [(1, 1, True), (0, 0, True)]
    assert index.words(0, found[[one.passage for one in found].index(0)].covered) == "治疗高血压的一线药物包括哪几类"


def test_phrases_of_many_items_are_no_evidence_and_are_told() -> None:
    phrase = "answer the following question with one of the four letters that are given below"
    passages = [f"{phrase} number{k} and so on" for k in range(MOST_PASSAGES + 1)]
    index = PassageIndex(passages)
    assert index.search([f"please {phrase} thank you"]) == []
    assert index.phrases()[0].passages == MOST_PASSAGES + 1 and index.phrases()[0].texts == 1
    fewer = PassageIndex(passages[:MOST_PASSAGES])
    assert len(fewer.search([f"please {phrase} thank you"])) == MOST_PASSAGES and fewer.phrases() == []


def test_phrases_of_many_texts_are_no_evidence_but_copies_of_a_text_count_once() -> None:
    phrase = "it is an offence under the law of this land to carry a lamp at noon"
    index = PassageIndex([phrase])
    once = index.search([f"row {k}: {phrase}" for k in range(MOST_TEXTS)])
    assert len(once) == MOST_TEXTS and all(index.is_evidence(one) for one in once)
    assert index.search([f"row {k}: {phrase}" for k in range(MOST_TEXTS)]) == [], "met before"
    assert all(index.is_evidence(one) for one in once)
    index.search(["one more: " + phrase])
    assert not any(index.is_evidence(one) for one in once)
    [first, *_] = index.phrases()
    assert first.texts == MOST_TEXTS + 1 and first.words in phrase


def test_memory_does_not_grow_with_the_training_words() -> None:
    index = PassageIndex(["one two three four five six seven eight nine"])
    index.search([f"new{k} words{k} only{k}" * 10 for k in range(1000)])
    assert len(index._vocabulary) == 9 and not index._seen


def test_n_below_eight_is_refused_and_empty_input_is_none() -> None:
    with pytest.raises(ValueError, match="chance"):
        PassageIndex(["a"], n=7)
    assert PassageIndex([]).search(["a b"]) == []
    assert PassageIndex(["short one"]).search(["short one", ""]) == []


def test_joined_text_reads_as_it_was_written() -> None:
    assert joined(split_words("每次 30 毫克 of 药物 twice a day")) == "每次 30 毫克 of 药物 twice a day"
