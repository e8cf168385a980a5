"""A low-rank adapter in peft's format on frozen weights: LoRA (Hu et al., arXiv 2106.09685) and its kin.

rsLoRA (arXiv 2312.03732) scales the change by alpha / √rank instead of alpha / rank. DoRA (arXiv 2402.09353) trains the
length of each output's weight row apart from its direction. PiSSA (arXiv 2404.02948) starts A and B at the weight's
largest singular directions and freezes the rest of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from graftlm.core.errors import ModelError
from graftlm.models.adapters.pissa import remember_start

Kind = Literal["lora", "rslora", "dora", "pissa"]

EXACT_SVD = 1024
"""Widest layer whose singular values are computed exactly. A layer of 4,096 takes seconds, and a 7B model has 224."""


@dataclass(frozen=True)
class Lora:
    """Train an adapter (fp32) on frozen weights as loaded, be they quantised or not.

    `all-linear` is every linear layer but the head. A new adapter changes nothing until it is trained: its B matrices
    are 0, or (PiSSA) what it holds was taken out of the frozen weights. The head of a reward model has no use for a low
    rank (it is one vector) and may be new: a copy of it is trained in full.
    """

    rank: int = 8
    alpha: int = 16
    dropout: float = 0.0
    targets: str | list[str] = "all-linear"
    kind: Kind = "lora"

    def apply(self, model: torch.nn.Module) -> torch.nn.Module:
        """Raises ModelError when the model has no such layers, or they cannot carry this kind of adapter."""
        classifies = type(model).__name__.endswith("ForSequenceClassification")
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=self.targets,
            use_rslora=self.kind == "rslora",
            use_dora=self.kind == "dora",
            init_lora_weights=self._start(model),  # type: ignore[arg-type]  # the number of iterations is free
            task_type="SEQ_CLS" if classifies else "CAUSAL_LM",
        )
        try:
            adapted = get_peft_model(model, config)
        except (ValueError, TypeError) as error:
            raise ModelError(
                f"LoRA cannot be applied: {error}",
                where="lora.targets",
                fix="use `all-linear` or name layers of this model",
            ) from error
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        if self.kind == "pissa" and not next(model.parameters()).is_meta:
            assert isinstance(adapted, PeftModel)
            remember_start(adapted)
        return adapted

    def _start(self, model: torch.nn.Module) -> str | bool:
        if self.kind != "pissa" or next(model.parameters()).is_meta:
            return True
        widest = max(max(module.weight.shape) for module in model.modules() if isinstance(module, torch.nn.Linear))
        return "pissa" if widest <= EXACT_SVD else "pissa_niter_16"
