"""Answers that a policy wrote, and everything that is known about them: the buffer that it learns from.

Shapes: R answers, A their tokens end to end (stop tokens included).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graftlm.alignment.prompts import Asked
from graftlm.data.encode import Encoded
from graftlm.data.packing import PackingPlan, pack_samples
from graftlm.data.store import TokenStore
from graftlm.evaluation.language_model import LanguageModel
from graftlm.inference.decoding import Decoding
from graftlm.inference.generation import Completion, generate


@dataclass
class Rollouts:
    """Answers of one round, in host memory.

    Attributes:
        tokens: of each answer: the prompt's tokens and the answer's.
        prompt_lengths: [R] tokens of each prompt.
        finished_R: bool; whether the answer ended by itself.
        rewards_R: fp32, as the reward gave them.
        per_token: fp32 tensors [A] by name: engine (log p when drawn), old (log p by the trainer), reference,
            value, advantage, return, weight.
        kept_R: bool; whether the answer is learnt from.
    """

    tokens: list[list[int]]
    prompt_lengths: list[int]
    finished_R: Tensor
    rewards_R: Tensor
    kept_R: Tensor
    per_token: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def lengths_R(self) -> Tensor:
        """[R] answer tokens."""
        return torch.tensor([len(t) - n for t, n in zip(self.tokens, self.prompt_lengths, strict=True)])

    def sums(self, name: str) -> Tensor:
        """[R] a per-token tensor summed over each answer."""
        answer_A = torch.repeat_interleave(torch.arange(len(self)), self.lengths_R)
        return torch.zeros(len(self)).index_add(0, answer_A, self.per_token[name])

    def table(self, name: str) -> Tensor:
        """[R, L] a per-token tensor with a row an answer, 0 behind its end."""
        return torch.zeros(self.real_RL.shape).masked_scatter(self.real_RL, self.per_token[name])

    @property
    def real_RL(self) -> Tensor:
        """[R, L] bool: where an answer has a token."""
        lengths_R = self.lengths_R
        return torch.arange(int(lengths_R.max()))[None] < lengths_R[:, None]

    def plan(self, rows: Sequence[int], row_tokens: int) -> PackingPlan:
        """The given answers packed; a document's number is its place in these rollouts."""
        store = TokenStore.in_memory(
            [
                Encoded(np.array(tokens, np.uint32), np.arange(len(tokens)) >= prompt)
                for tokens, prompt in zip(self.tokens, self.prompt_lengths, strict=True)
            ]
        )
        return pack_samples(store, row_tokens, rows)

    def of(self, documents: Sequence[int], names: Sequence[str], device: torch.device) -> list[Tensor]:
        """Per-token tensors of the given answers end to end, as a packed row holds them."""
        places = self._places(documents)
        return [self.per_token[name][places].to(device) for name in names]

    def put(self, name: str, documents: Sequence[int], values_A: Tensor) -> None:
        """Write a per-token tensor's values for some answers, given end to end."""
        whole = self.per_token.setdefault(name, torch.zeros(int(self.lengths_R.sum())))
        whole[self._places(documents)] = values_A.float().cpu()

    def _places(self, documents: Sequence[int]) -> Tensor:
        """Where the tokens of the given answers stand in a per-token tensor."""
        ends = self.lengths_R.cumsum(0).tolist()
        starts = [0, *ends[:-1]]
        return torch.cat([torch.arange(starts[d], ends[d]) for d in documents])

    def state(self) -> dict[str, Any]:
        return dict(vars(self))

    @classmethod
    def restored(cls, state: dict[str, Any]) -> Rollouts:
        return cls(**state)


def write_answers(
    model: torch.nn.Module, subject: LanguageModel, asked: Sequence[Asked], *, max_new_tokens: int, seed: int
) -> list[Completion]:
    """Answers drawn from the model itself (temperature 1, nothing cut off), so that it learns from what it does."""
    return generate(
        model,
        [one.tokens for one in asked],
        Decoding(max_new_tokens=max_new_tokens, seed=seed, stop=subject.stop_strings),
        stop_ids=subject.stop_ids,
        pad_id=subject.pad_id,
        decode=subject.decode,
    )


def collect(asked: Sequence[Asked], answers: Sequence[Completion], rewards: Sequence[float]) -> Rollouts:
    """Rollouts of answered prompts; an answer's stop token is part of it."""
    stops = [[] if answer.stop_token is None else [answer.stop_token] for answer in answers]
    rollouts = Rollouts(
        tokens=[[*one.tokens, *answer.tokens, *stop] for one, answer, stop in zip(asked, answers, stops, strict=True)],
        prompt_lengths=[len(one.tokens) for one in asked],
        finished_R=torch.tensor([answer.finish_reason == "stop" for answer in answers]),
        rewards_R=torch.tensor(rewards, dtype=torch.float32),
        kept_R=torch.ones(len(answers), dtype=torch.bool),
    )
    rollouts.per_token["engine"] = torch.tensor([p for answer in answers for p in answer.log_probabilities])
    return rollouts
