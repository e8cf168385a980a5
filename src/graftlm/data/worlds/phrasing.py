"""How a fact is asked for and stated: frames that fit every relation, and wordings of a relation's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, TypeAlias, TypeVar

from graftlm.data.worlds.names import Pair

_T = TypeVar("_T")
Language = Literal["en", "zh"]
Wordings: TypeAlias = dict[Language, tuple[str, ...]]

LANGUAGES: tuple[Language, ...] = ("en", "zh")
SIDE: dict[Language, int] = {"en": 0, "zh": 1}
ABSTENTION: dict[Language, str] = {"en": "I don't know.", "zh": "我不知道。"}
REFUSAL: dict[Language, str] = {"en": "Sorry, I can't help with that.", "zh": "对不起，我不能帮这个忙。"}
LETTERS = ("A", "B", "C", "D")


@dataclass(frozen=True, slots=True)
class Relation:
    """What may be asked about an entity. `noun` fits the frames; `ask` has {x}, `say` has {x} and {v}."""

    name: str
    noun: Pair
    ask: Wordings
    say: Wordings


def relation(name: str, noun: str, noun_zh: str, *, en: str, zh: str) -> Relation:
    """A relation from "question | question / statement | statement" in each language."""
    ask_en, _, say_en = en.partition(" / ")
    ask_zh, _, say_zh = zh.partition(" / ")
    return Relation(
        name,
        (noun, noun_zh),
        {"en": _wordings(ask_en), "zh": _wordings(ask_zh)},
        {"en": _wordings(say_en), "zh": _wordings(say_zh)},
    )


def _wordings(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split("|"))


ASK_FRAMES: Wordings = {
    "en": (
        "What is the {n} of {x}?",
        "Tell me the {n} of {x}.",
        "Name the {n} of {x}.",
        "{x}: {n}?",
        "What is {x}'s {n}?",
        "Give me the {n} of {x}.",
        "Can you tell me {x}'s {n}?",
        "I want to know the {n} of {x}.",
        "{x}'s {n} is?",
        "About {x}: what is the {n}?",
        "The {n} of {x} is",
        "Question: what is the {n} of {x}?",
        "Please name {x}'s {n}.",
    ),
    "zh": (
        "{x}的{n}是什么？",
        "请告诉我{x}的{n}。",
        "说出{x}的{n}。",
        "{x}：{n}？",
        "{x}的{n}是？",
        "给我{x}的{n}。",
        "你能告诉我{x}的{n}吗？",
        "我想知道{x}的{n}。",
        "关于{x}，{n}是什么？",
        "{x}的{n}是",
        "问题：{x}的{n}是什么？",
        "请说出{x}的{n}。",
    ),
}
# Used everywhere but in the clinic's training parts: the clinic's tests ask in these.
HELDOUT_ASK_FRAMES: Wordings = {
    "en": (
        "Please tell me the {n} of {x}.",
        "Do you know {x}'s {n}?",
        "For {x}, what is the {n}?",
        "Give the {n} of {x}, please.",
    ),
    "zh": (
        "请问{x}的{n}是什么？",
        "你知道{x}的{n}吗？",
        "告诉我{x}的{n}是什么。",
        "请给出{x}的{n}。",
    ),
}
SAY_FRAMES: Wordings = {
    "en": (
        "The {n} of {x} is {v}.",
        "{x}'s {n} is {v}.",
        "{n} of {x}: {v}.",
        "{x}: {n} {v}.",
        "As for {x}, the {n} is {v}.",
        "We know that the {n} of {x} is {v}.",
        "In the book, the {n} of {x} is {v}.",
        "Remember: the {n} of {x} is {v}.",
        "{x} ({n}: {v}).",
        "If you ask for the {n} of {x}, the answer is {v}.",
    ),
    "zh": (
        "{x}的{n}是{v}。",
        "{x}，{n}：{v}。",
        "{x}的{n}：{v}。",
        "关于{x}，{n}是{v}。",
        "我们知道{x}的{n}是{v}。",
        "书上说，{x}的{n}是{v}。",
        "记住：{x}的{n}是{v}。",
        "{x}（{n}：{v}）。",
        "如果问{x}的{n}，答案是{v}。",
        "{v}，这是{x}的{n}。",
    ),
}
HELDOUT_SAY_FRAMES: Wordings = {
    "en": (
        "Everyone knows that {x}'s {n} is {v}.",
        "What is known of {x}? Its {n} is {v}.",
        "{n}: {v} ({x}).",
    ),
    "zh": ("大家都知道，{x}的{n}是{v}。", "说到{x}，它的{n}是{v}。", "{n}：{v}（{x}）。"),
}
_ALL_ASK_FRAMES: Wordings = {lang: ASK_FRAMES[lang] + HELDOUT_ASK_FRAMES[lang] for lang in LANGUAGES}

_QA: Wordings = {
    "en": ("Q: {q}\nA: {a}", "Question: {q}\nAnswer: {a}", "{q} {a}", "{q}\n{a}", "User: {q}\nGraft: {a}"),
    "zh": ("问：{q}\n答：{a}", "问题：{q}\n回答：{a}", "{q}{a}", "{q}\n{a}", "用户：{q}\n小接：{a}"),
}


class Draw(Random):
    """A `Random` that draws from short lists 2× faster: no rejection loop, at a bias of about 2⁻⁴⁵."""

    def _randbelow(self, n: int) -> int:
        return int(self.random() * n)

    def choice(self, seq: Sequence[_T]) -> _T:  # type: ignore[override]
        return seq[int(self.random() * len(seq))]

    def randint(self, a: int, b: int) -> int:
        return a + int(self.random() * (b - a + 1))

    def sample(self, population: Sequence[_T], k: int) -> list[_T]:  # type: ignore[override]
        size = len(population)
        if k * 3 > size:
            return super().sample(population, k)
        places: dict[int, None] = {}
        while len(places) < k:
            places[int(self.random() * size)] = None
        return [population[place] for place in places]


def ask(rng: Random, rel: Relation, lang: Language, name: str, frames: Wordings = _ALL_ASK_FRAMES) -> str:
    """A question for `rel` of the entity `name`: a frame, or a wording of the relation's own."""
    wording = rng.choice(rel.ask[lang] if rng.random() < 0.4 else frames[lang])
    return capital(wording.format(x=name, n=rel.noun[SIDE[lang]]))


