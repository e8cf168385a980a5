"""Whether two forms of one model say the same: the gate that a merged adapter has to pass."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from graftlm.core.errors import ModelError
from graftlm.models.loading import unloadable


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


@torch.no_grad()
def logits_of(model: nn.Module, prompts: Sequence[Sequence[int]]) -> list[Tensor]:
    """Logits [L, V] of each prompt, fp32, on the CPU."""
    device = next(model.parameters()).device
    return [
        model(input_ids=torch.tensor([list(prompt)], device=device), use_cache=False).logits[0].float().cpu()
        for prompt in prompts
    ]


def agreement(before: Sequence[Tensor], after: Sequence[Tensor]) -> Agreement:
    """Compare the logits [L, V] that two models gave the same prompts."""
    divergences, same = [], []
    for one, other in zip(before, after, strict=True):
        log_p, log_q = one.double().log_softmax(-1), other.double().log_softmax(-1)
        divergences.append((log_p.exp() * (log_p - log_q)).sum(-1).clamp(min=0))
        same.append(one.argmax(-1) == other.argmax(-1))
    kl_N, same_N = torch.cat(divergences), torch.cat(same)
    return Agreement(float(kl_N.mean()), float(kl_N.max()), float(same_N.double().mean()), len(kl_N))


@dataclass(frozen=True)
class MergedAdapter:
    """A merged adapter and what the merge cost.

    Attributes:
        agreement: of the merged against the unmerged model, both computed in fp32.
        lost: norm of what rounding did to the adapter's change, as a share of the change's. What is smaller than half a
            step of the format is lost: bf16 has 8 significant bits, half a step is 1/256 to 1/512 of a weight.
    """

    model: nn.Module
    agreement: Agreement
    lost: float


def is_adapter(folder: str) -> bool:
    return (Path(folder) / "adapter_config.json").is_file()


def base_of(adapter: str) -> str | None:
    """The base that an adapter says it was trained on."""
    config = json.loads((Path(adapter) / "adapter_config.json").read_text(encoding="utf-8"))
    return config.get("base_model_name_or_path") or None


def put_on(base: nn.Module, adapter: str) -> PeftModel:
    """The base with the adapter of a folder, eval mode.

    Raises:
        ModelError: it cannot be read, or belongs to another model.
    """
    try:
        return PeftModel.from_pretrained(base, adapter).eval()
    except Exception as error:
        raise unloadable("adapter", adapter, error) from error


def merge_checked(
    model: PeftModel, prompts: Sequence[Sequence[int]], dtype: torch.dtype, bounds: Bounds, *, where: str
) -> MergedAdapter:
    """Merge an adapter into an fp32 model whose weights will be saved as `dtype`, and compare before and after.

    The model is rounded to `dtype` and comes back in fp32: it computes as what will be saved, and what differs comes
    from the merge alone, not from arithmetic in fewer bits.

    Raises:
        ModelError: a bound is passed; with the numbers, and how to go on.
    """
    before = logits_of(model, prompts)
    lost = _merge_layers(model, dtype)
    merged: nn.Module = model.unload().to(dtype).float()
    found = agreement(before, logits_of(merged, prompts))
    fix = "merge in fp32 (--dtype fp32), or loosen the bounds" if dtype != torch.float32 else "loosen the bounds"
    found.check(bounds, where=f"{where}, merged into {str(dtype).removeprefix('torch.')}", fix=fix)
    return MergedAdapter(merged, found, lost)


@torch.no_grad()
def _merge_layers(model: nn.Module, dtype: torch.dtype) -> float:
    """Merge one layer after the other; the share of the changes that rounding to `dtype` will lose."""
    changed = lost = 0.0
    for layer in [module for module in model.modules() if isinstance(module, BaseTunerLayer)]:
        weight = getattr(layer.get_base_layer(), "weight", None)
        if weight is None:
            continue
        before = weight.detach().clone()
        layer.merge()
        after = weight.detach()  # the same parameter
        changed += float((after - before).double().square().sum())
        lost += float((after.to(dtype).to(after.dtype) - after).double().square().sum())
    return (lost / changed) ** 0.5 if changed else 0.0
