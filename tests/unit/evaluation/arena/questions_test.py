"""Questions and answers in their layouts; what is refused, and where."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from graftlm.core.errors import DataError
from graftlm.evaluation.arena.questions import check_answered, read_answers, read_questions, references_of

SHARED = Path(__file__).parents[5] / "shared" / "data" / "eval"


def write(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_questions_of_both_layouts(tmp_path: Path) -> None:
    file = write(
        tmp_path / "q.jsonl",
        {"question_id": 81, "category": "writing", "turns": ["a", "b"], "reference": ["x", "y"], "more": 1},
        "",
        {"question_id": "q2", "text": "c", "category": "math"},
    )
    first, second = read_questions(file)
    assert (first.question_id, first.turns, first.reference, first.temperature) == (81, ["a", "b"], ["x", "y"], 0.7)
    assert (second.question_id, second.turns, second.temperature) == ("q2", ["c"], 0.0)
    assert references_of([first, second], {"q2": ["z"]}) == {81: ["x", "y"], "q2": ["z"]}


def test_temperatures_are_those_of_mt_bench(tmp_path: Path) -> None:
    expected = {"writing": 0.7, "roleplay": 0.7, "extraction": 0, "math": 0, "coding": 0, "reasoning": 0}
    expected |= {"stem": 0.1, "humanities": 0.1, "anything": 0}
    rows = [{"question_id": name, "category": name, "turns": ["?"]} for name in expected]
    assert {q.category: q.temperature for q in read_questions(write(tmp_path / "q.jsonl", *rows))} == expected


def test_answers_of_both_layouts(tmp_path: Path) -> None:
    ours = write(
        tmp_path / "a.jsonl", {"question_id": 1, "model_id": "m", "choices": [{"index": 0, "turns": ["x", "y"]}]}
    )
    assert read_answers(ours) == ("m", {1: ["x", "y"]})
    belle = write(tmp_path / "billa.jsonl", {"question_id": 1, "text": "x"}, {"question_id": 2, "text": "y"})
    assert read_answers(belle) == ("billa", {1: ["x"], 2: ["y"]})


@pytest.mark.parametrize(
    ("rows", "where", "reason"),
    [
        ([], "q.jsonl", "empty"),
        (["{"], "q.jsonl:1", "not JSON"),
        ([{"question_id": 1, "turns": ["a"]}, {"turns": ["a"]}], "q.jsonl:2", "`question_id`"),
        ([{"question_id": 1, "turns": []}], "q.jsonl:1", "`turns`"),
        (["[1]"], "q.jsonl:1", "dictionary"),
        (
            [{"question_id": 1, "turns": ["a"]}, {"question_id": 1, "turns": ["b"]}],
            "q.jsonl",
            "two questions are called 1",
        ),
    ],
)
def test_bad_questions_are_named(tmp_path: Path, rows: list[object], where: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason) as error:
        read_questions(write(tmp_path / "q.jsonl", *rows))
    assert error.value.where is not None and error.value.where.endswith(where) and error.value.fix


def test_bad_answers_are_named(tmp_path: Path) -> None:
    row = {"question_id": 1, "model_id": "m", "choices": [{"turns": ["x"]}]}
    with pytest.raises(DataError, match="does not exist"):
        read_answers(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="several models: m, n"):
        read_answers(write(tmp_path / "a.jsonl", row, row | {"question_id": 2, "model_id": "n"}))
    with pytest.raises(DataError, match="two answers to question 1"):
        read_answers(write(tmp_path / "a.jsonl", row, row))
    (tmp_path / "gb.jsonl").write_bytes('{"text": "你好"}'.encode("gb18030"))
    with pytest.raises(DataError, match="not UTF-8"):
        read_answers(tmp_path / "gb.jsonl")


def test_missing_answers_are_counted(tmp_path: Path) -> None:
    rows = [{"question_id": number, "turns": ["a", "b"]} for number in range(8)]
    questions = read_questions(write(tmp_path / "q.jsonl", *rows))
    answers = {0: ["x", "y"], 1: ["x"]}
    with pytest.raises(DataError, match=r"7 of 8 questions are not answered in all their turns: 1, 2, 3, 4, 5, …"):
        check_answered(questions, "m", answers)
    check_answered(questions[:1], "m", answers)


@pytest.mark.skipif(not SHARED.is_dir(), reason="published questions are not here")
def test_published_questions_and_answers_are_read() -> None:
    english = read_questions(SHARED / "billa_judge" / "question_en.jsonl")
    chinese = read_questions(SHARED / "billa_judge" / "question_zh.jsonl")
    vicuna = read_questions(SHARED / "mt_bench" / "vicuna_bench" / "question.jsonl")
    assert (len(english), len(chinese), len(vicuna)) == (80, 253, 80)
    for name, questions in (("en", english), ("zh", chinese)):
        for model in ("billa", "chatglm"):
            check_answered(
                questions, model, read_answers(SHARED / "billa_judge" / "answer" / f"answer_{name}_{model}.jsonl")[1]
            )
    name, references = read_answers(SHARED / "mt_bench" / "vicuna_bench" / "reference_answer" / "gpt-4.jsonl")
    wanted = [question.question_id for question in vicuna if question.category in ("coding", "math")]
    assert name == "gpt-4" and set(wanted) <= set(references)
