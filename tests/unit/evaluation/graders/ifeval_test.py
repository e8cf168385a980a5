"""The checker of IFEval beside the published verdicts on GPT-4's answers, row by row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from graftlm.evaluation.graders.ifeval import follow_instructions

DATA = Path(__file__).parents[5] / "shared" / "data" / "eval" / "ifeval"

DIFFERENT = {1122, 2341}
"""1122 asks for four letters `#`, which the published checker replaces by a random letter; 2341's answer is one word
in capitals, whose language the published checker guesses otherwise."""


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


@pytest.mark.skipif(not DATA.is_dir(), reason="real data is not there")
def test_all_verdicts_but_two_are_the_published_ones() -> None:
    asked = {row["prompt"]: row for row in rows("input_data.jsonl")}
    strict = rows("test_output/eval_results_strict.jsonl")
    loose = rows("test_output/eval_results_loose.jsonl")
    different, instructions = set(), 0
    for one, other in zip(strict, loose, strict=True):
        row = asked[one["prompt"]]
        found = follow_instructions(one["response"], row["instruction_id_list"], row["kwargs"])
        instructions += len(row["instruction_id_list"])
        published = [one["follow_instruction_list"], other["follow_instruction_list"]]
        same = [list(found.strict), list(found.loose)] == published
        different |= set() if same else {row["key"]}
    assert instructions == 271
    assert different == DIFFERENT


@pytest.mark.parametrize(
    ("kind", "settings", "right", "wrong"),
    [
        ("punctuation:no_comma", {}, "One two.", "One, two."),
        ("keywords:existence", {"keywords": ["blue", "red"]}, "Red and blue.", "Only red."),
        ("length_constraints:number_words", {"relation": "at least", "num_words": 3}, "one two three", "one two"),
        ("detectable_format:json_format", {}, '```json\n{"a": 1}\n```', "a: 1"),
        ("startend:quotation", {}, '"All of it."', 'Not "all" of it.'),
        ("change_case:english_lowercase", {}, "all of this is small and it is english.", "Not all of it."),
    ],
)
def test_an_instruction_is_followed_or_not(kind: str, settings: dict[str, Any], right: str, wrong: str) -> None:
    assert list(follow_instructions(right, [kind], [settings]).strict) == [True]
    assert list(follow_instructions(wrong, [kind], [settings]).strict) == [False]


def test_loose_forgives_a_first_line() -> None:
    answer = "Sure, here it is:\nOne two."
    found = follow_instructions(answer, ["punctuation:no_comma"], [{}])
    assert (list(found.strict), list(found.loose)) == ([False], [True])
