"""Rows for the trainer that the policy writes itself: a round of answers, their rewards, then learning from them.

Round i: draw prompts, answer them with the present weights, score the answers, compute log-probabilities under the
policy and the reference on the very rows that are learnt from (so PPO's first ratio is exactly 1), assign credit; then
`passes` times over the same `minibatches`. All of it is a function of (seed, round, weights); the buffer is part of
the checkpoint, so a killed run goes on in the middle of a round.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from graftlm.alignment.credit import Credit
from graftlm.alignment.policy import Policy, answer_token_log_probabilities
from graftlm.alignment.prompts import Asked
from graftlm.alignment.rewards import Reward
from graftlm.alignment.rollouts import Rollouts, collect, write_answers
from graftlm.core.errors import TrainingError
from graftlm.data.mixing import hash_seed
from graftlm.data.packing import PackedBatch
from graftlm.evaluation.language_model import LanguageModel
from graftlm.inference.cached import evaluation_mode
from graftlm.objectives.policy_gradient import importance_weights
from graftlm.training.feed import StopTraining


@dataclass(frozen=True)
class RolloutSettings:
    """How to answer and learn; the names are those of the recipe (PolicyStage)."""

    iterations: int
    passes: int
    minibatches: int
    max_new_tokens: int
    row_tokens: int
    max_kl: float
    unfinished_reward: float | None
    bf16: bool
    seed: int


class RolloutFeed:
    """A trainer's feed of answers.

    Args:
        rounds: the prompts of each round; answers to one prompt stand next to each other.

    Attributes:
        rollouts: the answers of the present round.
        history: figures of each round.
    """

    def __init__(
        self,
        policy: Policy,
        subject: LanguageModel,
        rounds: Sequence[Sequence[Asked]],
        reward: Reward,
        credit: Credit,
        settings: RolloutSettings,
    ) -> None:
        self.policy, self.subject, self.rounds = policy, subject, rounds
        self.reward, self.credit, self.settings = reward, credit, settings
        self.rollouts: Rollouts | None = None
        self.history: list[dict[str, float]] = []
        self._round = -1
        self._good: dict[str, torch.Tensor] = {}  # the weights of the last round within `max_kl`

    @property
    def steps(self) -> int:
        return self.settings.iterations * self._round_steps

    @property
    def _round_steps(self) -> int:
        return self.settings.passes * self.settings.minibatches

    def current(self) -> Rollouts:
        assert self.rollouts is not None
        return self.rollouts

    def batches(self, step: int, *, pad: bool) -> list[PackedBatch]:
        """The rows of the step's minibatch; the first step of a round writes the round's answers."""
        number, place = divmod(step, self._round_steps)
        if number != self._round:
            self._answer(number, pad=pad)
        part = self._minibatch(place % self.settings.minibatches)
        return list(self.current().plan(part, self.settings.row_tokens).all_rows(pad=pad)) if part else []

    def state(self) -> dict[str, Any]:
        return {
            "round": self._round,
            "rollouts": self.current().state(),
            "history": self.history,
            "credit": self.credit.state(),
            "good": self._good,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self._round = state["round"]
        self.rollouts = Rollouts.restored(state["rollouts"])
        self.history = state["history"]
        self.credit.restore(state["credit"])
        self._good = state["good"]

    def _minibatch(self, place: int) -> list[int]:
        """The answers of a minibatch: the same in every pass, so that all log-probabilities are of the same rows."""
        kept = self.current().kept_R.nonzero()[:, 0].numpy()
        order = np.random.default_rng(hash_seed(self.settings.seed, self._round)).permutation(kept)
        return order[place :: self.settings.minibatches].tolist()

    def _answer(self, number: int, *, pad: bool) -> None:
        settings, asked = self.settings, self.rounds[number]
        with evaluation_mode(self.policy), torch.no_grad(), self._precision():
            seed = hash_seed(settings.seed + 1, number)
            answers = write_answers(
                self.policy, self.subject, asked, max_new_tokens=settings.max_new_tokens, seed=seed
            )
            rewards = self.reward([one.prompt for one in asked], [(answer.text or "").strip() for answer in answers])
            if not all(math.isfinite(value) for value in rewards):
                raise TrainingError(
                    f"a reward of round {number} is not a finite number",
                    fix="look at the reward; train the reward model in fp32",
                )
            if settings.unfinished_reward is not None:
                rewards = [
                    value if answer.finish_reason == "stop" else settings.unfinished_reward
                    for value, answer in zip(rewards, answers, strict=True)
                ]
            self.rollouts, self._round = collect(asked, answers, rewards), number
            figures = self._measure(pad=pad)
        self.history.append({"round": number, **figures})
        self._stop_if_far(number, figures["kl"])

    def _measure(self, *, pad: bool) -> dict[str, float]:
        """Log-probabilities and values of all answers, the credit, and the round's figures."""
        rollouts, device = self.current(), next(self.policy.parameters()).device
        for place in range(self.settings.minibatches):
            part = self._minibatch(place)
            for row in rollouts.plan(part, self.settings.row_tokens).all_rows(pad=pad) if part else []:
                batch, documents = row.to(device), row.document[: row.documents].tolist()
                statistics, values_A = self.policy.look(batch)
                rollouts.put("old", documents, statistics.log_probability)
                if values_A is not None:
                    rollouts.put("value", documents, values_A)
                with self.policy.reference() as reference:
                    rollouts.put("reference", documents, answer_token_log_probabilities(reference, batch))
        per_token = rollouts.per_token
        per_token["weight"] = importance_weights(per_token["old"], per_token["engine"])
        figures = {
            "reward": float(rollouts.rewards_R.mean()),
            "reward_spread": float(rollouts.rewards_R.std(correction=0)),
            "kl": float((rollouts.sums("old") - rollouts.sums("reference")).mean()),
            "tokens": float(rollouts.lengths_R.float().mean()),
            "finished": float(rollouts.finished_R.float().mean()),
            "engine_gap": float((per_token["old"] - per_token["engine"]).abs().max()),
        }
        return figures | self.credit.assign(rollouts)

    def _stop_if_far(self, number: int, kl: float) -> None:
        if not math.isfinite(kl):
            raise TrainingError(
                f"the log-probabilities of round {number}'s answers are not finite",
                fix="lower learning_rate, or train in fp32; check the model that training starts from",
            )
        trained = {name: p for name, p in self.policy.named_parameters() if p.requires_grad}
        if kl <= self.settings.max_kl:
            self._good = {name: parameter.detach().cpu().clone() for name, parameter in trained.items()}
            return
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(self._good[name])
        raise StopTraining(
            f"the divergence from the start model blew up: {kl:.1f} nats an answer in round {number}, more than max_kl "
            f"{self.settings.max_kl:g}; the weights are those of the round before. Lower learning_rate or raise kl"
        )

    def _precision(self) -> AbstractContextManager[Any]:
        device = next(self.policy.parameters()).device
        return torch.autocast(device.type, torch.bfloat16) if self.settings.bf16 else nullcontext()
