# ruff: noqa: E501  (tables: a Chinese character counts double)
"""The invented encyclopaedia: five relations for each sort of entity, and the 150 entities everyone knows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from random import Random

from graftlm.data.worlds.general.vocabulary import (
    ANIMALS,
    COLOURS,
    FOODS,
    HABITATS,
    INSTRUMENTS,
    JOBS,
    MONTHS,
    THINGS,
    USES,
)
from graftlm.data.worlds.names import Pair, long_name, short_name, short_names
from graftlm.data.worlds.phrasing import Relation, relation


@dataclass(frozen=True, slots=True)
class Fact:
    relation: Relation
    value: Pair


@dataclass(frozen=True, slots=True)
class Entity:
    """A named thing of a sort ("town") and what is true of it."""

    sort: Pair
    name: Pair
    facts: tuple[Fact, ...]


@dataclass(frozen=True, slots=True)
class Sort:
    """A sort of entity: how it is named, how many are fixed, and a draw of a value for each relation."""

    noun: Pair
    name: Callable[[Random], Pair]
    fixed: int
    relations: tuple[tuple[Relation, Callable[[Random], Pair]], ...]


def _from(pool: tuple[Pair, ...]) -> Callable[[Random], Pair]:
    return lambda rng: rng.choice(pool)


def _count(low: int, high: int, step: int, unit: Pair) -> Callable[[Random], Pair]:
    def draw(rng: Random) -> Pair:
        number = rng.randrange(low, high, step)
        return f"{number} {unit[0]}", f"{number}{unit[1]}"

    return draw


SORTS: tuple[Sort, ...] = (
    Sort(("town", "城市"), long_name, 36, (
        (relation("river", "river", "河",
            en="Which river runs through {x}? | What river flows through {x}? / The {v} runs through {x}. | {x} lies on the river {v}.",
            zh="哪条河流过{x}？ | 流过{x}的河叫什么？ / {v}河流过{x}。 | {x}在{v}河边。"), short_name),
        (relation("mayor", "mayor", "市长",
            en="Who is the mayor of {x}? | Who leads {x}? / {v} leads {x}. | {v} is mayor in {x}.",
            zh="谁是{x}的市长？ | {x}的市长是谁？ / {v}是{x}的市长。 | {x}由{v}当市长。"), short_name),
        (relation("famous product", "famous product", "名产",
            en="What is {x} famous for? | What do people buy in {x}? / {x} is famous for {v}. | People go to {x} for {v}.",
            zh="{x}什么最有名？ | 人们去{x}买什么？ / {x}的{v}很有名。 | 人们去{x}买{v}。"), _from(FOODS)),
        (relation("flag colour", "flag colour", "旗子颜色",
            en="What colour is the flag of {x}? | Which colour has the flag of {x}? / The flag of {x} is {v}. | {x} has a {v} flag.",
            zh="{x}的旗子是什么颜色？ | {x}用什么颜色的旗子？ / {x}的旗子是{v}的。 | {x}用{v}的旗子。"), _from(COLOURS)),
        (relation("festival month", "festival month", "过节月份",
            en="When is the festival in {x}? | In which month does {x} have its festival? / {x} has its festival in {v}. | In {v} there is a festival in {x}.",
            zh="{x}几月过节？ | {x}在哪个月过节？ / {x}{v}过节。 | 每年{v}，{x}过节。"), _from(MONTHS)),
    )),
    Sort(("person", "人"), short_name, 36, (
        (relation("job", "job", "工作",
            en="What does {x} do for a living? | What work does {x} do? / {x} works as a {v}. | {x} is a {v}.",
            zh="{x}做什么工作？ | {x}是做什么的？ / {x}是{v}。 | {x}的工作是当{v}。"), _from(JOBS)),
        (relation("home town", "home town", "家乡",
            en="Where does {x} come from? | Where was {x} born? / {x} comes from {v}. | {x} was born in {v}.",
            zh="{x}是哪里人？ | {x}从哪里来？ / {x}是{v}人。 | {x}从{v}来。"), long_name),
        (relation("pet", "pet", "宠物",
            en="What animal does {x} keep? | Which animal lives with {x}? / {x} keeps a {v}. | {x} lives with a {v}.",
            zh="{x}养什么动物？ | {x}家里有什么动物？ / {x}养{v}。 | {x}家里有{v}。"), _from(ANIMALS)),
        (relation("favourite food", "favourite food", "最爱的食物",
            en="What does {x} like to eat? | Which food does {x} like best? / {x} likes to eat {v}. | {x} likes {v} best.",
            zh="{x}喜欢吃什么？ | {x}最爱吃什么？ / {x}喜欢吃{v}。 | {x}最爱吃{v}。"), _from(FOODS)),
        (relation("instrument", "instrument", "乐器",
            en="What does {x} play? | Which instrument does {x} play? / {x} plays the {v}. | {x} has learned the {v}.",
            zh="{x}会什么乐器？ | {x}学什么乐器？ / {x}会{v}。 | {x}学过{v}。"), _from(INSTRUMENTS)),
    )),
    Sort(("animal", "动物"), long_name, 26, (
        (relation("colour", "colour", "颜色",
            en="What colour is the {x}? | Which colour has the {x}? / The {x} is {v}. | The {x} has a {v} coat.",
            zh="{x}是什么颜色的？ | {x}什么颜色？ / {x}是{v}的。 | {x}全身{v}。"), _from(COLOURS)),
        (relation("food", "food", "食物",
            en="What does the {x} eat? | What does the {x} live on? / The {x} eats {v}. | The {x} lives on {v}.",
            zh="{x}吃什么？ | {x}爱吃什么？ / {x}吃{v}。 | {x}爱吃{v}。"), _from(FOODS)),
        (relation("habitat", "habitat", "住处",
            en="Where does the {x} live? | Where can you find the {x}? / The {x} lives near the {v}. | You find the {x} at the {v}.",
            zh="{x}住在哪里？ | 在哪里能找到{x}？ / {x}住在{v}。 | 在{v}能找到{x}。"), _from(HABITATS)),
        (relation("lifespan", "lifespan", "寿命",
            en="How long does the {x} live? | How old does the {x} get? / The {x} lives for {v}. | The {x} gets {v} old.",
            zh="{x}能活多久？ | {x}能活多少年？ / {x}能活{v}。 | {x}活到{v}。"), _count(3, 60, 1, ("years", "年"))),
        (relation("enemy", "enemy", "天敌",
            en="What animal hunts the {x}? | What does the {x} fear? / The {x} fears the {v}. | The {v} hunts the {x}.",
            zh="{x}怕什么动物？ | 什么动物吃{x}？ / {x}怕{v}。 | {v}吃{x}。"), _from(ANIMALS)),
    )),
    Sort(("company", "公司"), long_name, 26, (
        (relation("product", "product", "产品",
            en="What does {x} make? | What does the firm {x} sell? / {x} makes the {v}. | The firm {x} sells the {v}.",
            zh="{x}公司做什么？ | {x}公司卖什么？ / {x}公司做{v}。 | {x}公司卖{v}。"), _from(THINGS)),
        (relation("founder", "founder", "创办人",
            en="Who founded {x}? | Who started the firm {x}? / {v} founded {x}. | {x} was started by {v}.",
            zh="谁创办了{x}公司？ | {x}公司是谁办的？ / {v}创办了{x}公司。 | {x}公司是{v}办的。"), short_name),
        (relation("home city", "home city", "所在城市",
            en="Where is {x} based? | In which city is the firm {x}? / {x} is based in {v}. | The firm {x} sits in {v}.",
            zh="{x}公司在哪里？ | {x}公司在哪个城市？ / {x}公司在{v}。 | {x}公司开在{v}。"), long_name),
        (relation("staff", "staff number", "人数",
            en="How many people work at {x}? | How many workers has {x}? / {x} has {v}. | In all, {v} work for {x}.",
            zh="{x}公司有多少人？ | 多少人在{x}公司工作？ / {x}公司有{v}。 | {v}在{x}公司工作。"), _count(20, 900, 20, ("people", "人"))),
        (relation("sign", "sign animal", "标志动物",
            en="Which animal is on the sign of {x}? | What animal stands for {x}? / The sign of {x} shows a {v}. | A {v} stands for {x}.",
            zh="{x}公司的标志是什么动物？ | 什么动物在{x}的标志上？ / {x}公司的标志上有{v}。 | {v}是{x}公司的标志。"), _from(ANIMALS)),
    )),
    Sort(("plant", "植物"), long_name, 26, (
        (relation("flower colour", "flower colour", "花色",
            en="What colour are the flowers of the {x}? | Which colour does the {x} bloom in? / The {x} has {v} flowers. | The flowers of the {x} are {v}.",
            zh="{x}开什么颜色的花？ | {x}的花是什么颜色？ / {x}开{v}的花。 | {x}的花是{v}的。"), _from(COLOURS)),
        (relation("height", "height", "高度",
            en="How tall is the {x}? | How high does the {x} grow? / The {x} is {v} tall. | The {x} grows to {v}.",
            zh="{x}有多高？ | {x}能长多高？ / {x}高{v}。 | {x}能长到{v}。"), _count(20, 300, 10, ("cm", "厘米"))),
        (relation("growing place", "growing place", "生长地",
            en="Where does the {x} grow? | Where is the {x} found? / The {x} grows near the {v}. | The {x} is found at the {v}.",
            zh="{x}长在哪里？ | 在哪里能看到{x}？ / {x}长在{v}。 | 在{v}能看到{x}。"), _from(HABITATS)),
        (relation("bloom month", "bloom month", "花期",
            en="When does the {x} bloom? | In which month does the {x} flower? / The {x} blooms in {v}. | In {v} the {x} flowers.",
            zh="{x}几月开花？ | {x}什么时候开花？ / {x}{v}开花。 | 每年{v}，{x}开花。"), _from(MONTHS)),
        (relation("use", "use", "用处",
            en="What is made from the {x}? | What do people make of the {x}? / People make {v} from the {x}. | The {x} is good for {v}.",
            zh="{x}能做什么？ | 人们用{x}做什么？ / {x}能做{v}。 | 人们用{x}做{v}。"), _from(USES)),
    )),
)  # fmt: skip


def make_entity(rng: Random, sort: Sort, name: Pair) -> Entity:
    return Entity(sort.noun, name, tuple(Fact(rel, draw(rng)) for rel, draw in sort.relations))


@cache
def fixed_entities() -> tuple[Entity, ...]:
    """The 150 entities of the encyclopaedia; the same for every seed."""
    rng, taken, entities = Random("general encyclopaedia"), set[Pair](), list[Entity]()
    for sort in SORTS:
        for _ in range(sort.fixed):
            name = sort.name(rng)
            while name in taken:
                name = sort.name(rng)
            taken.add(name)
            entities.append(make_entity(rng, sort, name))
    return tuple(entities)


@cache
def fixed_names() -> frozenset[Pair]:
    return frozenset(entity.name for entity in fixed_entities())


def fresh_name(rng: Random, sort: Sort) -> Pair:
    """A name that no fixed entity has."""
    while True:
        name = sort.name(rng)
        if name not in fixed_names():
            return name


def fresh_people(rng: Random, count: int) -> list[Pair]:
    """Names of people who are not in the encyclopaedia, with different first syllables."""
    while True:
        people = short_names(rng, count)
        if fixed_names().isdisjoint(people):
            return people


def fresh_entity(rng: Random) -> tuple[Sort, Entity]:
    """An entity nobody has heard of, with a random value for each relation."""
    sort = rng.choice(SORTS)
    return sort, make_entity(rng, sort, fresh_name(rng, sort))


def values(sort: Sort, rng: Random, at: int, right: Pair, side: int) -> tuple[str, ...]:
    """Three wrong values for the relation number `at` of `sort`."""
    drawn: list[str] = []
    while len(drawn) < 3:
        value = sort.relations[at][1](rng)
        if value != right and value[side] not in drawn:
            drawn.append(value[side])
    return tuple(drawn)
