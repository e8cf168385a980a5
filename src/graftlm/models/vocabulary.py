"""Extend the vocabulary of a model: its tokenizer by new pieces, its embedding and head by a row for each.

Old pieces keep their ids and their rows. A new row begins as the mean of the rows of the old pieces that its piece was
split into (BiLLa and Alpaca begin with means, too), so what the model knew of them is not lost, and the logits of old
pieces are what they were.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from transformers import PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from graftlm.core.errors import ModelError
from graftlm.models.trunk import prepare_trunk
from graftlm.models.vocabulary_pieces import (
    Taken,
    learn_merges,
    learn_unigram,
    sentencepiece_pieces,
    take_pieces,
)
from graftlm.models.vocabulary_pruning import vocabulary_tables
from graftlm.models.vocabulary_rules import Rules, read_rules

PieceKind = Literal["auto", "spm-bpe", "spm-unigram", "byte-level"]
Start = Literal["mean", "noise"]

LEARNT = 8000
"""New pieces where no number is given."""
NOISE = 0.1
"""Of `noise`: standard deviations of the old rows that a new one lies beside its mean."""


@dataclass(frozen=True)
class Extension:
    """A tokenizer with new pieces.

    Attributes:
        parts: of each new piece, in the order of their ids: the old pieces that it was split into.
        taken: what became of the pieces of another vocabulary.
    """

    tokenizer: Tokenizer
    rules: Rules
    parts: list[list[int]]
    taken: Taken | None

    @property
    def size(self) -> int:
        return self.rules.first_new + len(self.parts)


def extend_tokenizer(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    pieces: int | None = None,
    *,
    kind: PieceKind = "auto",
    source: Path | None = None,
    ascii_pieces: bool = False,
) -> Extension:
    """New pieces behind those of a BPE tokenizer; text that holds none of them is encoded as before.

    Args:
        texts: what pieces are learnt from; not looked at with `source`.
        pieces: how many at most; None: all of `source`, or 8,000 that are learnt.
        kind: spm-bpe and byte-level go on with the merges of the base, spm-unigram learns by SentencePiece's unigram
            model; auto: what the base is.
        source: a SentencePiece model to take the pieces from, as Chinese-LLaMA does (arXiv 2304.08177).
        ascii_pieces: also pieces of ASCII signs only, after which English is encoded differently.

    Raises:
        ModelError: the tokenizer cannot be extended, is not of this kind, or no piece is left.
    """
    rules = read_rules(tokenizer)
    wanted = "byte-level" if kind == "byte-level" else "sentencepiece"
    if kind != "auto" and wanted != rules.kind and source is None:
        raise ModelError(
            f"kind: {kind} does not fit a tokenizer that is {rules.kind}",
            where=str(tokenizer.name_or_path),
            fix="use kind: auto",
        )
    taken = None
    limit = pieces or (sys.maxsize if source is not None else LEARNT)
    if source is not None:
        taken = take_pieces(rules, sentencepiece_pieces(source), limit, ascii_pieces=ascii_pieces)
    elif kind == "spm-unigram":
        taken = take_pieces(rules, learn_unigram(texts, 2 * limit), limit, ascii_pieces=ascii_pieces)
    else:
        learn_merges(rules, texts, limit, ascii_pieces=ascii_pieces)
    if not rules.new_count:
        hint = "" if ascii_pieces else " that is not made of ASCII signs only"
        raise ModelError(
            f"no new piece{hint} was found",
            where="pieces",
            fix="give more text of the domain" + ("" if ascii_pieces else ", or allow ascii pieces for English text"),
        )
    extended = copy.deepcopy(tokenizer)  # special tokens, chat template and limits are kept
    extended._tokenizer = rules.build()
    return Extension(extended, rules, _parts(tokenizer, extended, rules.new_pieces), taken)


def _parts(tokenizer: Tokenizer, extended: Tokenizer, new_pieces: list[str]) -> list[list[int]]:
    """Of each new piece the old pieces, after a check that the piece is reached."""
    old, new = tokenizer.backend_tokenizer.model, extended.backend_tokenizer.model
    lost = [piece for piece in new_pieces if len(new.tokenize(piece)) != 1]
    if lost:
        raise ModelError(
            f"{len(lost)} new pieces cannot be reached, the first is {lost[0]!r}",
            where=str(tokenizer.name_or_path),
            fix="use another kind of pieces",
        )
    return [[token.id for token in old.tokenize(piece)] for piece in new_pieces]


def extend_model(
    model: PreTrainedModel, extension: Extension, *, start: Start = "mean", multiple: int = 1, seed: int = 0
) -> None:
    """Give the embedding and the head, tied or not, a row for each new piece; old rows stay bit for bit.

    Rows that round the size up to a `multiple` are the mean of all old rows: no token has their ids.

    Raises:
        ModelError: an old piece has no row, or the model has more tables of the vocabulary than embedding and head.
    """
    first = extension.rules.first_new
    rows = vocabulary_tables(model, first - 1)[0].num_embeddings
    size = -(-max(rows, extension.size) // multiple) * multiple
    model.resize_token_embeddings(size, mean_resizing=False)
    generator = torch.Generator().manual_seed(seed)
    for weight in row_weights(model):
        _fill(weight, first, rows, extension.parts, start, generator)
    prepare_trunk(model)


def row_weights(model: PreTrainedModel) -> list[torch.Tensor]:
    """Everything with a row for each piece: the embedding, the head unless it is tied, the head's bias."""
    embedding, head = vocabulary_tables(model)
    found = [embedding.weight] if head.weight is embedding.weight else [embedding.weight, head.weight]
    return [table.data for table in [*found, head.bias] if table is not None]


def _fill(
    weight: torch.Tensor, first: int, rows: int, parts: list[list[int]], start: Start, generator: torch.Generator
) -> None:
    """weight [size, …]: rows from `first` on are new; those that the model had beyond its tokenizer's are unused."""
    old = weight[:first].float()
    weight[max(first + len(parts), rows) :] = old.mean(0).to(weight.dtype)
    new = torch.stack([old[part].mean(0) for part in parts])
    if start == "noise":
        new += NOISE * old.std() * torch.randn(new.shape, generator=generator).to(new)
    weight[first : first + len(parts)] = new.to(weight.dtype)
