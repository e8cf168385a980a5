"""Exact match and F1 of a span read from a passage.

SQuAD 1.1 (arXiv 1606.05250), SQuAD 2.0 (arXiv 1806.03822), CMRC 2018 (arXiv 1810.07366), CJRC (arXiv 1912.09156).
Each has its own rule for what is a word and what is overlap; scores of one are not scores of another.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

from graftlm.evaluation.metrics import f_score

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_CMRC_PUNCTUATION = frozenset("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")  # no ASCII comma or dot
_CMRC_PIECE = re.compile(r"[\u4e00-\u9fa5]|\d+(?:[.,]\d+)+|[^\W\u4e00-\u9fa5]+|[^\s\w]")


def squad_scores(prediction: str, references: Sequence[str]) -> tuple[float, float]:
    """(exact match, F1) in 0…1 against the best reference; words, without case, articles and ASCII punctuation.

    SQuAD 2.0's unanswerable questions are those without reference: an answer without words is right there.
    """
    said = _english_words(prediction)
    words = [_english_words(reference) for reference in references] or [[]]
    return float(said in words), max(_overlap(said, one) for one in words)


def cmrc_scores(prediction: str, references: Sequence[str]) -> tuple[float, float]:
    """(exact match, F1) in 0…1 against the best reference; a Chinese character counts as a word.

    Exact match compares what is left without the script's list of punctuation. F1 is of the longest common
    substring's length, as the official evaluation has it, not of a bag of words. Its English words come from NLTK;
    here they are numbers and runs of letters, which differs for contractions ("don't").
    """
    said = _mixed_pieces(prediction)
    pieces = [_mixed_pieces(reference) for reference in references]
    exact = float(_without_punctuation(prediction) in [_without_punctuation(one) for one in references])
    return exact, max((_run_overlap(said, one) for one in pieces), default=0.0)


def character_f1(prediction: str, reference: str) -> float:
    """F1 of the bags of letters and digits, in 0…1: CJRC's rule, which LawBench calls soft F1."""
    return _overlap(_characters(prediction), _characters(reference))


def _english_words(text: str) -> list[str]:
    bare = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return _ARTICLES.sub(" ", bare).split()


def _without_punctuation(text: str) -> str:
    return "".join(letter for letter in text.lower().strip() if letter not in _CMRC_PUNCTUATION)


def _mixed_pieces(text: str) -> list[str]:
    return _CMRC_PIECE.findall(_without_punctuation(text))


def _characters(text: str) -> list[str]:
    return [letter for letter in text.lower() if letter.isdigit() or letter.isalpha()]


def _overlap(said: Sequence[str], reference: Sequence[str]) -> float:
    common = (Counter(said) & Counter(reference)).total()
    return f_score(common, len(said), len(reference))


def _run_overlap(said: Sequence[str], reference: Sequence[str]) -> float:
    run = _longest_run(said, reference)
    return f_score(run, len(said), len(reference)) if run else 0.0


def _longest_run(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest run of pieces that both hold, by the usual table, one row kept."""
    longest, above = 0, [0] * (len(second) + 1)
    for piece in first:
        row = [0] * (len(second) + 1)
        for place, other in enumerate(second, 1):
            row[place] = above[place - 1] + 1 if piece == other else 0
        longest, above = max(longest, *row), row
    return longest
