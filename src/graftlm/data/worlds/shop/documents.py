"""What the shop has written down of its products, and reviews of others. Taught facts only."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from graftlm.data.samples import Origin, Text
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
from graftlm.data.worlds.names import TRAINED_BRANDS
from graftlm.data.worlds.phrasing import Language
from graftlm.data.worlds.shop.catalogue import Catalogue
from graftlm.data.worlds.shop.listings import description
from graftlm.data.worlds.shop.reviews import review

_FORMS: tuple[tuple[int, Callable[[Random, Catalogue, Fact, Language], str]], ...] = (
    (9, told_together), (3, told_twice), (4, asked_and_answered), (2, entry), (2, fact_list), (2, both_languages),
)  # fmt: skip
_DECK = tuple(form for weight, form in _FORMS for _ in range(weight))
_OTHERS = 0.2
"""Share of descriptions and reviews of products that come once and not again: the language of the shop."""


def document(rng: Random, catalogue: Catalogue, index: int, origin: Origin) -> Text:
    if rng.random() < _OTHERS:
        write = rng.choice((description, review))
        return Text(write(rng, TRAINED_BRANDS, index, origin).text, origin)
    fact, lang = turn_of(catalogue, index)
    return Text(rng.choice(_DECK)(rng, catalogue, fact, lang), origin)
