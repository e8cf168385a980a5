"""Option choice with a masked language model (UniMC: Yang et al., arXiv 2210.08590).

Every option begins with a mask. The model fills it with a word for yes or a word for no, and the option whose yes is
likeliest is the answer. Loss of a question: mean over its options of the cross-entropy of the right word among the
whole vocabulary, and the cross-entropy of the right option among the logits of yes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from graftlm.data.annotated import Note, Notebook, Padded, padded_documents
from graftlm.data.packing import PackedBatch
from graftlm.models.encoder import encoder_logits
from graftlm.ops.cross_entropy import IGNORE
from graftlm.training.objective import Loss


@dataclass(frozen=True)
class AnswerWords:
    """Token ids of the words for yes and no."""

    yes: int
    no: int


def option_logits(model: torch.nn.Module, part: Padded) -> tuple[torch.Tensor, torch.Tensor]:
    """[m, V] logits at the masks of all options of n questions, and [m] the question of each."""
    logits_nLV = encoder_logits(
        model,
        part.tokens_nL,
        part.real_nL,
        part.note(Note.SEGMENT),
        positions_nL=part.note(Note.POSITION).masked_fill(~part.real_nL, 0),
        groups_nL=part.note(Note.GROUP).masked_fill(~part.real_nL, 0),
    )
    question_m, place_m = (part.labels_nL != IGNORE).nonzero(as_tuple=True)
    return logits_nLV[question_m, place_m].float(), question_m


def choice_loss(
    logits_mV: torch.Tensor, question_m: torch.Tensor, right_m: torch.Tensor, words: AnswerWords
) -> tuple[torch.Tensor, torch.Tensor]:
    """(summed loss over questions, number of questions answered rightly).

    Args:
        question_m: number of the question of each option, from 0, ascending.
        right_m: 1 for the right option of each question, else 0.
    """
    questions = int(question_m[-1]) + 1
    word_m = torch.where(right_m == 1, words.yes, words.no)
    word_loss_m = F.cross_entropy(logits_mV, word_m, reduction="none")
    count_n = torch.bincount(question_m, minlength=questions)
    filled = (word_loss_m / count_n[question_m]).sum()
    yes_m = logits_mV[:, words.yes]
    yes_nK = yes_m.new_full((questions, int(count_n.max())), -torch.inf)
    place_m = torch.arange(len(question_m), device=question_m.device) - (count_n.cumsum(0) - count_n)[question_m]
    yes_nK = yes_nK.index_put((question_m, place_m), yes_m)
    right_n = place_m[right_m == 1]
    chosen = F.cross_entropy(yes_nK, right_n, reduction="sum")
    return filled + chosen, (yes_nK.argmax(1) == right_n).sum()


class OptionChoice:
    """One unit a question."""

    def __init__(self, notebook: Notebook, words: AnswerWords) -> None:
        self.notebook, self.words = notebook, words

    def units(self, batch: PackedBatch) -> int:
        return batch.documents

    def __call__(self, model: torch.nn.Module, batch: PackedBatch) -> Loss:
        total, right = (torch.zeros((), device=batch.tokens.device) for _ in range(2))
        for part in padded_documents(batch, self.notebook.of(batch)):
            logits_mV, question_m = option_logits(model, part)
            labels_m = part.labels_nL[part.labels_nL != IGNORE]
            loss, hits = choice_loss(logits_mV, question_m, labels_m, self.words)
            total, right = total + loss, right + hits
        return Loss(total, batch.documents, {"accuracy": right.detach()})
