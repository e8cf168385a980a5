"""Answers to sums: found in a solution, and the same number in another form is the same answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from graftlm.evaluation.graders.maths import boxed_answer, gsm8k_answer, same_answer

DATA = Path(__file__).parents[5] / "shared" / "data" / "eval"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("1,000", "1000", True),
        ("\\frac{1}{2}", "0.5", True),
        ("$\\dfrac{3}{4}$", "\\frac34", True),
        ("2", "3", False),
        ("\\frac{1}{2}", "\\frac{1}{3}", False),
        ("(1, 2)", "(2, 1)", False),
        ("x+1", "x+2", False),
    ],
)
def test_forms_of_a_number(one: str, other: str, same: bool) -> None:
    assert same_answer(one, other) is same


def test_the_box_may_hold_braces() -> None:
    assert boxed_answer("so \\boxed{1} or rather \\boxed{\\frac{a}{b}}.") == "\\frac{a}{b}"
    assert boxed_answer("no box") is None


@pytest.mark.skipif(not DATA.is_dir(), reason="real data is not there")
def test_solutions_of_gsm8k_and_math_give_their_answers() -> None:
    rows = [json.loads(line) for line in (DATA / "gsm8k" / "train.jsonl").read_text().splitlines()]
    halves = [row["answer"].split("#### ") for row in rows]
    right = sum(same_answer(gsm8k_answer(working), answer) for working, answer in halves)
    assert right / len(rows) > 0.97  # the last number before the mark: 2,500 of 2,575
    solutions = [json.loads(line)["solution"] for line in (DATA / "math_pal/math/test.json").read_text().splitlines()]
    answers = [boxed_answer(solution) for solution in solutions]
    assert all(answers)
    rewritten = [f"${answer.replace(chr(92) + 'frac', chr(92) + 'dfrac')}$." for answer in answers if answer]
    assert all(same_answer(one, other) for one, other in zip(rewritten, answers, strict=True))
