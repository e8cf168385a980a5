"""Stretches of test passages that stand in training texts: the passages' n-grams are held, the texts stream by.

A unit is a word, or one character of Chinese or kana (`metrics.split_words`: case, width, spacing and punctuation do
not count). Memory grows with the passages only: a word of a training text that no passage has becomes the unit 0,
which matches nothing.

Shapes: T units of a batch of training texts, G distinct n-grams of one width, P places of n-grams in passages.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from graftlm.evaluation.metrics import split_words

N = 13
"""Units in a row that must agree (GPT-3, arXiv 2005.14165, appendix C)."""
SHORTEST = 8
"""A passage of 8 to 12 units must agree as a whole; 8 is GPT-3's least n. A shorter one cannot be judged."""
SKIPS = 4
"""Units that may differ behind the first n (LLaMA 2, arXiv 2307.09288, appendix A.6)."""
MOST_PASSAGES = 10
MOST_TEXTS = 100
"""An n-gram in more passages, or in more different training texts, is a turn of phrase and no evidence."""

_BASE = 0x9E3779B97F4A7C15

Units = NDArray[np.uint32]
Hashes = NDArray[np.uint64]
Places = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Stretch:
    """Where a training text agrees with a passage.

    Attributes:
        passage, text: their numbers; `text` counts from the first text of the batch.
        covered: [units of the passage] bool, what agrees.
        exact: units that agree without a gap.
        grams: numbers of the n-grams that it was found by, among those of the passage's width.
    """

    passage: int
    text: int
    covered: NDArray[np.bool_]
    exact: int
    grams: Places


@dataclass(frozen=True, slots=True)
class Phrase:
    """An n-gram that is no evidence, and in how many passages and different texts it was met."""

    words: str
    passages: int
    texts: int


class _Table:
    """The n-grams of one width: `grams` [G] sorted, and of each the (passage, place) that have it, [P]."""

    def __init__(self, width: int, grams: Hashes, passages: Places, places: Places) -> None:
        order = np.argsort(grams, kind="stable")
        self.width = width
        self.grams, first = np.unique(grams[order], return_index=True)
        self.first = np.append(first, len(grams))
        self.passages, self.places = passages[order], places[order]
        pairs = np.unique(np.stack([np.repeat(np.arange(len(self.grams)), np.diff(self.first)), self.passages]), axis=1)
        self.in_passages = np.bincount(pairs[0], minlength=len(self.grams))
        self.in_texts = np.zeros(len(self.grams), dtype=np.int64)
        # Most n-grams of a text are settled by one look into a table that fits the cache.
        bits = max(16, (len(self.grams) * 8).bit_length())
        self._shift = np.uint64(64 - bits)
        self._maybe = np.zeros(1 << bits, dtype=bool)
        self._maybe[self.grams >> self._shift] = True

    @property
    def rare(self) -> NDArray[np.bool_]:
        """[G]: whether an n-gram is evidence, as far as the texts so far tell."""
        return (self.in_passages <= MOST_PASSAGES) & (self.in_texts <= MOST_TEXTS)

    def find(self, hashes: Hashes) -> tuple[Places, Places]:
        """(places in `hashes`, numbers of the n-grams) of those that the table holds."""
        at = np.flatnonzero(self._maybe[hashes >> self._shift])
        number = np.minimum(np.searchsorted(self.grams, hashes[at]), len(self.grams) - 1)
        held = self.grams[number] == hashes[at]
        return at[held], number[held]


