"""The shop's annotations as instruction tasks: the data sets, the wordings of their labels, and what is held out.

A kind of task is a data set and an atomic task, as "titles/span_typing". `HELDOUT` kinds are never trained on. Tests
ask on brands of their own; those of held-out kinds in instructions of their own, and `tasks_reworded` names the labels
in other words, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from random import Random
from typing import TypeAlias

from graftlm.data.atomic_tasks import AtomicTask, TaskPlan
from graftlm.data.atomic_tasks.asking import Ask
from graftlm.data.atomic_tasks.building import DataSet, kinds_of, make_task
from graftlm.data.samples import Chat, Classified, Labelled, Origin, Tagged
from graftlm.data.worlds.names import TEST_BRANDS, TRAINED_BRANDS, Pair, pairs
from graftlm.data.worlds.phrasing import LANGUAGES, Language
from graftlm.data.worlds.shop import customers, listings, reviews
from graftlm.data.worlds.shop.goods import CATEGORIES

Make: TypeAlias = Callable[[Random, frozenset[int], int, Origin], Tagged | Classified]

_KINDS = pairs(
    "brand 品牌, model 型号, product 商品, colour 颜色, material 用料, size 大小, weight 重量, price 价格, user 用户, "
    "season 时节, origin 产地"
)
_OTHER_KINDS = pairs(
    "maker 商家, type number 机型, article 东西, shade 色, stuff 料, measure 长短, mass 轻重, cost 元数, "
    "for whom 用的人, time of year 时间, place 地方"
)
_OTHER_ASPECTS = pairs(
    "workmanship 做得好坏, cost 花多少, looks 样子, fit 大小对不对, waiting time 等多久, shopkeeper 卖的人"
)
_OTHER_WANTS = pairs(
    "learn the cost 想知道多少元, learn the day 想知道哪天到, return it 想还, protest 生气, praise 喜欢, "
    "learn the measure 想知道长短, order 想要"
)
_OTHER_SENTIMENTS = pairs("good 喜欢, bad 不喜欢, both 两样都有, nothing 无")
_OTHER_MATCHES = pairs("fits 对, does not fit 不对")
_OTHER_SAMENESS = pairs("one product 一个, two products 两个")
_CLASS_WORDS = tuple(word for coarse, fine in CATEGORIES for word in (coarse, *fine))


@dataclass(frozen=True)
class Annotated:
    """A data set: how a row is made, every label, and how it is put to a model.

    Attributes:
        tested: instructions in wordings of their own.
        reworded: the labels, too.
    """

    make: Make
    labels: tuple[str, ...]
    trained: TaskPlan
    tested: TaskPlan
    reworded: TaskPlan


def _annotated(
    make: Make, own: Sequence[Pair], plan: TaskPlan, others: Sequence[Pair], labels: Sequence[str] = ()
) -> Annotated:
    """Labels are `own` in English; they are named `own`, and in the reworded tests `others`."""
    trained = replace(plan, names={"zh": dict(own)})
    tested = replace(trained, wording="other")
    words = [(label, *other) for (label, _), other in zip(own, others, strict=True)]
    names: dict[Language, dict[str, str]] = {
        "en": {label: english for label, english, _ in words},
        "zh": {label: zh for label, _, zh in words},
    }
    shown = tuple(labels or (label for label, _ in own))
    return Annotated(make, shown, trained, tested, replace(tested, names=names))


def _kinds(names: Sequence[str]) -> tuple[tuple[Pair, ...], tuple[Pair, ...]]:
    both = [(own, other) for own, other in zip(_KINDS, _OTHER_KINDS, strict=True) if own[0] in names]
    return tuple(own for own, _ in both), tuple(other for _, other in both)


_TITLE_KINDS, _OTHER_TITLE_KINDS = _kinds(listings.TITLE_KINDS)
_ATTRIBUTES, _OTHER_ATTRIBUTES = _kinds(listings.ATTRIBUTES)
_TITLE, _REVIEW = ("title", "商品名"), ("review", "客人的话")
DATA: dict[str, Annotated] = {
    "titles": _annotated(
        listings.title, _TITLE_KINDS, TaskPlan(subject=_TITLE, options=7), _OTHER_TITLE_KINDS,
    ),
    "descriptions": _annotated(
        listings.description, _ATTRIBUTES,
        TaskPlan(subject=("text", "文章"), noun=("attribute", "特点"), options=6), _OTHER_ATTRIBUTES,
    ),
    "categories": _annotated(
        listings.category, _CLASS_WORDS, TaskPlan(subject=_TITLE, noun=("category", "类"), options=5), _CLASS_WORDS,
        listings.CLASSES,
    ),
    "reviews": _annotated(
        reviews.review, reviews.SENTIMENTS, TaskPlan(subject=_REVIEW, noun=("sentiment", "心情")),
        _OTHER_SENTIMENTS[:3],
    ),
    "queries": _annotated(
        customers.query, customers.MATCHES,
        TaskPlan(subject=("query", "要找的"), second=_TITLE, noun=("judgement", "答案"), match="match"), _OTHER_MATCHES,
    ),
    "same_items": _annotated(
        customers.same_item, customers.SAMENESS,
        TaskPlan(
            subject=("title 1", "商品名一"), second=("title 2", "商品名二"), noun=("judgement", "答案"), match="same"
        ),
        _OTHER_SAMENESS,
    ),
    "opinions": _annotated(
        reviews.opinions, reviews.ASPECTS, TaskPlan(subject=_REVIEW, noun=("side", "方面"), options=5), _OTHER_ASPECTS,
    ),
    "aspects": _annotated(
        reviews.aspect, (*reviews.SENTIMENTS[:2], reviews.NOT_SAID),
        TaskPlan(subject=_REVIEW, second=("side", "方面"), noun=("sentiment", "心情")),
        (*_OTHER_SENTIMENTS[:2], _OTHER_SENTIMENTS[3]),
    ),
    "wants": _annotated(
        customers.want, customers.WANTS, TaskPlan(subject=("talk", "对话"), noun=("wish", "想法"), options=5),
        _OTHER_WANTS,
    ),
}  # fmt: skip

NEW_PAIRS = (
    "titles/span_type", "titles/span_typing", "descriptions/span_detection", "descriptions/value_extraction",
    "reviews/class_check", "same_items/pair_check",
)  # fmt: skip
"""A data set and an atomic task that are both trained on, never together."""
NEW_TASKS = ("titles/value_choice", "descriptions/type_check", "categories/fine_classification")
"""Atomic tasks that no data set is trained with."""
NEW_DATA = ("opinions/value_extraction", "aspects/pair_classification", "wants/class_check")
"""Data sets that are not trained on, with labels that no other data set has."""
HELDOUT: tuple[str, ...] = (*NEW_PAIRS, *NEW_TASKS, *NEW_DATA)
REWORDED = (
    "titles/span_type", "titles/value_choice", "descriptions/type_check", "reviews/class_check",
    "same_items/pair_check",
)  # fmt: skip
_UNTRAINED_DATA = tuple(kind.partition("/")[0] for kind in NEW_DATA)
_UNTRAINED_TASKS = tuple(kind.partition("/")[2] for kind in NEW_TASKS)
_ROWS = 48


@cache
def rows_of(data: str, brands: frozenset[int]) -> DataSet:
    """Labels of a data set, and some rows to draw others from."""
    made = DATA[data]
    rows = [made.make(Random(f"rows:{data}:{n}"), brands, n, Origin(f"world:shop/{data}", n + 1)) for n in range(_ROWS)]
    return DataSet(made.labels, tuple(row for row in rows if isinstance(row, Classified)))


@cache
def _all_kinds() -> tuple[str, ...]:
    return tuple(
        f"{name}/{kind}"
        for name, data in DATA.items()
        for kind in kinds_of(data.make(Random(0), TRAINED_BRANDS, 0, Origin("", 1)))
        if kind != "match_selection" or data.trained.match
        if kind not in ("coarse_classification", "fine_classification") or name == "categories"
    )


TRAINED: tuple[str, ...] = tuple(
    kind
    for kind in _all_kinds()
    if kind not in HELDOUT
    and kind.partition("/")[0] not in _UNTRAINED_DATA
    and kind.partition("/")[2] not in _UNTRAINED_TASKS
)
"""Kinds that `tasks` trains on."""


def made_task(
    rng: Random, kind: str, brands: frozenset[int], index: int, origin: Origin, plan: Callable[[Annotated], TaskPlan]
) -> AtomicTask:
    """A task of a kind; rows that do not allow it are drawn again."""
    name, _, atomic = kind.partition("/")
    data = DATA[name]
    ask = Ask(plan(data), LANGUAGES[index % 2], rng)
    while True:
        task = make_task(atomic, data.make(rng, brands, index, origin), rows_of(name, brands), ask)
        if task is not None:
            return task


def trained_task(rng: Random, kind: str, index: int, origin: Origin) -> Chat:
    return made_task(rng, kind, TRAINED_BRANDS, index, origin, lambda data: data.trained).chat(origin)


def task_chat(rng: Random, index: int, origin: Origin) -> Chat:
    """A task of any kind that is not held out."""
    return trained_task(rng, rng.choice(TRAINED), index, origin)


def task_item(rng: Random, part: str, index: int, origin: Origin) -> Labelled:
    """A test task: each kind of the part in turn, in English and Chinese, on a brand that no training part has."""
    kinds = TESTS[part]
    kind = kinds[index // 2 % len(kinds)]
    made = made_task(rng, kind, TEST_BRANDS, index, origin, _PLANS[part])
    return made.item(origin, kind)


TESTS = {"tasks_test": TRAINED, "tasks_heldout": HELDOUT, "tasks_reworded": REWORDED}
TEST_ITEMS = 960
_PLANS: dict[str, Callable[[Annotated], TaskPlan]] = {
    "tasks_test": lambda data: data.trained,
    "tasks_heldout": lambda data: data.tested,
    "tasks_reworded": lambda data: data.reworded,
}
