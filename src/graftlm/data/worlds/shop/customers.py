"""What customers look for and say: queries with titles that fit, titles of one product, what a customer wants."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from graftlm.data.samples import Classified, Origin
from graftlm.data.worlds.names import brand_name, pairs
from graftlm.data.worlds.phrasing import LANGUAGES, SIDE, Language, Wordings
from graftlm.data.worlds.shop.goods import FINE, Item, draw_item
from graftlm.data.worlds.shop.listings import title_of

MATCHES = pairs("match 相合, mismatch 不合")
SAMENESS = pairs("same 相同, different 不同")
WANTS = pairs(
    "ask price 问价格, ask arrival 问早晚, give back 还商品, complain 说不好, thank 道谢, ask size 问大小, buy 要买"
)

_QUERIES: Wordings = {
    "en": ("{colour} {product} {brand}", "{brand} {product}", "{product} by {brand}, {material}",
           "I am looking for a {product} by {brand}"),
    "zh": ("{colour}{product}{brand}", "{brand}{product}", "{brand}的{material}{product}", "我想找{brand}的{product}"),
}  # fmt: skip
_SAID: dict[str, Wordings] = {
    "ask price": {"en": ("How much is it?", "What does it cost?", "Is it under 100 yuan?"),
                  "zh": ("多少元？", "要花多少？", "有没有100元？")},
    "ask arrival": {"en": ("When will it come?", "Will it be here on Friday?", "How many days must I wait?"),
                    "zh": ("什么时候到？", "星期五能到吗？", "要等几天？")},
    "give back": {"en": ("I want to send it back.", "Can I return it?", "Please take it back."),
                  "zh": ("我想还给你们。", "能还吗？", "请把它拿回去。")},
    "complain": {"en": ("It broke at once!", "I am angry, it does not work.", "This is the worst I ever bought."),
                 "zh": ("马上就坏了！", "我生气了，不能用。", "我没买过这么坏的。")},
    "thank": {"en": ("Thank you, it is great.", "Thanks for your help.", "I am very happy with it."),
              "zh": ("谢谢，很好用。", "谢谢你的帮忙。", "我很喜欢。")},
    "ask size": {"en": ("How big is it?", "How many cm is it?", "Will it fit in my bag?"),
                 "zh": ("有多大？", "多少厘米？", "我的包放得下吗？")},
    "buy": {"en": ("I will take two.", "Please send me one.", "I want to buy it now."),
            "zh": ("我要两个。", "请给我一个。", "我现在就要买。")},
}  # fmt: skip
_OPENINGS: Wordings = {
    "en": ("Customer: It is about the {brand} {product}.\nShop: Yes?\nCustomer: ",
           "Customer: Hello, the {brand} {product}. ", "Shop: Hello.\nCustomer: I saw your {brand} {product}. "),
    "zh": ("客人：我想说{brand}{product}。\n商家：请说。\n客人：", "客人：你好，{brand}{product}。",
           "商家：你好。\n客人：我看到你们的{brand}{product}。"),
}  # fmt: skip


def query(rng: Random, brands: frozenset[int], index: int, origin: Origin) -> Classified:
    """A query and a title; they match where the title is of that brand and kind."""
    item, lang = draw_item(rng, brands), LANGUAGES[index % 2]
    asked = rng.choice(_QUERIES[lang]).format(**item.named(SIDE[lang]))
    fits = rng.random() < 0.5
    shown = item if fits else _another(rng, item, brands)
    return Classified(asked, MATCHES[0 if fits else 1][0], origin, _full_title(rng, shown, lang))


def same_item(rng: Random, brands: frozenset[int], index: int, origin: Origin) -> Classified:
    """Two titles, of one product or of two."""
    item, lang = draw_item(rng, brands), LANGUAGES[index % 2]
    same = rng.random() < 0.5
    other = item if same else _another(rng, item, brands)
    first, second = _full_title(rng, item, lang), _full_title(rng, other, lang)
    return Classified(first, SAMENESS[0 if same else 1][0], origin, second)


def want(rng: Random, brands: frozenset[int], index: int, origin: Origin) -> Classified:
    """What a customer says; the class is what the customer wants."""
    lang, named = LANGUAGES[index % 2], draw_item(rng, brands).named(SIDE[LANGUAGES[index % 2]])
    wanted = rng.choice(WANTS)[0]
    return Classified(rng.choice(_OPENINGS[lang]).format(**named) + rng.choice(_SAID[wanted][lang]), wanted, origin)


def _full_title(rng: Random, item: Item, lang: Language) -> str:
    return title_of(rng, item, lang)[0]


def _another(rng: Random, item: Item, brands: frozenset[int]) -> Item:
    """The same but for its brand, or its kind."""
    if rng.random() < 0.5:
        while (brand := brand_name(rng, brands)) == item.brand:
            pass
        return replace(item, brand=brand)
    coarse, product = rng.choice([one for one in FINE if one[1] != item.product])
    return replace(item, coarse=coarse, product=product)
