"""Every weight is trained."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Full:
    """Train all weights, in the format `weights`."""

    weights: torch.dtype = torch.float32

    def apply(self, model: torch.nn.Module) -> torch.nn.Module:
        return model.to(self.weights).requires_grad_(True)
