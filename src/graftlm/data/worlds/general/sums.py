"""Sums of three numbers: a skill that no other part of the general world practises, for learning by reward."""

from __future__ import annotations

import itertools
from random import Random

from graftlm.data.worlds.general.item import Item, Kind, near
from graftlm.data.worlds.phrasing import LANGUAGES, Language, Wordings

_ASK: Wordings = {
    "en": ("What is {a} + {b} + {c}?", "{a} + {b} + {c} =", "Add {a}, {b} and {c}."),
    "zh": ("{a} + {b} + {c} 等于多少？", "{a} + {b} + {c} =", "把{a}、{b}和{c}加起来。"),
}


def long_sum(rng: Random, lang: Language) -> Item:
    a, b, c = (rng.randint(1, 9) for _ in range(3))
    total = a + b + c
    question = rng.choice(_ASK[lang]).format(a=a, b=b, c=c)
    return Item(question, str(total), near(rng, total), f"{a} + {b} + {c} = {total}")


def all_questions() -> dict[str, tuple[str, Language]]:
    """Every question once, with its answer and language; what is asked alike in both counts as English."""
    found: dict[str, tuple[str, Language]] = {}
    for lang in LANGUAGES:
        for wording in _ASK[lang]:
            for a, b, c in itertools.product(range(1, 10), repeat=3):
                found.setdefault(wording.format(a=a, b=b, c=c), (str(a + b + c), lang))
    return found


KIND = Kind("long_sum", long_sum)
