"""Duplicates and leaks: what was planted is found, what was not is not, and the numbers are right."""

from __future__ import annotations

import random
import time

import pytest

from graftlm.data.cleaning import _shingles as shingles
from graftlm.data.cleaning import (
    exact_duplicates,
    find_leaks,
    find_overlap,
    jaccard,
    near_duplicates,
    normalise,
)
from graftlm.data.samples import Chat, Labelled, Origin, Text, Turn


def words(rng: random.Random, count: int) -> list[str]:
    return ["".join(rng.choices("abcdefghijklmnopqrst", k=rng.randrange(3, 9))) for _ in range(count)]


def true_similarity(a: str, b: str) -> float:
    first, second = ({normalise(t)[i : i + 5] for i in range(len(normalise(t)) - 4)} for t in (a, b))
    return len(first & second) / len(first | second)


def test_exact_duplicates_after_normalisation() -> None:
    texts = ["Take  5 mg.", "other", "take 5 MG.", "ｔａｋｅ 5 mg.", "other ", "take 5 mg"]
    assert exact_duplicates(texts) == [[0, 2, 3], [1, 4]]


def test_jaccard_is_that_of_the_sets_of_5_grams() -> None:
    rng = random.Random(1)
    for _ in range(50):
        base = words(rng, 30)
        a, b = " ".join(base), " ".join(base[: rng.randrange(10, 30)] + words(rng, 5))
        assert jaccard(shingles(normalise(a)), shingles(normalise(b))) == pytest.approx(true_similarity(a, b))


def test_near_duplicates_finds_the_planted_ones_and_no_others() -> None:
    rng = random.Random(2)
    texts, planted = [], []
    for _ in range(300):
        base = words(rng, 60)
        edited = list(base)
        for _ in range(rng.randrange(0, 16)):
            edited[rng.randrange(60)] = "zzz"
        pair = " ".join(base), " ".join(edited)
        similarity = true_similarity(*pair)
        if 0.78 < similarity < 0.82:
            continue  # hashing may miss a pair at the very edge; that is not what is tested
        if similarity >= 0.8:
            planted.append([len(texts), len(texts) + 1])
        texts += pair
    assert 30 < len(planted) < len(texts) / 2 - 30, "both sides of the threshold must be tried"
    assert near_duplicates(texts) == planted
    assert near_duplicates(texts, threshold=0.999) == exact_duplicates(texts)


def test_near_duplicates_in_chinese_and_in_odd_inputs() -> None:
    text = "高血压患者应当每日一次口服本品，饭后服用，如有不适请及时就医，并遵医嘱调整剂量，切勿自行停药。"
    texts = [text, "", "完全不同的一句话，说的是别的事情。", text.replace("。", "！"), "", "短"]
    assert near_duplicates(texts) == [[0, 3], [1, 4]]
    assert near_duplicates([]) == []


def test_near_duplicates_of_ten_thousand_take_seconds() -> None:
    rng = random.Random(3)
    vocabulary = words(rng, 3000)
    texts = [" ".join(rng.choices(vocabulary, k=40)) for _ in range(10_000)]
    texts[5000] = texts[17] + " end"
    start = time.perf_counter()
    assert near_duplicates(texts) == [[17, 5000]]
    assert time.perf_counter() - start < 20  # 2.5 s on one core; a quadratic method would take minutes


def test_overlap_gives_share_and_passage() -> None:
    test = [
        "What is the daily dose of ramipril for an adult with heart failure?",
        "治疗高血压的一线药物包括哪几类，请分别举例说明",
        "short",
        "Nobody ever copied this question into any training text at all.",
    ]
    train = [
        "Unrelated text about the weather in autumn and the price of tea.",
        "Exam: what is the daily dose of ramipril for an adult with heart failure? Answer: 10 mg. short",
        "题目：治疗高血压的一线药物包括哪几类，另有说明。",
    ]
    found = find_overlap(train, test)
    assert [(o.train, o.test) for o in found] == [(1, 0), (2, 1)]
    assert found[0].share == 1.0 and found[0].passage == test[0].rstrip("?")
    assert found[1].passage == "治疗高血压的一线药物包括哪几类"
    # 22 characters, 15 n-grams of 8, of which the first 15 characters hold 8.
    units = sum(char not in "，" for char in test[1])
    assert found[1].share == pytest.approx((15 - 7) / (units - 7))
    assert find_overlap(train, test, threshold=0.9) == found[:1]


def test_leaks_name_the_places() -> None:
    question = "Which of these drugs lowers the blood pressure most in old patients?"
    item = Labelled((Turn("user", question),), ("a",), Origin("test.csv", 4), ("a", "b"))
    chat = Chat((Turn("user", f"Hi. {question}"), Turn("assistant", "b")), Origin("train.jsonl", 9))
    leaks = find_leaks([Text("nothing of the kind", Origin("t.txt", 1)), chat], [item])
    assert [(str(leak.train), str(leak.test), leak.share) for leak in leaks] == [
        ("train.jsonl:9", "test.csv:4", 1.0)
    ]
