"""Questions of one or two turns, models' answers, and reference answers; in the layouts of MT-bench and BELLE."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, model_validator

from graftlm.core.errors import DataError
from graftlm.evaluation.arena.battles import QuestionId

REFERENCED = ("math", "maths", "reasoning", "coding")
"""Categories that MT-bench judges against a reference answer."""

TEMPERATURES = {"writing": 0.7, "roleplay": 0.7, "stem": 0.1, "humanities": 0.1}
"""Of the answers, by category, as in MT-bench; 0 in all others."""


class Question(BaseModel):
    """A line of a questions' file; `text` in place of `turns` is one turn.

    Attributes:
        turns: what the user says in each.
        reference: right answers, one a turn, where the file has them itself.
    """

    model_config = ConfigDict(frozen=True)

    question_id: QuestionId
    category: str = "general"
    turns: list[str] = Field(min_length=1)
    reference: list[str] | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_turn(cls, row: Any) -> Any:
        if isinstance(row, dict) and "turns" not in row and isinstance(row.get("text"), str):
            return row | {"turns": [row["text"]]}
        return row

    @property
    def temperature(self) -> float:
        """Of its answers."""
        return TEMPERATURES.get(self.category, 0.0)


class _Turns(BaseModel):
    index: int = 0
    turns: list[str] = Field(min_length=1)


class ModelAnswer(BaseModel):
    """A line of an answers' file: {question_id, model_id, choices: [{turns}]}; `text` is an answer of one turn."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    question_id: QuestionId
    model_id: str = Field(default="", validation_alias=AliasChoices("model_id", "model"))
    choices: list[_Turns] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _one_turn(cls, row: Any) -> Any:
        if isinstance(row, dict) and "choices" not in row and isinstance(row.get("text"), str):
            return row | {"choices": [{"turns": [row["text"]]}]}
        return row

    @property
    def turns(self) -> list[str]:
        """The answers of its first choice, one a turn."""
        return self.choices[0].turns


Row = TypeVar("Row", Question, ModelAnswer)
Answers = Mapping[QuestionId, Sequence[str]]
"""Question → the answer to each of its turns."""


def read_questions(path: Path) -> list[Question]:
    """The questions, in the order of the file.

    Raises:
        DataError: the file is absent, empty, has a line that is no question, or two of one id.
    """
    questions = list(_read_lines(path, Question))
    ids = [question.question_id for question in questions]
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise DataError(f"two questions are called {twice}", where=path, fix="give each a question_id of its own")
    return questions


def read_answers(path: Path) -> tuple[str, Answers]:
    """The name of a model, and its answers; a file that names no model is named by its own name.

    Raises:
        DataError: the file is absent, empty, has a line that is no answer, two answers to a question, or two models.
    """
    answers = list(_read_lines(path, ModelAnswer))
    names = sorted({answer.model_id or path.stem for answer in answers})
    if len(names) > 1:
        raise DataError(f"answers of several models: {', '.join(names)}", where=path, fix="one file a model")
    found: dict[QuestionId, Sequence[str]] = {}
    for answer in answers:
        if answer.question_id in found:
            reason = f"two answers to question {answer.question_id}"
            raise DataError(reason, where=path, fix="leave one of the two lines out")
        found[answer.question_id] = answer.turns
    return names[0], found


def check_answered(questions: Sequence[Question], model: str, answers: Answers) -> None:
    """Raise DataError where a model left questions, or turns of them, unanswered."""
    missing = [q.question_id for q in questions if len(answers.get(q.question_id, ())) < len(q.turns)]
    if missing:
        told = ", ".join(map(str, missing[:5])) + (", …" if len(missing) > 5 else "")
        reason = f"{len(missing)} of {len(questions)} questions are not answered in all their turns: {told}"
        raise DataError(reason, where=model, fix=f"graft arena answer {model} QUESTIONS")


def references_of(questions: Sequence[Question], answers: Answers) -> Answers:
    """Reference answers: of a file of their own, else of the questions' file."""
    inline = {q.question_id: q.reference for q in questions if q.reference}
    return {**inline, **answers}


def _read_lines(path: Path, kind: type[Row]) -> Iterator[Row]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (FileNotFoundError, IsADirectoryError):
        raise DataError("the file does not exist", where=path, fix="check the path") from None
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8: {error.reason}", where=path, fix="save it as UTF-8") from None
    found = 0
    for number, line in enumerate(lines, 1):
        if line.strip():
            found += 1
            yield _parsed(line, kind, f"{path}:{number}")
    if not found:
        raise DataError("the file is empty", where=path, fix="give it a JSON object a line")


def _parsed(line: str, kind: type[Row], where: str) -> Row:
    try:
        return kind.model_validate(json.loads(line))
    except json.JSONDecodeError as error:
        raise DataError(f"not JSON: {error.msg}", where=where, fix="one JSON object a line") from None
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(str(part) for part in fault["loc"])
        reason = f"`{key}`: {fault['msg']}" if key else fault["msg"]
        raise DataError(reason, where=where, fix="mend this line") from None
