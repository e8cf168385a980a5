"""Learning from which answer is better: DPO and its variants, ORPO and SimPO on pairs, KTO on thumbs.

All share one forward over a packed row, which gives each answer's log-probability (`answers.py`), and one idea:
an answer has an implicit reward, and a loss says how the rewards of good and bad answers should lie. The losses
are plain functions of [P] pairs or [S] samples; the classes apply them to rows.

Shapes: P pairs, S samples of KTO, N documents of a row (two a pair or sample).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
import torch.nn.functional as F

from graftlm.data.packing import PackedBatch
from graftlm.objectives.answers import Answers, answer_log_probabilities
from graftlm.objectives.reference import Reference
from graftlm.training.objective import Loss

DpoKind = Literal["sigmoid", "hinge", "ipo", "robust"]


def dpo_loss(
    chosen_P: torch.Tensor,
    rejected_P: torch.Tensor,
    beta: float,
    *,
    kind: DpoKind = "sigmoid",
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """[P] losses from what the policy has moved away from the reference.

    With h = chosen − rejected and ε = `label_smoothing`, the share of pairs that are the wrong way round:
    - sigmoid: −(1−ε) log σ(βh) − ε log σ(−βh). ε = 0 is DPO (Rafailov et al., arXiv 2305.18290); ε > 0 is
      conservative DPO (Mitchell 2023, ericmitchell.ai/cdpo.pdf), which stops at σ(βh) = 1−ε.
    - robust: (−(1−ε) log σ(βh) + ε log σ(−βh)) / (1−2ε) (Chowdhury et al., arXiv 2403.00409): DPO's loss on clean
      labels in expectation. It has no lower bound: a single pair's loss may be negative.
    - hinge: max(0, 1 − βh) (SLiC-HF in the form of Liu et al., arXiv 2309.06657).
    - ipo: (h − 1/(2β))² (Azar et al., arXiv 2310.12036, eq. 17).

    sigmoid without smoothing and robust are ln 2 where both models agree.

    Args:
        chosen_P, rejected_P: log π − log ref of each answer: summed over its tokens, for ipo the mean a token.
            The paper has no lengths; with sums the target 1/(2β) would mean ever less a token the longer the
            answers. TRL says that IPO's authors confirmed the mean; LLaMA-Factory takes it, too.
    """
    h_P = chosen_P - rejected_P
    if kind == "hinge":
        return torch.relu(1 - beta * h_P)
    if kind == "ipo":
        return (h_P - 1 / (2 * beta)) ** 2
    as_labelled_P, flipped_P = -F.logsigmoid(beta * h_P), -F.logsigmoid(-beta * h_P)
    if kind == "robust":
        scale = 1 - 2 * label_smoothing
        return ((1 - label_smoothing) * as_labelled_P - label_smoothing * flipped_P) / scale
    return (1 - label_smoothing) * as_labelled_P + label_smoothing * flipped_P


def orpo_loss(chosen_P: torch.Tensor, rejected_P: torch.Tensor, beta: float) -> torch.Tensor:
    """[P] −β log σ(log odds(chosen) − log odds(rejected)) (Hong et al., arXiv 2403.07691, eq. 7; β is its λ).

    Args:
        chosen_P, rejected_P: mean log p a token, so that odds p/(1−p) are those of a typical token.
    """
    return -beta * F.logsigmoid(_log_odds(chosen_P) - _log_odds(rejected_P))


def _log_odds(log_p: torch.Tensor) -> torch.Tensor:
    """log(p / (1 − p)). 1 − p comes from expm1, and log p stays one fp32 step below 0: log odds end at 15.9."""
    below_0 = log_p.clamp(max=-torch.finfo(torch.float32).eps)
    return below_0 - torch.log(-torch.expm1(below_0))


def simpo_loss(chosen_P: torch.Tensor, rejected_P: torch.Tensor, beta: float, target_margin: float) -> torch.Tensor:
    """[P] −log σ(β (chosen − rejected) − target_margin) of mean log p a token (Meng et al., arXiv 2405.14734, eq. 6).

    The margin γ is in units of reward as in the paper; TRL's and LLaMA-Factory's `simpo_gamma` is the same.
    """
    return -F.logsigmoid(beta * (chosen_P - rejected_P) - target_margin)


def kto_loss(
    drift_S: torch.Tensor,
    value_S: torch.Tensor,
    z0: torch.Tensor,
    beta: float,
    *,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> torch.Tensor:
    """[S] w (1 − σ(β (r − z0))) where desirable, w (1 − σ(β (z0 − r))) where not (Ethayarajh et al., arXiv 2402.01306).

    Args:
        drift_S: r = log π − log ref of each answer, summed over its tokens.
        value_S: 1 desirable, −1 undesirable.
        z0: scalar; the reference point, an estimate of KL(π ‖ ref), without gradient.
    """
    weight_S = torch.where(value_S > 0, desirable_weight, undesirable_weight)
    return weight_S * torch.sigmoid(-value_S * beta * (drift_S - z0))


class PairObjective(ABC):
    """One unit a pair; documents come as chosen, rejected, chosen, rejected …

    A subclass says what a pair costs and what an answer is worth; all else is here.

    Args:
        beta: scale of the rewards.
        reference: log-probabilities under the reference model; None where the loss needs none.
        sft_weight: weight of the chosen answer's mean −log p a token, added to each pair's loss.

    Metrics, means a pair:
        accuracy: the chosen answer's reward is higher (equal is not better).
        margin: reward of the chosen answer less that of the rejected.
        chosen_log_p, rejected_log_p: nats a token.
        chosen_drift, rejected_drift: log π − log ref, nats an answer; only with a reference.
    """

    def __init__(self, beta: float, *, reference: Reference | None = None, sft_weight: float = 0.0) -> None:
        self.beta, self.reference, self.sft_weight = beta, reference, sft_weight

    @abstractmethod
    def pair_losses(self, chosen: Answers, rejected: Answers) -> torch.Tensor:
        """[P]"""

    @abstractmethod
    def rewards(self, answers: Answers) -> torch.Tensor:
        """[N] the implicit reward of each answer: what the loss compares, times beta."""

    def units(self, batch: PackedBatch) -> int:
        return batch.documents // 2

    def __call__(self, model: torch.nn.Module, batch: PackedBatch) -> Loss:
        answers = answer_log_probabilities(model, batch)
        if self.reference is not None:
            answers = self.reference.join(answers, batch)
        chosen, rejected = answers.halves()
        loss_P = self.pair_losses(chosen, rejected)
        if self.sft_weight:
            loss_P = loss_P - self.sft_weight * chosen.mean_log_p
        # fp64: n · ln 2 must sum to exactly that
        return Loss(loss_P.sum(dtype=torch.float64), len(loss_P), self._metrics(chosen.detach(), rejected.detach()))

    def _metrics(self, chosen: Answers, rejected: Answers) -> dict[str, torch.Tensor]:
        better_P, worse_P = self.rewards(chosen), self.rewards(rejected)
        metrics = {
            "accuracy": (better_P > worse_P).float().sum(),
            "margin": (better_P - worse_P).sum(),
            "chosen_log_p": chosen.mean_log_p.sum(),
            "rejected_log_p": rejected.mean_log_p.sum(),
        }
        if self.reference is None:
            return metrics
        return metrics | {"chosen_drift": chosen.drift.sum(), "rejected_drift": rejected.drift.sum()}


class DPO(PairObjective):
    """Direct preference optimisation and its relatives, see `dpo_loss`; the first loss is exactly ln 2.

    An answer's reward is β (log π − log ref): summed over its tokens, for ipo the mean a token.
    """

    def __init__(
        self,
        beta: float,
        reference: Reference,
        *,
        kind: DpoKind = "sigmoid",
        label_smoothing: float = 0.0,
        sft_weight: float = 0.0,
    ) -> None:
        super().__init__(beta, reference=reference, sft_weight=sft_weight)
        self.kind, self.label_smoothing = kind, label_smoothing

    def pair_losses(self, chosen: Answers, rejected: Answers) -> torch.Tensor:
        compared = (self._compared(chosen), self._compared(rejected))
        return dpo_loss(*compared, self.beta, kind=self.kind, label_smoothing=self.label_smoothing)

    def rewards(self, answers: Answers) -> torch.Tensor:
        return self.beta * self._compared(answers)

    def _compared(self, answers: Answers) -> torch.Tensor:
        return answers.mean_drift if self.kind == "ipo" else answers.drift


class ORPO(PairObjective):
    """Odds-ratio preference optimisation, see `orpo_loss`; an answer's reward is β · its mean log p a token.

    The usual loss on the chosen answer is part of it (`sft_weight`, 1 in the paper): on the answer's tokens, as in
    LLaMA-Factory; TRL counts the prompt's tokens, too. Without it nothing holds the chosen answers up.
    """

    def __init__(self, beta: float, *, sft_weight: float = 1.0) -> None:
        super().__init__(beta, sft_weight=sft_weight)

    def pair_losses(self, chosen: Answers, rejected: Answers) -> torch.Tensor:
        return orpo_loss(chosen.mean_log_p, rejected.mean_log_p, self.beta)

    def rewards(self, answers: Answers) -> torch.Tensor:
        return self.beta * answers.mean_log_p


class SimPO(PairObjective):
    """Simple preference optimisation, see `simpo_loss`; an answer's reward is β · its mean log p a token."""

    def __init__(self, beta: float, target_margin: float, *, sft_weight: float = 0.0) -> None:
        super().__init__(beta, sft_weight=sft_weight)
        self.target_margin = target_margin

    def pair_losses(self, chosen: Answers, rejected: Answers) -> torch.Tensor:
        return simpo_loss(chosen.mean_log_p, rejected.mean_log_p, self.beta, self.target_margin)

    def rewards(self, answers: Answers) -> torch.Tensor:
        return self.beta * answers.mean_log_p