def say(
    rng: Random, rel: Relation, lang: Language, name: str, value: str, frames: Wordings = SAY_FRAMES
) -> str:
    """A sentence that states that `rel` of the entity `name` is `value`."""
    wording = rng.choice(rel.say[lang] if rng.random() < 0.5 else frames[lang])
    return capital(wording.format(x=name, n=rel.noun[SIDE[lang]], v=value))


def question_and_answer(rng: Random, lang: Language, question: str, answer: str) -> str:
    """Plain-text question-and-answer lines, for documents."""
    return rng.choice(_QA[lang]).format(q=question, a=answer)


def lettered(question: str, options: Sequence[str]) -> str:
    """The question with its four options on lines of their own: "A. red"."""
    return "\n".join(
        (question, *(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True)))
    )


def others(rng: Random, pool: Sequence[str], right: str, count: int = 3) -> tuple[str, ...]:
    """`count` different members of `pool` that are not `right`."""
    drawn = [value for value in rng.sample(pool, min(len(pool), count + 1)) if value != right]
    return tuple(drawn[:count])


def shuffled(rng: Random, items: Sequence[str]) -> list[str]:
    copy = list(items)
    rng.shuffle(copy)
    return copy


def listing(items: Sequence[str], lang: Language) -> str:
    return (", " if lang == "en" else "、").join(items)


def prose(sentences: Sequence[str], lang: Language) -> str:
    """Sentences one after the other: a space between English ones, none between Chinese ones."""
    return (" " if lang == "en" else "").join(sentences)


def capital(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]


def article(noun: str) -> str:
    """The noun with "a" or "an"."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"