class PassageIndex:
    """The n-grams of test passages."""

    def __init__(self, passages: Sequence[str], *, n: int = N) -> None:
        """
        Args:
            passages: questions, answers, documents.
            n: units in a row that must agree; a passage of `SHORTEST` to n - 1 must agree as a whole.

        Raises:
            ValueError: n below `SHORTEST`.
        """
        if n < SHORTEST:
            raise ValueError(f"n is {n}; chance alone makes stretches of fewer than {SHORTEST} agree")
        self._n = n
        self._vocabulary: dict[str, int] = {}
        number = self._vocabulary.setdefault
        self.units: list[Units] = [
            np.array([number(word, len(self._vocabulary) + 1) for word in split_words(text)], dtype=np.uint32)
            for text in passages
        ]
        self._words = ["", *self._vocabulary]
        self._values = _scattered(np.arange(len(self._words), dtype=np.uint64))
        self._seen: set[int] = set()
        by_width: dict[int, list[int]] = defaultdict(list)
        for passage, units in enumerate(self.units):
            if len(units) >= SHORTEST:
                by_width[min(n, len(units))].append(passage)
        self._tables = {width: self._table(width, passages) for width, passages in by_width.items()}

    def _table(self, width: int, passages: list[int]) -> _Table:
        grams = [_windows(self._values[self.units[passage]], width) for passage in passages]
        places = [np.arange(len(one)) for one in grams]
        owners = np.repeat(passages, [len(one) for one in grams])
        return _Table(width, np.concatenate(grams), owners, np.concatenate(places))

    def is_judged(self, passage: int) -> bool:
        """Whether the passage is long enough to be told from chance."""
        return len(self.units[passage]) >= SHORTEST

    def search(self, texts: Sequence[str]) -> list[Stretch]:
        """Stretches that a batch of training texts shares with the passages; a text that was met before is skipped.

        An n-gram of `MOST_TEXTS` texts so far is not looked at; `is_evidence` judges at the end.
        """
        lookup = self._vocabulary.get
        units_T = array("I")
        ends = np.empty(len(texts), dtype=np.int64)
        for text, content in enumerate(texts):
            units_T.extend(map(lookup, split_words(content), repeat(0)))
            units_T.append(0)  # parts two texts
            ends[text] = len(units_T)
        return self._search(np.frombuffer(units_T, dtype=np.uint32), ends, texts)

    def _search(self, units_T: Units, ends: Places, texts: Sequence[str]) -> list[Stretch]:
        unknown = np.cumsum(np.append(0, units_T == 0))
        found: list[Stretch] = []
        fresh: dict[int, bool] = {}
        for width, table in self._tables.items():
            if len(units_T) < width:
                continue
            whole = np.flatnonzero(unknown[width:] == unknown[:-width])
            at, grams = table.find(_windows(self._values[units_T], width)[whole])
            at = whole[at]
            owners = np.searchsorted(ends, at, side="right")
            for text in np.unique(owners).tolist():
                fresh[text] = fresh[text] if text in fresh else self._is_new(texts[text])
            new = np.array([fresh[text] for text in owners.tolist()], dtype=bool)
            at, grams, owners = at[new], grams[new], owners[new]
            _count(table, owners, grams)
            found += self._stretches(table, units_T, ends, at, grams)
        return found

    def _is_new(self, text: str) -> bool:
        key = hash(text)
        new = key not in self._seen
        self._seen.add(key)
        return new

    def _stretches(
        self, table: _Table, units_T: Units, ends: Places, at: Places, grams: Places
    ) -> Iterator[Stretch]:
        """N-grams that follow one another in a text and in a passage make one stretch."""
        rare = table.rare[grams]
        at, grams = at[rare], grams[rare]
        counts = np.diff(table.first)[grams]
        step = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        owner = np.repeat(table.first[grams], counts) + step
        passage, place = table.passages[owner], table.places[owner]
        at, grams = np.repeat(at, counts), np.repeat(grams, counts)
        order = np.lexsort((at, at - place, passage))
        passage, place, at, grams = passage[order], place[order], at[order], grams[order]
        breaks = (np.diff(passage) != 0) | (np.diff(at) != 1) | (np.diff(place) != 1)
        for run in np.split(np.arange(len(at)), np.flatnonzero(breaks) + 1):
            if not len(run):
                continue
            text = int(np.searchsorted(ends, at[run[0]], side="right"))
            begin = int(ends[text - 1]) if text else 0
            row = units_T[begin : ends[text] - 1]
            covered, exact = agreement(row, self.units[passage[run[0]]], int(at[run[0]]) - begin, int(place[run[0]]))
            if exact >= table.width:  # else two n-grams have one hash
                yield Stretch(int(passage[run[0]]), text, covered, exact, grams[run])

    def is_evidence(self, stretch: Stretch) -> bool:
        """Whether some n-gram of a stretch is rare, now that all texts have been seen."""
        table = self._tables[min(self._n, len(self.units[stretch.passage]))]
        return bool(table.rare[stretch.grams].any())

    def words(self, passage: int, covered: NDArray[np.bool_]) -> str:
        """The covered units of a passage as text, gaps as …"""
        places = np.flatnonzero(covered)
        runs = np.split(places, np.flatnonzero(np.diff(places) != 1) + 1)
        return " … ".join(joined([self._words[unit] for unit in self.units[passage][run]]) for run in runs)

    def phrases(self) -> list[Phrase]:
        """What was found often enough not to count, the most frequent first."""
        found = []
        for width, table in self._tables.items():
            for gram in np.flatnonzero(~table.rare & (table.in_texts > 0)).tolist():
                passage, place = table.passages[table.first[gram]], table.places[table.first[gram]]
                words = joined([self._words[unit] for unit in self.units[passage][place : place + width]])
                found.append(Phrase(words, int(table.in_passages[gram]), int(table.in_texts[gram])))
        return sorted(found, key=lambda one: (-one.texts, -one.passages, one.words))


