"""The graders by the names that task files give them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from graftlm.evaluation.graders.base import Mark, Reply
from graftlm.evaluation.graders.table import GRADERS
from graftlm.evaluation.statistics import Scores

DATA = Path(__file__).parents[5] / "shared" / "data" / "eval"


def mark(name: str, text: str, *answers: str) -> Mark:
    return GRADERS[name]([Reply((text,), answers, {})])[0]


@pytest.mark.parametrize(
    ("grader", "text", "answer", "right"),
    [
        ("letter", "答案是 C", "C", 1),
        ("letter", "B", "C", 0),
        ("letters", "答案是 ACD", "ACD", 1),
        ("letters", "AC", "ACD", 0),
        ("letters", "ACD", "AC", 0),
        ("gsm8k", "48/2 = 24. 48+24 = 72", "so 24\n#### 72", 1),
        ("gsm8k", "#### 1,000", "#### 1000", 1),
        ("gsm8k", "I cannot tell", "#### 1000", 0),
        ("math", "so \\boxed{\\frac12}", "thus $\\boxed{0.5}$", 1),
        ("math", "The answer is 3.", "$\\boxed{4}$", 0),
        ("cloze", "答案是 5;10", "$5$;$10$", 1),
        ("cloze", "答案是 10;5", "$5$;$10$", 0),
        ("cloze", "5", "$5$;$10$", 0),
        ("soft_f1", "张某", "张某某", 0.8),
        ("squad_exact", "The cat.", "cat", 1),
        ("cmrc_f1", "爆踢", "踢爆", 0.5),
    ],
)
def test_one_answer(grader: str, text: str, answer: str, right: float) -> None:
    assert mark(grader, text, answer) == pytest.approx(right)


def test_any_accepted_answer_will_do() -> None:
    assert mark("squad_f1", "blue", "red", "blue") == 1
    assert mark("letters", "AC", "A", "C") == 1  # the letters of one answer, listed


@pytest.mark.skipif(not DATA.is_dir(), reason="real data is not there")
def test_ifeval_of_gpt4_is_the_published_one() -> None:
    """Of the 168 prompts; two of the published verdicts differ (graders/ifeval_test.py)."""
    folder = DATA / "ifeval"
    lines = {name: (folder / name).read_text(encoding="utf-8").splitlines() for name in ("input_data.jsonl",)}
    rows = {row["prompt"]: row for row in map(json.loads, lines["input_data.jsonl"])}
    published = [json.loads(one) for one in (folder / "test_output/eval_results_strict.jsonl").read_text().splitlines()]
    replies = [Reply((one["response"],), (), rows[one["prompt"]]) for one in published]
    by_prompt = GRADERS["ifeval_prompt_strict"](replies)
    by_instruction = GRADERS["ifeval_instruction_strict"](replies)
    pairs = [one if isinstance(one, tuple) else (one, 1.0) for one in by_instruction]
    verdicts = [verdict for one in published for verdict in one["follow_instruction_list"]]
    found = Scores.of([top for top, _ in pairs], [bottom for _, bottom in pairs])
    assert len(verdicts) == found.denominators.sum()
    assert abs(found.numerators.sum() - sum(verdicts)) <= 2
    expected = sum(one["follow_all_instructions"] for one in published)
    assert abs(sum(float(one) for one in by_prompt if not isinstance(one, tuple)) - expected) <= 2


@pytest.mark.skipif(not DATA.is_dir(), reason="real data is not there")
def test_clozes_of_the_gaokao_are_right_as_their_own_answers() -> None:
    lines = (DATA / "agieval/v1/gaokao-mathcloze.jsonl").read_text(encoding="utf-8").splitlines()
    answers = [json.loads(line)["answer"] for line in lines]
    right = [mark("cloze", f"答案是 {answer}", answer) for answer in answers]
    assert sum(map(float, right)) / len(right) > 0.95, [a for a, r in zip(answers, right, strict=True) if not r]
