"""How alike two forms of one model are: the divergence of their next-token distributions on the same tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from graftlm.core.errors import ModelError


@dataclass(frozen=True)
class Bounds:
    """How far apart two forms of one model may be; divergences in nats a token."""

    mean_kl: float = 0.01
    max_kl: float = 0.5
    greedy: float = 0.98


@dataclass(frozen=True)
class Agreement:
    """How far apart two models are on the same tokens.

    Attributes:
        mean_kl, max_kl: of KL(before ‖ after) over the positions, nats.
        greedy: share of the positions where both have the same likeliest token.
        positions: how many.
    """

    mean_kl: float
    max_kl: float
    greedy: float
    positions: int

    def __str__(self) -> str:
        return (
            f"KL {self.mean_kl:.2g} nats on average, {self.max_kl:.2g} at most; "
            f"same likeliest token at {self.greedy:.2%} of {self.positions} positions"
        )

    def check(self, bounds: Bounds, *, where: str, fix: str) -> None:
        """Raises ModelError, with the numbers, where a bound is passed (or a number is not a number)."""
        found, allowed = asdict(self), asdict(bounds)
        faults = [f"{name} {found[name]:.3g} > {allowed[name]:g}" for name in ("mean_kl", "max_kl")
                  if not found[name] <= allowed[name]]  # fmt: skip
        faults += [f"greedy {self.greedy:.4f} < {bounds.greedy:g}"] if not self.greedy >= bounds.greedy else []
        if faults:
            raise ModelError(f"the model changed: {', '.join(faults)} ({self})", where=where, fix=fix)


def logits_of(model: nn.Module, prompts: Iterable[Sequence[int]]) -> Iterator[Tensor]:
    """Logits [L, V] of each prompt, fp32, on the CPU; one prompt's exist at a time."""
    device = next(model.parameters()).device
    for prompt in prompts:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([list(prompt)], device=device), use_cache=False).logits[0]
        yield logits.float().cpu()


def agreement(before: Iterable[Tensor], after: Iterable[Tensor]) -> Agreement:
    """Compare the logits [L, V] that two models gave the same prompts."""
    divergences, same = [], []
    for one, other in zip(before, after, strict=True):
        log_p, log_q = one.double().log_softmax(-1), other.double().log_softmax(-1)
        divergences.append((log_p.exp() * (log_p - log_q)).sum(-1).clamp(min=0))
        same.append(one.argmax(-1) == other.argmax(-1))
    kl_N, same_N = torch.cat(divergences), torch.cat(same)
    return Agreement(float(kl_N.mean()), float(kl_N.max()), float(same_N.double().mean()), len(kl_N))
