"""Kinds about the everyday world: calendar, compass, colours of things, definitions, categories."""

from __future__ import annotations

from random import Random

from graftlm.data.worlds.general.item import Item, Kind
from graftlm.data.worlds.general.vocabulary import (
    CATEGORIES,
    COLOURS,
    COMPASS,
    DEFINITIONS,
    MONTHS,
    OBJECT_COLOURS,
    WEEKDAYS,
)
from graftlm.data.worlds.names import Pair
from graftlm.data.worlds.phrasing import SIDE, Language, Wordings, capital, listing, others

_STEPS: tuple[tuple[Pair, int], ...] = ((("after", "后面"), 1), (("before", "前面"), -1))


def _neighbour(rng: Random, lang: Language, circle: tuple[Pair, ...], unit: Pair) -> Item:
    side = SIDE[lang]
    at = rng.randrange(len(circle))
    word, step = rng.choice(_STEPS)
    start, answer = circle[at][side], circle[(at + step) % len(circle)][side]
    ask: Wordings = {
        "en": ("Which {u} comes {w} {d}?", "What {u} is {w} {d}?", "Name the {u} {w} {d}.",
               "The {u} {w} {d} is?",
               "{d}: which {u} comes {w} it?"),
        "zh": ("{d}{w}是{u}？", "{d}的{w}是{u}？", "请问{d}{w}是{u}？", "说出{d}{w}是{u}。",
               "你知道{d}{w}是{u}吗？"),
    }  # fmt: skip
    question = rng.choice(ask[lang]).format(u=unit[side], w=word[side], d=start)
    say = f"The {unit[0]} {word[0]} {start} is {answer}." if lang == "en" else f"{start}{word[1]}是{answer}。"
    return Item(question, answer, others(rng, [pair[side] for pair in circle], answer), say)


def weekday(rng: Random, lang: Language) -> Item:
    return _neighbour(rng, lang, WEEKDAYS, ("day", "星期几"))


def month(rng: Random, lang: Language) -> Item:
    return _neighbour(rng, lang, MONTHS, ("month", "几月"))


def compass(rng: Random, lang: Language) -> Item:
    side, at = SIDE[lang], rng.randrange(4)
    word, step = rng.choice(((("left", "左"), -1), (("right", "右"), 1), (("around", "后"), 2)))
    start, answer = COMPASS[at][side], COMPASS[(at + step) % 4][side]
    wrong = tuple(pair[side] for pair in COMPASS if pair[side] != answer)
    if lang == "en":
        ask = rng.choice((f"You face {start} and turn {word[0]}. Which way do you face?",
                          f"I look {start}. I turn {word[0]}. Where do I look now?",
                          f"Facing {start}, turn {word[0]}: which direction?"))  # fmt: skip
        return Item(ask, answer, wrong, f"If you face {start} and turn {word[0]}, you face {answer}.")
    ask = rng.choice((f"你面向{start}，向{word[1]}转，现在面向哪里？",
                     f"我看着{start}方，向{word[1]}转，现在看哪方？",
                      f"面向{start}，向{word[1]}转，是什么方向？"))  # fmt: skip
    return Item(ask, answer, wrong, f"面向{start}，向{word[1]}转，就面向{answer}。")


def object_colour(rng: Random, lang: Language) -> Item:
    english, chinese, at = rng.choice(OBJECT_COLOURS)
    thing, answer = (english, chinese)[SIDE[lang]], COLOURS[at][SIDE[lang]]
    ask: Wordings = {
        "en": ("What colour is {t}?", "Tell me the colour of {t}.", "The colour of {t} is?",
               "Name the colour of {t}.",
               "Which colour does {t} have?"),
        "zh": ("{t}是什么颜色？", "请问{t}是什么颜色的？", "{t}的颜色是？", "说出{t}的颜色。",
               "告诉我{t}的颜色。"),
    }  # fmt: skip
    say = f"{capital(thing)} is {answer}." if lang == "en" else f"{thing}是{answer}的。"
    return Item(
        rng.choice(ask[lang]).format(t=thing),
        answer,
        others(rng, [c[SIDE[lang]] for c in COLOURS], answer),
        say,
    )


def category(rng: Random, lang: Language) -> Item:
    side = SIDE[lang]
    groups = rng.sample(CATEGORIES, 4)
    (name, members), rest = groups[0], groups[1:]
    answer = rng.choice(members)[side]
    wrong = tuple(rng.choice(group)[side] for _, group in rest)
    shown = [answer, *wrong]
    rng.shuffle(shown)
    ask: Wordings = {
        "en": ("Which one is a kind of {c}: {l}?", "Find the {c}: {l}.", "{l}. Which of these is the {c}?"),
        "zh": ("下面哪个是{c}：{l}？", "找出{c}：{l}。", "{l}，哪个是{c}？"),
    }
    say = (
        f"{capital(answer)} belongs to the group {name[0]}." if lang == "en" else f"{answer}是一种{name[1]}。"
    )
    return Item(rng.choice(ask[lang]).format(c=name[side], l=listing(shown, lang)), answer, wrong, say)


def category_of(rng: Random, lang: Language) -> Item:
    side = SIDE[lang]
    groups = rng.sample(CATEGORIES, 4)
    name, members = groups[0]
    member = rng.choice(members)[side]
    ask: Wordings = {
        "en": ("What kind of word is {m}?", "To which group does {m} belong?", "{m}: which group?"),
        "zh": ("{m}是哪一类？", "{m}是什么词？", "“{m}”是哪种词？"),
    }
    say = f"The word {member} names a kind of {name[0]}." if lang == "en" else f"“{member}”是{name[1]}。"
    wrong = tuple(other[side] for other, _ in groups[1:])
    return Item(capital(rng.choice(ask[lang]).format(m=member)), name[side], wrong, say)


def definition(rng: Random, lang: Language) -> Item:
    side = SIDE[lang]
    drawn = rng.sample(DEFINITIONS, 4)
    word, meaning = drawn[0][0][side], drawn[0][1][side]
    say = f"{capital(word)} is {meaning}." if lang == "en" else f"{word}是{meaning}。"
    if rng.random() < 0.5:
        ask: Wordings = {
            "en": ("What is {w}?", "What does {w} mean?", "Define {w}.", "Explain {w}."),
            "zh": ("什么是{w}？", "{w}是什么？", "{w}是什么意思？", "请说明{w}是什么。"),
        }
        return Item(
            rng.choice(ask[lang]).format(w=word),
            capital(meaning),
            tuple(capital(d[1][side]) for d in drawn[1:]),
            say,
        )
    back: Wordings = {
        "en": ("Which word means {m}?", "What do we call {m}?", "Name it: {m}."),
        "zh": ("{m}叫什么？", "什么词的意思是{m}？", "说出这个词：{m}。"),
    }
    return Item(rng.choice(back[lang]).format(m=meaning), word, tuple(d[0][side] for d in drawn[1:]), say)


KINDS = (
    Kind("weekday", weekday, weight=1),
    Kind("month", month, weight=1),
    Kind("compass", compass, weight=1),
    Kind("object_colour", object_colour, weight=1),
    Kind("category", category),
    Kind("category_of", category_of, weight=1),
    Kind("definition", definition, weight=1),
)
