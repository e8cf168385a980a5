"""Blank infilling: text with spans cut out of it, and the spans to be filled in (GLM, arXiv 2103.10360; GLM-130B,
arXiv 2210.02414).

Three kinds of blanks:
- MASK: 15 % of the tokens, in spans whose lengths are Poisson(3). An empty span teaches nothing, so lengths are drawn
  from 1 to 39, as GLM's code does; their mean is then 3.16.
- sMASK: whole sentences, drawn until 15 % of the tokens are masked.
- gMASK: one tail of the text, at least 0.2 of it.

A sample is its context, where each blank is one mark, and behind it the spans: `sop` and the span for each, in random
order. At the blank's mark stand all positions of a MASK or sMASK span, whose end is to be predicted, too (`eop`). The
positions of a gMASK tail go on behind the context, and it ends as the text does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from graftlm.ops.cross_entropy import IGNORE

MASK, SMASK, GMASK = 0, 1, 2
Kind = Literal["mask", "smask", "gmask"]
KINDS: tuple[Kind, ...] = ("mask", "smask", "gmask")

LONGEST_SPAN = 39
SENTENCE_ENDS = (".", "?", "!", "。", "？", "！", "…", "\n")


@dataclass(frozen=True)
class Marks:
    """Token ids: the three marks of a blank, and where what fills it begins and ends."""

    mask: int
    smask: int
    gmask: int
    sop: int
    eop: int

    def of(self, kind: int) -> int:
        return (self.mask, self.smask, self.gmask)[kind]


@dataclass(frozen=True)
class Masking:
    """How text is masked.

    Attributes:
        shares: share of the tokens of MASK, sMASK and gMASK samples.
        ratio: of the tokens of a MASK or sMASK sample that are masked.
        span: mean of the Poisson distribution of span lengths.
        least_tail: least share of a text that a gMASK leaves out.
        window: tokens of a MASK or sMASK sample; longer texts are cut into equal parts.
    """

    shares: tuple[float, float, float] = (0.3, 0.0, 0.7)
    ratio: float = 0.15
    span: float = 3.0
    least_tail: float = 0.2
    window: int = 512


@dataclass(frozen=True)
class Spans:
    """Spans of n samples, ascending and apart in each.

    Attributes:
        starts, lengths: [S] all spans, sample after sample.
        owner: [S] the sample of each, ascending.
    """

    starts: np.ndarray
    lengths: np.ndarray
    owner: np.ndarray

    def edges(self, samples: int) -> np.ndarray:
        """[samples + 1] where the spans of each sample begin."""
        return np.searchsorted(self.owner, np.arange(samples + 1))


@dataclass(frozen=True)
class BlankSample:
    """One sample of n tokens.

    Attributes:
        tokens, positions, targets: [n] int64; IGNORE where nothing is to be predicted.
        context: how many of the tokens, from the first, see each other both ways; the rest is causal.
    """

    tokens: np.ndarray
    positions: np.ndarray
    targets: np.ndarray
    context: int


def span_probabilities(mean: float) -> np.ndarray:
    """[39] probabilities of the lengths 1, 2 … 39: Poisson's, without the empty span."""
    weights = np.cumprod(mean / np.arange(1, LONGEST_SPAN + 1))
    return weights / weights.sum()


def draw_spans(sizes_n: np.ndarray, random: np.random.Generator, *, ratio: float, mean: float) -> Spans:
    """Spans at random places, at least one token apart, that are `ratio` of the tokens on average.

    The number of spans is drawn before their lengths, so neither is bent by the other. A sample of fewer than about
    20 tokens has one span nevertheless, no longer than what leaves it one token; one of a single token has none.
    """
    p = span_probabilities(mean)
    expected = float(p @ np.arange(1, LONGEST_SPAN + 1))
    counts_n = np.floor(ratio * sizes_n / expected + random.random(len(sizes_n))).astype(np.int64)
    owner = np.repeat(np.arange(len(sizes_n)), np.where(sizes_n > 1, np.maximum(counts_n, 1), 0))
    drawn = np.searchsorted(np.cumsum(p), random.random(len(owner))).clip(max=LONGEST_SPAN - 1) + 1
    lengths = np.minimum(drawn, sizes_n[owner] - 1)
    fits = _before(lengths + 1, owner) + lengths + 1 <= sizes_n[owner]
    owner, lengths = owner[fits], lengths[fits]
    taken_n = np.bincount(owner, lengths + 1, minlength=len(sizes_n)).astype(np.int64)
    places = random.integers(0, (sizes_n - taken_n + 2)[owner])  # free tokens: all but the spans and those between
    places = places[np.lexsort((places, owner))]
    return Spans(places + _before(lengths + 1, owner), lengths, owner)


