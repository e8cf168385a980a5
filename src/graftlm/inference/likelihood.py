"""The log-probability of whole documents, packed end to end through the trunk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from graftlm.inference.cached import evaluation_mode, model_device, position_limit
from graftlm.models.trunk import causal_lm, hidden_states, output_head, prepare_trunk
from graftlm.ops.cross_entropy import IGNORE, token_log_probabilities

Tokens = Sequence[int]
Piece = tuple[NDArray[np.float64], Tokens]
"""Tokens, and where the log-probabilities of all but the first go."""


def text_log_probability(
    model: nn.Module,
    documents: Sequence[Tokens],
    *,
    window: int = 2048,
    batch_tokens: int = 8_192,
    on_progress: Callable[[int], None] | None = None,
) -> list[tuple[float, int]]:
    """Sum of log p in nats of each document's tokens, and how many were scored.

    The first token of a document has nothing before it and is not scored: put a document-start token there to
    have all text scored. A document longer than the window is cut into windows that overlap by one token, so
    that every later token is scored once ("rolling", as lm-evaluation-harness does).

    Args:
        model: a transformers causal language model; its training state is restored.
        documents: the tokens of each document; one of fewer than two tokens scores (0.0, 0).
        window: most tokens seen at once; the model's own limit where that is smaller.
        batch_tokens: tokens that run together.
        on_progress: called with the number of windows that a batch has finished.

    Returns:
        (sum of log p, scored tokens) for each document, in order.
    """
    found = token_log_probability(
        model, documents, window=window, batch_tokens=batch_tokens, on_progress=on_progress
    )
    return [(float(log_p.sum()), len(log_p)) for log_p in found]


def token_log_probability(
    model: nn.Module,
    documents: Sequence[Tokens],
    *,
    window: int = 2048,
    batch_tokens: int = 8_192,
    on_progress: Callable[[int], None] | None = None,
) -> list[NDArray[np.float64]]:
    """log p in nats of every token but the first of each document, cut as `text_log_probability` does.

    Returns:
        [tokens - 1] for each document, in order.
    """
    if not hasattr(causal_lm(model), "graft_packs"):
        prepare_trunk(model)
    limit = position_limit(model)
    window = window if limit is None else min(window, limit)
    found = [np.zeros(max(0, len(document) - 1)) for document in documents]
    pieces = [
        (found[index][start : start + window - 1], document[start : start + window])
        for index, document in enumerate(documents)
        for start in range(0, len(document) - 1, window - 1)  # the cuts overlap by one token
    ]
    with evaluation_mode(model):
        for batch in _rows_of(pieces, batch_tokens):
            for (place, _), log_p in zip(batch, _score_row(model, [piece for _, piece in batch]), strict=True):
                place[:] = log_p
            if on_progress is not None:
                on_progress(len(batch))
    return found


def _rows_of(pieces: list[Piece], batch_tokens: int) -> Iterator[list[Piece]]:
    """Pieces of like length together, up to `batch_tokens` in a row."""
    row: list[Piece] = []
    filled = 0
    for piece in sorted(pieces, key=lambda item: -len(item[1])):
        if row and filled + len(piece[1]) > batch_tokens:
            yield row
            row, filled = [], 0
        row.append(piece)
        filled += len(piece[1])
    if row:
        yield row


@torch.inference_mode()
def _score_row(model: nn.Module, pieces: list[Tokens]) -> list[NDArray[np.float64]]:
    device = model_device(model)
    lengths = [len(piece) for piece in pieces]
    tokens_T = torch.cat([torch.as_tensor(piece, dtype=torch.long) for piece in pieces]).to(device)
    boundaries = torch.tensor([0, *lengths]).cumsum(0).to(device=device, dtype=torch.int32)  # [N + 1]
    targets_T = tokens_T.roll(-1)
    targets_T[boundaries[1:].long() - 1] = IGNORE  # the last token of a document predicts nothing in it
    hidden_TD = hidden_states(model, tokens_T, boundaries)
    log_p_T = token_log_probabilities(hidden_TD, output_head(model), targets_T).double().cpu().numpy()
    return [log_p_T[start : end - 1] for start, end in pairwise(boundaries.tolist())]
