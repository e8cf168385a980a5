"""Spans read from passages: hand cases by the published rules, and real answers against themselves."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from graftlm.evaluation.graders.reading import character_f1, cmrc_scores, squad_scores

CMRC = Path(__file__).parents[5] / "shared" / "data" / "eval" / "cmrc2018" / "squad-style-data" / "cmrc2018_trial.json"


@pytest.mark.parametrize(
    ("said", "answers", "exact", "f1"),
    [
        ("The Eiffel Tower!", ["eiffel tower"], 1, 1),
        ("in 1889", ["1889"], 0, 2 / 3),
        ("theatre", ["atre"], 0, 0),  # an article is a word, not the beginning of one
        ("U.S.", ["US"], 1, 1),
        ("red red blue", ["red"], 0, 1 / 2),
        ("cat", ["dog", "a cat"], 1, 1),
        ("", [], 1, 1),  # SQuAD 2.0: no answer, and none given
        ("something", [], 0, 0),
        ("", ["dog"], 0, 0),
    ],
)
def test_squad(said: str, answers: list[str], exact: float, f1: float) -> None:
    assert squad_scores(said, answers) == pytest.approx((exact, f1))


@pytest.mark.parametrize(
    ("said", "answers", "exact", "f1"),
    [
        ("踢爆。", ["踢爆"], 1, 1),
        ("「踢爆」", ["踢爆"], 1, 1),
        ("叫踢爆", ["踢爆"], 0, 2 * 2 / 5),  # the longest common run is 踢爆, of 3 and 2 pieces
        ("爆踢", ["踢爆"], 0, 1 / 2),  # a bag of characters would give 1
        ("Nexon公司", ["nexon公司"], 1, 1),
        ("Nexon", ["Nexon公司"], 0, 2 * 1 / 4),  # an English word is one piece
        ("3.5米", ["3.5米"], 1, 1),
        ("踢,爆", ["踢爆"], 0, 2 / 5),  # an ASCII comma is not in the script's list: it stays, and breaks the run
        ("无", ["踢爆", "无"], 1, 1),
        ("", ["踢爆"], 0, 0),
    ],
)
def test_cmrc(said: str, answers: list[str], exact: float, f1: float) -> None:
    assert cmrc_scores(said, answers) == pytest.approx((exact, f1))


def test_the_longest_run_is_that_of_all_substrings() -> None:
    draw = random.Random(0)
    for _ in range(200):
        one, other = ("".join(draw.choices("甲乙丙", k=draw.randint(1, 9))) for _ in range(2))
        run = max((j - i for i in range(len(one)) for j in range(i + 1, len(one) + 1) if one[i:j] in other), default=0)
        assert cmrc_scores(one, [other])[1] == pytest.approx(2 * run / (len(one) + len(other)))


@pytest.mark.parametrize(
    ("said", "answer", "f1"),
    [("人民币 352 元。", "人民币352元", 1), ("张某", "张某某", 4 / 5), ("", "张某", 0), ("。", "", 1), ("AB", "ab", 1)],
)
def test_characters(said: str, answer: str, f1: float) -> None:
    assert character_f1(said, answer) == pytest.approx(f1)


@pytest.mark.skipif(not CMRC.is_file(), reason="real data is not there")
def test_real_answers_are_right_and_a_word_more_is_not() -> None:
    groups = json.loads(CMRC.read_text(encoding="utf-8"))["data"]
    questions = [question for group in groups for part in group["paragraphs"] for question in part["qas"]]
    answers = [[answer["text"] for answer in question["answers"]] for question in questions]
    assert len(answers) > 900
    assert all(cmrc_scores(f"“{one[0].strip()}”", [one[0].strip()]) == (1, 1) for one in answers)
    longer = [cmrc_scores(f"{one[0]}错", one) for one in answers]
    assert all(exact == 0 and 0 < f1 < 1 for exact, f1 in longer)
