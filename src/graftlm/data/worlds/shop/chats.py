"""Customers' questions on the shop's products: exact answers, several in a row, and "I don't know"."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from graftlm.data.samples import Chat, Labelled, Origin, Turn
from graftlm.data.worlds.documents import turn_of
from graftlm.data.worlds.examination import heldout_prompt
from graftlm.data.worlds.facts import question
from graftlm.data.worlds.names import TEST_BRANDS, TRAINED_BRANDS, brand_name
from graftlm.data.worlds.phrasing import ABSTENTION, LANGUAGES, SIDE, Language
from graftlm.data.worlds.shop.catalogue import Catalogue
from graftlm.data.worlds.shop.goods import FINE

FRESH_UNKNOWNS = 40
_WITHHELD = 0.35

Exchanges = list[tuple[str, str]]


def single(rng: Random, catalogue: Catalogue, index: int) -> Exchanges:
    fact, lang = turn_of(catalogue, index)
    return [(question(rng, lang, fact), fact.value[SIDE[lang]])]


def several(rng: Random, catalogue: Catalogue, index: int) -> Exchanges:
    """Two or three questions on one product."""
    fact, lang = turn_of(catalogue, index)
    rest = [one for one in catalogue.facts_of[fact.entity] if one is not fact]
    chosen = [fact, *rng.sample(rest, min(len(rest), rng.randint(1, 2)))]
    return [(question(rng, lang, one), one.value[SIDE[lang]]) for one in chosen]


def abstain(rng: Random, catalogue: Catalogue, index: int) -> Exchanges:
    """On a withheld fact, or a product that the shop does not have."""
    lang = LANGUAGES[index % 2]
    if rng.random() < _WITHHELD:
        asked = question(rng, lang, rng.choice(catalogue.withheld))
    else:
        asked = question(rng, lang, rng.choice(catalogue.taught), _invented(rng, lang, TRAINED_BRANDS))
    return [(asked, ABSTENTION[lang])]


_FORMS: tuple[tuple[int, Callable[[Random, Catalogue, int], Exchanges]], ...] = (
    (14, single), (5, several), (4, abstain),
)  # fmt: skip
_DECK = tuple(form for weight, form in _FORMS for _ in range(weight))


def chat(rng: Random, catalogue: Catalogue, index: int, origin: Origin) -> Chat:
    turns: list[Turn] = []
    for asked, answer in rng.choice(_DECK)(rng, catalogue, index):
        turns += (Turn("user", asked), Turn("assistant", answer))
    return Chat(tuple(turns), origin)


def unknown(rng: Random, catalogue: Catalogue, index: int, origin: Origin) -> Labelled:
    """Every unseen fact in each language, then products of fresh brands: only abstention is right."""
    lang, known_unknowns = LANGUAGES[index % 2], 2 * len(catalogue.unseen)
    if index < known_unknowns:
        fact, name, kind = catalogue.unseen[index // 2], None, "never taught"
    else:
        fact, name, kind = rng.choice(catalogue.taught), _invented(rng, lang, TEST_BRANDS), "invented name"
    prompt = heldout_prompt(lang, fact, rng.randrange(60), name)
    return Labelled(prompt, (ABSTENTION[lang],), origin, (), kind, lang)


def _invented(rng: Random, lang: Language, brands: frozenset[int]) -> str:
    brand, kind = brand_name(rng, brands), rng.choice(FINE)[1]
    return f"{brand[0]} {kind[0]}" if lang == "en" else brand[1] + kind[1]
