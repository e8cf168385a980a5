"""A battle: two models' answers to one question, and who judged which of them better."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, model_validator

Verdict = Literal["a", "b", "tie", "both_bad", "unreadable"]
"""Who is better. `unreadable`: the judge spoke, but gave no verdict; such battles are kept and not rated."""

Order = Literal["ab", "ba", "both"]
"""Whose answer stood first; `both`: judged once in either order."""

QuestionId = int | str
BattleKey = tuple[QuestionId, str, str, int, str]

_MARKS = {
    "headers": re.compile(r"^#{1,6}\s", re.MULTILINE),
    "lists": re.compile(r"^\s*(?:\d+\.|[-*+])\s", re.MULTILINE),
    "bold": re.compile(r"\*\*[^*\n]+\*\*|__[^_\n]+__"),
}
_CODE = re.compile(r"```.*?```", re.DOTALL)
_WORD = re.compile(r"[\u3400-\u9fff\uf900-\ufaff\u3040-\u30ff\uac00-\ud7a3]|\w+|[^\w\s]")


class Style(BaseModel):
    """How an answer looks, whatever it says; the counts that FastChat's style control compares.

    Attributes:
        tokens: words, punctuation marks and Chinese characters.
        headers, lists, bold: Markdown headings, list items, bold spans, outside code blocks.
    """

    model_config = ConfigDict(frozen=True)

    tokens: int = 0
    headers: int = 0
    lists: int = 0
    bold: int = 0


class Battle(BaseModel):
    """One line of a battle file.

    Attributes:
        question_id, category: as the questions' file has them.
        model_a, model_b: two different models.
        turns: of how many turns the judged conversation consists; MT-bench judges 1, and then 2.
        verdict: who was better.
        judge: a person, a model, or an exam.
        order: whose answer stood first.
        first, second: what the judge said of the order a–b and of b–a, where a swap was judged.
        style_a, style_b: of the judged answers, for style control; None where the answers are not known.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    question_id: QuestionId
    category: str
    model_a: str
    model_b: str
    turns: int = 1
    verdict: Verdict
    judge: str
    order: Order
    first: Verdict | None = None
    second: Verdict | None = None
    style_a: Style | None = None
    style_b: Style | None = None

    @model_validator(mode="after")
    def _of_two(self) -> Battle:
        if self.model_a == self.model_b:
            raise ValueError(f"{self.model_a} fights itself")
        return self

    @property
    def key(self) -> BattleKey:
        """What makes two lines the same battle, whichever model is called a."""
        return battle_key(self.question_id, self.model_a, self.model_b, self.turns, self.judge)


class Grade(BaseModel):
    """One line of a file of grades: a judge's mark from 1 to 10 for one answer; None where it gave none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    question_id: QuestionId
    category: str
    model: str
    turns: int = 1
    grade: float | None
    judge: str

    @property
    def key(self) -> tuple[QuestionId, str, int, str]:
        return self.question_id, self.model, self.turns, self.judge


def battle_key(question: QuestionId, one: str, other: str, turns: int, judge: str) -> BattleKey:
    """The key of a battle, also before it took place."""
    low, high = sorted((one, other))
    return question, low, high, turns, judge


def style_of(answers: Sequence[str]) -> Style:
    """The style of one model's side of a conversation, all its answers together.

    The patterns are those of FastChat's `add_markdown_info.py`; its lengths are tokens of one company's tokenizer,
    here words and characters, so that no tokenizer must be fetched.
    """
    bare = [_CODE.sub("", answer) for answer in answers]
    marks = {name: sum(len(pattern.findall(text)) for text in bare) for name, pattern in _MARKS.items()}
    return Style(tokens=sum(len(_WORD.findall(answer)) for answer in answers), **marks)


def mirrored(verdict: Verdict) -> Verdict:
    """The verdict with the two sides exchanged."""
    swapped: dict[Verdict, Verdict] = {"a": "b", "b": "a"}
    return swapped.get(verdict, verdict)


def agreed(first: Verdict, second: Verdict) -> Verdict:
    """One verdict of two orders (MT-bench, arXiv:2306.05685): a win needs both; else it is a tie.

    Args:
        first, second: in terms of model a and b, not of the places.
    """
    if "unreadable" in (first, second):
        return "unreadable"
    return first if first == second else "tie"


def each_once(battles: Iterable[Battle]) -> list[Battle]:
    """The first line of every battle."""
    found: dict[BattleKey, Battle] = {}
    for battle in battles:
        found.setdefault(battle.key, battle)
    return list(found.values())
