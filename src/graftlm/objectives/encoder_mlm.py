"""Masked-language modelling with whole words (BERT: Devlin et al., arXiv 1810.04805; whole-word masking: Cui et al.,
arXiv 1906.08101).

A word is masked with all its pieces or not at all. Of the masked tokens 80 % become [MASK], 10 % a random token, 10 %
stay. Which words are masked is drawn anew for every row, and is a function of the row and the seed alone: the count is
known before the forward pass, a resumed run draws the same, and held-out rows, which never change, are masked alike
before and after training.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from graftlm.data.annotated import Note, Notebook, padded_documents
from graftlm.data.packing import PackedBatch
from graftlm.models.encoder import encoder_logits
from graftlm.ops.cross_entropy import IGNORE
from graftlm.training.objective import Loss


@dataclass(frozen=True)
class Masking:
    """How words are masked.

    Attributes:
        mask: id of [MASK].
        replacements: [R] ids that a masked token may become at random.
        share: of the words.
    """

    mask: int
    replacements: np.ndarray
    share: float = 0.15
    seed: int = 0

    def of(self, tokens_T: np.ndarray, word_T: np.ndarray, row: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """([T] tokens with masks, [T] bool which are to be predicted).

        Args:
            word_T: number of the word of each token, ascending through the row; -1 for tokens that belong to none.
            row: what the draw hangs on, beside the seed.
        """
        random = np.random.default_rng([self.seed, *row])
        chosen_W = random.random(int(word_T.max(initial=-1)) + 1) < self.share
        chosen_T = (word_T >= 0) & np.append(chosen_W, False)[word_T]
        lot_T = random.random(len(tokens_T))
        other_T = random.choice(self.replacements, len(tokens_T))
        masked_T = np.where(lot_T < 0.8, self.mask, np.where(lot_T < 0.9, other_T, tokens_T))
        return np.where(chosen_T, masked_T, tokens_T), chosen_T


def number_words(groups_T: np.ndarray, document_T: np.ndarray) -> np.ndarray:
    """[T] words numbered through the row, -1 outside of them: a word ends where its group or its document does."""
    begins_T = np.ones(len(groups_T), np.bool_)
    begins_T[1:] = (groups_T[1:] != groups_T[:-1]) | (document_T[1:] != document_T[:-1])
    begins_T &= groups_T > 0
    return np.where(groups_T > 0, begins_T.cumsum() - 1, -1)


class MaskedWords:
    """One unit a masked token."""

    def __init__(self, notebook: Notebook, masking: Masking) -> None:
        self.notebook, self.masking = notebook, masking

    def units(self, batch: PackedBatch) -> int:
        return int(self._masked(batch)[1].sum())

    def masked(self, batch: PackedBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """([T] tokens with masks, [T] int64 targets: the tokens behind them, else IGNORE)"""
        masked_T, chosen_T = (torch.from_numpy(x).to(batch.tokens.device) for x in self._masked(batch))
        return masked_T, batch.tokens.masked_fill(~chosen_T, IGNORE)

    def _masked(self, batch: PackedBatch) -> tuple[np.ndarray, np.ndarray]:
        real = len(batch.tokens) - batch.padding  # padding takes no part in the draw: it would change it
        groups_T = self.notebook.of(batch)[:, Note.GROUP].cpu().numpy()
        document_T = np.repeat(np.arange(len(batch.document)), batch.boundaries.diff().cpu().numpy())
        words_T = number_words(groups_T, document_T)
        row = [number for number in batch.document.tolist() if number >= 0]
        tokens_T = batch.tokens.cpu().numpy().copy()
        chosen_T = np.zeros(len(tokens_T), np.bool_)
        tokens_T[:real], chosen_T[:real] = self.masking.of(tokens_T[:real], words_T[:real], row)
        return tokens_T, chosen_T

    def __call__(self, model: torch.nn.Module, batch: PackedBatch) -> Loss:
        masked_T, targets_T = self.masked(batch)
        total, right = (torch.zeros((), device=batch.tokens.device) for _ in range(2))
        for part in padded_documents(batch, self.notebook.of(batch)):
            targets_nL = targets_T[part.place_nL].masked_fill(~part.real_nL, IGNORE)
            logits = encoder_logits(model, masked_T[part.place_nL], part.real_nL, part.note(Note.SEGMENT))
            wanted_nL = targets_nL != IGNORE
            logits_mV, targets_m = logits[wanted_nL].float(), targets_nL[wanted_nL]
            total = total + F.cross_entropy(logits_mV, targets_m, reduction="sum")
            right = right + (logits_mV.argmax(-1) == targets_m).sum()
        return Loss(total, int((targets_T != IGNORE).sum()), {"accuracy": right.detach()})
