"""Subjects without a model: chance, perfection, and a habit. They show what a test's score means."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graftlm.core.errors import DataError
from graftlm.core.hashing import hash_value
from graftlm.evaluation.subject import Advance
from graftlm.evaluation.text_subject import Likelihood, Open, Options, Passage, Writing

_CHOSEN, _NOT = Likelihood(0.0, True), Likelihood(-1e4, False)
"""Divided by any length, the chosen option stays the most likely one."""


@dataclass
class Dummy:
    """A `TextSubject` that picks an option by a rule.

    Attributes:
        pick: a question → the place of the option that it takes, or None for one at which it fails.
        write: a prompt → the answer.
        bits_per_byte: that it gives every text.
    """

    pick: Callable[[Options], int | None]
    write: Callable[[Open], str]
    bits_per_byte: float
    truncated: int = 0

    def continuation_likelihoods(self, questions: Sequence[Options], advance: Advance) -> list[list[Likelihood]]:
        advance(len(questions))
        picked = [self.pick(question) for question in questions]
        return [
            [_CHOSEN if place == pick else _NOT for place in range(len(question.contexts))]
            for question, pick in zip(questions, picked, strict=True)
        ]

    def text_likelihoods(self, passages: Sequence[Passage], advance: Advance) -> list[float]:
        advance(len(passages))
        return [-self.bits_per_byte * math.log(2) * len(passage.text.encode()) for passage in passages]

    def completions(self, prompts: Sequence[Open], writing: Writing, advance: Advance) -> list[list[str]]:
        advance(len(prompts))
        return [[self.write(prompt)] * writing.samples for prompt in prompts]


def oracle() -> Dummy:
    """Always right: what a task's metrics give a perfect model. Bits per byte are 0."""
    return Dummy(lambda question: question.right[0], lambda prompt: prompt.solution, 0.0)


def always_first() -> Dummy:
    """The first option, or an empty answer: shows a test whose right answers stand in one place."""
    return Dummy(lambda question: 0 if len(question.contexts) > 1 else None, lambda _: "", 8.0)


def uniform(seed: int = 0) -> Dummy:
    """Every option with the same chance, by the question and the seed; never a right free answer."""

    def pick(question: Options) -> int | None:
        draw = random.Random(hash_value([seed, question.contexts[0], list(question.continuations)]))
        return draw.randrange(len(question.contexts)) if len(question.contexts) > 1 else None

    return Dummy(pick, lambda _: "", 8.0)


def dummy(name: str, seed: int = 0) -> Dummy:
    """`random`, `oracle` or `first`.

    Raises:
        DataError: another name.
    """
    makers = {"random": lambda: uniform(seed), "oracle": oracle, "first": always_first}
    if name not in makers:
        raise DataError(f"no dummy {name!r}", where="dummy:", fix=f"one of: {', '.join(makers)}")
    return makers[name]()
