"""Whether two forms of one model say the same: the gate that a merged adapter has to pass."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from graftlm.models.agreement import Agreement, Bounds, agreement, logits_of
from graftlm.models.loading import unloadable


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
    before = list(logits_of(model, prompts))
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
