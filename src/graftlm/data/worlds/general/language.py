"""Translation between English and Chinese, of words, of names and of generated sentences."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from graftlm.data.worlds import medicine
from graftlm.data.worlds.general.item import Item, Kind
from graftlm.data.worlds.general.vocabulary import (
    ANIMALS,
    COLOURS,
    FOODS,
    HABITATS,
    INSTRUMENTS,
    JOBS,
    MONTHS,
    PEOPLE,
    ROOMS,
    THINGS,
    WEEKDAYS,
)
from graftlm.data.worlds.names import Pair, disease_name, drug_name, long_name, short_name
from graftlm.data.worlds.phrasing import SIDE, Language, Wordings, article, others

_GROUPS = (ANIMALS, FOODS, COLOURS, JOBS, ROOMS, THINGS, HABITATS, INSTRUMENTS, MONTHS, WEEKDAYS,
           medicine.DEPARTMENTS,
           medicine.SYMPTOMS, medicine.CONDITIONS, medicine.SUBSTANCES, medicine.DOSES)  # fmt: skip
# `lang` is the language of the request and of the source; the answer is in the other one.
_ASK: Wordings = {
    "en": ("Translate into Chinese: {t}", "Say in Chinese: {t}", "{t}\nTranslate this into Chinese.",
           "How do you say this in Chinese? {t}", "In Chinese: {t}"),
    "zh": ("翻译成英文：{t}", "用英文说：{t}", "{t}\n请翻译成英文。", "这句话用英文怎么说？{t}",
           "英文怎么说：{t}"),
}  # fmt: skip
_SAY = ("{e} / {c}", "English: {e} 中文：{c}", "{e} = {c}", "{c} = {e}", "中文：{c}\n英文：{e}")


def _translated(rng: Random, lang: Language, pair: Pair, wrong: tuple[str, ...]) -> Item:
    question = rng.choice(_ASK[lang]).format(t=pair[SIDE[lang]])
    statement = rng.choice(_SAY).format(e=pair[0], c=pair[1])
    return Item(question, pair[1 - SIDE[lang]], wrong, statement)


def translate_word(rng: Random, lang: Language) -> Item:
    group = rng.choice(_GROUPS)
    pair = rng.choice(group)
    wrong = others(rng, [other[1 - SIDE[lang]] for other in group], pair[1 - SIDE[lang]])
    return _translated(rng, lang, pair, wrong)


def translate_name(rng: Random, lang: Language) -> Item:
    make = rng.choice((long_name, short_name, disease_name, drug_name))
    pair, target = make(rng), 1 - SIDE[lang]
    wrong: list[str] = []
    while len(wrong) < 3:
        other = make(rng)[target]
        if other != pair[target] and other not in wrong:
            wrong.append(other)
    return _translated(rng, lang, pair, tuple(wrong))


def _likes(rng: Random) -> Pair:
    who, food = rng.choice(PEOPLE), rng.choice(FOODS)
    return f"{who[0]} likes {food[0]}.", f"{who[1]}喜欢{food[1]}。"


def _is_a(rng: Random) -> Pair:
    who, job = rng.choice(PEOPLE), rng.choice(JOBS)
    return f"{who[0]} is {article(job[0])}.", f"{who[1]}是{job[1]}。"


def _is_in(rng: Random) -> Pair:
    animal, room = rng.choice(ANIMALS), rng.choice(ROOMS)
    return f"The {animal[0]} is in the {room[0]}.", f"{animal[1]}在{room[1]}。"


def _has_colour(rng: Random) -> Pair:
    thing, colour = rng.choice(THINGS), rng.choice(COLOURS)
    return f"The {thing[0]} is {colour[0]}.", f"{thing[1]}是{colour[1]}的。"


def _on_day(rng: Random) -> Pair:
    who, room, day = rng.choice(PEOPLE), rng.choice(ROOMS), rng.choice(WEEKDAYS)
    return f"{who[0]} goes to the {room[0]} on {day[0]}.", f"{who[1]}{day[1]}去{room[1]}。"


def _buys(rng: Random) -> Pair:
    who, food, n = rng.choice(PEOPLE), rng.choice(FOODS), rng.randint(2, 9)
    return f"{who[0]} buys {n} bags of {food[0]}.", f"{who[1]}买{n}包{food[1]}。"


def _ill(rng: Random) -> Pair:
    who, sign = rng.choice(PEOPLE), rng.choice(medicine.SYMPTOMS)
    return f"{who[0]} has {sign[0]}.", f"{who[1]}有{sign[1]}。"


def _treats(rng: Random) -> Pair:
    disease, place = disease_name(rng), rng.choice(medicine.DEPARTMENTS)
    return f"{place[0].capitalize()} treats {disease[0]}.", f"{place[1]}治{disease[1]}。"


_SENTENCES: tuple[Callable[[Random], Pair], ...] = (
    _likes, _is_a, _is_in, _has_colour, _on_day, _buys, _ill, _treats,
)  # fmt: skip


def translate_sentence(rng: Random, lang: Language) -> Item:
    make, target = rng.choice(_SENTENCES), 1 - SIDE[lang]
    pair = make(rng)
    wrong: list[str] = []
    while len(wrong) < 3:
        other = make(rng)[target]
        if other != pair[target] and other not in wrong:
            wrong.append(other)
    return _translated(rng, lang, pair, tuple(wrong))


KINDS = (
    Kind("translate_word", translate_word, weight=3),
    Kind("translate_name", translate_name, weight=3),
    Kind("translate_sentence", translate_sentence, weight=4),
)
