"""What the clinic has written down: handbook, notes, lists, question-and-answer lines. Taught facts only."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from graftlm.data.samples import Origin, Text
from graftlm.data.worlds.clinic.graph import Graph
from graftlm.data.worlds.facts import Fact, heldout_statement, question, statement
from graftlm.data.worlds.names import short_name
from graftlm.data.worlds.phrasing import (
    LANGUAGES,
    SIDE,
    Language,
    Wordings,
    capital,
    prose,
    question_and_answer,
)

HELDOUT_DOCUMENTS = 120

_HEADINGS: Wordings = {
    "en": ("{x}", "{x}.", "Handbook: {x}", "{x}:", "Entry: {x}", "About {x}"),
    "zh": ("{x}", "{x}。", "手册：{x}", "{x}：", "条目：{x}", "关于{x}"),
}
_NOTES: Wordings = {
    "en": ("Ward note. Patient {p}, {a} years old.", "Case {a}: {p}.", "Patient: {p}.",
           "{p} ({a}) came in today.",
           "Note for {p}:"),
    "zh": ("病房记录。病人{p}，{a}岁。", "病例{a}：{p}。", "病人：{p}。", "{p}（{a}岁）今天来看病。",
           "给{p}的记录："),
}  # fmt: skip


def _sentences(rng: Random, graph: Graph, fact: Fact, lang: Language) -> str:
    """The fact, most often with one or two more of the same entity or of the entity it leads to."""
    linked = graph.facts_of[fact.entity] + graph.facts_of.get(fact.value, ())
    rest = [other for other in linked if other is not fact]
    chosen = [fact, *rng.sample(rest, min(len(rest), rng.randint(0, 2)))]
    return prose([statement(rng, lang, one) for one in chosen], lang)


def _twice(rng: Random, graph: Graph, fact: Fact, lang: Language) -> str:
    """The same fact in two or three wordings."""
    wordings = dict.fromkeys(statement(rng, lang, fact) for _ in range(rng.randint(2, 3)))
    return prose(list(wordings), lang)


def _questions(rng: Random, graph: Graph, fact: Fact, lang: Language) -> str:
    chosen = [fact, *rng.sample(graph.taught, rng.randint(0, 1))]
    return "\n".join(
        question_and_answer(rng, lang, question(rng, lang, one), one.value[SIDE[lang]]) for one in chosen
    )


def _entry(rng: Random, graph: Graph, fact: Fact, lang: Language) -> str:
    """All taught facts of the entity under a heading."""
    side, facts = SIDE[lang], graph.facts_of[fact.entity]
    heading = rng.choice(_HEADINGS[lang]).format(x=fact.entity[side])
    if rng.random() < 0.5:
        mark = (": ", "：")[side]
        lines = [capital(one.relation.noun[side]) + mark + one.value[side] for one in facts]
        return "\n".join((heading, *lines))
    return heading + "\n" + prose([statement(rng, lang, one) for one in rng.sample(facts, len(facts))], lang)


def _note(rng: Random, graph: Graph, fact: Fact, lang: Language) -> str:
    note = rng.choice(_NOTES[lang]).format(p=short_name(rng)[SIDE[lang]], a=rng.randint(18, 80))
    return prose([note, _sentences(rng, graph, fact, lang)], lang)


def _list(rng: Random, graph: Graph, fact: Fact, lang: Language) -> str:
    """One relation of two or three entities, on lines."""
    side = SIDE[lang]
    same = [one for one in graph.taught if one.relation is fact.relation and one is not fact]
    chosen = [fact, *rng.sample(same, min(len(same), rng.randint(1, 2)))]
    rng.shuffle(chosen)
    mark = rng.choice(((": ", " - "), ("：", " - "))[side])
    return "\n".join(
        (capital(fact.relation.noun[side]), *(f"{one.entity[side]}{mark}{one.value[side]}" for one in chosen))
    )


def _both_languages(rng: Random, graph: Graph, fact: Fact, lang: Language) -> str:
    """The names in both languages, and the fact in one or in both."""
    english, chinese = fact.entity
    names = rng.choice(
        (f"{english} = {chinese}", f"{chinese}（{english}）", f"English: {english} 中文：{chinese}")
    )
    told = LANGUAGES if rng.random() < 0.5 else (lang,)
    return "\n".join((names, *(statement(rng, one, fact) for one in told)))


_FORMS: tuple[tuple[int, Callable[[Random, Graph, Fact, Language], str]], ...] = (
    (9, _sentences), (3, _twice), (4, _questions), (2, _entry), (3, _note), (2, _list), (2, _both_languages),
)  # fmt: skip
_DECK = tuple(form for weight, form in _FORMS for _ in range(weight))


def turn_of(graph: Graph, index: int) -> tuple[Fact, Language]:
    """The fact and language whose turn it is: every fact in English and Chinese, then again."""
    return graph.taught[index // 2 % len(graph.taught)], LANGUAGES[index % 2]


def document(rng: Random, graph: Graph, index: int, origin: Origin) -> Text:
    fact, lang = turn_of(graph, index)
    return Text(rng.choice(_DECK)(rng, graph, fact, lang), origin)


def heldout_document(rng: Random, graph: Graph, index: int, origin: Origin) -> Text:
    """Two or three facts of one entity in wordings that `documents` never uses."""
    fact, lang = rng.choice(graph.taught), LANGUAGES[index % 2]
    rest = [one for one in graph.facts_of[fact.entity] if one is not fact]
    chosen = [fact, *rng.sample(rest, min(len(rest), rng.randint(1, 2)))]
    return Text(prose([heldout_statement(rng, lang, one) for one in chosen], lang), origin)
