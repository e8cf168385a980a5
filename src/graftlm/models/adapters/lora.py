"""A low-rank adapter in peft's format on frozen weights: LoRA (Hu et al., arXiv 2106.09685)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from peft import LoraConfig, get_peft_model

from graftlm.core.errors import ModelError


@dataclass(frozen=True)
class Lora:
    """Train an adapter (fp32) on frozen weights as loaded, be they quantised or not.

    `all-linear` is every linear layer but the head. A new adapter changes nothing until it is trained (its B matrices
    are 0). The head of a reward model has no use for a low rank (it is one vector) and may be new: a copy of it is
    trained in full.
    """

    rank: int = 8
    alpha: int = 16
    dropout: float = 0.0
    targets: str | list[str] = "all-linear"

    def apply(self, model: torch.nn.Module) -> torch.nn.Module:
        """Raises ModelError when the model has no such layers."""
        classifies = type(model).__name__.endswith("ForSequenceClassification")
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=self.targets,
            task_type="SEQ_CLS" if classifies else "CAUSAL_LM",
        )
        try:
            adapted = get_peft_model(model, config)
        except ValueError as error:
            raise ModelError(
                f"LoRA cannot be applied: {error}",
                where="lora.targets",
                fix="use `all-linear` or name layers of this model",
            ) from error
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        return adapted
