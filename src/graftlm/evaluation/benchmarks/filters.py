"""What is done to a free answer before it is graded."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

from graftlm.evaluation.benchmarks.task_file import CutFilter, Filter, MapFilter, RegexFilter, RemoveFilter

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def apply_filters(texts: Sequence[str], filters: Sequence[Filter]) -> tuple[str, ...]:
    """The texts of one item after all filters, in order."""
    found = tuple(texts)
    for one in filters:
        found = found[:1] if one == "first" else tuple(_filtered(text, one) for text in found)
    return found


def _filtered(text: str, one: Filter) -> str:
    match one:
        case RegexFilter():
            return _match(text, one)
        case RemoveFilter():
            return re.sub(one.remove, "", text)
        case CutFilter():
            return _before(text, [one.until] if isinstance(one.until, str) else one.until)
        case MapFilter():
            return one.map.get(text, text if one.default is None else one.default)
        case "strip":
            return text.strip()
        case "lower":
            return text.lower()
        case "upper":
            return text.upper()
        case "punctuation":
            return text.translate(_PUNCTUATION)
    return text


def _match(text: str, one: RegexFilter) -> str:
    found = re.findall(one.regex, text)
    if not -len(found) <= one.pick < len(found):
        return one.fallback
    match = found[one.pick]
    if isinstance(match, tuple):
        match = next((group for group in match if group), one.fallback)
    return str(match).strip()


def _before(text: str, marks: Sequence[str]) -> str:
    for mark in marks:
        text = text.split(mark)[0]
    return text
