"""Items of a little made-up subject, and subjects whose score is known beforehand."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest

from graftlm.data.samples import Labelled, Origin, Text, Turn
from graftlm.evaluation.subject import Advance, Answer, Turns

CAPITALS = ["Paris", "Rome", "Madrid", "Oslo"]


def choice_items(count: int = 400) -> list[Labelled]:
    generator = random.Random(0)
    items = []
    for number in range(count):
        options = generator.sample(CAPITALS, 4)
        answer = generator.choice(options)
        kind = ("north", "south")[number % 2]
        prompt = (Turn("user", f"Question {number}: which is it, {answer}?"),)
        items.append(Labelled(prompt, (answer,), Origin("exam.jsonl", number + 1), tuple(options), kind))
    return items


class Scripted:
    """Answers each question with a function of the last turn's text."""

    def __init__(
        self, answer: Callable[[str], str] = str, score: Callable[[str, str], float] | None = None
    ) -> None:
        self._answer = answer
        self._score = score
        self.asked: list[str] = []

    def option_log_probabilities(
        self, prompts: Sequence[Turns], options: Sequence[Sequence[str]], advance: Advance
    ) -> list[list[float]]:
        assert self._score is not None
        self.asked = [turns[-1].content for turns in prompts]
        advance(len(prompts))
        pairs = zip(self.asked, options, strict=True)
        return [[self._score(question, option) for option in some] for question, some in pairs]

    def answers(self, prompts: Sequence[Turns], max_new_tokens: int, advance: Advance) -> list[Answer]:
        advance(len(prompts))
        texts = [self._answer(turns[-1].content) for turns in prompts]
        return [Answer(text, stopped=len(text) < max_new_tokens) for text in texts]

    def text_log_probabilities(self, texts: Sequence[str], advance: Advance) -> list[float]:
        assert self._score is not None
        advance(len(texts))
        return [self._score(text, "") for text in texts]


def labelled(question: str, *answers: str, kind: str = "", language: str = "en") -> Labelled:
    return Labelled((Turn("user", question),), answers, Origin("test.jsonl", 1), (), kind, language)


def text(content: str) -> Text:
    return Text(content, Origin("text.txt", 1))


@pytest.fixture
def items() -> list[Labelled]:
    return choice_items()


@pytest.fixture
def scripted() -> type[Scripted]:
    return Scripted


@pytest.fixture
def question() -> Callable[..., Labelled]:
    return labelled


@pytest.fixture
def document() -> Callable[[str], Text]:
    return text
