"""LawBench's scores (arXiv 2309.16289), by its released scripts.

Where the paper's words and the scripts differ, the scripts are followed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from graftlm.evaluation.graders.reading import character_f1
from graftlm.evaluation.metrics import f_score

_NUMERALS = {numeral: value for value, numeral in enumerate("零一二三四五六七八九")} | {"两": 2, "〇": 0}
_UNITS = {"十": 10, "百": 100, "千": 1000}
_CHINESE_NUMBER = re.compile("[零〇一二两三四五六七八九十百千]+")
_ARTICLE = re.compile(r"第?(\d+)条")
_LONGEST_TERM = 216  # months; the distance of an answer without a term is ln 216
_NOT_THERE = frozenset({"无", "未提及"})


def only_option(prediction: str, options: Sequence[str], right: str) -> float:
    """1 where the right option stands in the text and no other does, else 0."""
    return float([option for option in options if option in prediction] == [right])


def mention_f1(prediction: str, options: Sequence[str], expected: Sequence[str]) -> float:
    """F1 of the options that stand in the text against the expected ones, in 0…1: labels, charges."""
    found = {option for option in options if option in prediction}
    return f_score(len(found & set(expected)), len(found), len(set(expected)))


def article_f1(prediction: str, expected: Sequence[int]) -> float:
    """F1 of the articles of a law that a text names ("第264条", "第二百六十四条"), in 0…1."""
    found = {int(number) for number in _ARTICLE.findall(arabic_numbers(prediction))}
    return f_score(len(found & set(expected)), len(found), len(set(expected)))


def term_distance(prediction: str, months: int) -> float:
    """|ln(months + 1) - ln(predicted + 1)| of a prison term; ln 216 without one.

    The script's reading is kept: the first number before 个月 or 月, else twelve times the first before 年.
    """
    text = arabic_numbers(prediction)
    found = re.findall(r"(\d+)个月", text) or re.findall(r"(\d+)月", text)
    years = re.findall(r"(\d+)年", text)
    if not found and not years:
        return math.log(_LONGEST_TERM)
    predicted = int(found[0]) if found else 12 * int(years[0])
    return abs(math.log(months + 1) - math.log(predicted + 1))


def entity_f1(prediction: str, kinds: Sequence[str], expected: str) -> float:
    """Soft F1 of "kind:entity" pairs, in 0…1: a pair of the right kind counts by the overlap of its characters.

    The script reads the prediction to the end of a line; here a semicolon ends it as well, so that the references' own
    form ("受害人:张某;时间:昨天") is a right answer.
    """
    found, wanted = _entities(prediction, kinds), _entities(expected, kinds)
    overlap = sum(character_f1(found[kind], wanted[kind]) for kind in found.keys() & wanted.keys())
    return f_score(overlap, len(found), len(wanted))


def arabic_numbers(text: str) -> str:
    """Chinese numerals below ten thousand as digits: 第二百六十四条 becomes 第264条."""
    return _CHINESE_NUMBER.sub(lambda found: str(_number(found[0])), text)


def _number(numerals: str) -> int:
    if not any(letter in _UNITS for letter in numerals):
        return int("".join(str(_NUMERALS[letter]) for letter in numerals))
    total, digit = 0, 0
    for letter in numerals:
        if letter in _UNITS:
            total += (digit or 1) * _UNITS[letter]
            digit = 0
        else:
            digit = _NUMERALS[letter]
    return total + digit


def _entities(text: str, kinds: Sequence[str]) -> dict[str, str]:
    found = {}
    for kind in kinds:
        for said in re.findall(rf"{re.escape(kind)}[:：][ \t]*([^\s;；]+)", text):
            if said not in _NOT_THERE:
                found[kind] = said
    return found
