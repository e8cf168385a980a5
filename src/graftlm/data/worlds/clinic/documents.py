"""What the clinic has written down: handbook, notes, lists, question-and-answer lines. Taught facts only."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from graftlm.data.samples import Origin, Text
from graftlm.data.worlds.clinic.graph import Graph
from graftlm.data.worlds.documents import (
    asked_and_answered,
    both_languages,
    entry,
    fact_list,
    told_together,
    told_twice,
    turn_of,
)
from graftlm.data.worlds.facts import Fact
from graftlm.data.worlds.names import short_name
from graftlm.data.worlds.phrasing import SIDE, Language, Wordings, prose

_NOTES: Wordings = {
    "en": ("Ward note. Patient {p}, {a} years old.", "Case {a}: {p}.", "Patient: {p}.",
           "{p} ({a}) came in today.",
           "Note for {p}:"),
    "zh": ("病房记录。病人{p}，{a}岁。", "病例{a}：{p}。", "病人：{p}。", "{p}（{a}岁）今天来看病。",
           "给{p}的记录："),
}  # fmt: skip


def _note(rng: Random, graph: Graph, fact: Fact, lang: Language) -> str:
    note = rng.choice(_NOTES[lang]).format(p=short_name(rng)[SIDE[lang]], a=rng.randint(18, 80))
    return prose([note, told_together(rng, graph, fact, lang)], lang)


_FORMS: tuple[tuple[int, Callable[[Random, Graph, Fact, Language], str]], ...] = (
    (9, told_together), (3, told_twice), (4, asked_and_answered), (2, entry), (3, _note), (2, fact_list),
    (2, both_languages),
)  # fmt: skip
_DECK = tuple(form for weight, form in _FORMS for _ in range(weight))


def document(rng: Random, graph: Graph, index: int, origin: Origin) -> Text:
    fact, lang = turn_of(graph, index)
    return Text(rng.choice(_DECK)(rng, graph, fact, lang), origin)
