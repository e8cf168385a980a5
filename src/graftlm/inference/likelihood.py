"""The log-probability of whole documents, packed end to end through the trunk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import nn

from graftlm.inference.cached import evaluation_mode, model_device, position_limit
from graftlm.models.trunk import causal_lm, hidden_states, output_head, prepare_trunk
from graftlm.ops.cross_entropy import IGNORE, token_log_probabilities

Tokens = Sequence[int]


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
    if not hasattr(causal_lm(model), "graft_packs"):
        prepare_trunk(model)
    limit = position_limit(model)
    window = window if limit is None else min(window, limit)
    pieces = [(index, piece) for index, document in enumerate(documents) for piece in _cut(document, window)]
    sums, counts = [0.0] * len(documents), [0] * len(documents)
    with evaluation_mode(model):
        for batch in _rows_of(pieces, batch_tokens):
            found = _score_row(model, [piece for _, piece in batch])
            for (index, piece), log_p in zip(batch, found, strict=True):
                sums[index] += log_p
                counts[index] += len(piece) - 1
            if on_progress is not None:
                on_progress(len(batch))
    return list(zip(sums, counts, strict=True))


def _cut(document: Tokens, window: int) -> Iterator[Tokens]:
    """Cuts of at most `window` tokens; each begins with the last token of the one before."""
    for start in range(0, len(document) - 1, window - 1):
        yield document[start : start + window]


def _rows_of(pieces: list[tuple[int, Tokens]], batch_tokens: int) -> Iterator[list[tuple[int, Tokens]]]:
    """Pieces of like length together, up to `batch_tokens` in a row."""
    row: list[tuple[int, Tokens]] = []
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
def _score_row(model: nn.Module, pieces: list[Tokens]) -> list[float]:
    device = model_device(model)
    lengths = [len(piece) for piece in pieces]
    tokens_T = torch.cat([torch.as_tensor(piece, dtype=torch.long) for piece in pieces]).to(device)
    boundaries = torch.tensor([0, *lengths]).cumsum(0).to(device=device, dtype=torch.int32)  # [N + 1]
    targets_T = tokens_T.roll(-1)
    targets_T[boundaries[1:].long() - 1] = IGNORE  # the last token of a document predicts nothing in it
    hidden_TD = hidden_states(model, tokens_T, boundaries)
    log_p_T = token_log_probabilities(hidden_TD, output_head(model), targets_T).double().cpu()
    starts = boundaries.tolist()
    return [float(log_p_T[start:end].sum()) for start, end in pairwise(starts)]
