"""Counting sentences and words the way instructions mean them, without a trained splitter."""

from __future__ import annotations

import re
from itertools import pairwise

_ABBREVIATIONS = (
    "mr mrs ms dr prof st jr sr vs etc inc ltd co corp no vol fig dept est gen col capt lt sgt rev hon approx"
    " jan feb mar apr jun jul aug sep sept oct nov dec e.g i.e cf al u.s u.k a.m p.m ph.d"
)
_SHORT = frozenset(_ABBREVIATIONS.split())
"""Words whose full stop does not end a sentence."""

_END = re.compile(r"(?P<before>\S*?)(?P<mark>[.!?。！？]+[\"'”’)\]*]*)(?=\s+(?P<after>\S)|$)")
_TOKEN = re.compile(r"\w+(?:[-.']\w+)*")


def count_sentences(text: str) -> int:
    """Sentences of a text: a mark . ! ? at a word's end, unless after an abbreviation, an initial or a list's number.

    Follows the behaviour of nltk's trained Punkt splitter, which IFEval used, on ordinary prose; the two may
    differ by a sentence where abbreviations are unusual.
    """
    ends = [match.end() for match in _END.finditer(text) if _ends_sentence(match)]
    bounds = [0, *ends, len(text)]
    return sum(bool(text[start:end].strip()) for start, end in pairwise(bounds))


def split_tokens(text: str) -> list[str]:
    """Words with their inner hyphens, full stops and apostrophes, as capital letters are counted by."""
    return _TOKEN.findall(text)


def _ends_sentence(match: re.Match[str]) -> bool:
    word, after = match["before"].strip("\"'“‘([*").casefold(), match["after"]
    if not match["mark"].startswith(".") or match["mark"].startswith(".."):
        return not (match["mark"].startswith("..") and after is not None and after.islower())
    if after is None:
        return True
    is_initial = len(word) == 1 and word.isalpha() and word != "i"
    return not (word in _SHORT or is_initial or after.islower())
