"""Documents for encoders: beside its id, every token bears notes on what the encoder is told and asked about it.

Documents are packed as all others (`TokenStore`, `PackingPlan`); their notes lie beside the store and are found by the
number that a row knows a document by.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch

from graftlm.data.encode import Encoded
from graftlm.data.packing import PackedBatch
from graftlm.data.store import TokenStore
from graftlm.ops.attention import documents_of_like_length
from graftlm.ops.cross_entropy import IGNORE


class Note(IntEnum):
    """The columns of notes.

    LABEL: number of the class or tag, 1 or 0 at an option's mask; IGNORE where nothing is asked. The class of a whole
        document stands at its first token.
    SEGMENT: token type.
    POSITION: position id; only read where the order of options must not count.
    GROUP: the option, or the word, that the token belongs to, from 1; 0 outside of them.
    """

    LABEL = 0
    SEGMENT = 1
    POSITION = 2
    GROUP = 3


@dataclass(frozen=True, slots=True)
class Annotated:
    """One document.

    Attributes:
        tokens: [n] ids.
        notes: [n, 4] int32, columns as in `Note`.
        cut: tokens that the length limit took away.
    """

    tokens: np.ndarray
    notes: np.ndarray
    cut: int = 0

    @classmethod
    def of(
        cls,
        tokens: Sequence[int],
        *,
        labels: Sequence[int] | None = None,
        segments: Sequence[int] | None = None,
        positions: Sequence[int] | None = None,
        groups: Sequence[int] | None = None,
        cut: int = 0,
    ) -> Annotated:
        """Columns that are left out: no label, segment 0, positions in order, no group."""
        n = len(tokens)
        notes = np.zeros((n, len(Note)), np.int32)
        notes[:, Note.LABEL] = IGNORE if labels is None else labels
        notes[:, Note.POSITION] = np.arange(n) if positions is None else positions
        if segments is not None:
            notes[:, Note.SEGMENT] = segments
        if groups is not None:
            notes[:, Note.GROUP] = groups
        return cls(np.asarray(tokens, np.uint32), notes, cut)


    @property
    def asked(self) -> np.ndarray:
        """[n] bool; for the count of targets: labels, else words that may be masked. A class counts at the last token,
        because a store's first one is never a target."""
        asked = self.notes[:, Note.LABEL] != IGNORE
        if not asked.any():
            return self.notes[:, Note.GROUP] > 0
        if asked[0]:
            asked[-1] = True
        return asked


@dataclass(frozen=True)
class AnnotatedStore:
    """Documents with their notes [tokens, 4], in memory: 20 bytes a token."""

    store: TokenStore
    notes: np.ndarray

    @classmethod
    def of(cls, documents: Sequence[Annotated], kind: str, accounting: dict[str, int]) -> AnnotatedStore:
        encoded = [Encoded(one.tokens, one.asked) for one in documents]
        store = TokenStore.in_memory(encoded, kind=kind)
        notes = np.concatenate([np.zeros((0, len(Note)), np.int32), *(one.notes for one in documents)])
        store.accounting.update(accounting)
        return cls(store, notes)

    def of_document(self, number: int) -> np.ndarray:
        """[n, 4] notes of a document."""
        start, end = self.store.offsets[number : number + 2]
        return self.notes[start:end]


class Notebook:
    """The notes of the rows of a plan.

    Args:
        stores: by the number of their block in the plan: the training blocks, then those kept back.
    """

    def __init__(self, stores: Sequence[AnnotatedStore]) -> None:
        self._stores = list(stores)

    def of(self, batch: PackedBatch) -> torch.Tensor:
        """[T, 4] int64 on the row's device; padding has no label and group 0."""
        parts = [
            self._stores[number >> 40].of_document(number & (1 << 40) - 1)
            for number in batch.document.tolist()
            if number >= 0
        ]
        notes = np.zeros((len(batch.tokens), len(Note)), np.int64)
        notes[:, Note.LABEL] = IGNORE
        real = len(batch.tokens) - batch.padding
        notes[:real] = np.concatenate([notes[:0], *parts])
        return torch.from_numpy(notes).to(batch.tokens.device, non_blocking=True)


@dataclass(frozen=True)
class Padded:
    """Documents of like length, padded on the right: n of them, L columns.

    Attributes:
        document_n: the number that each document keeps.
        place_nL: index of each token in its row (padding: of any token).
        real_nL: False for padding.
        notes_nL4: as in `Note`; padding bears no label.
    """

    document_n: torch.Tensor
    tokens_nL: torch.Tensor
    place_nL: torch.Tensor
    real_nL: torch.Tensor
    notes_nL4: torch.Tensor

    def note(self, column: Note) -> torch.Tensor:
        return self.notes_nL4[..., column]

    @property
    def labels_nL(self) -> torch.Tensor:
        return self.note(Note.LABEL).masked_fill(~self.real_nL, IGNORE)


def padded_documents(batch: PackedBatch, notes_T4: torch.Tensor) -> Iterator[Padded]:
    """The row's documents, those that only fill it up left out."""
    boundaries = batch.boundaries[: batch.documents + 1]
    for place_nL, real_nL in documents_of_like_length(boundaries):
        document_n = batch.document[torch.searchsorted(boundaries, place_nL[:, 0].int()).cpu()]
        yield Padded(document_n, batch.tokens[place_nL], place_nL, real_nL, notes_T4[place_nL])
