"""Kinds about numbers: arithmetic, comparison, counting, sequences, clock, shopping, units."""

from __future__ import annotations

from random import Random

from graftlm.data.worlds.general.item import Item, Kind, near, yes_no
from graftlm.data.worlds.general.vocabulary import FOODS, PEOPLE, THINGS
from graftlm.data.worlds.phrasing import SIDE, Language, Wordings, listing, prose

_SUM: Wordings = {
    "en": ("What is {a} + {b}?", "{a} + {b} =", "Add {a} and {b}.", "How much is {a} plus {b}?",
           "Calculate {a} + {b}.", "Please work out {a} plus {b}.", "The sum of {a} and {b} is?"),
    "zh": ("{a} + {b} 等于多少？", "{a}加{b}是多少？", "计算 {a} + {b}。", "{a} + {b} =",
           "请算一算{a}加{b}。",
           "{a}和{b}加起来是多少？"),
}  # fmt: skip
_DIFFERENCE: Wordings = {
    "en": ("What is {a} - {b}?", "{a} - {b} =", "Take {b} from {a}.", "How much is {a} minus {b}?",
           "Calculate {a} - {b}.", "Please work out {a} minus {b}."),
    "zh": ("{a} - {b} 等于多少？", "{a}减{b}是多少？", "计算 {a} - {b}。", "{a} - {b} =",
           "请算一算{a}减{b}。"),
}  # fmt: skip
_PRODUCT: Wordings = {
    "en": ("What is {a} × {b}?", "{a} × {b} =", "Multiply {a} by {b}.", "How much is {a} times {b}?",
           "Calculate {a} × {b}.", "Please work out {a} times {b}."),
    "zh": ("{a} × {b} 等于多少？", "{a}乘{b}是多少？", "计算 {a} × {b}。", "{a} × {b} =",
           "请算一算{a}乘{b}。"),
}  # fmt: skip
_SUM_SAY: Wordings = {
    "en": ("{a} + {b} = {c}.", "{a} plus {b} is {c}."), "zh": ("{a} + {b} = {c}。", "{a}加{b}等于{c}。"),
}  # fmt: skip
_DIFFERENCE_SAY: Wordings = {
    "en": ("{a} - {b} = {c}.", "{a} minus {b} is {c}."), "zh": ("{a} - {b} = {c}。", "{a}减{b}等于{c}。"),
}  # fmt: skip
_PRODUCT_SAY: Wordings = {
    "en": ("{a} × {b} = {c}.", "{a} times {b} is {c}."), "zh": ("{a} × {b} = {c}。", "{a}乘{b}等于{c}。"),
}  # fmt: skip


def _computed(rng: Random, lang: Language, asks: Wordings, says: Wordings, a: int, b: int, c: int) -> Item:
    question = rng.choice(asks[lang]).format(a=a, b=b)
    return Item(question, str(c), near(rng, c), rng.choice(says[lang]).format(a=a, b=b, c=c))


def addition(rng: Random, lang: Language) -> Item:
    a, b = rng.randint(1, 50), rng.randint(1, rng.choice((9, 50)))
    return _computed(rng, lang, _SUM, _SUM_SAY, a, b, a + b)


def subtraction(rng: Random, lang: Language) -> Item:
    b, c = rng.randint(1, rng.choice((9, 40))), rng.randint(0, 50)
    return _computed(rng, lang, _DIFFERENCE, _DIFFERENCE_SAY, b + c, b, c)


def multiplication(rng: Random, lang: Language) -> Item:
    a, b = rng.randint(2, 12), rng.randint(2, 12)
    return _computed(rng, lang, _PRODUCT, _PRODUCT_SAY, a, b, a * b)


def comparison(rng: Random, lang: Language) -> Item:
    numbers = rng.sample(range(1, 100), 4)
    shown, largest = numbers[: rng.randint(2, 4)], rng.random() < 0.5
    answer = max(shown) if largest else min(shown)
    word = (("largest", "最大") if largest else ("smallest", "最小"))[SIDE[lang]]
    listed = listing([str(n) for n in shown], lang)
    ask: Wordings = {
        "en": ("Which is the {w} number: {l}?", "Find the {w} of {l}.", "{l}: which number is the {w}?"),
        "zh": ("{l}中哪个数{w}？", "找出{w}的数：{l}。", "下面哪个数{w}？{l}"),
    }
    statement = f"Of {listed}, the {word} is {answer}." if lang == "en" else f"在{listed}中，{answer}{word}。"
    wrong = tuple(str(n) for n in numbers if n != answer)[:3]
    return Item(rng.choice(ask[lang]).format(w=word, l=listed), str(answer), wrong, statement)


def parity(rng: Random, lang: Language) -> Item:
    n, asked_even = rng.randint(1, 99), rng.random() < 0.5
    even = n % 2 == 0
    answer, wrong = yes_no(lang, even == asked_even)
    if lang == "en":
        word = "even" if asked_even else "odd"
        ask = rng.choice((f"Is {n} {word}?", f"Is {n} an {word} number?", f"Yes or no: {n} is {word}."))
        return Item(ask, answer, wrong, f"{n} is an {'even' if even else 'odd'} number.")
    word = "双数" if asked_even else "单数"
    ask = rng.choice((f"{n}是{word}吗？", f"数字{n}是不是{word}？", f"是或不是：{n}是{word}。"))
    return Item(ask, answer, wrong, f"{n}是{'双数' if even else '单数'}。")


