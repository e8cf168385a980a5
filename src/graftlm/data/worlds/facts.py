"""Facts of a domain: which are never taught, and which wordings are kept for its tests."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Protocol

from graftlm.data.worlds import phrasing
from graftlm.data.worlds.names import Pair
from graftlm.data.worlds.phrasing import (
    ASK_FRAMES,
    HELDOUT_ASK_FRAMES,
    HELDOUT_SAY_FRAMES,
    LANGUAGES,
    SAY_FRAMES,
    SIDE,
    Language,
    Relation,
    capital,
    others,
)

UNTAUGHT_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Fact:
    """`relation` of `entity` is `value`; `pool` holds the values of the same type."""

    entity: Pair
    relation: Relation
    value: Pair
    pool: tuple[Pair, ...]

    def wrong(self, rng: Random, side: int, count: int = 3) -> tuple[str, ...]:
        """`count` values of the same type that are false."""
        names = [value[side] for value in self.pool if value != self.entity]
        return others(rng, names, self.value[side], count)


class Knowledge(Protocol):
    """What a domain teaches: all of it, and by entity."""

    @property
    def taught(self) -> tuple[Fact, ...]: ...

    @property
    def facts_of(self) -> dict[Pair, tuple[Fact, ...]]: ...


def split_facts(rng: Random, facts: list[Fact]) -> tuple[tuple[Fact, ...], tuple[Fact, ...], tuple[Fact, ...]]:
    """(taught, withheld, unseen): a tenth is never taught, at most one of each entity; half of it withheld."""
    untaught = _one_per_entity(rng, facts, max(4, round(UNTAUGHT_SHARE * len(facts))))
    taught = tuple(fact for fact in facts if fact not in untaught)
    return taught, tuple(untaught[::2]), tuple(untaught[1::2])


def _one_per_entity(rng: Random, facts: list[Fact], count: int) -> list[Fact]:
    """`count` facts, at most one of each entity."""
    drawn: dict[Pair, Fact] = {}
    for fact in rng.sample(facts, len(facts)):
        if len(drawn) < count:
            drawn.setdefault(fact.entity, fact)
    return list(drawn.values())



def _trained(rel: Relation) -> Relation:
    """The relation without the last of its wordings."""
    return replace(
        rel,
        ask={lang: rel.ask[lang][:-1] for lang in LANGUAGES},
        say={lang: rel.say[lang][:-1] for lang in LANGUAGES},
    )


def question(rng: Random, lang: Language, fact: Fact, name: str | None = None) -> str:
    """A question for the fact in a trained phrasing; `name` puts another entity in its place."""
    return phrasing.ask(rng, _trained(fact.relation), lang, name or fact.entity[SIDE[lang]], ASK_FRAMES)


def statement(rng: Random, lang: Language, fact: Fact) -> str:
    """The fact as a sentence in a trained phrasing."""
    side = SIDE[lang]
    return phrasing.say(
        rng, _trained(fact.relation), lang, fact.entity[side], fact.value[side], SAY_FRAMES
    )


def heldout_questions(lang: Language, rel: Relation, name: str) -> tuple[str, ...]:
    """Every test phrasing of the question."""
    wordings = (rel.ask[lang][-1], *HELDOUT_ASK_FRAMES[lang])
    return tuple(capital(wording.format(x=name, n=rel.noun[SIDE[lang]])) for wording in wordings)


def heldout_statement(rng: Random, lang: Language, fact: Fact) -> str:
    """The fact as a sentence in a test phrasing."""
    side, rel = SIDE[lang], fact.relation
    wording = rng.choice((rel.say[lang][-1], *HELDOUT_SAY_FRAMES[lang]))
    return capital(wording.format(x=fact.entity[side], n=rel.noun[side], v=fact.value[side]))
