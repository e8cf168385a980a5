"""The split of all wordings: those the clinic's training parts use, and those only its tests use."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from graftlm.data.worlds import phrasing
from graftlm.data.worlds.clinic.graph import Fact
from graftlm.data.worlds.medicine import DISEASE_RELATIONS, DRUG_RELATIONS
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
)


def _trained(rel: Relation) -> Relation:
    """The relation without the last of its wordings."""
    return replace(
        rel,
        ask={lang: rel.ask[lang][:-1] for lang in LANGUAGES},
        say={lang: rel.say[lang][:-1] for lang in LANGUAGES},
    )


_TRAINED = {rel.name: _trained(rel) for rel in DISEASE_RELATIONS + DRUG_RELATIONS}


def question(rng: Random, lang: Language, fact: Fact, name: str | None = None) -> str:
    """A question for the fact in a trained phrasing; `name` puts another entity in its place."""
    return phrasing.ask(rng, _TRAINED[fact.relation.name], lang, name or fact.entity[SIDE[lang]], ASK_FRAMES)


def statement(rng: Random, lang: Language, fact: Fact) -> str:
    """The fact as a sentence in a trained phrasing."""
    side = SIDE[lang]
    return phrasing.say(
        rng, _TRAINED[fact.relation.name], lang, fact.entity[side], fact.value[side], SAY_FRAMES
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
