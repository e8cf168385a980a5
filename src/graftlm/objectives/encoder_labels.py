"""Classes of texts and tags of tokens: cross-entropy on the head's own outputs."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from graftlm.data.annotated import Note, Notebook, padded_documents
from graftlm.data.packing import PackedBatch
from graftlm.models.encoder import encoder_logits
from graftlm.ops.cross_entropy import IGNORE
from graftlm.training.objective import Loss


class LabelLoss:
    """One unit a label: a document for a classifier, a token for a tagger."""

    def __init__(self, notebook: Notebook) -> None:
        self.notebook = notebook

    def units(self, batch: PackedBatch) -> int:
        return int((self.notebook.of(batch)[:, Note.LABEL] != IGNORE).sum())

    def __call__(self, model: torch.nn.Module, batch: PackedBatch) -> Loss:
        notes_T4 = self.notebook.of(batch)
        total, right = (torch.zeros((), device=batch.tokens.device) for _ in range(2))
        for part in padded_documents(batch, notes_T4):
            logits = encoder_logits(model, part.tokens_nL, part.real_nL, part.note(Note.SEGMENT)).float()
            labels = part.labels_nL if logits.ndim == 3 else part.labels_nL[:, 0]  # a class stands at the first token
            total = total + F.cross_entropy(
                logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORE, reduction="sum"
            )
            right = right + (logits.argmax(-1) == labels).sum()
        return Loss(total, int((notes_T4[:, Note.LABEL] != IGNORE).sum()), {"accuracy": right.detach()})
