"""Titles and descriptions of products, with what they say marked; and the class of a title."""

from __future__ import annotations

from random import Random

from graftlm.data.samples import Classified, Entity, Origin, Tagged
from graftlm.data.worlds.marking import filled, moved
from graftlm.data.worlds.phrasing import LANGUAGES, SIDE, Language, Wordings
from graftlm.data.worlds.shop.goods import FINE, Item, draw_item

LEVEL = " > "
CLASSES = tuple(f"{coarse[0]}{LEVEL}{fine[0]}" for coarse, fine in FINE)
TITLE_KINDS = ("brand", "model", "product", "colour", "material", "size", "user")
ATTRIBUTES = ("colour", "material", "size", "weight", "price", "user", "season", "origin")

# Parts of a title, in order; all but brand and product may be missing.
_TITLES: dict[Language, tuple[tuple[str, ...], ...]] = {
    "en": (
        ("{brand}", " {model}", " {colour}", " {material}", " {product}", " for {user}", ", {size}"),
        ("{colour} ", "{material} ", "{product}", " by {brand}", " {model}", ", {size}", ", for {user}"),
        ("{brand}", " {product}", " {model}", ", {colour}", ", {material}", ", {size}"),
    ),
    "zh": (
        ("{brand}", "{model}", "{colour}", "{material}", "{product}", "，{user}用", "，{size}"),
        ("{colour}", "{material}", "{product}", " {brand}", "{model}", " {size}", " {user}用"),
        ("{brand}", "{product}", " {model}", " {colour}", " {material}", " {size}"),
    ),
}
_SAYS: dict[str, Wordings] = {
    "colour": {"en": ("It is {colour}.", "Colour: {colour}."),
               "zh": ("是{colour}的。", "颜色：{colour}。")},
    "material": {"en": ("It is made of {material}.", "We use {material}."),
                 "zh": ("用{material}做的。", "用料：{material}。")},
    "size": {"en": ("It is {size} long.", "It measures {size}."),
             "zh": ("长{size}。", "有{size}长。")},
    "weight": {"en": ("It weighs {weight}.", "Weight: {weight}."),
               "zh": ("重{weight}。", "重量是{weight}。")},
    "price": {"en": ("It costs {price}.", "Yours for {price}."),
              "zh": ("卖{price}。", "只要{price}。")},
    "user": {"en": ("Good for {user}.", "Made for {user}."),
             "zh": ("给{user}用。", "{user}会喜欢。")},
    "season": {"en": ("Best in {season}.", "You need it in {season}."),
               "zh": ("{season}最好用。", "{season}要用。")},
    "origin": {"en": ("It comes from {origin}.", "Made in {origin}."),
               "zh": ("来自{origin}。", "在{origin}做的。")},
}  # fmt: skip
_HEADS: Wordings = {
    "en": ("The {brand} {product}.", "New: {brand} {product}.", "Here is the {product} by {brand}."),
    "zh": ("{brand}{product}。", "新品：{brand}{product}。", "这是{brand}的{product}。"),
}
_OWN = {name: name for name in (*TITLE_KINDS, *ATTRIBUTES)}


def title_of(rng: Random, item: Item, lang: Language) -> tuple[str, list[Entity]]:
    """A title, and where its parts stand."""
    parts = rng.choice(_TITLES[lang])
    kept = [part for part in parts if "{brand}" in part or "{product}" in part or rng.random() < 0.55]
    text, entities = filled("".join(kept), item.named(SIDE[lang]), _OWN)
    lead = len(text) - len(text.lstrip(" ,，"))
    return text[lead:], moved(entities, -lead)


def title(rng: Random, brands: frozenset[int], index: int, origin: Origin) -> Tagged:
    lang = LANGUAGES[index % 2]
    text, entities = title_of(rng, draw_item(rng, brands), lang)
    return Tagged(text, tuple(entities), origin)


def description(rng: Random, brands: frozenset[int], index: int, origin: Origin) -> Tagged:
    """What two to four sentences say of a product; its name is not marked."""
    lang = LANGUAGES[index % 2]
    named = draw_item(rng, brands).named(SIDE[lang])
    text, entities = rng.choice(_HEADS[lang]).format(**named), list[Entity]()
    for attribute in rng.sample(ATTRIBUTES, rng.randint(2, 4)):
        text += " " if lang == "en" else ""
        sentence, marked = filled(rng.choice(_SAYS[attribute][lang]), named, _OWN)
        entities += moved(marked, len(text))
        text += sentence
    return Tagged(text, tuple(entities), origin)


def category(rng: Random, brands: frozenset[int], index: int, origin: Origin) -> Classified:
    """A title with its class, in English for both languages: "clothes > hat"."""
    item, lang = draw_item(rng, brands), LANGUAGES[index % 2]
    text, _ = title_of(rng, item, lang)
    return Classified(text, f"{item.coarse[0]}{LEVEL}{item.product[0]}", origin)
