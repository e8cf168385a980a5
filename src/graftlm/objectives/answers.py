"""What a model thinks of the answers in one packed row: a log-probability for each document.

Shapes: T tokens, N documents (padding left out).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from graftlm.data.packing import PackedBatch
from graftlm.inference.cached import evaluation_mode, model_device
from graftlm.models.trunk import hidden_states, output_head
from graftlm.ops.cross_entropy import IGNORE, token_log_probabilities
from graftlm.training.distributed import call_gathered, give_back


@dataclass(frozen=True)
class Answers:
    """Answers, each the targets of one document.

    Attributes:
        log_p: [N] fp32; log p of the whole answer in nats: the sum over its tokens.
        tokens: [N] int64; how many tokens that are.
        reference: [N] fp32; log p under the reference model; None where there is none.
    """

    log_p: torch.Tensor
    tokens: torch.Tensor
    reference: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.log_p)

    @property
    def mean_log_p(self) -> torch.Tensor:
        """[N] nats a token."""
        return self.log_p / self.tokens.clamp(min=1)

    @property
    def drift(self) -> torch.Tensor:
        """[N] log π − log ref: how far the policy has moved, nats an answer."""
        assert self.reference is not None, "this objective needs a reference"
        return self.log_p - self.reference

    @property
    def mean_drift(self) -> torch.Tensor:
        """[N] nats a token."""
        return self.drift / self.tokens.clamp(min=1)

    def halves(self) -> tuple[Answers, Answers]:
        """The first and the second document of each sample."""
        return self._every_second(0), self._every_second(1)

    def detach(self) -> Answers:
        return replace(self, log_p=self.log_p.detach())

    def _every_second(self, start: int) -> Answers:
        reference = None if self.reference is None else self.reference[start::2]
        return Answers(self.log_p[start::2], self.tokens[start::2], reference)


def answer_log_probabilities(model: torch.nn.Module, batch: PackedBatch) -> Answers:
    """One forward over the row; differentiable.

    The sum runs in fp64: a GPU adds a document's tokens in no fixed order, and in fp32 that would change the last bits
    of the same row from call to call, and with them the first loss.
    """
    hidden_TD = hidden_states(model, batch.tokens, batch.boundaries, batch.longest)
    log_p_T = token_log_probabilities(hidden_TD, output_head(model), batch.targets)
    N = len(batch.document)
    lengths_N = batch.boundaries.diff().long()
    document_T = torch.repeat_interleave(torch.arange(N, device=log_p_T.device), lengths_N)
    log_p_N = log_p_T.new_zeros(N, dtype=torch.float64).index_add(0, document_T, log_p_T.double())
    tokens_N = document_T.new_zeros(N).index_add(0, document_T, (batch.targets != IGNORE).long())
    return Answers(log_p_N[: batch.documents].float(), tokens_N[: batch.documents])


@torch.no_grad()
def answers_as_it_stands(model: torch.nn.Module, batch: PackedBatch, *, bf16: bool) -> Answers:
    """The same for a row in host memory, without gradients and without dropout."""
    device = model_device(model)
    with evaluation_mode(model), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        found: Answers = call_gathered(model, answer_log_probabilities, batch.to(device))
    give_back(model)
    return found
