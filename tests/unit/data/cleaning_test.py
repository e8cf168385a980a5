"""Duplicates and leaks: what was planted is found, what was not is not, and the numbers are right."""

from __future__ import annotations

import random
import time

import pytest

from graftlm.data.cleaning import _shingles as shingles
from graftlm.data.cleaning import (
    exact_duplicates,
    jaccard,
    near_duplicates,
    normalise,
)


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
