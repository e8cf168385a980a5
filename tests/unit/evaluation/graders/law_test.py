"""LawBench's scores: hand cases by its scripts, and the data's own answers."""

from __future__ import annotations

import json
from math import log
from pathlib import Path
from typing import Any

import pytest

from graftlm.evaluation.graders.base import Mark, Reply
from graftlm.evaluation.graders.law import (
    arabic_numbers,
    article_f1,
    entity_f1,
    mention_f1,
    only_option,
    term_distance,
)
from graftlm.evaluation.graders.table import GRADERS

DATA = Path(__file__).parents[5] / "shared" / "data" / "eval" / "lawbench"


@pytest.mark.parametrize(
    ("text", "right"),
    [("[正确答案]A<eoa>", 1), ("A:外商", 1), ("A或B", 0), ("B", 0), ("不知道", 0), ("AAA", 1)],
)
def test_one_option_and_no_other(text: str, right: float) -> None:
    assert only_option(text, "ABCD", "A") == right


def test_labels_that_stand_in_the_text() -> None:
    options = ["盗窃", "诈骗", "抢劫", "故意伤害"]
    assert mention_f1("罪名:盗窃;诈骗", options, ["盗窃", "诈骗"]) == 1
    assert mention_f1("盗窃", options, ["盗窃", "诈骗"]) == pytest.approx(2 / 3)
    assert mention_f1("盗窃、抢劫", options, ["盗窃", "诈骗"]) == pytest.approx(1 / 2)
    assert mention_f1("无罪", options, ["盗窃"]) == 0


@pytest.mark.parametrize(
    ("text", "digits"),
    [
        ("第二百六十四条", "第264条"),
        ("第一百零三条", "第103条"),
        ("十二个月", "12个月"),
        ("两年", "2年"),
        ("三千四百五十六", "3456"),
        ("二〇一七年", "2017年"),
        ("第12条", "第12条"),
    ],
)
def test_chinese_numerals(text: str, digits: str) -> None:
    assert arabic_numbers(text) == digits


def test_articles() -> None:
    assert article_f1("根据刑法第二百六十四条、第266条", [264, 266]) == 1
    assert article_f1("刑法第264条第2款", [264]) == 1
    assert article_f1("法条:刑法第264、266条", [264, 266]) == 1
    assert article_f1("第二百六十四条、第二百六十六条", [264, 266]) == 1
    assert article_f1("第264条、第25条", [264]) == pytest.approx(2 / 3)
    assert article_f1("罚款5000元", [264]) == 0


@pytest.mark.parametrize(
    ("text", "months", "distance"),
    [
        ("刑期:12个月", 12, 0),
        ("[刑期]6月<eoa>", 12, log(13) - log(7)),
        ("有期徒刑三年", 36, 0),
        ("有期徒刑一年六个月", 6, 0),  # the script looks for months first
        ("拘役", 6, log(216)),
        ("", 215, log(216)),
    ],
)
def test_prison_terms(text: str, months: int, distance: float) -> None:
    assert term_distance(text, months) == pytest.approx(distance)


def test_entities_are_soft_in_their_words_and_strict_in_their_kind() -> None:
    kinds = ["受害人", "被盗物品", "时间"]
    gold = "受害人:张某某;被盗物品:手机一部"
    assert entity_f1("被盗物品：手机一部\n受害人：张某某", kinds, gold) == 1
    assert entity_f1(gold, kinds, gold) == 1
    assert entity_f1("受害人:张某", kinds, gold) == pytest.approx(2 * (4 / 5) / 3)
    assert entity_f1("受害人:张某某\n时间:无", kinds, gold) == pytest.approx(2 / 3)  # 无 is no entity
    assert entity_f1("时间:张某某", kinds, gold) == 0
    assert entity_f1("没有", kinds, "") == 1


def grade(name: str, row: dict[str, Any], text: str) -> Mark:
    return GRADERS[name]([Reply((text,), (row["answer"],), row)])[0]


@pytest.mark.skipif(not DATA.is_dir(), reason="real data is not there")
@pytest.mark.parametrize(
    ("file", "grader"),
    [
        ("zero_shot/1-2", "law_choice"),
        ("zero_shot/2-3", "law_labels"),
        ("zero_shot/2-4", "law_class"),
        ("zero_shot/2-6", "law_entities"),
        ("one_shot/1-2", "law_choice"),
        ("one_shot/2-4", "law_class"),
    ],
)
def test_the_datas_own_answers_are_right_and_another_rows_are_not(file: str, grader: str) -> None:
    rows = json.loads((DATA / f"{file}.json").read_text(encoding="utf-8"))
    own = [grade(grader, row, row["answer"]) for row in rows]
    others = [grade(grader, row, other["answer"]) for row, other in zip(rows, reversed(rows), strict=True)]
    assert sum(own) / len(rows) > 0.99, [row for row, mark in zip(rows, own, strict=True) if mark < 1][:3]
    assert sum(others) / len(rows) < 0.7


def test_terms_without_months_weigh_nothing() -> None:
    assert grade("law_term", {"answer": "刑期:无期"}, "12个月") == (0, 0)
    assert grade("law_term", {"answer": "刑期:12个月"}, "12个月") == (1, 1)
    assert grade("law_term", {"answer": "刑期:12个月"}, "无") == (0, 1)
    assert grade("law_articles", {"answer": "法条:刑法第264、266条"}, "第264条和第266条") == 1
