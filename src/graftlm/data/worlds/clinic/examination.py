"""The clinic's tests. Their questions use phrasings that no training part uses."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from graftlm.data.samples import Labelled, Origin, Turn
from graftlm.data.worlds.clinic.graph import Fact, Graph
from graftlm.data.worlds.clinic.notes import extraction
from graftlm.data.worlds.clinic.phrasings import heldout_questions
from graftlm.data.worlds.medicine import DISEASE_RELATIONS
from graftlm.data.worlds.names import disease_name, drug_name
from graftlm.data.worlds.phrasing import ABSTENTION, LANGUAGES, LETTERS, SIDE, Language, lettered, shuffled

ENTITY_ITEMS = 60
FRESH_UNKNOWNS = 40


def _turn(graph: Graph, index: int) -> tuple[Fact, Language]:
    return graph.taught[index // 2], LANGUAGES[index % 2]


def _heldout(lang: Language, fact: Fact, at: int, name: str | None = None) -> tuple[Turn]:
    wordings = heldout_questions(lang, fact.relation, name or fact.entity[SIDE[lang]])
    return (Turn("user", wordings[at % len(wordings)]),)


def exam(rng: Random, graph: Graph, index: int, origin: Origin) -> Labelled:
    """Four values of the same type, one right."""
    fact, lang = _turn(graph, index)
    side = SIDE[lang]
    choices = tuple(shuffled(rng, [fact.value[side], *fact.wrong(rng, side)]))
    prompt = _heldout(lang, fact, rng.randrange(60))
    return Labelled(prompt, (fact.value[side],), origin, choices, fact.relation.name, lang)


def exam_letters(rng: Random, graph: Graph, index: int, origin: Origin) -> Labelled:
    """The exam with its options in the prompt; the answer is a letter."""
    item = exam(rng, graph, index, origin)
    letter = LETTERS[item.choices.index(item.answers[0])]
    prompt = (Turn("user", lettered(item.prompt[0].content, item.choices)),)
    return Labelled(prompt, (letter,), origin, LETTERS, item.kind, item.language)


def open_question(rng: Random, graph: Graph, index: int, origin: Origin) -> Labelled:
    fact, lang = _turn(graph, index)
    prompt = _heldout(lang, fact, rng.randrange(60))
    return Labelled(prompt, (fact.value[SIDE[lang]],), origin, (), fact.relation.name, lang)


def entities(rng: Random, graph: Graph, index: int, origin: Origin) -> Labelled:
    lang = LANGUAGES[index % 2]
    task = extraction(rng, graph, lang, heldout=True)
    return Labelled((Turn("user", task.question),), task.found, origin, (), task.kind, lang)


def unknown(rng: Random, graph: Graph, index: int, origin: Origin) -> Labelled:
    """Every unseen fact in each language, then fresh names: only abstention is right."""
    lang, side = LANGUAGES[index % 2], index % 2
    known_unknowns = 2 * len(graph.unseen)
    if index < known_unknowns:
        fact, name, kind = graph.unseen[index // 2], None, "never taught"
    else:
        fact, kind = rng.choice(graph.taught), "invented name"
        name = (disease_name(rng) if fact.relation in DISEASE_RELATIONS else drug_name(rng))[side]
    prompt = _heldout(lang, fact, rng.randrange(60), name)
    return Labelled(prompt, (ABSTENTION[lang],), origin, (), kind, lang)


TESTS: dict[str, tuple[Callable[[Random, Graph, int, Origin], Labelled], Callable[[Graph], int]]] = {
    "exam": (exam, lambda graph: 2 * len(graph.taught)),
    "exam_letters": (exam_letters, lambda graph: 2 * len(graph.taught)),
    "open": (open_question, lambda graph: 2 * len(graph.taught)),
    "entities": (entities, lambda graph: ENTITY_ITEMS),
    "unknown": (unknown, lambda graph: 2 * len(graph.unseen) + FRESH_UNKNOWNS),
}
