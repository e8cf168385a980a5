"""AdamW and the learning-rate schedule."""

from __future__ import annotations

import math

import torch


def adamw(model: torch.nn.Module, *, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """Fused AdamW, β 0.9/0.95 (LLaMA 2's, arXiv 2307.09288); matrices decay, norms and biases do not."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=learning_rate,
        betas=(0.9, 0.95),
        eps=1e-8,
        fused=True,
    )


def cosine_schedule(step: int, steps: int, *, warmup: float, floor: float = 0.1) -> float:
    """Factor on the peak rate at 0-based `step`: linear warm-up over a share, then cosine to `floor`."""
    warmup_steps = max(1, round(warmup * steps)) if warmup > 0 else 0
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - 1 - warmup_steps)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
