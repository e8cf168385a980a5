"""What a model has kept of single training rows: membership inference and verbatim extraction.

Membership inference asks of a row whether the model was trained on it. The area under the ROC curve is the chance
that a trained row gets a higher score than one that was not: 0.5 when nothing is told apart. Both sorts of rows must
be drawn alike, else the score measures how they differ.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import nn

from graftlm.evaluation.statistics import RESAMPLES, Estimate, interval
from graftlm.inference.decoding import Decoding
from graftlm.inference.generation import generate

Floats = NDArray[np.float64]
LEAST_LIKELY = 0.2
"""Share of a row's tokens that min-k% looks at (arXiv 2310.16789 found 20 % best)."""
PREFIX = SUFFIX = 50
"""Tokens that are given, and that must come back (arXiv 2202.07646)."""


def membership_signals(
    log_ps: Sequence[Floats], texts: Sequence[str], reference: Sequence[Floats] | None = None
) -> dict[str, Floats]:
    """Scores of rows that are higher where a row was more likely trained on.

    Args:
        log_ps: log p in nats of the scored tokens of each row, none empty.
        texts: the rows' text.
        reference: the same tokens under a model that was not trained on any of the rows.

    Returns:
        [rows] each: "loss", the mean log p (Yeom et al. 2018, arXiv 1709.01604); "min_k", the mean over the fifth of
        the tokens that are least likely (arXiv 2310.16789); "zlib", log p over the bytes that zlib needs for the text
        (arXiv 2012.07805); "reference", the mean log p minus the reference's, the log of the likelihood ratio a token.
    """
    loss = np.array([log_p.mean() for log_p in log_ps])
    signals = {
        "loss": loss,
        "min_k": np.array([np.sort(log_p)[: max(1, round(LEAST_LIKELY * len(log_p)))].mean() for log_p in log_ps]),
        "zlib": np.array(
            [log_p.sum() / len(zlib.compress(text.encode())) for log_p, text in zip(log_ps, texts, strict=True)]
        ),
    }
    if reference is not None:
        signals["reference"] = loss - np.array([log_p.mean() for log_p in reference])
    return signals


def membership_auc(trained: Floats, unseen: Floats, *, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """The chance that a trained row scores above an unseen one (a tie counts half), with its 95 % bootstrap interval.

    Both sorts of rows are drawn anew, apart.

    Raises:
        ValueError: no row of one sort.
    """
    if not len(trained) or not len(unseen):
        raise ValueError(f"{len(trained)} trained and {len(unseen)} unseen rows: both are needed")
    above_TU = (trained[:, None] > unseen) + 0.5 * (trained[:, None] == unseen)
    generator = np.random.default_rng(seed)
    drawn_RT, drawn_RU = (
        generator.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), resamples) for rows in (trained, unseen)
    )
    samples_R = ((drawn_RT @ above_TU) * drawn_RU).sum(axis=1) / above_TU.size
    low, high = interval(samples_R)
    return Estimate(value=float(above_TU.mean()), low=low, high=high, n=len(trained) + len(unseen))


def extracted(
    model: nn.Module, documents: Sequence[Sequence[int]], *, prefix: int = PREFIX, suffix: int = SUFFIX
) -> list[bool | None]:
    """Whether a greedy continuation of a document's first `prefix` tokens is its next `suffix` tokens, every one.

    The definition of Carlini et al. (arXiv 2202.07646). None for a document of fewer tokens than both together.
    """
    long = [place for place, document in enumerate(documents) if len(document) >= prefix + suffix]
    found: list[bool | None] = [None] * len(documents)
    written = generate(
        model,
        [list(documents[place][:prefix]) for place in long],
        Decoding(greedy=True, max_new_tokens=suffix),
        stop_ids=(),
        pad_id=0,
    )
    for place, completion in zip(long, written, strict=True):
        found[place] = list(completion.tokens) == list(documents[place][prefix : prefix + suffix])
    return found
