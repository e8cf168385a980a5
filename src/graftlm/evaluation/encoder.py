"""What an encoder says of documents, and how well it does: accuracy, entity F1, perplexity of masked words."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch

from graftlm.data.annotated import AnnotatedStore, Note, Notebook, Padded, padded_documents
from graftlm.data.packing import pack_samples
from graftlm.data.samples import Entity
from graftlm.evaluation.statistics import Estimate, Scores, estimate
from graftlm.inference.cached import evaluation_mode
from graftlm.models.encoder import encoder_logits
from graftlm.objectives.encoder_choice import AnswerWords, option_logits
from graftlm.objectives.encoder_mlm import MaskedWords

T = TypeVar("T")

Read = Callable[[torch.nn.Module, Padded], list[T]]
"""What is made of each of some documents."""


def classes(model: torch.nn.Module, part: Padded) -> list[np.ndarray]:
    """[C] probability of each class, of each document."""
    logits_nC = encoder_logits(model, part.tokens_nL, part.real_nL, part.note(Note.SEGMENT))
    return list(logits_nC.float().softmax(-1).cpu().numpy())


def tags(model: torch.nn.Module, part: Padded) -> list[np.ndarray]:
    """[n] number of the likeliest tag of each token, of each document."""
    chosen_nL = encoder_logits(model, part.tokens_nL, part.real_nL, part.note(Note.SEGMENT)).argmax(-1).cpu()
    return [row[real].numpy() for row, real in zip(chosen_nL, part.real_nL.cpu(), strict=True)]


def options(words: AnswerWords) -> Read[np.ndarray]:
    """[K] probability of each option, of each question."""

    def read(model: torch.nn.Module, part: Padded) -> list[np.ndarray]:
        logits_mV, question_m = option_logits(model, part)
        yes_m = logits_mV[:, words.yes]
        return [yes_m[question_m == n].softmax(0).cpu().numpy() for n in range(len(part.tokens_nL))]

    return read


def read_documents(
    model: torch.nn.Module,
    store: AnnotatedStore,
    read: Read[T],
    *,
    row_tokens: int,
    device: torch.device,
    bf16: bool,
) -> list[T]:
    """What `read` makes of every document of a store, in the store's order."""
    notebook, found = Notebook([store]), dict[int, T]()
    with evaluation_mode(model), torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        for row in pack_samples(store.store, row_tokens).all_rows(pad=False):
            batch = row.to(device)
            for part in padded_documents(batch, notebook.of(batch)):
                found.update(zip(part.document_n.tolist(), read(model, part), strict=True))
    return [found[number] for number in range(store.store.samples)]


def masked_word_scores(
    model: torch.nn.Module,
    store: AnnotatedStore,
    objective: MaskedWords,
    *,
    row_tokens: int,
    device: torch.device,
    bf16: bool,
) -> Scores:
    """Nats at the masked tokens of each row of `row_tokens`, and their number; the same words on every call."""
    losses = []
    with evaluation_mode(model), torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        for row in pack_samples(store.store, row_tokens).all_rows(pad=False):
            losses.append(objective(model, row.to(device)))
    return Scores.of([float(loss.total) for loss in losses], [loss.units for loss in losses])


def perplexity(nats: Estimate) -> Estimate:
    """e to the mean nats a token, with its interval."""
    return Estimate(value=math.exp(nats.value), low=math.exp(nats.low), high=math.exp(nats.high), n=nats.n)


def entity_scores(found: Sequence[Sequence[Entity]], wanted: Sequence[Sequence[Entity]]) -> Scores:
    """Of each text twice the entities found rightly (same characters, same type) and those found and wanted: summed
    over texts they make micro F1, as the CoNLL evaluation has it (Tjong Kim Sang and De Meulder, 2003)."""
    pairs = [(set(one), set(other)) for one, other in zip(found, wanted, strict=True)]
    return Scores.of([2 * len(one & other) for one, other in pairs], [len(one) + len(other) for one, other in pairs])


def estimated(scores: Scores) -> Estimate | None:
    """The score with its interval; None where there is nothing to take it over (no text, no entity)."""
    return estimate(scores) if len(scores) and scores.denominators.sum() else None
