"""The shop's own products, and which of their facts are never taught."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from random import Random

from graftlm.core.errors import DataError
from graftlm.data.worlds.facts import Fact, split_facts
from graftlm.data.worlds.names import OPENERS, Pair, catalogue_brands
from graftlm.data.worlds.shop.goods import FINE, POOLS, RELATIONS


@dataclass(frozen=True)
class Catalogue:
    """All facts, in three disjoint groups.

    Attributes:
        products: names like ("Tavovik lamp", "塔伏维灯").
        taught: stated in the documents and answered in the chats.
        withheld: never stated; the chats abstain on them.
        unseen: never stated nor asked in training; only the `unknown` test asks for them.
    """

    products: tuple[Pair, ...]
    taught: tuple[Fact, ...]
    withheld: tuple[Fact, ...]
    unseen: tuple[Fact, ...]

    @cached_property
    def facts_of(self) -> dict[Pair, tuple[Fact, ...]]:
        """The taught facts of each product."""
        return {name: tuple(fact for fact in self.taught if fact.entity == name) for name in self.products}


@cache
def build(products: int) -> Catalogue:
    """The catalogue of the given size; the same on every call and machine.

    Raises:
        DataError: fewer than 8 products, or more than there are first syllables.
    """
    if not 8 <= products <= len(OPENERS):
        raise DataError(
            f"the shop world cannot have {products} products", fix=f"use at least 8 and at most {len(OPENERS)}"
        )
    rng = Random(f"shop:{products}")
    names = tuple(_product(brand, rng.choice(FINE)[1]) for brand in catalogue_brands(rng, products))
    facts = [
        Fact(name, rel, rng.choice(POOLS[rel.name]), POOLS[rel.name]) for name in names for rel in RELATIONS
    ]
    return Catalogue(names, *split_facts(rng, facts))


def _product(brand: Pair, kind: Pair) -> Pair:
    return f"{brand[0]} {kind[0]}", brand[1] + kind[1]
