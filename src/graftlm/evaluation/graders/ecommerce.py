"""EcomGPT's scores (arXiv 2308.06966): label sets, and spans named in lines of "type: a, b".

The released script scores its first five samples only and splits Chinese at spaces for ROUGE, which gives about 0 or 1;
ROUGE-L here counts Chinese by characters and English by words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from types import MappingProxyType
from typing import Any

from graftlm.evaluation.graders.base import Grader, Mark, Reply
from graftlm.evaluation.metrics import SetCounts, normalise, rouge_l

_SEPARATOR = ", "
_NOTHING = "none"

Span = tuple[str, int, int]
"""(type, start, end) in characters of the sentence."""


Count = Callable[[Reply], SetCounts]


def micro_f1(count: Count) -> Grader:
    """F1 over the items of all answers together."""

    def grade(replies: Sequence[Reply]) -> list[Mark]:
        counts = [count(reply) for reply in replies]
        return [(2.0 * one.hits, float(one.predicted + one.expected)) for one in counts]

    return grade


def macro_f1(count: Count) -> Grader:
    """The F1 of the mean precision and the mean recall of the answers; one with an empty side has neither.

    F = 2PR / (P + R) is homogeneous, so it is the mean over answers of dF/dP · p + dF/dR · r: that is an answer's mark.
    Resampling these gives the delta method's interval.
    """

    def grade(replies: Sequence[Reply]) -> list[Mark]:
        counts = [count(reply) for reply in replies]
        precisions = [one.hits / one.predicted if one.predicted else 0.0 for one in counts]
        recalls = [one.hits / one.expected if one.expected else 0.0 for one in counts]
        both = sum(precisions) + sum(recalls)
        if not both:
            return [0.0 for _ in counts]
        by_precision, by_recall = 2 * (sum(recalls) / both) ** 2, 2 * (sum(precisions) / both) ** 2
        return [by_precision * p + by_recall * r for p, r in zip(precisions, recalls, strict=True)]

    return grade


def exact_set(count: Count) -> Grader:
    """The share of answers that list the whole set and nothing else."""

    def grade(replies: Sequence[Reply]) -> list[Mark]:
        counts = [count(reply) for reply in replies]
        return [float(one.hits == one.predicted == one.expected) for one in counts]

    return grade


def joined_rouge_l(replies: Sequence[Reply]) -> list[Mark]:
    """ROUGE-L of the answer and the accepted ones joined by ", "."""
    return [rouge_l(reply.text, [_SEPARATOR.join(reply.answers)]) for reply in replies]


def label_counts(prediction: str, expected: Sequence[str]) -> SetCounts:
    """Hits, predicted and expected of an answer that lists labels, split at ", " as the labels were joined."""
    return _counts(_labels(prediction), _labels(_SEPARATOR.join(expected)))


def span_macro_f1(replies: Sequence[Reply]) -> list[Mark]:
    """The mean over types of their F1 (seqeval's macro average: types that stand in a gold or a found span).

    An answer's mark is linear in its counts, so that the marks' mean is that score and resampling them gives the delta
    method's interval: F = 2H/D of a type changes by (2h - F·d) / D with an answer's h hits and d found and gold spans.
    """
    pairs = [_found_and_gold(reply) for reply in replies]
    kinds = sorted({kind for found, gold in pairs for kind, _, _ in found | gold})
    if not kinds:
        return [1.0 for _ in replies]
    marks = [0.0] * len(replies)
    for kind in kinds:
        counts = [_of_kind(found, gold, kind) for found, gold in pairs]
        sizes = [one.predicted + one.expected for one in counts]
        f1 = 2 * sum(one.hits for one in counts) / sum(sizes)
        for place, (one, size) in enumerate(zip(counts, sizes, strict=True)):
            marks[place] += (f1 + len(replies) * (2 * one.hits - f1 * size) / sum(sizes)) / len(kinds)
    return list(marks)


def _found_and_gold(reply: Reply) -> tuple[frozenset[Span], frozenset[Span]]:
    """The spans that an answer names in lines of "type: a, b" ("None" is none), and those of the row.

    Terms are looked up in the sentence at all their places, as the released script does; a span counts by type and
    place.
    """
    sentence = reply.row["sentences"]
    gold = [(span["type"], span["term"]) for span in reply.row["spans"]]
    return _spans(sentence, _listed(reply.text)), _spans(sentence, gold)


def _of_kind(found: frozenset[Span], gold: frozenset[Span], kind: str) -> SetCounts:
    return _counts(*(frozenset(span for span in spans if span[0] == kind) for spans in (found, gold)))


def _counts(found: Set[Any], expected: Set[Any]) -> SetCounts:
    return SetCounts(hits=len(found & expected), predicted=len(found), expected=len(expected))


def _labels(text: str) -> frozenset[str]:
    parts = text.strip().rstrip(".").split(_SEPARATOR)
    return frozenset(normalise(part) for part in parts if part.strip())


def _listed(text: str) -> list[tuple[str, str]]:
    """(type, term) of every line "type: a, b"; other lines say nothing."""
    found = []
    for line in text.splitlines():
        kind, colon, terms = line.replace("：", ":").partition(":")
        if not colon:
            continue
        for term in terms.split(_SEPARATOR):
            if term.strip() and normalise(term) != _NOTHING:
                found.append((kind.strip(), term.strip()))
    return found


def _spans(sentence: str, named: Iterable[tuple[str, str]]) -> frozenset[Span]:
    """Spans by BIO tags: a later term overwrites what it overlaps, so no character has two types (seqeval)."""
    tags: list[tuple[str, bool]] = [("", True)] * len(sentence)
    for kind, term in named:
        for start in _places(sentence, term):
            tags[start : start + len(term)] = [(kind, place == 0) for place in range(len(term))]
    return frozenset(_read_spans(tags))


def _places(sentence: str, term: str) -> list[int]:
    return [start for start in range(len(sentence) - len(term) + 1) if sentence.startswith(term, start)]


def _read_spans(tags: Sequence[tuple[str, bool]]) -> list[Span]:
    """The runs of one type; a run ends at another type, at no type, and where a new term begins."""
    spans, start = [], 0
    for place in range(1, len(tags) + 1):
        goes_on = place < len(tags) and tags[place][0] == tags[start][0] and not tags[place][1]
        if goes_on:
            continue
        if tags[start][0]:
            spans.append((tags[start][0], start, place))
        start = place
    return spans


def _reply_labels(reply: Reply) -> SetCounts:
    return label_counts(reply.text, reply.answers)


def _reply_spans(reply: Reply) -> SetCounts:
    return _counts(*_found_and_gold(reply))


ECOMMERCE_GRADERS: MappingProxyType[str, Grader] = MappingProxyType(
    {
        "label_micro_f1": micro_f1(_reply_labels),
        "label_macro_f1": macro_f1(_reply_labels),
        "label_exact_set": exact_set(_reply_labels),
        "label_rouge_l": joined_rouge_l,
        "span_micro_f1": micro_f1(_reply_spans),
        "span_macro_f1": span_macro_f1,
        "span_exact_set": exact_set(_reply_spans),
    }
)
"""name → grader; spans need the row's `sentences` and `spans` ({type, term})."""
