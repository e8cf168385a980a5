"""LawBench's scores (arXiv 2309.16289), by its released scripts.

Where the paper's words and the scripts differ, the scripts are followed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from types import MappingProxyType

from graftlm.core.errors import DataError
from graftlm.evaluation.graders.base import Grader, Mark, Reply, each
from graftlm.evaluation.graders.letters import said_letter
from graftlm.evaluation.graders.reading import character_f1
from graftlm.evaluation.metrics import f_score

_NUMERALS = {numeral: value for value, numeral in enumerate("零一二三四五六七八九")} | {"两": 2, "〇": 0}
_UNITS = {"十": 10, "百": 100, "千": 1000}
_CHINESE_NUMBER = re.compile("[零〇一二两三四五六七八九十百千]+")
_ARTICLES = re.compile(r"(\d+(?:[、,，和及]第?\d+)*)条")
_AMOUNT = re.compile(r"\d+\.?\d*")
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
    """F1 of the articles of a law that a text names ("第264、266条", "第二百六十四条"), in 0…1.

    The script takes the first number of each part between 、, so a fine of 5,000 yuan is an article to it, not here.
    """
    listed = _ARTICLES.findall(arabic_numbers(prediction))
    found = {int(number) for part in listed for number in re.findall(r"\d+", part)}
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


def names_amount(prediction: str, amount: float) -> float:
    """1 where the amount is one of the numbers of the text, else 0."""
    return float(amount in [float(number) for number in _AMOUNT.findall(prediction)])


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


def _choice(text: str, answers: Sequence[str]) -> float:
    """1-2: the right letter stands in the text and no other of A to D does ("正确答案：B。" is the data's form)."""
    return only_option(text, "ABCD", said_letter(answers[0]) or "")


def _articles(text: str, answers: Sequence[str]) -> float:
    """3-1: "法条:刑法第264、266条" is the data's form."""
    return article_f1(text, [int(number) for number in re.findall(r"\d+", arabic_numbers(answers[0]))])


def _amount(text: str, answers: Sequence[str]) -> float:
    """3-7: "上文涉及到的犯罪金额:352.0元。" is the data's form."""
    return names_amount(text, float(_AMOUNT.findall(answers[0])[0]))


def _with_labels(judge: Callable[[str, Sequence[str], str], float]) -> Grader:
    """A grader by (text, the labels that the row's instruction names, the answer)."""

    def grade(replies: Sequence[Reply]) -> list[Mark]:
        return [judge(reply.text, _labels_of(reply), reply.answers[0]) for reply in replies]

    return grade


def _labels_of(reply: Reply) -> list[str]:
    found = re.search("包括[:：](.+?)。", reply.row["instruction"])
    if found is None:
        raise DataError("the instruction names no labels (包括：…。)", fix="check that the file is LawBench's")
    return found[1].split("、")


def _labels(text: str, labels: Sequence[str], answer: str) -> float:
    """2-3: "类别:a、b。" is the data's form."""
    return mention_f1(text, labels, re.split("[:：]", answer)[-1].strip().rstrip("。").split("、"))


def _terms(distance: Callable[[str, int], float]) -> Grader:
    """3-4, 3-5: "刑期:12个月"; life and death have no months and, as in the script, no weight."""

    def grade(replies: Sequence[Reply]) -> list[Mark]:
        months = [re.search(r"(\d+)个月", reply.answers[0]) for reply in replies]
        return [
            (distance(reply.text, int(found[1])), 1.0) if found else (0.0, 0.0)
            for reply, found in zip(replies, months, strict=True)
        ]

    return grade


def _term_score(text: str, months: int) -> float:
    """1 for the right term, 0 for none: the distance as a share of ln 216, at most all of it."""
    return max(0.0, 1 - term_distance(text, months) / math.log(_LONGEST_TERM))


LAW_GRADERS: MappingProxyType[str, Grader] = MappingProxyType(
    {
        "law_choice": each(_choice),
        "law_class": _with_labels(only_option),
        "law_labels": _with_labels(_labels),
        "law_entities": _with_labels(entity_f1),
        "law_articles": each(_articles),
        "law_amount": each(_amount),
        "law_term": _terms(_term_score),
        "law_term_distance": _terms(term_distance),
    }
)
"""name → grader of LawBench's rows: {instruction, question, answer}."""
