"""Judge prompts: graft's own, and published ones."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import pytest

from graftlm.core.errors import DataError
from graftlm.evaluation.arena.prompts import choose_prompt, own_prompts, read_prompts

SHARED = Path(__file__).parents[5] / "shared" / "data" / "eval"
MT_BENCH = SHARED / "mt_bench" / "judge_prompts.jsonl"
QUESTIONS = {"question_1": "Q1", "question_2": "Q2"}
BLANKS = {
    "single": {1: {"question": "Q1", "answer": "A1"}, 2: {**QUESTIONS, "answer_1": "A1", "answer_2": "A2"}},
    "pairwise": {
        1: {"question": "Q1", "answer_a": "A1", "answer_b": "B1"},
        2: {**QUESTIONS, "answer_a_1": "A1", "answer_a_2": "A2", "answer_b_1": "B1", "answer_b_2": "B2"},
    },
}
REFERENCES = {1: {"ref_answer_1": "R1"}, 2: {"ref_answer_1": "R1", "ref_answer_2": "R2"}}


@pytest.mark.parametrize(
    ("kind", "turns", "referenced", "question"),
    product(("single", "pairwise"), (1, 2), (False, True), ("How?", "怎么办？")),
)
def test_own_prompts_show_everything_in_the_language_of_the_question(
    kind: str, turns: int, referenced: bool, question: str
) -> None:
    prompt = choose_prompt(own_prompts(), kind, turns=turns, referenced=referenced, category="any", question=question)
    blanks = BLANKS[kind][turns] | (REFERENCES[turns] if referenced else {})
    system, user = prompt.messages(blanks)
    assert (system["role"], user["role"]) == ("system", "user")
    assert all(f"\n{value}\n" in user["content"] for value in blanks.values())
    assert ("[[7]]" if kind == "single" else "[[C]]") in system["content"]
    assert ("请" in system["content"]) == (question == "怎么办？")


def test_braces_in_answers_are_letters() -> None:
    prompt = choose_prompt(own_prompts(), "single", turns=1, referenced=False, category="", question="?")
    assert "{x} {{y}} {0}" in prompt.messages({"question": "q", "answer": "{x} {{y}} {0}"})[1]["content"]


@pytest.mark.skipif(not MT_BENCH.is_file(), reason="MT-bench's prompts are not here")
def test_every_prompt_of_mt_bench_is_filled() -> None:
    """All eight rows: each is chosen for its own kind, turns and reference, and no blank is left."""
    rows = [json.loads(line) for line in MT_BENCH.read_text(encoding="utf-8").splitlines()]
    prompts = read_prompts(MT_BENCH)
    assert [prompt.name for prompt in prompts] == [row["name"] for row in rows] and len(rows) == 8
    for prompt, row in zip(prompts, rows, strict=True):
        shape = {"turns": 2 if "multi-turn" in prompt.name else 1, "referenced": "math" in prompt.name}
        assert choose_prompt(prompts, prompt.kind, **shape, category="math", question="?") is prompt
        blanks = BLANKS[prompt.kind][prompt.turns] | REFERENCES[prompt.turns]
        system, user = prompt.messages(blanks)
        assert system["content"] == row["system_prompt"].strip()
        assert user["content"] == row["prompt_template"].format(**blanks)


@pytest.mark.skipif(not SHARED.is_dir(), reason="BiLLa's prompts are not here")
def test_the_prompts_of_billa_are_chosen_by_category() -> None:
    prompts = read_prompts(SHARED / "billa_judge" / "prompt.jsonl")
    assert [prompt.form for prompt in prompts] == ["scores"] * 3
    for category, name, says in [
        ("coding", "prompt-2", "coding"),
        ("math", "prompt-3", "tuple"),
        ("qa", "prompt-1", "single line"),
    ]:
        chosen = choose_prompt(prompts, "pairwise", turns=1, referenced=False, category=category, question="?")
        user = chosen.messages({"question": "Q", "answer_a": "first", "answer_b": "second"})[1]["content"]
        assert chosen.name == name and says in user
        assert user.index("first") < user.index("Assistant 2") < user.index("second")
    with pytest.raises(DataError, match="pairwise, 2 turns, without a reference"):
        choose_prompt(prompts, "pairwise", turns=2, referenced=False, category="", question="?")


GOOD = {
    "name": "p",
    "type": "single",
    "system_prompt": "",
    "prompt_template": "{question} {answer}",
    "output_format": "[[rating]]",
}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("[", "JSONDecodeError"),
        (GOOD | {"type": "triple"}, "triple"),
        (GOOD | {"output_format": "?"}, "KeyError"),
        ({}, "KeyError"),
    ],
)
def test_what_is_no_prompt_is_named(tmp_path: Path, row: object, reason: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(f"{json.dumps(GOOD)}\n\n{row if isinstance(row, str) else json.dumps(row)}\n")
    with pytest.raises(DataError, match=reason) as error:
        read_prompts(file)
    assert error.value.where == f"{file}:3"


def test_a_prompt_with_an_unknown_blank_is_named(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(json.dumps(GOOD | {"prompt_template": "{question} {anwser}"}))
    [prompt] = read_prompts(file)
    with pytest.raises(DataError, match="anwser"):
        prompt.messages({"question": "q", "answer": "a"})
