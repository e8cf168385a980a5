"""Typed records: what every reader yields and every later step takes.

A sample knows the file and line it came from, so each complaint about it can name them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a sample was read: a file and the 1-based number of its line (or row, for json/csv/parquet)."""

    path: str
    line: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


@dataclass(frozen=True, slots=True)
class Turn:
    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Text:
    """A plain document, for pre-training: the loss is on every token."""

    text: str
    origin: Origin


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation, for instruction tuning: the loss is on every assistant turn, stop token included.

    Attributes:
        last_only: the loss is on the last assistant turn alone (ghost attention).
    """

    turns: tuple[Turn, ...]
    origin: Origin
    last_only: bool = False


@dataclass(frozen=True, slots=True)
class Preference:
    """Two answers to the same conversation (which ends with a user turn); `chosen` is the better one.

    Attributes:
        strength: how much better, on LLaMA 2's scale: 3 significantly, 2 better, 1 slightly, 0 negligibly; None
            where nobody said.
    """

    prompt: tuple[Turn, ...]
    chosen: str
    rejected: str
    origin: Origin
    strength: float | None = None


@dataclass(frozen=True, slots=True)
class Unpaired:
    """One answer with a thumb up or down (KTO)."""

    prompt: tuple[Turn, ...]
    completion: str
    desirable: bool
    origin: Origin


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation that ends with a user turn, to be answered (generation, rollouts).

    Attributes:
        answers: the accepted answers, where they are known.
        unsafe: whether the prompt asks for harm; a safety reward model then judges alone.
    """

    prompt: tuple[Turn, ...]
    origin: Origin
    answers: tuple[str, ...] = ()
    unsafe: bool = False


@dataclass(frozen=True, slots=True)
class Labelled:
    """A test item: a question with its accepted answers.

    Attributes:
        prompt: the conversation, ending with a user turn.
        answers: every accepted answer; for an extraction item, the set of items to be found.
        choices: the options of a multiple-choice item (empty for an open question); exactly one of them
            is in `answers`.
        kind: the name of the skill or relation tested, for break-downs ("dose", "arithmetic").
        language: "en" or "zh"; decides how text metrics split words.
    """

    prompt: tuple[Turn, ...]
    answers: tuple[str, ...]
    origin: Origin
    choices: tuple[str, ...] = ()
    kind: str = ""
    language: str = "en"


@dataclass(frozen=True, slots=True)
class Classified:
    """A text, or a pair of texts, with the name of its class.

    Attributes:
        text_b: the second text of a pair; empty for a single text.
        label: the class; empty where it is to be predicted.
    """

    text: str
    label: str
    origin: Origin
    text_b: str = ""


@dataclass(frozen=True, slots=True, order=True)
class Entity:
    """A named stretch of a text: characters `start` to `end` (the end is not part of it)."""

    start: int
    end: int
    kind: str


@dataclass(frozen=True, slots=True)
class Tagged:
    """A text with its named entities, which do not overlap, in order."""

    text: str
    entities: tuple[Entity, ...]
    origin: Origin


@dataclass(frozen=True, slots=True)
class Captioned:
    """An image, by the path of its file, and what it shows."""

    image: str
    text: str
    origin: Origin


Sample: TypeAlias = Text | Chat | Preference | Unpaired | Prompt | Labelled | Classified | Tagged | Captioned