def counting(rng: Random, lang: Language) -> Item:
    things = [pair[SIDE[lang]] for pair in rng.sample(THINGS, 3)]
    wanted, n = things[0], rng.randint(1, 5)
    row = [wanted] * n + [rng.choice(things[1:]) for _ in range(rng.randint(1, 3))]
    rng.shuffle(row)
    listed = listing(row, lang)
    wrong = tuple(str(k) for k in rng.sample([k for k in range(1, 7) if k != n], 3))
    if lang == "en":
        ask = rng.choice((f"How many times does {wanted} appear? {listed}", f"Count {wanted} in: {listed}.",
                          f"{listed}. How many times do you see {wanted}?"))  # fmt: skip
        times = "once" if n == 1 else f"{n} times"
        return Item(ask, str(n), wrong, f"In the list {listed}, {wanted} appears {times}.")
    ask = rng.choice(
        (
            f"{listed}。{wanted}出现了几次？",
            f"数一数{wanted}有几个：{listed}。",
            f"下面有几个{wanted}？{listed}",
        )
    )
    return Item(ask, str(n), wrong, f"在“{listed}”中，{wanted}出现了{n}次。")


def sequence(rng: Random, lang: Language) -> Item:
    start, step = rng.randint(1, 30), rng.choice((1, 2, 3, 4, 5, 10, -1, -2))
    start += 10 if step < 0 else 0
    shown = ", ".join(str(start + step * k) for k in range(4))
    answer = start + 4 * step
    ask: Wordings = {
        "en": ("What comes next: {s}?", "Go on with one number: {s},", "Next number after {s}?"),
        "zh": ("下一个数是什么：{s}？", "接着写一个数：{s},", "{s}后面是几？"),
    }
    return Item(rng.choice(ask[lang]).format(s=shown), str(answer), near(rng, answer), f"{shown}, {answer}")


def clock(rng: Random, lang: Language) -> Item:
    hour, later = rng.randint(1, 12), rng.randint(1, 6)
    answer = (hour + later - 1) % 12 + 1
    wrong_hours = rng.sample([h for h in range(1, 13) if h != answer], 3)
    if lang == "en":
        hours = "1 hour" if later == 1 else f"{later} hours"
        ask = rng.choice((f"It is {hour} o'clock. What time is it in {hours}?",
                         f"What time is {hours} after {hour} o'clock?",
                          f"Now it is {hour} o'clock. {hours} later it is?"))  # fmt: skip
        say = f"It is {hour} o'clock. In {hours} it will be {answer} o'clock."
        return Item(ask, f"{answer} o'clock", tuple(f"{h} o'clock" for h in wrong_hours), say)
    ask = rng.choice(
        (
            f"现在{hour}点，{later}个小时后几点？",
            f"{hour}点过{later}个小时是几点？",
            f"现在是{hour}点。再过{later}小时是几点？",
        )
    )
    say = f"现在{hour}点，{later}个小时后是{answer}点。"
    return Item(ask, f"{answer}点", tuple(f"{h}点" for h in wrong_hours), say)


def shopping(rng: Random, lang: Language) -> Item:
    who, food, n, price = rng.choice(PEOPLE), rng.choice(FOODS), rng.randint(2, 6), rng.randint(1, 9)
    thing, extra = rng.choice(THINGS), rng.choice((0, 0, rng.randint(1, 20)))
    total = n * price + extra
    if lang == "en":
        story = [f"{who[0]} buys {n} bags of {food[0]} at {price} coins each."]
        story += [f"A {thing[0]} costs {extra} coins more."] if extra else []
        ask = rng.choice(("How many coins in all?", f"How much does {who[0]} pay?", "What is the total?"))
    else:
        story = [f"{who[1]}买{n}包{food[1]}，每包{price}元。"] + (
            [f"再买{thing[1]}，{extra}元。"] if extra else []
        )
        ask = rng.choice(("一共多少元？", f"{who[1]}要付多少元？", "总共是多少？"))
    end = f"The total is {total} coins." if lang == "en" else f"一共{total}元。"
    return Item(prose([*story, ask], lang), str(total), near(rng, total), prose([*story, end], lang))


_UNITS = (
    (("hours", "小时"), ("minutes", "分钟"), 60), (("minutes", "分钟"), ("seconds", "秒"), 60),
    (("days", "天"), ("hours", "小时"), 24), (("weeks", "星期"), ("days", "天"), 7),
    (("years", "年"), ("months", "个月"), 12), (("m", "米"), ("cm", "厘米"), 100),
    (("kg", "千克"), ("g", "克"), 1000), (("g", "克"), ("mg", "毫克"), 1000),
)  # fmt: skip


def units(rng: Random, lang: Language) -> Item:
    big, small, factor = rng.choice(_UNITS)
    n = rng.randint(2, 9)
    side, total = SIDE[lang], n * factor
    ask: Wordings = {
        "en": (
            "How many {s} are {n} {b}?",
            "Convert {n} {b} to {s}.",
            "{n} {b} = ? {s}",
            "{n} {b} is how many {s}?",
        ),
        "zh": ("{n}{b}是多少{s}？", "{n}{b}等于多少{s}？", "把{n}{b}换成{s}。", "{n}{b} = ? {s}"),
    }
    say = f"{n} {big[0]} = {total} {small[0]}." if lang == "en" else f"{n}{big[1]}等于{total}{small[1]}。"
    wrong = (str(total * 10), str(total + factor), str(total - factor))
    return Item(rng.choice(ask[lang]).format(n=n, b=big[side], s=small[side]), str(total), wrong, say)


KINDS = (
    Kind("addition", addition, weight=3),
    Kind("subtraction", subtraction, weight=3),
    Kind("multiplication", multiplication),
    Kind("comparison", comparison),
    Kind("parity", parity, weight=1),
    Kind("counting", counting),
    Kind("sequence", sequence),
    Kind("clock", clock),
    Kind("shopping", shopping),
    Kind("units", units, weight=1),
)
