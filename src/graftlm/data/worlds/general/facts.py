"""Closed-book kinds: facts of the fixed encyclopaedia, and honest abstention on names nobody knows."""

from __future__ import annotations

from random import Random

from graftlm.data.worlds.general.entities import SORTS, Entity, Sort, fixed_entities, fresh_name, values
from graftlm.data.worlds.general.item import Item, Kind, yes_no
from graftlm.data.worlds.medicine import DISEASE_RELATIONS, DRUG_RELATIONS, POOLS
from graftlm.data.worlds.names import disease_name, drug_name, drug_names
from graftlm.data.worlds.phrasing import (
    ABSTENTION,
    LETTERS,
    SIDE,
    Language,
    Wordings,
    article,
    ask,
    capital,
    lettered,
    others,
    prose,
    question_and_answer,
    say,
    shuffled,
)

_SORT_OF = {sort.noun: sort for sort in SORTS}
_KIND_SAY: Wordings = {
    "en": ("{x} is {k}.", "About {x}, {k}.", "{x}: {k}.", "Here is what we know of {x}."),
    "zh": ("{x}是{k}。", "{k}{x}。", "{x}（{k}）。", "下面介绍{x}。"),
}
_UNKNOWN_SAY: Wordings = {
    "en": ("Nobody has told me about {x}.", "{x}? That name is in no book."),
    "zh": ("没有人告诉过我{x}。", "{x}？书上没有这个名字。"),
}


def entry(rng: Random, lang: Language, entity: Entity, count: int) -> str:
    """A short document on one entity with `count` of its facts."""
    side = SIDE[lang]
    name = entity.name[side]
    kind = article(entity.sort[0]) if lang == "en" else entity.sort[1]
    lines = [rng.choice(_KIND_SAY[lang]).format(x=name, k=kind)] if rng.random() < 0.4 else []
    lines += [
        say(rng, fact.relation, lang, name, fact.value[side]) for fact in rng.sample(entity.facts, count)
    ]
    return "\n".join(lines) if rng.random() < 0.2 else prose(lines, lang)


def _drawn_fact(rng: Random, lang: Language) -> tuple[Entity, Sort, int, str, str]:
    """An entity, its sort, the number of one of its facts, a question for it, and the value."""
    entity = rng.choice(fixed_entities())
    at = rng.randrange(len(entity.facts))
    fact, side = entity.facts[at], SIDE[lang]
    question = ask(rng, fact.relation, lang, entity.name[side])
    return entity, _SORT_OF[entity.sort], at, question, fact.value[side]


def known_fact(rng: Random, lang: Language) -> Item:
    entity, sort, at, question, answer = _drawn_fact(rng, lang)
    wrong = values(sort, rng, at, entity.facts[at].value, SIDE[lang])
    return Item(question, answer, wrong, entry(rng, lang, entity, rng.choice((1, 1, 2, 3, 5))))


def lettered_fact(rng: Random, lang: Language) -> Item:
    entity, sort, at, question, answer = _drawn_fact(rng, lang)
    options = shuffled(rng, [answer, *values(sort, rng, at, entity.facts[at].value, SIDE[lang])])
    right = LETTERS[options.index(answer)]
    wrong = tuple(letter for letter in LETTERS if letter != right)
    return Item(lettered(question, options), right, wrong, lettered(question, options) + f"\n{right}")


def fact_yes_no(rng: Random, lang: Language) -> Item:
    entity, sort, at, _, value = _drawn_fact(rng, lang)
    truth, side, name = rng.random() < 0.5, SIDE[lang], entity.name[SIDE[lang]]
    rel = entity.facts[at].relation
    shown = value if truth else values(sort, rng, at, entity.facts[at].value, side)[0]
    frames: Wordings = {
        "en": (
            "Is {v} the {n} of {x}?",
            "Is it true that the {n} of {x} is {v}?",
            "True? The {n} of {x} is {v}.",
        ),
        "zh": ("{x}的{n}是{v}吗？", "{x}的{n}是不是{v}？", "对吗？{x}的{n}是{v}。"),
    }
    answer, wrong = yes_no(lang, truth)
    question = capital(rng.choice(frames[lang]).format(v=shown, n=rel.noun[side], x=name))
    return Item(question, answer, wrong, say(rng, rel, lang, name, value))


def sort_of(rng: Random, lang: Language) -> Item:
    entity, side = rng.choice(fixed_entities()), SIDE[lang]
    name, answer = entity.name[side], entity.sort[side]
    frames: Wordings = {
        "en": (
            "What kind of thing is {x}?",
            "Is {x} a town, a person, an animal, a company or a plant?",
            "{x} is a what?",
        ),
        "zh": ("{x}是哪一类？", "{x}是城市、人、动物、公司还是植物？", "{x}属于什么？"),
    }
    wrong = others(rng, [sort.noun[side] for sort in SORTS], answer)
    say_it = f"{name} is {article(answer)}." if lang == "en" else f"{name}是{answer}。"
    return Item(rng.choice(frames[lang]).format(x=name), answer, wrong, say_it)


def abstention(rng: Random, lang: Language) -> Item:
    """A question on a name that no document defines: the only right answer is to say so."""
    side = SIDE[lang]
    if rng.random() < 0.6:
        sort = rng.choice(SORTS)
        name, at = fresh_name(rng, sort), rng.randrange(5)
        rel = sort.relations[at][0]
        wrong = values(sort, rng, at, ("", ""), side)
    else:
        is_drug = rng.random() < 0.5
        rel = rng.choice(DRUG_RELATIONS if is_drug else DISEASE_RELATIONS)
        name = drug_name(rng) if is_drug else disease_name(rng)
        pool = POOLS.get(rel.name)
        wrong = tuple(pair[side] for pair in (rng.sample(pool, 3) if pool else drug_names(rng, 3)))
    answer = ABSTENTION[lang]
    question = ask(rng, rel, lang, name[side])
    note = rng.choice(_UNKNOWN_SAY[lang]).format(x=name[side])
    lines = question_and_answer(rng, lang, question, answer)
    return Item(question, answer, wrong, note if rng.random() < 0.5 else lines)


KINDS = (
    Kind("known_fact", known_fact, weight=24),
    Kind("lettered_fact", lettered_fact, weight=2),
    Kind("fact_yes_no", fact_yes_no, weight=2),
    Kind("sort_of", sort_of, weight=1),
    Kind("abstention", abstention, weight=5),
)
