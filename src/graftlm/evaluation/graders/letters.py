"""The option letters that a written answer names: one, or all of several (AGIEval, C-Eval, CMMLU, JEC-QA).

AGIEval (arXiv 2304.06364) takes the first capital letter of the text, so "Answer: B" counts as A. Here a letter must
stand alone, and what follows the words that announce an answer comes first.
"""

from __future__ import annotations

import re

_ANNOUNCED = re.compile(
    r"(?:answers?|option|choice)\s+(?:is|are)\b|answer\s*[:：]|\[正确答案\]|答案\s*(?:是|为|[:：]|(?=[A-J(（]))|"
    r"选项\s*(?:是|为|[:：])|(?<!不)选(?!项|出|择题)",
    re.IGNORECASE,
)
_RUN = re.compile(r"(?<![A-Za-z0-9])[A-J]{1,10}(?![A-Za-z0-9])")
_AFTER_ANNOUNCEMENT = 40  # characters: "The answer is therefore option (B) …"
_LETTER = re.compile(r"(?<![A-Za-z0-9])[A-J](?![A-Za-z0-9])")
_NO_WORD = re.compile(
    r"(?<![A-Za-z0-9])(?:[B-HJ]|A(?! (?!is\b|was\b|because\b|and\b|or\b)[a-z])|I(?!['’ ][a-z]))(?![A-Za-z0-9])"
)


def said_letter(text: str) -> str | None:
    """The one letter of an answer: the first behind the last announcement that has one, else the first alone.

    Alone, an "A" or "I" that is a word ("A good guess", "I think") is no answer.
    """
    for part in reversed(_announced_parts(text)):
        found = _LETTER.search(part)
        if found:
            return found[0]
    alone = _NO_WORD.search(text)
    return alone[0] if alone else None


def said_letters(text: str) -> frozenset[str]:
    """All letters of an answer to a question with several right options: "AC", "A、C", "(A)(C)", "A and C"."""
    for part in reversed(_announced_parts(text)):
        found = _RUN.findall(part)
        if found:
            return frozenset("".join(found))
    return frozenset("".join(_RUN.findall(text)))


def _announced_parts(text: str) -> list[str]:
    """What follows each announcement, to the end of its line or of LawBench's `<eoa>`."""
    parts = [text[found.end() :] for found in _ANNOUNCED.finditer(text)]
    return [re.split(r"[\n<。]", part.lstrip(), maxsplit=1)[0][:_AFTER_ANNOUNCEMENT] for part in parts]