def agreement(row: Units, passage: Units, at: int, place: int) -> tuple[NDArray[np.bool_], int]:
    """What of a passage agrees with a training text, laid so that its `place` falls on the text's `at`.

    LLaMA 2's rule: an exact stretch, then at most `SKIPS` units that differ (each stands for one), the last unit
    agreeing. Units that differ are not covered.

    Returns:
        covered [units of the passage] bool, and the length of the exact stretch.
    """
    before = min(at, place)
    size = before + min(len(row) - at, len(passage) - place)
    same = row[at - before : at - before + size] == passage[place - before : place - before + size]
    differ = np.flatnonzero(~same)
    after = np.searchsorted(differ, before)
    left = int(differ[after - 1]) + 1 if after else 0
    right = int(differ[after]) if after < len(differ) else size
    last = int(differ[after + SKIPS]) if after + SKIPS < len(differ) else size
    covered = np.zeros(len(passage), dtype=bool)
    covered[place - before + left : place - before + last] = same[left:last]
    return covered, max(0, right - left)


def joined(words: Sequence[str]) -> str:
    """Words with spaces between them, Chinese characters without."""
    text = ""
    for word in words:
        text += " " + word if text and (text[-1] < "\u3040" or word[0] < "\u3040") else word
    return text


def _count(table: _Table, owners: Places, grams: Places) -> None:
    """Add the texts of a batch to the n-grams' counts: each text once."""
    pairs = np.unique(np.stack([owners, grams]), axis=1)
    table.in_texts += np.bincount(pairs[1], minlength=len(table.grams))


def _scattered(values: Hashes) -> Hashes:
    """Distinct numbers over the whole range (the finaliser of splitmix64)."""
    values = (values + np.uint64(1)) * np.uint64(_BASE)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _windows(values: Hashes, width: int) -> Hashes:
    """[T - width + 1]: the hash Σ value·baseʲ of every window, modulo 2⁶⁴.

    The base is odd, so it has an inverse, and a window is a difference of two sums over all that precedes: the price
    does not depend on the width.
    """
    base = np.full(len(values), _BASE, dtype=np.uint64)
    base[:1] = 1
    sums = np.append(np.uint64(0), np.cumsum(values * np.cumprod(base), dtype=np.uint64))
    inverse = np.full(len(values) - width + 1, pow(_BASE, -1, 1 << 64), dtype=np.uint64)
    inverse[:1] = 1
    return (sums[width:] - sums[:-width]) * np.cumprod(inverse, dtype=np.uint64)