class KTO:
    """Kahneman-Tversky optimisation, see `kto_loss`. One unit a sample: an answer and a mismatched answer.

    Documents come as answer, mismatched, answer, mismatched …; the answer's value is 1 (desirable) or −1. The
    mismatched answers only make the reference point z0 = max(0, mean of their log π − log ref). It is taken *a row*
    (TRL: a batch over all devices), so rows of many samples estimate it better. No gradient flows through it: the
    mismatched documents share the forward and are detached.

    Args:
        sft_weight: weight of a desirable answer's mean −log p a token, added to its loss.

    Metrics, means a sample:
        accuracy: the answer's log π − log ref lies on its side of z0 (above where desirable, below where not).
        signed_reward: ± β (log π − log ref), + where desirable; what should rise.
        reward: β (log π − log ref), whatever the answer's value.
        desirable_share: of the samples. The mean reward of the desirable answers is
            (reward + signed_reward) / (2 · desirable_share), and of the others with − and 1 − desirable_share.
        z0: nats an answer, weighted by the row's samples.
        log_p: nats a token of the answers.
    """

    def __init__(
        self,
        beta: float,
        reference: Reference,
        *,
        desirable_weight: float = 1.0,
        undesirable_weight: float = 1.0,
        sft_weight: float = 0.0,
    ) -> None:
        self.beta, self.reference, self.sft_weight = beta, reference, sft_weight
        self.desirable_weight, self.undesirable_weight = desirable_weight, undesirable_weight

    def units(self, batch: PackedBatch) -> int:
        return batch.documents // 2

    def rewards(self, answers: Answers) -> torch.Tensor:
        """[N] β (log π − log ref)."""
        return self.beta * answers.drift

    def __call__(self, model: torch.nn.Module, batch: PackedBatch) -> Loss:
        answers, mismatched = self.reference.join(answer_log_probabilities(model, batch), batch).halves()
        value_S = batch.value[: batch.documents : 2]
        z0 = mismatched.detach().drift.mean().clamp(min=0)
        loss_S = kto_loss(
            answers.drift,
            value_S,
            z0,
            self.beta,
            desirable_weight=self.desirable_weight,
            undesirable_weight=self.undesirable_weight,
        )
        if self.sft_weight:
            loss_S = loss_S - self.sft_weight * answers.mean_log_p * (value_S > 0)
        metrics = self._metrics(answers.detach(), value_S, z0)
        return Loss(loss_S.sum(dtype=torch.float64), len(loss_S), metrics)

    def _metrics(self, answers: Answers, value_S: torch.Tensor, z0: torch.Tensor) -> dict[str, torch.Tensor]:
        reward_S = self.rewards(answers)
        return {
            "accuracy": (value_S * (answers.drift - z0) > 0).float().sum(),
            "signed_reward": (value_S * reward_S).sum(),
            "reward": reward_S.sum(),
            "desirable_share": (value_S > 0).float().sum(),
            "z0": z0 * len(answers),
            "log_p": answers.mean_log_p.sum(),
        }
