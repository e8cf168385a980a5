"""EcomGPT's scores: twenty hand cases, the released definition written out again, and the real test sets."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path

import pytest

from graftlm.evaluation.graders.base import Mark, Reply
from graftlm.evaluation.graders.ecommerce import label_counts
from graftlm.evaluation.graders.table import GRADERS
from graftlm.evaluation.metrics import rouge_l
from graftlm.evaluation.statistics import Scores

DATA = Path(__file__).parents[5] / "shared" / "data" / "sft" / "ecomgpt"
SENTENCE = "a Toshiba laptop and a Toshiba charger"
GOLD = [("Brand", "Toshiba"), ("Product", "laptop")]  # Toshiba stands there twice: three spans


@pytest.mark.parametrize(
    ("said", "expected", "counts"),
    [
        ("Food", ["Food"], (1, 1, 1)),
        ("food.", ["Food"], (1, 1, 1)),
        ("Food, Service", ["Service", "Food"], (2, 2, 2)),
        ("Food", ["Food", "Ambience"], (1, 1, 2)),
        ("Food, Price, Service", ["Food"], (1, 3, 1)),
        ("Food, Food", ["Food"], (1, 1, 1)),
        ("Price", ["Food"], (0, 1, 1)),
        ("", ["Food"], (0, 0, 1)),
        ("不匹配", ["匹配"], (0, 1, 1)),
        ("Anecdotes/Miscellaneous", ["Anecdotes/Miscellaneous"], (1, 1, 1)),
    ],
)
def test_label_sets(said: str, expected: list[str], counts: tuple[int, int, int]) -> None:
    found = label_counts(said, expected)
    assert (found.hits, found.predicted, found.expected) == counts


def span_marks(said: str, sentence: str, gold: list[tuple[str, str]]) -> Mark:
    row = {"sentences": sentence, "spans": [{"type": kind, "term": term} for kind, term in gold]}
    return GRADERS["span_micro_f1"]([Reply((said,), (), row)])[0]


@pytest.mark.parametrize(
    ("said", "counts"),
    [
        ("Brand: Toshiba\nProduct: laptop", (3, 3, 3)),
        ("Product: laptop\nBrand: Toshiba\nComponent: None", (3, 3, 3)),
        ("Brand: Toshiba\nProduct: None", (2, 2, 3)),
        ("Brand: Toshiba, laptop", (2, 3, 3)),
        ("Brand：Toshiba\nProduct：laptop", (3, 3, 3)),
        ("Product: Toshiba", (0, 2, 3)),
        ("Product: Toshiba laptop", (0, 1, 3)),  # other edges are another span
        ("Brand: Dell", (0, 0, 3)),  # stands nowhere
        ("no entities here", (0, 0, 3)),
        ("", (0, 0, 3)),
        ("Brand: None\nProduct: None", (0, 0, 3)),
    ],
)
def test_spans(said: str, counts: tuple[int, int, int]) -> None:
    hits, predicted, expected = counts
    assert span_marks(said, SENTENCE, GOLD) == (2 * hits, predicted + expected)


def test_neighbours_of_one_type_are_two_spans_and_a_later_term_overwrites() -> None:
    assert span_marks("A: xy, z", "xyz", [("A", "xy"), ("A", "z")]) == (4, 4)
    assert span_marks("A: xyz\nB: y", "xyz", [("A", "x"), ("B", "y")]) == (4, 5)  # z is one span too many


def f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def released_scores(pairs: Iterable[tuple[set[str], set[str]]]) -> tuple[float, float]:
    """Micro and macro F1 as the released code defines them, without its label normalisation."""
    predicted = expected = hits = 0
    precisions, recalls = [], []
    for said, right in pairs:
        both = len(said & right)
        predicted, expected, hits = predicted + len(said), expected + len(right), hits + both
        precisions.append(both / len(said) if said and right else 0.0)
        recalls.append(both / len(right) if said and right else 0.0)
    mean = len(precisions)
    micro = f1(hits / predicted, hits / expected) if predicted and expected else 0.0
    return micro, f1(sum(precisions) / mean, sum(recalls) / mean)


def scores_of(name: str, replies: list[Reply]) -> Scores:
    marks = [mark if isinstance(mark, tuple) else (mark, 1.0) for mark in GRADERS[name](replies)]
    return Scores.of([top for top, _ in marks], [bottom for _, bottom in marks])


def test_f1_as_released() -> None:
    draw = random.Random(1)
    for _ in range(50):
        pairs = [
            (set(draw.sample("abcdef", draw.randint(0, 4))), set(draw.sample("abcdef", draw.randint(1, 4))))
            for _ in range(draw.randint(1, 12))
        ]
        replies = [Reply((", ".join(sorted(said)),), tuple(sorted(right)), {}) for said, right in pairs]
        found = scores_of("label_micro_f1", replies).value, scores_of("label_macro_f1", replies).value
        assert found == pytest.approx(released_scores(pairs))


def test_the_interval_of_macro_f1_is_that_of_resampled_answers() -> None:
    draw = random.Random(2)
    pairs = [(set(draw.sample("abcd", draw.randint(1, 4))), set(draw.sample("abcd", 2))) for _ in range(200)]
    replies = [Reply((", ".join(sorted(said)),), tuple(sorted(right)), {}) for said, right in pairs]
    marks = scores_of("label_macro_f1", replies).numerators
    redrawn = [released_scores(draw.choices(pairs, k=len(pairs)))[1] for _ in range(500)]
    mean = sum(redrawn) / len(redrawn)
    spread = (sum((one - mean) ** 2 for one in redrawn) / len(redrawn)) ** 0.5
    assert marks.std() / len(marks) ** 0.5 == pytest.approx(spread, rel=0.1)


def test_the_macro_average_of_spans_is_that_of_the_types() -> None:
    row = {"sentences": SENTENCE, "spans": [{"type": kind, "term": term} for kind, term in GOLD]}
    other = {"sentences": "red lamp", "spans": [{"type": "Colour", "term": "red"}]}
    replies = [
        Reply(("Brand: Toshiba\nProduct: charger",), (), row),  # 2 of 2 brands; a wrong product, one missed
        Reply(("Brand: lamp\nColour: red",), (), other),  # a brand too many, the colour
    ]
    brand, product, colour = 2 * 2 / (3 + 2), 0.0, 1.0
    assert scores_of("span_macro_f1", replies).value == pytest.approx((brand + product + colour) / 3)


def test_the_interval_of_the_macro_average_is_that_of_resampled_answers() -> None:
    draw = random.Random(3)
    replies = []
    for _ in range(150):
        words = draw.sample(["ab", "cd", "ef", "gh"], 3)
        spans = [{"type": draw.choice("XY"), "term": word} for word in words]
        said = "\n".join(f"{draw.choice('XXY')}: {word}" for word in draw.sample(words, 2))
        replies.append(Reply((said,), (), {"sentences": " ".join(words), "spans": spans}))
    marks = scores_of("span_macro_f1", replies).numerators
    redrawn = [scores_of("span_macro_f1", draw.choices(replies, k=len(replies))).value for _ in range(150)]
    mean = sum(redrawn) / len(redrawn)
    spread = (sum((one - mean) ** 2 for one in redrawn) / len(redrawn)) ** 0.5
    assert marks.std() / len(marks) ** 0.5 == pytest.approx(spread, rel=0.15)


def test_chinese_titles_are_compared_by_characters() -> None:
    """Split at spaces, two titles without spaces have an overlap of 0 or 1 only."""
    assert rouge_l("圆领连衣裙", ["圆领拼接连衣裙"]) == pytest.approx(2 * 5 / 12)


@pytest.mark.skipif(not DATA.is_dir(), reason="real data is not there")
@pytest.mark.parametrize(
    ("folder", "key"),
    [
        ("ABSA/tasks/EN-ABSA-CLS-review_topic_category", "default"),
        ("Multi_CPR/tasks/ZH-Multi_CPR-CLS-query_item_matching", "en"),
    ],
)
def test_gold_labels_in_any_order_score_1(folder: str, key: str) -> None:
    lines = (DATA / folder / "test.json").read_text(encoding="utf-8").splitlines()
    gold = [json.loads(line)["labels"][key] for line in lines]
    replies = [Reply((", ".join(reversed(labels)),), tuple(labels), {}) for labels in gold]
    for name in ("label_micro_f1", "label_macro_f1", "label_exact_set"):
        assert scores_of(name, replies).value == pytest.approx(1)


@pytest.mark.skipif(not DATA.is_dir(), reason="real data is not there")
@pytest.mark.parametrize(
    "folder",
    ["Lenovo/tasks/EN-Lenovo-NER-NER", "MEPAVE/tasks/ZH-MEPAVE-NER-attribute_value_extraction"],
)
def test_gold_entities_written_a_line_a_type_score_1(folder: str) -> None:
    rows = [json.loads(line) for line in (DATA / folder / "test.json").read_text(encoding="utf-8").splitlines()]
    replies = []
    for row in rows:
        kinds: dict[str, list[str]] = {}
        for span in row["spans"]:
            kinds.setdefault(span["type"], []).append(span["term"])
        replies.append(Reply(("\n".join(f"{kind}: {', '.join(terms)}" for kind, terms in kinds.items()),), (), row))
    assert scores_of("span_micro_f1", replies).value > 0.98
    assert scores_of("span_micro_f1", [Reply(("Product: None",), (), row) for row in rows]).value == 0
