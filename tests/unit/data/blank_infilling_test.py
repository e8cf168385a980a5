"""Masks have the shares and lengths that they are to have; a sample holds what was cut out, where it belongs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from graftlm.data.blank_infilling import (
    GMASK,
    MASK,
    SMASK,
    Marks,
    blank_sample,
    draw_sentences,
    draw_spans,
    draw_tails,
    expanded_lengths,
    sentence_ends,
    span_probabilities,
)
from graftlm.ops.cross_entropy import IGNORE

MARKS = Marks(mask=3, smask=4, gmask=5, sop=6, eop=7)
SAMPLES, TOKENS = 100_000, 512
Z = 3.29  # of a two-sided interval of 99.9 %


@pytest.fixture(scope="module")
def spans():
    """Those of 100,000 samples of 512 tokens."""
    return draw_spans(np.full(SAMPLES, TOKENS), np.random.default_rng(0), ratio=0.15, mean=3.0)


def interval(values: np.ndarray) -> tuple[float, float]:
    middle, half = values.mean(), Z * values.std() / math.sqrt(len(values))
    return middle - half, middle + half


def test_fifteen_percent_are_masked(spans):
    low, high = interval(np.bincount(spans.owner, spans.lengths, minlength=SAMPLES) / TOKENS)
    assert low < 0.15 < high
    assert high - low < 0.001, "the interval must be narrow enough to tell"


def test_lengths_are_poisson_without_the_empty_span(spans):
    drawn = np.bincount(spans.lengths, minlength=40)[1:]
    k = np.arange(1, 40)
    poisson = np.exp(-3.0 + k * math.log(3) - np.array([math.lgamma(n + 1) for n in k]))
    expected = poisson / (1 - math.exp(-3)) * len(spans.lengths)
    np.testing.assert_allclose(span_probabilities(3.0), poisson / poisson.sum(), rtol=1e-12)
    likely = expected > 100
    chi_square = float((((drawn - expected) ** 2) / expected)[likely].sum())
    freedom = int(likely.sum()) - 1
    assert chi_square < freedom + Z * math.sqrt(2 * freedom) + 4
    low, high = interval(spans.lengths)
    assert low < 3 / (1 - math.exp(-3)) < high
    # Poisson(3.2) and an empty span kept would both be seen.
    assert not low < 3.2 / (1 - math.exp(-3.2)) < high
    assert not low < 3.0 < high


def test_spans_are_apart_and_anywhere(spans):
    same = spans.owner[1:] == spans.owner[:-1]
    ends = spans.starts + spans.lengths
    assert (spans.starts[1:] > ends[:-1])[same].all()
    assert spans.starts.min() == 0
    assert ends.max() == TOKENS
    covered = np.zeros(TOKENS + 1)
    np.add.at(covered, spans.starts, 1)
    np.add.at(covered, ends, -1)
    share = np.cumsum(covered)[:-1] / SAMPLES
    assert abs(share[20:-20] - 0.15).max() < 0.006, "no place is masked more often than another"


def test_tails_are_uniform_above_a_fifth():
    tails = draw_tails(np.full(SAMPLES, 2047), np.random.default_rng(1), least=0.2)
    shares = tails.lengths / 2047
    assert shares.min() >= 0.2
    assert (tails.starts + tails.lengths == 2047).all()
    low, high = interval(shares)
    assert low < 0.6 + 0.5 / 2047 < high  # rounding up adds half a token
    counts = np.histogram(shares, np.linspace(0.2, 1, 9))[0]
    assert (abs(counts - SAMPLES / 8) < Z * math.sqrt(SAMPLES / 8)).all()


@pytest.mark.parametrize("size", [0, 1, 2, 3, 10, 40])
def test_short_texts_have_one_span_and_keep_a_token(size):
    spans = draw_spans(np.full(2000, size), np.random.default_rng(2), ratio=0.15, mean=3.0)
    if size < 2:
        assert len(spans.owner) == 0
        return
    assert (np.bincount(spans.owner, minlength=2000) >= 1).all()
    masked = np.bincount(spans.owner, spans.lengths, minlength=2000)
    assert masked.max() < size
    assert spans.starts.min() >= 0
    assert (spans.starts + spans.lengths).max() <= size


def test_the_same_seed_draws_the_same_spans():
    sizes = np.random.default_rng(0).integers(2, 600, 100)
    one, same, other = (draw_spans(sizes, np.random.default_rng(n), ratio=0.15, mean=3.0) for n in (4, 4, 5))
    assert np.array_equal(one.starts, same.starts)
    assert not np.array_equal(one.starts[:50], other.starts[:50])


def test_whole_sentences_until_fifteen_percent():
    random, ends = np.random.default_rng(0), np.zeros(200, bool)
    ends[9::10] = True  # twenty sentences of ten tokens: three are 15 %
    counts = np.zeros(20)
    for _ in range(2000):
        starts, lengths = draw_sentences(ends, random, ratio=0.15, most=100)
        assert lengths.tolist() == [10, 10, 10]
        assert (starts % 10 == 0).all()
        counts[starts // 10] += 1
    assert (abs(counts - 300) < 5 * math.sqrt(300)).all(), "every sentence is drawn as often"


def test_a_single_sentence_is_never_masked_whole():
    starts, _ = draw_sentences(np.array([False] * 9 + [True]), np.random.default_rng(0), ratio=0.15, most=100)
    assert len(starts) == 0
    _, lengths = draw_sentences(np.array([True, True]), np.random.default_rng(0), ratio=1.0, most=100)
    assert lengths.tolist() == [1]
    _, lengths = draw_sentences(np.ones(50, bool), np.random.default_rng(0), ratio=0.5, most=4)
    assert len(lengths) == 4


def test_tokens_that_end_a_sentence():
    class Tokenizer:
        texts = ("a", "a.", ".", "。", "！", "?", "\n", ". ", ".5", "", "，")

        def __len__(self) -> int:
            return len(self.texts)

        def batch_decode(self, rows: list[list[int]]) -> list[str]:
            return [self.texts[token] for (token,) in rows]

    assert sentence_ends(Tokenizer()).tolist() == [False, *[True] * 7, *[False] * 3]


def test_a_masked_sample_by_hand():
    #        0   1   2   3   4   5   6   7
    tokens = np.array([1, 20, 21, 22, 23, 24, 25, 26], np.uint32)
    sample = blank_sample(tokens, [1, 5], [2, 1], MASK, MARKS, order=[1, 0])
    assert sample.tokens.tolist() == [1, 3, 22, 23, 3, 25, 26, 6, 24, 6, 20, 21]
    assert sample.targets.tolist() == [IGNORE] * 7 + [24, 7, 20, 21, 7]
    assert sample.positions.tolist() == [0, 1, 2, 3, 4, 5, 6, 4, 4, 1, 1, 1]
    assert sample.context == 7
    whole = blank_sample(tokens, [5, 6], [1, 2], SMASK, MARKS, order=[0, 1])
    assert whole.tokens.tolist() == [1, 20, 21, 22, 23, 4, 4, 6, 24, 6, 25, 26]


def test_a_tail_by_hand():
    tokens = np.array([1, 20, 21, 22, 23], np.uint32)
    sample = blank_sample(tokens, [2], [3], GMASK, MARKS, order=[0])
    assert sample.tokens.tolist() == [1, 20, 5, 6, 21, 22]
    assert sample.targets.tolist() == [IGNORE] * 3 + [21, 22, 23]
    assert sample.positions.tolist() == [0, 1, 2, 3, 4, 5]
    assert sample.context == 3


@pytest.mark.parametrize("kind", [MASK, GMASK])
def test_the_text_comes_back_from_its_sample(kind):
    random = np.random.default_rng(3)
    for size in random.integers(2, 200, 200).tolist():
        tokens = random.integers(10, 90, size).astype(np.uint32)
        sizes = np.array([size])
        drawn = (
            draw_spans(sizes, random, ratio=0.15, mean=3.0) if kind == MASK else draw_tails(sizes, random, least=0.2)
        )
        order = random.permutation(len(drawn.starts)).tolist()
        sample = blank_sample(tokens, drawn.starts.tolist(), drawn.lengths.tolist(), kind, MARKS, order)
        assert len(sample.tokens) == expanded_lengths(sizes, np.array([kind]), np.array([len(order)]))[0]
        fillings = spans_of(sample)
        text = []
        for place, token in enumerate(sample.tokens[: sample.context].tolist()):
            text += fillings[place] if token in (MARKS.mask, MARKS.gmask) else [token]
        assert text == tokens.tolist()


def spans_of(sample) -> dict[int, list[int]]:
    """Position of the mark → what was cut out, by the targets."""
    found: dict[int, list[int]] = {}
    for place in range(sample.context, len(sample.tokens)):
        if sample.tokens[place] == MARKS.sop:
            key = int(sample.positions[place])
            key = key if key < sample.context else key - 1  # behind the context: a tail's mark is its last token
            found[key] = []
        if sample.targets[place] != MARKS.eop:
            found[key].append(int(sample.targets[place]))
    return found
