"""Tests of a domain's taught facts. Their questions use wordings that no training part uses."""

from __future__ import annotations

from random import Random

from graftlm.data.samples import Labelled, Origin, Turn
from graftlm.data.worlds.facts import Fact, Knowledge, heldout_questions
from graftlm.data.worlds.phrasing import LANGUAGES, LETTERS, SIDE, Language, lettered, shuffled


def _turn(knowledge: Knowledge, index: int) -> tuple[Fact, Language]:
    return knowledge.taught[index // 2], LANGUAGES[index % 2]


def heldout_prompt(lang: Language, fact: Fact, at: int, name: str | None = None) -> tuple[Turn]:
    wordings = heldout_questions(lang, fact.relation, name or fact.entity[SIDE[lang]])
    return (Turn("user", wordings[at % len(wordings)]),)


def exam(rng: Random, knowledge: Knowledge, index: int, origin: Origin) -> Labelled:
    """Four values of the same type, one right."""
    fact, lang = _turn(knowledge, index)
    side = SIDE[lang]
    choices = tuple(shuffled(rng, [fact.value[side], *fact.wrong(rng, side)]))
    prompt = heldout_prompt(lang, fact, rng.randrange(60))
    return Labelled(prompt, (fact.value[side],), origin, choices, fact.relation.name, lang)


def exam_letters(rng: Random, knowledge: Knowledge, index: int, origin: Origin) -> Labelled:
    """The exam with its options in the prompt; the answer is a letter."""
    item = exam(rng, knowledge, index, origin)
    letter = LETTERS[item.choices.index(item.answers[0])]
    prompt = (Turn("user", lettered(item.prompt[0].content, item.choices)),)
    return Labelled(prompt, (letter,), origin, LETTERS, item.kind, item.language)


def open_question(rng: Random, knowledge: Knowledge, index: int, origin: Origin) -> Labelled:
    fact, lang = _turn(knowledge, index)
    prompt = heldout_prompt(lang, fact, rng.randrange(60))
    return Labelled(prompt, (fact.value[SIDE[lang]],), origin, (), fact.relation.name, lang)
