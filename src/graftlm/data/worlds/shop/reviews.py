"""Customers' reviews: what they think of which side of a product, in one word and one by one."""

from __future__ import annotations

from random import Random

from graftlm.data.samples import Classified, Entity, Origin, Tagged
from graftlm.data.worlds.names import Pair, pairs
from graftlm.data.worlds.phrasing import LANGUAGES, SIDE, Language, Wordings
from graftlm.data.worlds.shop.goods import draw_item

SENTIMENTS = pairs("positive 好, negative 不好, mixed 有好有坏")
ASPECTS = pairs("making 做工, price 价格, colour 颜色, size 大小, arrival 早晚, seller 商家")
NOT_SAID: Pair = ("not said", "没说")

# Of each aspect: good | good / bad | bad.
_OPINIONS: dict[str, dict[Language, str]] = {
    "making": {"en": "it is well made|it still works after months/it broke in two days|it is badly made",
               "zh": "做得很好|用了几个月还很好/两天就坏了|做得不好"},
    "price": {"en": "it costs little|it is sold for a good price/it costs too much|other shops sell it for less",
              "zh": "不用花多少|价格很低/价格很高|别的商店卖得低"},
    "colour": {"en": "the colour is beautiful|it looks like the picture/the colour is ugly|the colour came off",
               "zh": "颜色很美|和图上的颜色一样/颜色很难看|洗一次颜色就没了"},
    "size": {"en": "it fits well|the size is right/it is much too small|it is too big for me",
             "zh": "大小正好|不大不小/小得不能用|对我来说大了"},
    "arrival": {"en": "it came the next day|it came early/it came three weeks late|I waited for a month",
                "zh": "第二天就到了|来得很早/晚了三个星期|等了一个月"},
    "seller": {"en": "the seller answered at once|the seller was good/the seller never answered|the seller was angry",
               "zh": "商家马上就回答|商家人很好/商家不回答|商家生气了"},
}  # fmt: skip
_HEADS: Wordings = {
    "en": ("I bought the {brand} {product}: ", "{brand} {product}: ", "My {product} is from {brand}: "),
    "zh": ("我买了{brand}{product}：", "{brand}{product}：", "我的{product}是{brand}的："),
}
_GOOD, _BAD = 0, 1


def opinion(rng: Random, aspect: str, lang: Language, tone: int) -> str:
    """tone: 0 good, 1 bad."""
    return rng.choice(_OPINIONS[aspect][lang].split("/")[tone].split("|"))


def _review(rng: Random, brands: frozenset[int], lang: Language) -> tuple[str, list[Entity], dict[str, int]]:
    """(text, opinions marked with their aspect, tone of each aspect)."""
    text = rng.choice(_HEADS[lang]).format(**draw_item(rng, brands).named(SIDE[lang]))
    aspects = [aspect[0] for aspect in rng.sample(ASPECTS, rng.randint(1, 3))]
    overall = rng.randrange(3)
    tones = {aspect: overall if overall < 2 else at % 2 for at, aspect in enumerate(aspects)}
    entities = []
    for at, (aspect, tone) in enumerate(tones.items()):
        text += (", ", "，")[SIDE[lang]] if at else ""
        said = opinion(rng, aspect, lang, tone)
        entities.append(Entity(len(text), len(text) + len(said), aspect))
        text += said
    return text + (".", "。")[SIDE[lang]], entities, tones


def review(rng: Random, brands: frozenset[int], index: int, origin: Origin) -> Classified:
    """A review with its sentiment: positive, negative, mixed."""
    text, _, tones = _review(rng, brands, LANGUAGES[index % 2])
    found = set(tones.values())
    return Classified(text, "mixed" if len(found) == 2 else SENTIMENTS[found.pop()][0], origin)


def opinions(rng: Random, brands: frozenset[int], index: int, origin: Origin) -> Tagged:
    """A review whose opinions are marked with what they are about."""
    text, entities, _ = _review(rng, brands, LANGUAGES[index % 2])
    return Tagged(text, tuple(entities), origin)


def aspect(rng: Random, brands: frozenset[int], index: int, origin: Origin) -> Classified:
    """A review, one side of the product as the second text, and what the review thinks of it."""
    lang = LANGUAGES[index % 2]
    text, _, tones = _review(rng, brands, lang)
    said = rng.random() < 0.7
    asked = rng.choice([one for one in ASPECTS if (one[0] in tones) == said])
    label = SENTIMENTS[tones[asked[0]]][0] if said else NOT_SAID[0]
    return Classified(text, label, origin, asked[SIDE[lang]])
