"""Forms of documents that state a domain's taught facts: sentences, entries, lists, questions with answers."""

from __future__ import annotations

from random import Random

from graftlm.data.samples import Origin, Text
from graftlm.data.worlds.facts import Fact, Knowledge, heldout_statement, question, statement
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


def told_together(rng: Random, known: Knowledge, fact: Fact, lang: Language) -> str:
    """The fact, most often with one or two more of the same entity or of the entity it leads to."""
    linked = known.facts_of[fact.entity] + known.facts_of.get(fact.value, ())
    rest = [other for other in linked if other is not fact]
    chosen = [fact, *rng.sample(rest, min(len(rest), rng.randint(0, 2)))]
    return prose([statement(rng, lang, one) for one in chosen], lang)


def told_twice(rng: Random, known: Knowledge, fact: Fact, lang: Language) -> str:
    """The same fact in two or three wordings."""
    wordings = dict.fromkeys(statement(rng, lang, fact) for _ in range(rng.randint(2, 3)))
    return prose(list(wordings), lang)


def asked_and_answered(rng: Random, known: Knowledge, fact: Fact, lang: Language) -> str:
    chosen = [fact, *rng.sample(known.taught, rng.randint(0, 1))]
    return "\n".join(
        question_and_answer(rng, lang, question(rng, lang, one), one.value[SIDE[lang]]) for one in chosen
    )


def entry(rng: Random, known: Knowledge, fact: Fact, lang: Language) -> str:
    """All taught facts of the entity under a heading."""
    side, facts = SIDE[lang], known.facts_of[fact.entity]
    heading = rng.choice(_HEADINGS[lang]).format(x=fact.entity[side])
    if rng.random() < 0.5:
        mark = (": ", "：")[side]
        lines = [capital(one.relation.noun[side]) + mark + one.value[side] for one in facts]
        return "\n".join((heading, *lines))
    return heading + "\n" + prose([statement(rng, lang, one) for one in rng.sample(facts, len(facts))], lang)


def fact_list(rng: Random, known: Knowledge, fact: Fact, lang: Language) -> str:
    """One relation of two or three entities, on lines."""
    side = SIDE[lang]
    same = [one for one in known.taught if one.relation is fact.relation and one is not fact]
    chosen = [fact, *rng.sample(same, min(len(same), rng.randint(1, 2)))]
    rng.shuffle(chosen)
    mark = rng.choice(((": ", " - "), ("：", " - "))[side])
    return "\n".join(
        (capital(fact.relation.noun[side]), *(f"{one.entity[side]}{mark}{one.value[side]}" for one in chosen))
    )


def both_languages(rng: Random, known: Knowledge, fact: Fact, lang: Language) -> str:
    """The names in both languages, and the fact in one or in both."""
    english, chinese = fact.entity
    names = rng.choice(
        (f"{english} = {chinese}", f"{chinese}（{english}）", f"English: {english} 中文：{chinese}")
    )
    told = LANGUAGES if rng.random() < 0.5 else (lang,)
    return "\n".join((names, *(statement(rng, one, fact) for one in told)))


def turn_of(known: Knowledge, index: int) -> tuple[Fact, Language]:
    """The fact and language whose turn it is: every fact in English and Chinese, then again."""
    return known.taught[index // 2 % len(known.taught)], LANGUAGES[index % 2]


def heldout_document(rng: Random, known: Knowledge, index: int, origin: Origin) -> Text:
    """Two or three facts of one entity in wordings that `documents` never uses."""
    fact, lang = rng.choice(known.taught), LANGUAGES[index % 2]
    rest = [one for one in known.facts_of[fact.entity] if one is not fact]
    chosen = [fact, *rng.sample(rest, min(len(rest), rng.randint(1, 2)))]
    return Text(prose([heldout_statement(rng, lang, one) for one in chosen], lang), origin)
