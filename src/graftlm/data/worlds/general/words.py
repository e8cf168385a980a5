"""Kinds about words: opposites, synonyms, inflection, letters, order, measure words, fixed phrases."""

from __future__ import annotations

from random import Random

from graftlm.data.worlds.general.item import Item, Kind
from graftlm.data.worlds.general.vocabulary import (
    MEASURES,
    OPPOSITES,
    PASTS,
    PHRASES_ZH,
    PLURALS,
    SYNONYMS,
    THINGS,
    WORDS,
)
from graftlm.data.worlds.phrasing import SIDE, Language, Wordings, article, capital, listing, others, shuffled

_INFLECTED = {
    name: tuple((pair.split(" ")[0], pair.split(" ")[1]) for pair in table.split(","))
    for name, table in (("plural", PLURALS), ("past", PASTS))
}
_MEASURE_OF = tuple((word, measure) for measure, words in MEASURES for word in words.split())
_MEASURE_WORDS = [measure for measure, _ in MEASURES]


def opposite(rng: Random, lang: Language) -> Item:
    side, at, turn = SIDE[lang], rng.randrange(len(OPPOSITES[0])), rng.randrange(2)
    word, answer = OPPOSITES[turn][at][side], OPPOSITES[1 - turn][at][side]
    ask: Wordings = {
        "en": ("What is the opposite of {w}?", "Opposite of {w}?", "Name the opposite of {w}.",
               "{w} is not ...",
               "Give a word that means the opposite of {w}.", "The opposite of {w} is?"),
        "zh": ("“{w}”的反义词是什么？", "{w}的反义词？", "说出“{w}”的反义词。", "请写出{w}的反义词。",
               "和“{w}”相反的词是？"),
    }  # fmt: skip
    say = f"The opposite of {word} is {answer}." if lang == "en" else f"“{word}”的反义词是“{answer}”。"
    wrong = others(rng, [pair[side] for pair in OPPOSITES[1 - turn]], answer)
    return Item(capital(rng.choice(ask[lang]).format(w=word)), answer, wrong, say)


def synonym(rng: Random, lang: Language) -> Item:
    table, turn = SYNONYMS[lang], rng.randrange(2)
    pair = rng.choice(table)
    word, answer = pair[turn], pair[1 - turn]
    ask: Wordings = {
        "en": ("Which word means the same as {w}?", "Give another word for {w}.", "Name a synonym of {w}.",
               "A word like {w}?"),
        "zh": ("“{w}”的近义词是什么？", "和“{w}”意思一样的词是？", "说出“{w}”的近义词。", "{w}的近义词？"),
    }  # fmt: skip
    say = (
        f"{capital(word)} means the same as {answer}." if lang == "en" else f"“{word}”和“{answer}”意思一样。"
    )
    wrong = others(rng, [other[1 - turn] for other in table], answer)
    return Item(rng.choice(ask[lang]).format(w=word), answer, wrong, say)


def plural(rng: Random, lang: Language) -> Item:
    word, answer = rng.choice(_INFLECTED["plural"])
    ask = rng.choice(("What is the plural of {w}?", "One {w}, two ...", "Plural of {w}?",
                     "Give the plural of {w}.",
                      "Write {w} in the plural."))  # fmt: skip
    wrong = tuple(
        form for form in (f"{word}s", f"{word}es", f"{word}en", f"{word}ies", word) if form != answer
    )[:3]
    return Item(ask.format(w=word), answer, wrong, f"One {word}, two {answer}.")


def past(rng: Random, lang: Language) -> Item:
    word, answer = rng.choice(_INFLECTED["past"])
    ask = rng.choice(("What is the past tense of {w}?", "Today I {w}, yesterday I ...", "Past tense of {w}?",
                      "Give the past of {w}.", "Put {w} in the past tense."))  # fmt: skip
    wrong = tuple(
        form for form in (f"{word}ed", f"{word}d", f"{word}en", f"{word}t", word) if form != answer
    )[:3]
    return Item(ask.format(w=word), answer, wrong, f"Today I {word}. Yesterday I {answer}.")


def first_letter(rng: Random, lang: Language) -> Item:
    last = rng.random() < 0.4
    at = -1 if last else 0
    if lang == "en":
        word, which = rng.choice(WORDS), "last" if last else "first"
        ask = rng.choice((f"What is the {which} letter of {word}?", f"Name the {which} letter of {word}.",
                          f"{capital(word)}: {which} letter?",
                          f"Which letter comes {which} in {word}?"))  # fmt: skip
        return Item(
            ask,
            word[at],
            others(rng, "abcdefghiklmnoprstw", word[at]),
            f"The {which} letter of {word} is {word[at]}.",
        )
    word, which = rng.choice(PHRASES_ZH), "最后一个" if last else "第一个"
    ask = rng.choice((f"“{word}”的{which}字是什么？", f"说出“{word}”的{which}字。", f"{word}：{which}字？"))
    wrong = others(rng, sorted(set("春夏秋冬早多山风心好一三十东小前")), word[at])
    return Item(ask, word[at], wrong, f"“{word}”的{which}字是“{word[at]}”。")


