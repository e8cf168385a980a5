"""Ordinary words of a shop in both languages, and what may be asked of a product. No fact about one lives here."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from graftlm.data.worlds.general.vocabulary import COLOURS
from graftlm.data.worlds.names import Pair, brand_name, long_name, pairs
from graftlm.data.worlds.phrasing import Relation, relation

CATEGORIES: tuple[tuple[Pair, tuple[Pair, ...]], ...] = (
    (("clothes", "衣物"), pairs("hat 帽子, coat 大衣, top 上衣, raincoat 雨衣")),
    (("kitchen", "厨房"), pairs("knife 刀, teacup 茶杯, bread maker 面包机, juice maker 果汁机")),
    (("home", "家用"), pairs("chair 椅子, lamp 灯, bed 床, clock 钟")),
    (("school", "学习"), pairs("pen 笔, notebook 本子, book bag 书包, map 地图")),
    (("machine", "机器"), pairs("phone 手机, camera 相机, washer 洗衣机, heater 热风机")),
    (("toy", "儿童"), pairs("ball 球, drum 鼓, toy car 小车, toy bear 小熊")),
    (("food", "食品"), pairs("tea 茶, honey 蜂蜜, coffee 咖啡, cake 蛋糕")),
)
FINE = tuple((coarse, fine) for coarse, members in CATEGORIES for fine in members)
MATERIALS = pairs("cloth 布, paper 纸, iron 铁, steel 钢, silver 银, leather 牛皮, jade 玉, sheepskin 羊皮")
USERS = pairs(
    "children 孩子, old people 老人, students 学生, workers 工人, sailors 水手, teachers 老师, cooks 厨师, doctors 医生"
)
SEASONS = pairs("spring 春天, summer 夏天, autumn 秋天, winter 冬天")
MODELS = tuple((f"{letter}{n}", f"{letter}{n}") for letter in "ABCDEFGHKMPRSTVXZ" for n in range(10, 100))
SIZES = tuple((f"{n} cm", f"{n}厘米") for n in range(5, 100, 5))
WEIGHTS = tuple((f"{n} g", f"{n}克") for n in range(50, 1000, 50))
PRICES = tuple((f"{n} yuan", f"{n}元") for n in range(5, 400, 5))

COLOUR = relation(
    "colour", "colour", "颜色",
    en="Which colour does {x} have? | What does {x} look like? | In which colour is {x} sold? | How is {x} coloured? "
    "/ {x} is {v}. | {x} is sold in {v}. | {x} comes in {v}. | {x} has the colour {v}.",
    zh="{x}是哪种颜色？ | {x}看起来怎样？ | {x}卖的是什么颜色？ | {x}什么颜色？ "
    "/ {x}是{v}的。 | {x}卖的是{v}。 | {x}有{v}。 | {x}看起来是{v}。",
)  # fmt: skip
MATERIAL = relation(
    "material", "material", "用料",
    en="What is {x} made of? | Of which material is {x}? | From what do they make {x}? | What do they use for {x}? "
    "/ {x} is made of {v}. | They make {x} of {v}. | {v} is used for {x}. | {x} is all {v}.",
    zh="{x}是用什么做的？ | 做{x}用什么？ | {x}用的是什么？ | 用什么做{x}？ "
    "/ {x}是用{v}做的。 | 做{x}用{v}。 | {v}用来做{x}。 | {x}全是{v}。",
)  # fmt: skip
PRICE = relation(
    "price", "price", "价格",
    en="How much is {x}? | What does {x} cost? | For how much is {x} sold? | What must I give for {x}? "
    "/ {x} costs {v}. | {x} is sold for {v}. | You get {x} for {v}. | We ask {v} for {x}.",
    zh="{x}多少元？ | 买{x}要多少？ | {x}卖多少？ | {x}怎么卖？ "
    "/ {x}卖{v}。 | 买{x}要{v}。 | {x}只要{v}。 | {v}，这是{x}。",
)  # fmt: skip
USER = relation(
    "user", "user", "用户",
    en="Who uses {x}? | For whom is {x} made? | Who is {x} good for? | Who should buy {x}? "
    "/ {x} is made for {v}. | {x} is good for {v}. | {v} use {x}. | {x} was made with {v} in mind.",
    zh="谁用{x}？ | {x}是给谁做的？ | {x}给什么人用？ | 谁会买{x}？ "
    "/ {x}给{v}用。 | {x}是给{v}做的。 | {v}都用{x}。 | {v}会买{x}。",
)  # fmt: skip
SIZE = relation(
    "size", "size", "大小",
    en="How large is {x}? | How big is {x}? | What does {x} measure? | How long is {x}? "
    "/ {x} is {v} long. | {x} measures {v}. | {x} is as long as {v}. | {v} is how long {x} is.",
    zh="{x}有多大？ | {x}多少厘米？ | {x}有多长？ | {x}多长？ "
    "/ {x}长{v}。 | {x}有{v}长。 | {x}是{v}的。 | {v}，{x}就这么长。",
)  # fmt: skip
POOLS: dict[str, tuple[Pair, ...]] = {
    "colour": COLOURS, "material": MATERIALS, "price": PRICES, "user": USERS, "size": SIZES,
}  # fmt: skip
RELATIONS: tuple[Relation, ...] = (COLOUR, MATERIAL, PRICE, USER, SIZE)


@dataclass(frozen=True, slots=True)
class Item:
    """A product that is for sale, with everything that a title, a description or a query may say of it."""

    brand: Pair
    model: Pair
    coarse: Pair
    product: Pair
    colour: Pair
    material: Pair
    size: Pair
    weight: Pair
    price: Pair
    user: Pair
    season: Pair
    origin: Pair

    def named(self, side: int) -> dict[str, str]:
        """What fills the slots of a wording."""
        return {name: getattr(self, name)[side] for name in self.__slots__}


def draw_item(rng: Random, brands: frozenset[int]) -> Item:
    coarse, product = rng.choice(FINE)
    return Item(
        brand_name(rng, brands), rng.choice(MODELS), coarse, product, rng.choice(COLOURS), rng.choice(MATERIALS),
        rng.choice(SIZES), rng.choice(WEIGHTS), rng.choice(PRICES), rng.choice(USERS), rng.choice(SEASONS),
        long_name(rng),
    )  # fmt: skip
