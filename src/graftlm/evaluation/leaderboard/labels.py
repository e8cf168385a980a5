"""Remarks of the leaderboard in Chinese."""

from __future__ import annotations

import re

PHRASES = (
    (r"(\d+) of (\d+) members", r"缺项：\2 项中有 \1 项"),
    (r"other members", "成员不同"),
    (r"other items", "题目不同"),
    (r"other coverage", "覆盖范围不同"),
    (r"metric: (.*)", r"指标：\1"),
    (r"shots: (.*)", r"示例数：\1"),
    (r"version: (.*)", r"版本：\1"),
    (r"rule: (.*)", r"规则：\1"),
)


def remark_in_chinese(remark: str) -> str:
    """Why a score is not ranked, in Chinese; a remark that is not known stays as it is."""
    for pattern, phrase in PHRASES:
        if found := re.fullmatch(pattern, remark, re.DOTALL):
            return found.expand(phrase)
    return remark
