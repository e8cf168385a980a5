"""What a judge's words say: a grade, a choice, or two scores."""

from __future__ import annotations

import re
from typing import Literal

Choice = Literal["A", "B", "C"]

HIGHEST = 10.0
TIE_MARGIN = 0.1
"""Two grades this near are a tie, as in FastChat; it lets no half point through."""

_N = r"(\d+(?:\.\d+)?)"
_GRADE = re.compile(rf"\[\[\s*{_N}\s*(?:/\s*10)?\s*\]\]")
_GRADE_SINGLE = re.compile(rf"\[\s*{_N}\s*(?:/\s*10)?\s*\]")
_CHOICE = re.compile(r"\[\[\s*([ABC])\s*\]\]")
_IN_BRACKETS = re.compile(rf"\[\[\s*{_N}\s*,\s*{_N}\s*\]\]")
_FIRST_LINE = re.compile(rf"[(\[]?\s*{_N}(?:/10)?\s*[\s,，、/;；]\s*{_N}(?:/10)?\s*[)\]]?[.。]?")
_TUPLE = re.compile(rf"[(（]\s*{_N}\s*[,，]\s*{_N}\s*[)）]")
_NAMED_1, _NAMED_2 = (rf"(?:Assistant|助手)\s*{side}\s*[^\d\n]{{0,3}}\s*{_N}" for side in (1, 2))
_NAMED = re.compile(rf"{_NAMED_1}(?:/10)?\D{{0,12}}{_NAMED_2}", re.IGNORECASE)


def read_grade(text: str) -> float | None:
    """MT-bench's single grade: the number in double brackets, or in single ones; None outside 1 to 10."""
    found = _GRADE.search(text) or _GRADE_SINGLE.search(text)
    if found is None:
        return None
    grade = float(found[1])
    return grade if 1 <= grade <= HIGHEST else None


def read_choice(text: str) -> Choice | None:
    """MT-bench's pairwise verdict: [[A]], [[B]], or [[C]] for a tie.

    Of several the last counts: the verdict follows the explanation. (FastChat looks for A first, wherever it stands:
    a judge that repeats the rules would favour A.)
    """
    found = _CHOICE.findall(text)
    return found[-1] if found else None


def read_two_scores(text: str) -> tuple[float, float] | None:
    """Scores of assistant 1 and 2 in a review as BELLE's and BiLLa's judges write them.

    Looked for in turn: `[[8, 6]]`; a first line of two numbers and nothing else; the last `(8, 6)`; the last
    "Assistant 1: 8/10, Assistant 2: 6/10". Numbers above 10 are no scores.
    """
    line = text.strip().partition("\n")[0].strip()
    ways = (
        _IN_BRACKETS.findall(text),
        [found.groups()] if (found := _FIRST_LINE.fullmatch(line)) else [],
        _TUPLE.findall(text),
        _NAMED.findall(text),
    )
    for pairs in ways:
        scores = [(float(one), float(other)) for one, other in pairs]
        in_range = [pair for pair in scores if max(pair) <= HIGHEST]
        if in_range:
            return in_range[-1]
    return None


def choice_of(one: float, other: float) -> Choice:
    """Who of two graded answers is better; C where the grades differ by 0.1 at most."""
    if abs(one - other) <= TIE_MARGIN + 1e-9:
        return "C"
    return "A" if one > other else "B"
