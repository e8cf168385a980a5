"""What a stage changed in the answers: two models answer the same held-out prompts, side by side.

One model is in memory at a time: the one after training answers first, the one before then answers and says how likely
the other's answers are to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graftlm.alignment.policy import answer_token_log_probabilities
from graftlm.alignment.prompts import Asked
from graftlm.alignment.rewards import Reward
from graftlm.alignment.rollouts import Rollouts, collect, write_answers
from graftlm.core.receipts import ComparedAnswer, Comparison, Interval
from graftlm.evaluation.language_model import LanguageModel
from graftlm.evaluation.statistics import Scores, estimate
from graftlm.inference.generation import Completion

LoadSubject = Callable[[], LanguageModel]


@dataclass(frozen=True)
class _Answered:
    texts: list[str]
    scores: list[float] | None
    rollouts: Rollouts


def compare_answers(
    before: LoadSubject,
    after: LoadSubject,
    asked: Sequence[Asked],
    reward: Reward | None,
    *,
    max_new_tokens: int,
    row_tokens: int,
    seed: int,
    samples: int,
) -> Comparison:
    """Answers of both models to the same prompts; `samples` of them are kept to be read.

    The divergence is that of whole answers, summed over their tokens: log p(after) - log p(before) of what the model
    after training says.
    """
    subject = after()
    new = _answer(subject, asked, reward, max_new_tokens, seed)
    new_log_p = _log_probabilities(subject.model, new.rollouts, row_tokens)
    del subject  # before the other one is loaded
    subject = before()
    old = _answer(subject, asked, reward, max_new_tokens, seed)
    kl_R = new_log_p - _log_probabilities(subject.model, new.rollouts, row_tokens)
    return Comparison(
        prompts=len(asked),
        kl=_interval(kl_R.tolist()),
        reward_before=_interval(old.scores) if old.scores else None,
        reward_after=_interval(new.scores) if new.scores else None,
        reward_spread=float(torch.tensor(old.scores).std(correction=0)) if old.scores else None,
        tokens_before=float(old.rollouts.lengths_R.float().mean()),
        tokens_after=float(new.rollouts.lengths_R.float().mean()),
        finished_before=float(old.rollouts.finished_R.float().mean()),
        finished_after=float(new.rollouts.finished_R.float().mean()),
        samples=[
            ComparedAnswer(
                prompt=one.prompt.prompt[-1].content,
                before=old.texts[place],
                after=new.texts[place],
                before_score=old.scores[place] if old.scores else None,
                after_score=new.scores[place] if new.scores else None,
            )
            for place, one in enumerate(asked[:samples])
        ],
    )


def _answer(
    subject: LanguageModel, asked: Sequence[Asked], reward: Reward | None, max_new_tokens: int, seed: int
) -> _Answered:
    answers: list[Completion] = write_answers(
        subject.model, subject, asked, max_new_tokens=max_new_tokens, seed=seed
    )
    texts = [(answer.text or "").strip() for answer in answers]
    scores = reward([one.prompt for one in asked], texts) if reward else None
    return _Answered(texts, scores, collect(asked, answers, scores or [0.0] * len(answers)))


@torch.no_grad()
def _log_probabilities(model: torch.nn.Module, rollouts: Rollouts, row_tokens: int) -> Tensor:
    """[R] log p of each answer."""
    device = next(model.parameters()).device
    for row in rollouts.plan(range(len(rollouts)), row_tokens).all_rows(pad=False):
        documents = row.document[: row.documents].tolist()
        rollouts.put("log_p", documents, answer_token_log_probabilities(model, row.to(device)))
    return rollouts.sums("log_p")


def _interval(values: Sequence[float]) -> Interval:
    found = estimate(Scores.of(values))
    return Interval(value=found.value, low=found.low, high=found.high)
