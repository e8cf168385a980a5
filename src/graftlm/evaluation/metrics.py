"""Scores of one answer. Every function judges one item, so that intervals can be computed over items.

Text is compared in both languages alike: a Chinese character is a word of its own, a run of Latin letters or
digits is a word (as the CMRC 2018 evaluation does it), so mixed text needs no switch.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: 0x20, 0x2019: 0x27}
"""Full-width forms to ASCII, the ideographic space to a space, the curly apostrophe to the straight one."""

_FINAL_PUNCTUATION = ".。!?;,:、…·~ \t\r\n"
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_WORD = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+")
_ARTICLES = frozenset({"a", "an", "the"})
_ITEM_SEPARATOR = re.compile(r"[,;、\n]|(?<=\s)and(?=\s)|(?<=[\u4e00-\u9fff])[和与及](?=[\u4e00-\u9fff])")
_BULLET = re.compile(r"^\s*(?:[-*•·]|\(?\d+[.)](?=\s|\D))\s*")

_ABSTENTION = re.compile(
    r"\b(?:do not|don't|did not|didn't) (?:know|have (?:any |enough |the |that )?information)\b"
    r"|\bnot (?:sure|certain)\b"
    r"|\b(?:cannot|can't|can not|unable to|could not|couldn't) (?:answer|say|tell|determine)\b"
    r"|\bno (?:information|idea)\b|\b(?:insufficient|not enough) information\b"
    r"|\b(?:does not|doesn't) (?:say|mention|state|specify)\b|\bnot (?:mentioned|stated|specified)\b"
    r"|不知道|不清楚|不确定|不了解|不太清楚|无法(?:回答|确定|判断|得知|提供)|不能(?:回答|确定)"
    r"|没有(?:相关|足够)?的?(?:信息|资料|提到|提及|说明)|未(?:提及|提到|说明)|无从得知"
)


def normalise(text: str) -> str:
    """Case, width, spacing and final punctuation removed; two answers are the same where this is equal."""
    folded = " ".join(text.translate(_FULL_WIDTH).casefold().split())
    return folded.rstrip(_FINAL_PUNCTUATION) or folded


def split_words(text: str) -> list[str]:
    """Words of a text: each Chinese (or kana) character, other words whole; punctuation is dropped."""
    return _WORD.findall(text.translate(_FULL_WIDTH).casefold())


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """1 where the prediction is one of the references after `normalise`, else 0."""
    return float(normalise(prediction) in {normalise(reference) for reference in references})


def contains_answer(prediction: str, references: Sequence[str]) -> float:
    """1 where a reference stands in the prediction, word for word, else 0 ("5" does not stand in "15")."""
    words = _joined(split_words(prediction))
    return float(any(_joined(split_words(reference)) in words for reference in references))


def _joined(words: Sequence[str]) -> str:
    return f"\0{chr(0).join(words)}\0"


def f_score(hits: float, predicted: float, expected: float) -> float:
    """Harmonic mean of precision and recall; 1 where both sides are empty, 0 where one is."""
    return 2 * hits / (predicted + expected) if predicted + expected else 1.0


def rouge_n(prediction: str, references: Sequence[str], n: int) -> float:
    """ROUGE-N F1 (Lin 2004) against the best reference, in 0..1."""
    return max(_ngram_f(split_words(prediction), split_words(reference), n) for reference in references)


def _ngram_f(prediction: list[str], reference: list[str], n: int) -> float:
    predicted, expected = _ngrams(prediction, n), _ngrams(reference, n)
    return f_score((predicted & expected).total(), predicted.total(), expected.total())


def _ngrams(words: list[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[start : start + n]) for start in range(len(words) - n + 1))


rouge_1 = partial(rouge_n, n=1)
rouge_2 = partial(rouge_n, n=2)


def rouge_l(prediction: str, references: Sequence[str]) -> float:
    """ROUGE-L F1 (Lin 2004), by longest common subsequence, against the best reference, in 0..1."""
    return max(_lcs_f(split_words(prediction), split_words(reference)) for reference in references)


def _lcs_f(prediction: list[str], reference: list[str]) -> float:
    return f_score(common_subsequence(prediction, reference), len(prediction), len(reference))


def common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence, by Hyyrö's bit-parallel method (2004).

    One integer stands for a row of the usual table: its bit i is 0 where the length grows between the
    prefixes of `first` of length i and i + 1, so the answer is the number of zeros. Reading a word of
    `second` moves, in each block of the row, one zero to the earliest match.
    """
    places: dict[str, int] = {}
    for place, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << place
    full = (1 << len(first)) - 1
    row = full
    for word in second:
        matches = row & places.get(word, 0)
        row = ((row + matches) | (row - matches)) & full
    return len(first) - row.bit_count()


def token_f1(prediction: str, references: Sequence[str]) -> float:
    """SQuAD's bag-of-words F1 (English articles dropped) against the best reference, in 0..1."""
    predicted = _bag(prediction)
    return max(
        f_score((predicted & _bag(reference)).total(), predicted.total(), _bag(reference).total())
        for reference in references
    )


def _bag(text: str) -> Counter[str]:
    return Counter(word for word in split_words(text) if word not in _ARTICLES)


@dataclass(frozen=True, slots=True)
class SetCounts:
    """Of one extraction item: what was found rightly, found at all, to be found. Their sums give micro F1."""

    hits: int
    predicted: int
    expected: int


def split_items(answer: str) -> frozenset[str]:
    """The items that an answer lists, normalised: split at commas, semicolons, 、, line breaks, "and", 和."""
    parts = (_BULLET.sub("", part) for part in _ITEM_SEPARATOR.split(answer.translate(_FULL_WIDTH)))
    return frozenset(normalise(part) for part in parts if split_words(part))


def set_counts(prediction: str, expected: Iterable[str]) -> SetCounts:
    """How many of the expected items a listing has found."""
    wanted = frozenset(normalise(item) for item in expected)
    found = _with_whole_items(prediction, wanted)
    return SetCounts(hits=len(found & wanted), predicted=len(found), expected=len(wanted))


def _with_whole_items(prediction: str, wanted: frozenset[str]) -> frozenset[str]:
    """The listed items; an expected one that itself holds a separator ("salt and water") is not torn."""
    text, whole = prediction.translate(_FULL_WIDTH).casefold(), set()
    for item in sorted(wanted, key=len, reverse=True):
        if _ITEM_SEPARATOR.search(item) and item in text:
            whole.add(item)
            text = text.replace(item, ",")
    return split_items(text) | whole


def bits(log_probability: float) -> float:
    """Bits for a natural log-probability; over the UTF-8 bytes of a text they make bits per byte."""
    return -log_probability / math.log(2)


def utf8_bytes(text: str) -> int:
    return len(text.encode("utf-8"))


def abstains(answer: str) -> bool:
    """Whether an answer says that it does not know, in English or Chinese."""
    return _ABSTENTION.search(normalise(answer)) is not None


AnswerMetric = Callable[[str, Sequence[str]], float]

ANSWER_METRICS: dict[str, AnswerMetric] = {
    "exact_match": exact_match,
    "contains": contains_answer,
    "rouge_1": rouge_1,
    "rouge_2": rouge_2,
    "rouge_l": rouge_l,
    "token_f1": token_f1,
}
"""What a free answer is judged by."""
