"""EcomGPT's scores (arXiv 2308.06966): label sets, and spans named in lines of "type: a, b".

The released script scores its first five samples only and splits Chinese at spaces for ROUGE, which gives about 0 or 1;
ROUGE-L here counts Chinese by characters and English by words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from graftlm.evaluation.metrics import SetCounts, normalise

_SEPARATOR = ", "
_NOTHING = "none"

Span = tuple[str, int, int]
"""(type, start, end) in characters of the sentence."""


def label_counts(prediction: str, expected: Sequence[str]) -> SetCounts:
    """Hits, predicted and expected of an answer that lists labels, split at ", " as the labels were joined."""
    found, wanted = _labels(prediction), _labels(_SEPARATOR.join(expected))
    return SetCounts(hits=len(found & wanted), predicted=len(found), expected=len(wanted))


def span_counts(prediction: str, sentence: str, expected: Iterable[tuple[str, str]]) -> SetCounts:
    """Hits, predicted and expected spans of an answer with a line for each type; a span counts by type and place.

    Args:
        prediction: lines of "type: a, b"; "None" stands for no span.
        sentence: where the terms are looked up, at all places, as the released script does.
        expected: (type, term) of every gold span.
    """
    found = _spans(sentence, _listed(prediction))
    wanted = _spans(sentence, expected)
    return SetCounts(hits=len(found & wanted), predicted=len(found), expected=len(wanted))


def _labels(text: str) -> frozenset[str]:
    parts = text.strip().rstrip(".").split(_SEPARATOR)
    return frozenset(normalise(part) for part in parts if part.strip())


def _listed(text: str) -> list[tuple[str, str]]:
    """(type, term) of every line "type: a, b"; other lines say nothing."""
    found = []
    for line in text.splitlines():
        kind, colon, terms = line.partition(":")
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
