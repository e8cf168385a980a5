"""pass@k: the estimator in closed form and by counting, the published formats, and programs found in replies."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from graftlm.core.errors import DataError, GraftError
from graftlm.evaluation.graders.code import as_graded, estimate_pass_at_k, grade_program, pass_at_k
from graftlm.evaluation.graders.code_problems import humaneval_problem, mbpp_problem, program_of
from graftlm.evaluation.graders.sandbox import run
from graftlm.evaluation.graders.sandbox.run import Limits, Outcome, sandbox_gaps
from graftlm.evaluation.statistics import estimate

DATA = Path(__file__).parents[5] / "shared" / "data" / "eval"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="real data is not there")
needs_sandbox = pytest.mark.skipif(bool(sandbox_gaps()), reason=f"this machine lacks {', '.join(sandbox_gaps())}")

ROW = {
    "task_id": "test/1",
    "prompt": (
        'import math\n\ndef half(x):\n    return x / 2\n\ndef area(r: float) -> float:\n    """Of a circle."""\n'
    ),
    "test": "def check(candidate):\n    assert abs(half(candidate(2)) - half(math.pi * 4)) < 1e-6\n",
    "entry_point": "area",
}
MBPP = {"task_id": 7, "code": "def sum(a, b):\r\n    return a + b", "test_list": ["assert sum(1, 2) == 3"]}


def rows(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / path).read_text(encoding="utf-8").splitlines()]


def test_the_estimator_counts_draws() -> None:
    for samples, right in [(1, 0), (1, 1), (5, 0), (5, 2), (6, 3), (7, 7)]:
        for k in range(1, samples + 1):
            draws = list(itertools.combinations([True] * right + [False] * (samples - right), k))
            assert estimate_pass_at_k(samples, right, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_the_estimator_of_many_samples_is_exact() -> None:
    assert estimate_pass_at_k(200, 1, 100) == pytest.approx(0.5)
    assert estimate_pass_at_k(200, 13, 1) == pytest.approx(13 / 200)
    for samples, right, k in [(3, 1, 4), (3, 4, 1), (3, 1, 0), (0, 0, 1)]:
        with pytest.raises(ValueError, match="not defined"):
            estimate_pass_at_k(samples, right, k)


@pytest.mark.parametrize(
    ("reply", "right"),
    [
        ("    return math.pi * r * r\n\nprint(area(input()))\n", True),
        ("    return math.pi * r * r\n\ndef half(x):\n    return 0\n", True),
        ("Sure:\n```python\ndef area(r):\n    return math.pi * r ** 2\n```\nIt squares r.", True),
        ("```\npip install\n```\n```py\nfrom math import pi\ndef area(r):\n    return pi * r ** 2\n```", True),
        ("def area(r):\n    return math.pi * r ** 2", True),
        ("<think>```python\ndef area(r): return 0\n```</think>\n```python\n    return math.pi * r ** 2\n```", True),
        ("```python\ndef area(r):\n    return math.pi * r ** 2", True),
        ("    return math.pi * r * r\n```\nThis is the area.\n```python\narea(1)\n```", True),
        ("def area(r):\n    return math.pi * r ** 2\n```\nThis is the area.", True),
        ("    return math.pi * r * r\n\ndef area(r):\n    return 0\n", True),
        ("from the text: ```python\ndef area(r):\n    return 0\n```\nor\n```\ndef other(r):\n    return 0\n```", False),
        ("    return 3 * r * r\n", False),
        ("def half(x):\n    return 0\n\ndef area(r):\n    return 0", False),
        ("I do not know.", False),
        ("", False),
    ],
)
@needs_sandbox
def test_programs_in_replies(reply: str, right: bool) -> None:
    verdict = grade_program(humaneval_problem(ROW), reply)
    assert verdict.passed is right, verdict.reason


@pytest.mark.parametrize(
    ("reply", "right"),
    [
        ("[BEGIN]\ndef sum(a, b):\n    return a + b\n[DONE]\nassert False", True),
        ("```python\ndef sum(a, b):\n    return a + b\n```\n```python\nprint(sum(1, int(input())))\n```", True),
        ("def add(a, b):\n    return a + b", False),
    ],
)
@needs_sandbox
def test_programs_of_mbpp(reply: str, right: bool) -> None:
    """The function may have a builtin's name; it is the program's all the same."""
    assert grade_program(mbpp_problem(MBPP), reply).passed is right


def test_the_names_that_are_tested() -> None:
    assert mbpp_problem(MBPP).tested == ("sum",)
    bare = {"task_id": 1, "test_list": ["assert sorted(f(x)) == sys.path"], "test_imports": ["import sys"]}
    problem = mbpp_problem({**bare, "test_setup_code": "x = [1]"})
    assert problem.tested == ("f",)
    assert program_of(problem, "f = sorted[DONE]\nmore") == "f = sorted"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({**ROW, "test": "def check(:"}, "not Python"),
        ({key: ROW[key] for key in ("task_id", "prompt", "test")}, "no entry_point"),
        ({**MBPP, "test_list": "assert f(1)"}, "no test_list"),
        ({**MBPP, "test_list": ["assert True"]}, "name nothing"),
    ],
)
def test_rows_that_cannot_be_used(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        (mbpp_problem if "test_list" in row else humaneval_problem)(row)


@needs_sandbox
def test_samples_of_several_problems() -> None:
    problems = [humaneval_problem(ROW), mbpp_problem(MBPP)]
    right, wrong = "    return math.pi * r * r", "    return 0"
    done: list[int] = []
    replies = [[wrong, right, wrong], ["def sum(a, b): return a + b"] * 3]
    result = pass_at_k(problems, replies, (1, 3), workers=2, advance=done.append)
    assert result.metrics["pass@1"].numerators.tolist() == pytest.approx([1 / 3, 1])
    assert result.metrics["pass@3"].numerators.tolist() == [1, 1]
    assert [[verdict.passed for verdict in some] for some in result.verdicts] == [[False, True, False], [True] * 3]
    assert sum(done) == 6
    assert estimate(result.metrics["pass@1"]).value == pytest.approx(2 / 3)
    first, second = as_graded(problems, replies, result).samples
    assert (first.right, second.right) == (False, True)
    assert first.answer.startswith(wrong.strip()) and "AssertionError: assert abs(half(" in first.answer


def test_too_few_samples_are_told() -> None:
    with pytest.raises(DataError, match="test/1: pass@2 needs"):
        pass_at_k([humaneval_problem(ROW)], [["x"]], (1, 2))
    with pytest.raises(DataError, match="1 problems and replies to 0"):
        pass_at_k([humaneval_problem(ROW)], [])


def test_a_machine_that_cannot_hold_programs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "sandbox_gaps", lambda: ("Landlock (keeps files)",))
    with pytest.raises(GraftError, match=r"missing: Landlock(.|\n)*allow_weak=True"):
        pass_at_k([mbpp_problem(MBPP)], [["def sum(a, b): return a + b"]])
    weak = pass_at_k([mbpp_problem(MBPP)], [["def sum(a, b): return a + b"]], allow_weak=True)
    assert weak.metrics["pass@1"].value == 1


@needs_data
@needs_sandbox
def test_humaneval_as_published() -> None:
    """The canonical solutions pass; the examples have the pass@k that the data's authors publish."""
    table = rows("humaneval/HumanEval.jsonl")[:8]
    result = pass_at_k([humaneval_problem(row) for row in table], [[row["canonical_solution"]] for row in table])
    assert result.metrics["pass@1"].value == 1
    [example] = rows("humaneval/example_problem.jsonl")
    samples = [row["completion"] for row in rows("humaneval/example_samples.jsonl")]
    examples = pass_at_k([humaneval_problem(example)], [samples], limits=Limits(seconds=2))
    assert examples.metrics["pass@1"].value == 0.5
    timed_out = [verdict.outcome is Outcome.TIMED_OUT for verdict in examples.verdicts[0]]
    assert timed_out == [False, True, False, False, False, False]


@needs_data
@needs_sandbox
@pytest.mark.parametrize("chosen", [slice(0, 6), pytest.param(slice(6, None), marks=pytest.mark.slow)])
def test_references_of_mbpp_pass(chosen: slice) -> None:
    table = rows("mbpp/mbpp.jsonl")
    hard = [row for row in table if row["task_id"] in (126, 533, 596, 601, 927)]  # classes, types, a builtin's name
    table = hard + table[chosen]
    problems, replies = [mbpp_problem(row) for row in table], [[row["code"]] for row in table]
    result = pass_at_k(problems, replies, limits=Limits(seconds=20))
    failed = {row["task_id"]: some for row, some in zip(table, result.verdicts, strict=True) if not some[0].passed}
    assert failed == {}
