"""How a trained policy scores answers: the implicit rewards of its objective, over a whole plan.

Used after training for held-out accuracy and for the bias towards long answers. Shapes: P pairs, S samples of KTO.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from graftlm.data.packing import PackingPlan
from graftlm.objectives.answers import answers_as_it_stands
from graftlm.objectives.preference import KTO, PairObjective


class PairScores(NamedTuple):
    """Implicit rewards of both answers of each pair, [P] fp32, and their lengths in tokens, [P] int64."""

    chosen: np.ndarray
    rejected: np.ndarray
    chosen_tokens: np.ndarray
    rejected_tokens: np.ndarray


def pair_scores(
    objective: PairObjective, model: torch.nn.Module, plan: PackingPlan, *, pad_rows: bool, bf16: bool
) -> PairScores:
    """Score every pair of a plan, row after row, by the model as it stands; without gradients and dropout."""
    columns: list[tuple[np.ndarray, ...]] = []
    for batch in plan.all_rows(pad=pad_rows):
        answers = answers_as_it_stands(model, batch, bf16=bf16)
        if objective.reference is not None:
            answers = objective.reference.join(answers, batch)
        chosen, rejected = answers.halves()
        scores = (objective.rewards(chosen), objective.rewards(rejected))
        columns.append(tuple(x.cpu().numpy() for x in (*scores, chosen.tokens, rejected.tokens)))
    return PairScores(*_stacked(columns, 4))


class UnpairedScores(NamedTuple):
    """Implicit reward of each answer, [S] fp32; 1 desirable or −1 not, [S] fp32; its length in tokens, [S] int64."""

    score: np.ndarray
    value: np.ndarray
    tokens: np.ndarray


def unpaired_scores(
    objective: KTO, model: torch.nn.Module, plan: PackingPlan, *, pad_rows: bool, bf16: bool
) -> UnpairedScores:
    """Score every answer of a plan of answers and mismatched answers; the mismatched ones are left out."""
    columns: list[tuple[np.ndarray, ...]] = []
    for batch in plan.all_rows(pad=pad_rows):
        answers, _ = objective.reference.join(answers_as_it_stands(model, batch, bf16=bf16), batch).halves()
        value_S = batch.value[: batch.documents : 2]
        columns.append(tuple(x.cpu().numpy() for x in (objective.rewards(answers), value_S, answers.tokens)))
    return UnpairedScores(*_stacked(columns, 3))


def _stacked(rows: list[tuple[np.ndarray, ...]], width: int) -> list[np.ndarray]:
    """Columns of many rows end to end."""
    return [np.concatenate([row[column] for row in rows]) if rows else np.zeros(0) for column in range(width)]
