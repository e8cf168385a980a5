from __future__ import annotations

import math
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graftlm.evaluation.metrics import (
    abstains,
    bits,
    common_subsequence,
    contains_answer,
    exact_match,
    normalise,
    rouge_1,
    rouge_2,
    rouge_l,
    set_counts,
    split_items,
    split_words,
    token_f1,
    utf8_bytes,
)


@pytest.mark.parametrize(
    ("prediction", "reference", "same"),
    [
        ("  Aspirin. ", "aspirin", True),
        ("每日两次。", "每日两次", True),
        ("ＡＢＣ　１２％！", "abc 12%", True),
        ("five  mg", "five mg", True),
        ("5 mg", "5", False),
        ("10²", "102", False),
        ("阿司匹林", "阿莫西林", False),
        ("", "x", False),
        ("...", "x", False),
    ],
)
def test_exact_match(prediction: str, reference: str, same: bool) -> None:
    assert exact_match(prediction, ["other", reference]) == float(same)


def test_an_answer_of_punctuation_is_not_empty() -> None:
    assert normalise("?") == "?"
    assert exact_match("?", ["!"]) == 0


def test_words() -> None:
    assert split_words("Take ５mg 阿司匹林, twice!") == ["take", "5mg", "阿", "司", "匹", "林", "twice"]


@pytest.mark.parametrize(
    ("prediction", "reference", "found"),
    [("The dose is 5 mg.", "5 mg", 1), ("15 mg", "5 mg", 0), ("每日两次服用", "两次", 1), ("none", "one", 0)],
)
def test_contains(prediction: str, reference: str, found: float) -> None:
    assert contains_answer(prediction, [reference]) == found


def test_rouge_by_hand() -> None:
    """Lin's own example (2004, §3.1): "police killed the gunman" against two candidates."""
    reference = ["police killed the gunman"]
    assert rouge_l("police kill the gunman", reference) == pytest.approx(3 / 4)
    assert rouge_l("the gunman kill police", reference) == pytest.approx(2 / 4)
    assert rouge_2("the gunman kill police", reference) == pytest.approx(1 / 3)
    assert rouge_1("the the the the", reference) == pytest.approx(1 / 4)  # a match counts once
    assert rouge_l("每日一次", ["每日两次"]) == pytest.approx(3 / 4)
    assert rouge_2("每日一次", ["每日两次"]) == pytest.approx(1 / 3)
    assert rouge_l("", reference) == 0
    assert rouge_1("gunman", ["x", "the gunman"]) == pytest.approx(2 / 3)  # the best reference counts


def brute_force(first: list[str], second: list[str]) -> int:
    """The longest choice of places in `first` that reads in order in `second`."""

    def reads_in(words: tuple[str, ...]) -> bool:
        rest = iter(second)
        return all(word in rest for word in words)

    return max(n for n in range(len(first) + 1) if any(map(reads_in, combinations(first, n))))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from("abcd"), max_size=9), st.lists(st.sampled_from("abcd"), max_size=9))
def test_common_subsequence_against_brute_force(first: list[str], second: list[str]) -> None:
    assert common_subsequence(first, second) == brute_force(first, second)


def test_token_f1_is_that_of_squad() -> None:
    assert token_f1("the cat sat", ["a cat sat down"]) == pytest.approx(2 * (1 * 2 / 3) / (1 + 2 / 3))
    assert token_f1("肺炎", ["肺结核"]) == pytest.approx(2 * 1 / 5)
    assert token_f1("", ["x"]) == 0


def test_listed_items() -> None:
    assert split_items("1. Fever\n2. Dry cough\n- 3% saline") == {"fever", "dry cough", "3% saline"}
    assert split_items("发热、咳嗽和头痛。") == {"发热", "咳嗽", "头痛"}
    assert split_items("aspirin, ibuprofen and heparin") == {"aspirin", "ibuprofen", "heparin"}
    assert split_items(" , ;") == frozenset()


def test_set_counts() -> None:
    counts = set_counts("Fever; rash, fever.", ["fever", "cough"])
    assert (counts.hits, counts.predicted, counts.expected) == (1, 2, 2)
    whole = set_counts("salt and water, bread", ["salt and water", "bread"])
    assert (whole.hits, whole.predicted, whole.expected) == (2, 2, 2)
    nothing = set_counts("", ["x"])
    assert (nothing.hits, nothing.predicted, nothing.expected) == (0, 0, 1)


def test_bits_per_byte_of_a_uniform_guess_over_bytes_is_eight() -> None:
    text = "药 ok"
    assert utf8_bytes(text) == 6
    assert bits(6 * math.log(1 / 256)) / utf8_bytes(text) == pytest.approx(8)


@pytest.mark.parametrize(
    "answer",
    [
        "I don't know.",
        "I don’t know",
        "Sorry, I do not know that.",
        "我不知道。",
        "抱歉，我不确定。",
        "文中没有提到。",
    ],
)
def test_abstentions(answer: str) -> None:
    assert abstains(answer)


@pytest.mark.parametrize(
    "answer", ["5 mg", "每日两次", "It is known.", "知道", "", "No.", "没有", "Not recommended"]
)
def test_answers_that_are_no_abstention(answer: str) -> None:
    assert not abstains(answer)
