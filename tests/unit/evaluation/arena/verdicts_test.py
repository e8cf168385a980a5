"""What judges write, by hand and on published reviews."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from graftlm.evaluation.arena.verdicts import choice_of, read_choice, read_grade, read_two_scores

SHARED = Path(__file__).parents[5] / "shared" / "data" / "eval"
REVIEWS = SHARED / "billa_judge" / "review"


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        ("Rating: [[5]]", 5),
        ("It is good. [[8.5]]", 8.5),
        ("[[ 7 ]]", 7),
        ("[[9/10]]", 9),
        ("Rating: [6]", 6),
        ("see [2] of the text … Rating: [[10]]", 10),
        ("[[11]]", None),
        ("[[0]]", None),
        ("Rating: 5", None),
        ("[[rating]]", None),
        ("", None),
    ],
)
def test_grades(text: str, grade: float | None) -> None:
    assert read_grade(text) == grade


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("A is clearer. [[A]]", "A"),
        ("[[B]]", "B"),
        ("neither: [[C]]", "C"),
        ("If A were better I would say [[A]]. But: [[B]]", "B"),
        ("[A]", None),
        ("A", None),
        ("[[a]]", None),
        ("", None),
    ],
)
def test_choices(text: str, choice: str | None) -> None:
    assert read_choice(text) == choice


@pytest.mark.parametrize(
    ("text", "scores"),
    [
        ("8 6\nThe first is better.", (8, 6)),
        ("9 8.5", (9, 8.5)),
        ("7, 7", (7, 7)),
        ("(10, 1)", (10, 1)),
        ("8/10 6/10\n…", (8, 6)),
        ("\n 9 4 \nOn a scale of 1 to 10 (3, 5)", (9, 4)),
        ("I solve it: f(2, 3) = 8.\nOutput: (7, 1)", (7, 1)),
        ("The point (12, 40) is wrong. Output: (3, 10)", (3, 10)),
        ("Output: (3, 10). The point (12, 40) was wrong.", (3, 10)),
        ("Scores: Assistant 1 (1/10), Assistant 2 (7/10)", (1, 7)),
        ("Assistant 1: 8\nAssistant 2: 4", (8, 4)),
        ("助手1：8，助手2：6.5", (8, 6.5)),
        ("[[4, 9]]", (4, 9)),
        ("Both are good.", None),
        ("8\n6", None),
        ("In 2023 10 people", None),
        ("", None),
    ],
)
def test_two_scores(text: str, scores: tuple[float, float] | None) -> None:
    assert read_two_scores(text) == scores


def test_choice_of_two_scores() -> None:
    assert [choice_of(8, 6), choice_of(6, 6.5), choice_of(7, 7), choice_of(7, 7.1), choice_of(7.2, 7)] == list("ABCCA")


@pytest.mark.skipif(not REVIEWS.is_dir(), reason="published reviews are not here")
@pytest.mark.parametrize(("name", "rows"), [("review_en_billa_chatglm", 80), ("review_zh_billa_chatglm", 253)])
def test_every_published_review_is_read_as_it_was_labelled(name: str, rows: int) -> None:
    reviews = [json.loads(line) for line in (REVIEWS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(reviews) == rows
    wrong = [r["review_id"] for r in reviews if read_two_scores(r["text"]) != tuple(r["score"])]
    assert wrong == []
