"""Whoever sits a test: what the runner asks of a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from graftlm.data.samples import Turn

Turns = Sequence[Turn]
Advance = Callable[[int], None]
"""Called with the number of items just finished."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A free answer, and whether the model ended it by itself."""

    text: str
    stopped: bool


class Subject(Protocol):
    """The three things a test can ask for. Results come in the order of the questions."""

    def option_log_probabilities(
        self, prompts: Sequence[Turns], options: Sequence[Sequence[str]], advance: Advance
    ) -> list[list[float]]:
        """log p in nats of each option as the assistant's answer to its prompt."""

    def answers(self, prompts: Sequence[Turns], max_new_tokens: int, advance: Advance) -> list[Answer]:
        """Greedy answers."""

    def text_log_probabilities(self, texts: Sequence[str], advance: Advance) -> list[float]:
        """log p in nats of each whole text."""