def draw_tails(sizes_n: np.ndarray, random: np.random.Generator, *, least: float) -> Spans:
    """The last u of each sample, u uniform from `least` to 1."""
    shares_n = least + (1 - least) * random.random(len(sizes_n))
    lengths_n = np.minimum(np.ceil(shares_n * sizes_n).astype(np.int64), sizes_n)
    owner = np.flatnonzero(lengths_n)
    return Spans((sizes_n - lengths_n)[owner], lengths_n[owner], owner)


def draw_sentences(
    ends_T: np.ndarray, random: np.random.Generator, *, ratio: float, most: int
) -> tuple[np.ndarray, np.ndarray]:
    """(starts, lengths) of whole sentences, drawn until `ratio` of the tokens are masked; none of a single sentence.

    Args:
        ends_T: [T] bool, whether a sentence ends with the token.
        most: sentences at most.
    """
    stops = np.union1d(np.flatnonzero(ends_T) + 1, [len(ends_T)])
    lengths = np.diff(stops, prepend=0)
    order = random.permutation(len(stops))
    enough = int(np.searchsorted(np.cumsum(lengths[order]), ratio * len(ends_T))) + 1
    chosen = np.sort(order[: min(enough, most, len(stops) - 1)])
    return (stops - lengths)[chosen], lengths[chosen]


def sentence_ends(tokenizer: Any) -> np.ndarray:
    """[V] bool: whether a token's text ends as sentences do."""
    texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
    return np.array([text.rstrip(" ").endswith(SENTENCE_ENDS) for text in texts])


def expanded_lengths(sizes_n: np.ndarray, kinds_n: np.ndarray, counts_n: np.ndarray) -> np.ndarray:
    """Tokens of samples of text of so many tokens with so many spans."""
    return sizes_n + np.where(kinds_n == GMASK, 1, 2 * counts_n)


def blank_sample(
    tokens: np.ndarray, starts: Sequence[int], lengths: Sequence[int], kind: int, marks: Marks, order: Sequence[int]
) -> BlankSample:
    """Cut the spans out of the text.

    Args:
        starts, lengths: the spans, ascending; of a gMASK one, at the end.
        order: of the spans behind the context.
    """
    tokens = tokens.astype(np.int64)
    mark, sop, eop = (np.array([mark]) for mark in (marks.of(kind), marks.sop, marks.eop))
    edges = [0, *(edge for a, n in zip(starts, lengths, strict=True) for edge in (a, a + n)), len(tokens)]
    spans = [tokens[a : a + n] for a, n in zip(starts, lengths, strict=True)]
    kept = [tokens[a:b] for a, b in zip(edges[0::2], edges[1::2], strict=True)]
    context = np.concatenate([kept[0], *(piece for after in kept[1:] for piece in (mark, after))])
    places = np.cumsum([len(piece) + 1 for piece in kept[:-1]]) - 1  # of the marks in the context
    C = len(context)
    if kind == GMASK:
        filled, wanted = [sop, spans[0][:-1]], [spans[0]]
        positions = np.arange(C + len(spans[0]))
    else:
        filled = [piece for k in order for piece in (sop, spans[k])]
        wanted = [piece for k in order for piece in (spans[k], eop)]
        positions = np.concatenate([np.arange(C), *(np.full(lengths[k] + 1, places[k]) for k in order)])
    targets = np.concatenate([np.full(C, IGNORE), *wanted])
    return BlankSample(np.concatenate([context, *filled]), positions, targets, C)


def _before(values: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """For each value the sum of those before it that have the same owner."""
    if not len(values):
        return values
    sums = np.cumsum(values) - values
    return sums - sums[np.searchsorted(owner, owner)]
