"""One exercise of one kind: its question, its answer, wrong answers, and the same knowledge as prose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import TypeAlias

from graftlm.data.worlds.phrasing import LANGUAGES, Language


@dataclass(slots=True)
class Item:
    """`wrong` has three or more plausible wrong answers when the item can be a test item, else none."""

    question: str
    answer: str
    wrong: tuple[str, ...]
    statement: str


Maker: TypeAlias = Callable[[Random, Language], Item]


@dataclass(frozen=True, slots=True)
class Kind:
    """A skill: its name, the function that makes its items, its languages, its share of the samples."""

    name: str
    make: Maker
    languages: tuple[Language, ...] = LANGUAGES
    weight: int = 2


def near(rng: Random, value: int) -> tuple[str, ...]:
    """Three wrong numbers close to `value`, none negative."""
    around = [value + d for d in (-10, -2, -1, 1, 2, 10) if value + d >= 0]
    return tuple(str(number) for number in rng.sample(around, 3))


def yes_no(lang: Language, truth: bool) -> tuple[str, tuple[str, ...]]:
    """The answer and three wrong ones."""
    if lang == "en":
        return ("Yes", ("No", "Maybe", "Sometimes")) if truth else ("No", ("Yes", "Maybe", "Sometimes"))
    return ("是", ("不是", "可能", "有时")) if truth else ("不是", ("是", "可能", "有时"))
