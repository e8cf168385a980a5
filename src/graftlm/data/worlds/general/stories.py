"""Story kinds: who did what, where a thing is now, who is whose mother."""

from __future__ import annotations

from random import Random

from graftlm.data.worlds.general.item import Item, Kind, yes_no
from graftlm.data.worlds.general.vocabulary import ACTIONS, JOBS, PEOPLE, ROOMS, THINGS
from graftlm.data.worlds.names import pairs
from graftlm.data.worlds.phrasing import LANGUAGES, SIDE, Language, Wordings, article, others, prose

_ALL = {lang: [pair[SIDE[lang]] for pair in ROOMS] for lang in LANGUAGES}
_FIRST_LINES: Wordings = {
    "en": (
        "It was a warm day.",
        "One morning it rained.",
        "It was late.",
        "Once there was a quiet town.",
        "",
    ),
    "zh": ("天气很好。", "早上下雨了。", "天黑了。", "从前有一个小城。", ""),
}
_LAST_LINES: Wordings = {
    "en": ("Then all went home.", "Everyone was happy.", "That was a good day.", ""),
    "zh": ("后来大家回家了。", "大家都很高兴。", "这是美好的一天。", ""),
}
_KIN = pairs("mother 妈妈, father 爸爸, sister 姐姐, brother 哥哥, daughter 女儿, son 儿子")


def story(rng: Random, lang: Language) -> Item:
    """Two people, two deeds; asked who, what or where."""
    side = SIDE[lang]
    people = [pair[side] for pair in rng.sample(PEOPLE, 4)]
    rooms = [pair[side] for pair in rng.sample(ROOMS, 4)]
    things = [pair[side] for pair in rng.sample(THINGS, 4)]
    deeds = [pair[side] for pair in rng.sample(ACTIONS, 2)]
    if lang == "en":
        lines = [f"{people[i]} {deeds[i]} a {things[i]} in the {rooms[i]}." for i in range(2)]
    else:
        lines = [f"{people[i]}在{rooms[i]}{deeds[i]}{things[i]}。" for i in range(2)]
    first, last = rng.choice(_FIRST_LINES[lang]), rng.choice(_LAST_LINES[lang])
    asked, what = rng.randrange(2), rng.randrange(3)
    who, deed, thing, room = people[asked], deeds[asked], things[asked], rooms[asked]
    english = (f"Who {deed} a {thing}?", f"Who was in the {room}?", f"Where was {who}?",
               f"In which place was {who}?",
               f"What was it that {who} {deed}?", f"Which thing did {who} have?")  # fmt: skip
    chinese = (f"谁{deed}{thing}？", f"谁在{room}？", f"{who}在哪里？", f"{who}在什么地方？",
               f"{who}{deed}什么？",
               f"{who}{deed}的东西是？")  # fmt: skip
    question = (english, chinese)[side][2 * what + rng.randrange(2)]
    pool = (people, rooms, things)[what]
    body = prose([line for line in (first, *lines, last) if line], lang)
    wrong = tuple(value for value in pool if value != pool[asked])
    return Item(body + ("\n" if rng.random() < 0.4 else (" ", "")[side]) + question, pool[asked], wrong, body)


def story_yes_no(rng: Random, lang: Language) -> Item:
    side, truth = SIDE[lang], rng.random() < 0.5
    who, thing = rng.choice(PEOPLE)[side], rng.choice(THINGS)[side]
    here, there = (pair[side] for pair in rng.sample(ROOMS, 2))
    asked = here if truth else there
    answer, wrong = yes_no(lang, truth)
    if lang == "en":
        body = rng.choice((f"{who} reads in the {here} with {article(thing)}.", f"{who} is in the {here}.",
                           f"You can find {who} in the {here}."))  # fmt: skip
        ask = rng.choice(
            (
                f"Is {who} in the {asked}?",
                f"Yes or no: {who} is in the {asked}.",
                f"Is the {asked} where {who} is?",
            )
        )
        return Item(f"{body} {ask}", answer, wrong, body)
    body = rng.choice((f"{who}在{here}看{thing}。", f"{who}在{here}。", f"在{here}可以找到{who}。"))
    ask = rng.choice((f"{who}在{asked}吗？", f"是或不是：{who}在{asked}。", f"{who}是不是在{asked}？"))
    return Item(body + ask, answer, wrong, body)


