"""A little model that answers questions and judges answers, through the generation engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from graftlm.core.errors import ModelError
from graftlm.data.samples import Turn
from graftlm.evaluation.arena.answering import answer_questions
from graftlm.evaluation.arena.local_judge import LocalJudge
from graftlm.evaluation.arena.questions import ModelAnswer, Question, read_answers
from graftlm.evaluation.arena.record_log import RecordLog
from graftlm.evaluation.language_model import LanguageModel
from graftlm.evaluation.subject import Turns

QUESTIONS = [
    Question(question_id=number, category=category, turns=[f"q{number}", "more"][: 1 + number % 2])
    for number, category in enumerate(["math", "writing", "stem", "math", "writing", "other"] * 12)
]


@pytest.fixture
def subject(tiny_model: Callable) -> LanguageModel:
    """Letters are tokens; every conversation it was asked is noted in `asked`."""

    def encode(turns: Turns) -> list[int]:
        text = "|".join(f"{turn.role[0]}{turn.content}" for turn in turns)
        return [3 + ord(letter) % 90 for letter in text][-100:]

    def decode(tokens: Sequence[int]) -> str:
        return "".join(chr(32 + token % 90) for token in tokens)

    return LanguageModel(
        model=tiny_model(), encode=encode, encode_text=lambda text: [3], decode=decode, stop_ids={2}, pad_id=0
    )


def answered(subject: LanguageModel, path: Path, questions: Sequence[Question] = QUESTIONS, **options: object) -> int:
    settings = {"max_new_tokens": 6, "seed": 0, "temperature": None, "advance": lambda _: None} | options
    return answer_questions(subject, "tiny", questions, RecordLog(path, ModelAnswer), **settings)  # type: ignore[arg-type]


def test_every_turn_is_answered_in_a_layout_that_is_read(subject: LanguageModel, tmp_path: Path) -> None:
    told: list[int] = []
    cut = answered(subject, tmp_path / "a.jsonl", advance=told.append)
    name, answers = read_answers(tmp_path / "a.jsonl")
    assert name == "tiny" and list(answers) == list(range(72)) and sum(told) == 72
    assert all(len(answers[q.question_id]) == len(q.turns) for q in QUESTIONS)
    assert 0 < cut <= 108, "the model ends few answers by itself within 6 tokens"


def test_an_interrupted_file_is_completed_to_the_same(subject: LanguageModel, tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    answered(subject, file)
    whole = file.read_bytes()
    for share in (0.2, 0.9):
        file.write_bytes(whole[: int(len(whole) * share)])
        answered(subject, file)
        assert file.read_bytes() == whole


def test_temperature_follows_the_category(subject: LanguageModel, tmp_path: Path) -> None:
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    answered(subject, first)
    answered(subject, second, seed=1)
    differ = {
        question.category
        for question in QUESTIONS
        if read_answers(first)[1][question.question_id] != read_answers(second)[1][question.question_id]
    }
    assert differ <= {"writing", "stem"} and "writing" in differ, "a seed changes sampled answers only"
    answered(subject, tmp_path / "c.jsonl", temperature=0.0, seed=1)
    answered(subject, tmp_path / "d.jsonl", temperature=0.0, seed=2)
    assert (tmp_path / "c.jsonl").read_bytes() == (tmp_path / "d.jsonl").read_bytes()


def test_a_second_turn_follows_the_first_answer(subject: LanguageModel, tmp_path: Path) -> None:
    asked: list[list[str]] = []

    def encode(turns: Turns) -> list[int]:
        asked.append([turn.content for turn in turns])
        return subject.encode(turns)

    noting = LanguageModel(
        model=subject.model,
        encode=encode,
        encode_text=subject.encode_text,
        decode=subject.decode,
        stop_ids={2},
        pad_id=0,
    )
    answered(noting, tmp_path / "a.jsonl", QUESTIONS[1:2], temperature=0.0)
    said = read_answers(tmp_path / "a.jsonl")[1][1]
    assert asked == [["q1"], ["q1", said[0], "more"]]


def test_a_local_judge_replies_alike_in_any_company(subject: LanguageModel) -> None:
    judge = LocalJudge("tiny", "hash", subject, temperature=1.0, max_new_tokens=8)
    asked = [
        [{"role": "system", "content": "Judge."}, {"role": "user", "content": text}] for text in ("a", "bb", "ccc")
    ]
    together = dict(judge.ask(asked))
    assert [dict(judge.ask([one]))[0] for one in asked] == [together[place] for place in range(3)]
    assert together[0].prompt_tokens == len(subject.encode([])) + len("sJudge.|ua") and together[0].answer_tokens
    assert list(judge.ask([])) == []
    other = LocalJudge("tiny", "hash", subject, temperature=0.0, max_new_tokens=8)
    assert judge.identity() != other.identity()


def test_a_template_without_a_system_role_gets_its_text_from_the_user(subject: LanguageModel) -> None:
    asked: list[list[Turn]] = []

    def encode(turns: Turns) -> list[int]:
        if turns[0].role == "system":
            raise ModelError("the tokenizer's chat template refuses the conversation")
        asked.append(list(turns))
        return subject.encode(turns)

    judge = LocalJudge("tiny", "hash", replace(subject, encode=encode), temperature=0.0, max_new_tokens=2)
    list(judge.ask([[{"role": "system", "content": "Judge."}, {"role": "user", "content": "a"}]]))
    assert asked == [[Turn("user", "Judge.\n\na")]]
