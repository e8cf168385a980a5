"""Direct preference optimisation (Rafailov et al., arXiv 2305.18290)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from graftlm.data.packing import PackedBatch, PackingPlan
from graftlm.models.trunk import hidden_states, output_head
from graftlm.ops.cross_entropy import token_log_probabilities
from graftlm.training.objective import Loss


def answer_log_probabilities(model: torch.nn.Module, batch: PackedBatch) -> torch.Tensor:
    """[N] fp32: Σ log p over the targets of each document (padding document left out)."""
    hidden_TD = hidden_states(model, batch.tokens, batch.boundaries)
    log_p_T = token_log_probabilities(hidden_TD, output_head(model), batch.targets)
    N = len(batch.document)
    lengths_N = batch.boundaries.diff().long()
    document_T = torch.repeat_interleave(torch.arange(N, device=log_p_T.device), lengths_N)
    summed_N = torch.zeros(N, device=log_p_T.device).index_add(0, document_T, log_p_T)
    return summed_N[: N - 1] if batch.padding else summed_N


def dpo_loss(
    chosen_P: torch.Tensor,
    rejected_P: torch.Tensor,
    reference_chosen_P: torch.Tensor,
    reference_rejected_P: torch.Tensor,
    beta: float,
) -> torch.Tensor:
    """[P] −log σ(β[(log π(c) − log π(r)) − (log ref(c) − log ref(r))]); ln 2 where both models agree."""
    return -F.logsigmoid(beta * ((chosen_P - reference_chosen_P) - (rejected_P - reference_rejected_P)))


class DPO:
    """One unit a pair; documents come as chosen, rejected, chosen, rejected …

    The reference is the model as it stands when training begins. Its log-probabilities are computed once,
    over the very rows that training will use, so no second copy of the weights is held and the first loss is
    exactly ln 2. With LoRA this is the model with the adapter off, because a new adapter starts as the
    identity.
    """

    def __init__(self, beta: float, reference: dict[int, float]) -> None:
        self.beta, self.reference = beta, reference

    def units(self, batch: PackedBatch) -> int:
        return (len(batch.document) - bool(batch.padding)) // 2

    def __call__(self, model: torch.nn.Module, batch: PackedBatch) -> Loss:
        policy_N = answer_log_probabilities(model, batch)
        documents = batch.document[: len(policy_N)].tolist()
        reference_N = torch.tensor([self.reference[number] for number in documents], device=policy_N.device)
        chosen_P, rejected_P = policy_N[0::2], policy_N[1::2]
        reference_chosen_P, reference_rejected_P = reference_N[0::2], reference_N[1::2]
        loss_P = dpo_loss(chosen_P, rejected_P, reference_chosen_P, reference_rejected_P, self.beta)
        drift_chosen_P, drift_rejected_P = (
            (chosen_P - reference_chosen_P).detach(),
            (rejected_P - reference_rejected_P).detach(),
        )
        metrics = {
            "accuracy": (drift_chosen_P > drift_rejected_P).float().sum(),
            "margin": self.beta * (drift_chosen_P - drift_rejected_P).sum(),
            "chosen_drift": drift_chosen_P.sum(),
            "rejected_drift": drift_rejected_P.sum(),
        }
        return Loss(loss_P.sum(dtype=torch.float64), len(loss_P), metrics)  # fp64: n · ln 2 must sum to exactly that


@torch.no_grad()
def reference_log_probabilities(
    model: torch.nn.Module, plans: list[PackingPlan], *, pad_rows: bool, bf16: bool
) -> dict[int, float]:
    """Σ log p of every document of the plans under the model as it stands, keyed by the document's number."""
    device = next(model.parameters()).device
    model.eval()  # dropout must not blur the reference
    found: dict[int, float] = {}
    for plan in plans:
        for row in range(plan.rows):
            batch = plan.row(row, pad_to=plan.row_tokens if pad_rows else None).to(device)
            documents = batch.document[: len(batch.document) - bool(batch.padding)].tolist()
            if all(number in found for number in documents):
                continue
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                values = answer_log_probabilities(model, batch).tolist()
            for number, value in zip(documents, values, strict=True):
                found.setdefault(number, value)
    return found