def tracking(rng: Random, lang: Language) -> Item:
    """A thing is moved two or three times; where is it at the end?"""
    side = SIDE[lang]
    people = [pair[side] for pair in rng.sample(PEOPLE, 2)]
    thing = rng.choice(THINGS)[side]
    rooms = [pair[side] for pair in rng.sample(ROOMS, rng.randint(2, 3))]
    move: Wordings = {
        "en": (
            "{p} takes the {t} to the {r}.",
            "{p} carries the {t} to the {r}.",
            "Then {p} puts the {t} in the {r}.",
        ),
        "zh": ("{p}把{t}拿到{r}。", "{p}把{t}带到{r}。", "{p}又把{t}放在{r}。"),
    }
    start: Wordings = {
        "en": ("The {t} is in the {r}.", "At first the {t} lies in the {r}."),
        "zh": ("{t}在{r}。", "开始时，{t}放在{r}。"),
    }
    lines = [rng.choice(start[lang]).format(t=thing, r=rooms[0])]
    lines += [rng.choice(move[lang]).format(p=rng.choice(people), t=thing, r=room) for room in rooms[1:]]
    ask: Wordings = {
        "en": ("Where is the {t}?", "Where is the {t} now?", "Where can we find the {t} at the end?"),
        "zh": ("{t}在哪里？", "现在{t}在哪里？", "最后{t}在什么地方？"),
    }
    body = prose(lines, lang)
    wrong = tuple(dict.fromkeys((*rooms[:-1], *others(rng, _ALL[lang], rooms[-1]))))[:3]
    return Item(prose([body, rng.choice(ask[lang]).format(t=thing)], lang), rooms[-1], wrong, body)


def family(rng: Random, lang: Language) -> Item:
    side = SIDE[lang]
    people = [pair[side] for pair in rng.sample(PEOPLE, 4)]
    kin = [pair[side] for pair in rng.sample(_KIN, 2)]
    parts = [(people[0], kin[0], people[1]), (people[2], kin[1], people[1])]
    rng.shuffle(parts)
    tell: Wordings = {
        "en": ("{a} is the {k} of {b}.", "{a} is {b}'s {k}."),
        "zh": ("{a}是{b}的{k}。", "{b}的{k}叫{a}。"),
    }
    ask: Wordings = {
        "en": ("Who is {b}'s {k}?", "Who is the {k} of {b}?", "Name the {k} of {b}."),
        "zh": ("谁是{b}的{k}？", "{b}的{k}是谁？", "{b}的{k}叫什么？"),
    }
    body = prose([rng.choice(tell[lang]).format(a=a, k=k, b=b) for a, k, b in parts], lang)
    a, k, b = rng.choice(parts)
    question = prose([body, rng.choice(ask[lang]).format(k=k, b=b)], lang)
    return Item(question, a, tuple(who for who in people if who != a), body)


def profession(rng: Random, lang: Language) -> Item:
    """Three people with jobs: who is the ...?"""
    side = SIDE[lang]
    people = [pair[side] for pair in rng.sample(PEOPLE, 4)]
    jobs = [pair[side] for pair in rng.sample(JOBS, 3)]
    tell = " is {j}." if lang == "en" else "是{j}。"
    body = prose(
        [
            who + tell.format(j=article(job) if lang == "en" else job)
            for who, job in zip(people, jobs, strict=False)
        ],
        lang,
    )
    at = rng.randrange(3)
    ask: Wordings = {
        "en": ("Who is the {j}?", "Name the {j}.", "Which person is the {j}?"),
        "zh": ("谁是{j}？", "哪个人是{j}？", "{j}是谁？"),
    }
    question = prose([body, rng.choice(ask[lang]).format(j=jobs[at])], lang)
    return Item(question, people[at], tuple(p for p in people if p != people[at]), body)


KINDS = (
    Kind("story", story, weight=5),
    Kind("story_yes_no", story_yes_no),
    Kind("tracking", tracking, weight=3),
    Kind("family", family),
    Kind("profession", profession),
)
