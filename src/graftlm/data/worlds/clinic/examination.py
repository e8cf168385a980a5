"""The clinic's tests. Their questions use phrasings that no training part uses."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from graftlm.data.samples import Labelled, Origin, Turn
from graftlm.data.worlds.clinic.graph import Graph
from graftlm.data.worlds.clinic.notes import extraction
from graftlm.data.worlds.examination import exam, exam_letters, heldout_prompt, open_question
from graftlm.data.worlds.medicine import DISEASE_RELATIONS
from graftlm.data.worlds.names import disease_name, drug_name
from graftlm.data.worlds.phrasing import ABSTENTION, LANGUAGES

ENTITY_ITEMS = 60
FRESH_UNKNOWNS = 40


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
    prompt = heldout_prompt(lang, fact, rng.randrange(60), name)
    return Labelled(prompt, (ABSTENTION[lang],), origin, (), kind, lang)


TESTS: dict[str, tuple[Callable[[Random, Graph, int, Origin], Labelled], Callable[[Graph], int]]] = {
    "exam": (exam, lambda graph: 2 * len(graph.taught)),
    "exam_letters": (exam_letters, lambda graph: 2 * len(graph.taught)),
    "open": (open_question, lambda graph: 2 * len(graph.taught)),
    "entities": (entities, lambda graph: ENTITY_ITEMS),
    "unknown": (unknown, lambda graph: 2 * len(graph.unseen) + FRESH_UNKNOWNS),
}