def spelling(rng: Random, lang: Language) -> Item:
    word = rng.choice(WORDS)
    answer = "-".join(word)
    wrong = tuple("-".join(other) for other in others(rng, WORDS, word))
    ask: Wordings = {
        "en": ("Spell the word {w}.", "How do you spell {w}?", "Spell {w}.", "Write {w} letter by letter."),
        "zh": ("请拼写{w}。", "{w}怎么拼？", "拼出{w}这个词。"),
    }
    say = f"The word {word} is spelled {answer}." if lang == "en" else f"{word}拼作{answer}。"
    return Item(rng.choice(ask[lang]).format(w=word), answer, wrong, say)


def reverse(rng: Random, lang: Language) -> Item:
    words = [pair[SIDE[lang]] for pair in rng.sample(THINGS, rng.randint(3, 4))]
    shown, answer = listing(words, lang), listing(words[::-1], lang)
    ask: Wordings = {
        "en": (
            "Reverse the list: {l}",
            "Write these words backwards in order: {l}",
            "Turn the list around: {l}",
        ),
        "zh": ("把下面的词倒过来写：{l}", "倒着写：{l}", "请把顺序倒过来：{l}"),
    }
    wrong = tuple(
        listing(order, lang) for order in (words, words[1:] + words[:1], words[:-2] + words[:-3:-1])
    )
    say = f"Forward: {shown}. Backward: {answer}." if lang == "en" else f"正着写：{shown}。倒着写：{answer}。"
    return Item(rng.choice(ask[lang]).format(l=shown), answer, wrong, say)


def sorting(rng: Random, lang: Language) -> Item:
    numbers, up = rng.sample(range(1, 60), 3), rng.random() < 0.6
    right = sorted(numbers, reverse=not up)
    a, b, c = right
    text = [listing([str(n) for n in order], lang) for order in (right, (b, a, c), (a, c, b), (c, b, a))]
    shown = listing([str(n) for n in numbers], lang)
    word = (("smallest first", "从小到大") if up else ("largest first", "从大到小"))[SIDE[lang]]
    ask: Wordings = {
        "en": ("Sort these numbers, {w}: {l}", "Put in order, {w}: {l}", "{l}: sort them, {w}."),
        "zh": ("{w}排好：{l}", "请把这些数{w}排列：{l}", "{l}，{w}排列。"),
    }
    say = f"Sorted, {word}: {text[0]}." if lang == "en" else f"{word}排列：{text[0]}。"
    return Item(rng.choice(ask[lang]).format(w=word, l=shown), text[0], tuple(text[1:]), say)


def measure_word(rng: Random, lang: Language) -> Item:
    word, answer = rng.choice(_MEASURE_OF)
    ask = rng.choice((f"一（）{word}，填什么量词？", f"{word}的量词是什么？", f"填量词：一＿{word}",
                     f"{word}用什么量词？",
                      f"请给“{word}”加一个量词。"))  # fmt: skip
    return Item(ask, answer, others(rng, _MEASURE_WORDS, answer), f"一{answer}{word}。")


def fixed_phrase(rng: Random, lang: Language) -> Item:
    phrase = rng.choice(PHRASES_ZH)
    start, answer = phrase[:2], phrase[2:]
    ask = rng.choice(
        (
            f"“{start}”的后面两个字是什么？",
            f"补全：{start}＿＿",
            f"接下半句：{start}",
            f"“{start}”下面接什么？",
        )
    )
    return Item(
        ask, answer, others(rng, [other[2:] for other in PHRASES_ZH], answer), f"人们常说：“{phrase}”。"
    )


def repeated_word(rng: Random, lang: Language) -> Item:
    """Which word occurs twice: attention to repetition."""
    words = [pair[SIDE[lang]] for pair in rng.sample(THINGS, 4)]
    answer = words[0]
    shown = listing(shuffled(rng, [*words, answer]), lang)
    ask: Wordings = {
        "en": (
            "Which word appears twice: {l}?",
            "Find the word that is repeated: {l}.",
            "{l}. Which one comes twice?",
        ),
        "zh": ("哪个词出现了两次：{l}？", "找出重复的词：{l}。", "{l}，哪个词有两个？"),
    }
    say = (
        f"In {shown}, {article(answer)} comes twice." if lang == "en" else f"在{shown}中，{answer}出现两次。"
    )
    return Item(rng.choice(ask[lang]).format(l=shown), answer, tuple(words[1:]), say)


KINDS = (
    Kind("opposite", opposite),
    Kind("synonym", synonym, weight=1),
    Kind("plural", plural, ("en",), weight=1),
    Kind("past", past, ("en",), weight=1),
    Kind("first_letter", first_letter, weight=1),
    Kind("spelling", spelling, weight=1),
    Kind("reverse", reverse),
    Kind("sorting", sorting),
    Kind("measure_word", measure_word, ("zh",), weight=1),
    Kind("fixed_phrase", fixed_phrase, ("zh",), weight=1),
    Kind("repeated_word", repeated_word),
)
