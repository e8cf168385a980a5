
"""Invented names, bilingual by construction: one English syllable is one Chinese character.

"Tavorin" is 塔伏林 everywhere, so a model can learn the correspondence. The first two syllables tell to whom
a name belongs: no other world can produce a name of the clinic world, whatever its seed.
"""

from __future__ import annotations

from random import Random
from typing import TypeAlias

Pair: TypeAlias = tuple[str, str]
"""The same thing in English and in Chinese."""


def pairs(table: str) -> tuple[Pair, ...]:
    """Reads "red apple 红苹果, pear 梨" as (("red apple", "红苹果"), ("pear", "梨"))."""
    split = (entry.strip().rsplit(" ", 1) for entry in table.split(","))
    return tuple((english, chinese) for english, chinese in split)


# Every syllable ends or starts so that a name is read back in one way only: CV + CV + CVC.
OPENERS = pairs(
    "Ba 巴, Be 贝, Bo 波, Da 达, De 德, Do 多, Fa 法, Fe 费, Fi 菲, Ga 加, Go 戈, Gu 古, Ha 哈, He 赫, Ho 霍, "
    "Ka 卡, Ke 科, Ko 可, La 拉, Le 莱, Lo 洛, Lu 鲁, Ma 马, Me 梅, Mo 莫, Na 纳, Ne 内, No 诺, Pa 帕, Pe 佩, "
    "Po 坡, Ra 雷, Re 瑞, Ro 罗, Sa 萨, Se 塞, So 索, Ta 塔, Te 特, To 托, Va 瓦, Ve 维, Vo 沃, Za 扎"
)
MIDDLES = pairs(
    "bi 比, co 柯, du 杜, ga 嘉, jo 乔, ki 基, lo 隆, mi 米, no 农, pu 普, ri 里, su 苏, ti 提, vo 伏, wi 威, ze 泽"
)
ENDINGS = pairs(
    "lan 兰, rin 林, den 丹, mor 摩, nel 尼, ton 顿, ven 文, kas 斯, gan 甘, bur 布, dis 迪, fel 弗, han 汉, "
    "les 勒, mak 克, yan 言"
)
DRUG_ENDINGS = pairs("rex 灵, dol 宁, zol 平, pin 定, cil 安, mab 康, tam 泰, fex 复")
DISEASE_WORDS = pairs("fever 热, disease 病, syndrome 症, inflammation 炎")
BRAND_ENDINGS = pairs("vik 维, zan 扎, lux 鲁, pex 佩, nox 诺, tas 塔, bel 贝, rox 罗")


# Who may use an (opener, middle) pair is decided by (opener + middle) % 5, so that no name is ever ambiguous:
# the clinic world's own diseases and drugs, diseases and drugs elsewhere, everything else.
_CLINIC = frozenset({0})
_MEDICAL = frozenset({1})
_PLAIN = frozenset({2, 3, 4})


def _stem(rng: Random, classes: frozenset[int]) -> tuple[int, int]:
    while True:
        opener, middle = rng.randrange(len(OPENERS)), rng.randrange(len(MIDDLES))
        if (opener + middle) % 5 in classes:
            return opener, middle


def long_name(rng: Random) -> Pair:
    """A three-syllable name for a place, an animal, a firm or a plant: ("Tavorin", "塔伏林")."""
    opener, middle = _stem(rng, _PLAIN)
    end = rng.choice(ENDINGS)
    first, second = OPENERS[opener], MIDDLES[middle]
    return first[0] + second[0] + end[0], first[1] + second[1] + end[1]


def short_name(rng: Random) -> Pair:
    """A two-syllable name for a person or a river: ("Tarin", "塔林")."""
    opener, end = rng.choice(OPENERS), rng.choice(ENDINGS)
    return opener[0] + end[0], opener[1] + end[1]


def short_names(rng: Random, count: int) -> list[Pair]:
    """`count` different two-syllable names with different first syllables."""
    return [
        (opener[0] + end[0], opener[1] + end[1])
        for opener, end in ((o, rng.choice(ENDINGS)) for o in rng.sample(OPENERS, count))
    ]


def _disease(rng: Random, opener: int, middle: int) -> Pair:
    word, end = rng.choice(DISEASE_WORDS), rng.choice(ENDINGS)
    first, second = OPENERS[opener], MIDDLES[middle]
    return f"{first[0]}{second[0]}{end[0]} {word[0]}", first[1] + second[1] + word[1]


def _drug(rng: Random, opener: int, middle: int) -> Pair:
    end = rng.choice(DRUG_ENDINGS)
    first, second = OPENERS[opener], MIDDLES[middle]
    return first[0] + second[0] + end[0], first[1] + second[1] + end[1]


def disease_name(rng: Random) -> Pair:
    """A disease that is not in the clinic world: ("Tavorin fever", "塔伏热")."""
    return _disease(rng, *_stem(rng, _MEDICAL))


def drug_name(rng: Random) -> Pair:
    """A drug that is not in the clinic world: ("Tavorex", "塔伏灵")."""
    return _drug(rng, *_stem(rng, _MEDICAL))


def drug_names(rng: Random, count: int) -> list[Pair]:
    """`count` different drugs that are not in the clinic world."""
    names: dict[Pair, None] = {}
    while len(names) < count:
        names[drug_name(rng)] = None
    return list(names)


def _middle(rng: Random, opener: int) -> int:
    return rng.choice([middle for middle in range(len(MIDDLES)) if (opener + middle) % 5 in _CLINIC])


def clinic_names(rng: Random, diseases: int, drugs: int) -> tuple[list[Pair], list[Pair]]:
    """The clinic's own names: first syllables all different, first two syllables reserved to the clinic.

    Needs diseases + drugs ≤ len(OPENERS).
    """
    openers = rng.sample(range(len(OPENERS)), diseases + drugs)
    stems = [(o, _middle(rng, o)) for o in openers]
    return [_disease(rng, *stem) for stem in stems[:diseases]], [
        _drug(rng, *stem) for stem in stems[diseases:]
    ]


# Brands have endings of their own, so no other world can produce one; their stems say where they may occur.
CATALOGUE_BRANDS = frozenset({0})
TRAINED_BRANDS = frozenset({1, 2})
TEST_BRANDS = frozenset({3, 4})


def _brand(rng: Random, opener: int, middle: int) -> Pair:
    end, first, second = rng.choice(BRAND_ENDINGS), OPENERS[opener], MIDDLES[middle]
    return first[0] + second[0] + end[0], first[1] + second[1] + end[1]


def brand_name(rng: Random, classes: frozenset[int]) -> Pair:
    """A brand of the shop world: ("Tavovik", "塔伏维")."""
    return _brand(rng, *_stem(rng, classes))


def catalogue_brands(rng: Random, count: int) -> list[Pair]:
    """Brands of the shop's own products: first syllables all different. Needs count ≤ len(OPENERS)."""
    return [_brand(rng, opener, _middle(rng, opener)) for opener in rng.sample(range(len(OPENERS)), count)]
