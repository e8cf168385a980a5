"""Sums of three numbers: a skill that no other part of the general world practises, for learning by reward."""

from __future__ import annotations

from random import Random

from graftlm.data.worlds.general.item import Item, Kind, near
from graftlm.data.worlds.phrasing import Language, Wordings

_ASK: Wordings = {
    "en": ("What is {a} + {b} + {c}?", "{a} + {b} + {c} =", "Add {a}, {b} and {c}."),
    "zh": ("{a} + {b} + {c} 等于多少？", "{a} + {b} + {c} =", "把{a}、{b}和{c}加起来。"),
}


def long_sum(rng: Random, lang: Language) -> Item:
    a, b, c = (rng.randint(1, 9) for _ in range(3))
    total = a + b + c
    question = rng.choice(_ASK[lang]).format(a=a, b=b, c=c)
    return Item(question, str(total), near(rng, total), f"{a} + {b} + {c} = {total}")


KIND = Kind("long_sum", long_sum)
