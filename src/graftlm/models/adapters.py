"""What is trained: every weight, or a low-rank adapter in peft's format (and a reward model's head)."""

from __future__ import annotations

from typing import Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from graftlm.core.errors import ModelError
from graftlm.models.quant_linear import quantised_layers
from graftlm.models.quantised import is_quantised, merge_quantised, weight_count
from graftlm.models.trunk import causal_lm

Method = Literal["full", "lora", "qlora"]


def make_trainable(
    model: torch.nn.Module,
    method: Method,
    *,
    rank: int = 8,
    alpha: int = 16,
    dropout: float = 0.0,
    targets: str | list[str] = "all-linear",
    weights: torch.dtype = torch.float32,
) -> torch.nn.Module:
    """Ready the model for training: all weights in the format `weights`, or a LoRA adapter (fp32) on frozen
    weights as loaded (`qlora`: quantised ones).

    LoRA: Hu et al., arXiv 2106.09685; `all-linear` is every linear layer but the head. A new adapter changes
    nothing until it is trained (its B matrices are 0). The head of a reward model has no use for a low rank (it
    is one vector) and may be new: a copy of it is trained in full.
    """
    if quantised_layers(model):
        raise ModelError(
            "its weights are quantised and cannot be trained",
            where=type(causal_lm(model)).__name__,
            fix="train the model that it was made from, and quantise the result; or method: qlora on that model",
        )
    if method == "full":
        return model.to(weights).requires_grad_(True)
    classifies = type(model).__name__.endswith("ForSequenceClassification")
    task = "SEQ_CLS" if classifies else "CAUSAL_LM"
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets, task_type=task)
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


def recompute_activations(model: torch.nn.Module) -> None:
    """Gradient checkpointing: keep one hidden state a layer and recompute the rest in the backward pass."""
    inner = causal_lm(model)
    if not inner.supports_gradient_checkpointing:
        raise ModelError(
            "it cannot recompute activations", where=type(inner).__name__, fix="set `recompute: none`"
        )
    # transformers 5.23 has the new name and warns of the old one, 5.17 has only the old one.
    enable = getattr(inner, "activation_checkpointing_enable", None) or inner.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    inner.enable_input_require_grads()


def parameter_counts(model: torch.nn.Module) -> dict[str, int]:
    """`all`, `trained`, and `matmul`: those that take part in matrix products.

    An embedding that is only looked up does not; a tied one does, as the head.
    """
    inner = causal_lm(model)
    total = sum(weight_count(p) for p in model.parameters())
    embedding, head = inner.get_input_embeddings().weight, inner.get_output_embeddings()
    tied = head is not None and head.weight is embedding  # a reward model has no output embedding
    looked_up = 0 if tied else int(embedding.numel())  # type: ignore[operator]
    return {
        "all": total,
        "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "matmul": total - looked_up,
    }


def merge_adapter(model: torch.nn.Module) -> torch.nn.Module:
    """The plain model with the adapter's change added to its weights; a model without adapter as it is."""
    if not isinstance(model, PeftModel):
        return model
    return merge_quantised(model) if is_quantised(model) else model.merge_and_unload()


def save_adapter(model: torch.nn.Module, folder: str) -> None:
    """The trained adapter in peft's format; a reward model's on the same trunk is not part of it."""
    if isinstance(model, PeftModel):
        model.save_pretrained(folder, selected_adapters=[model.active_adapter])
