"""Whoever sits a published test: what is asked are plain strings, as the test's own format joins them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from graftlm.core.errors import ModelError
from graftlm.evaluation.subject import Advance


class CannotSit(ModelError):
    """The model is too small for a test: its positions do not hold an answer, or an option."""


@dataclass(frozen=True)
class Options:
    """Continuations whose likelihoods are asked, often of one and the same context.

    Attributes:
        contexts, continuations: [options]; what stands before, and what is scored.
        choices: [options]; the bare texts, whose lengths normalise.
        right: places of the right ones; no honest subject looks at them.
    """

    contexts: tuple[str, ...]
    continuations: tuple[str, ...]
    choices: tuple[str, ...]
    right: tuple[int, ...]


@dataclass(frozen=True)
class Passage:
    """A text whose likelihood is asked."""

    text: str


@dataclass(frozen=True)
class Open:
    """A prompt that is answered freely.

    Attributes:
        answers: accepted texts.
        solution: the answer as a solved example would show it.
    """

    prompt: str
    answers: tuple[str, ...]
    solution: str


@dataclass(frozen=True, slots=True)
class Likelihood:
    """log p of a continuation in nats, and whether each of its tokens is the most likely one."""

    log_p: float
    greedy: bool


@dataclass(frozen=True)
class Writing:
    """How free answers are written.

    Attributes:
        until: strings that end an answer and are cut from it.
        samples: answers a prompt.
    """

    until: tuple[str, ...]
    max_tokens: int
    samples: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0


class TextSubject(Protocol):
    """The three things that a published test asks for. Results come in the order of the questions.

    Attributes:
        truncated: rows so far whose beginning was cut to fit the model.
    """

    truncated: int

    def continuation_likelihoods(self, questions: Sequence[Options], advance: Advance) -> list[list[Likelihood]]:
        """The likelihood of each continuation after its context."""

    def text_likelihoods(self, passages: Sequence[Passage], advance: Advance) -> list[float]:
        """log p in nats of each whole text, its first token included."""

    def completions(self, prompts: Sequence[Open], writing: Writing, advance: Advance) -> list[list[str]]:
        """`writing.samples` answers to each prompt."""
