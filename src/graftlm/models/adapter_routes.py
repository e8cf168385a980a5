"""Several LoRA adapters on one base in one forward pass: each row is answered by the adapter that it names, or by none.

The adapters' small matrices are laid side by side. Every row is multiplied by all of them, and what belongs to other
adapters than its own is set to zero in between: two products a layer whatever the mix, no sorting of rows and fixed
shapes, which CUDA graphs need. That is cheap while the ranks together are small beside the layer's width (eight
adapters of rank 16 are 128 columns); beyond that, gathering kernels win (Punica, arXiv 2310.18547; S-LoRA, 2311.03285).

Shapes: B rows, K tokens of each, R ranks of all adapters together, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import Tensor

from graftlm.core.errors import ModelError

NONE = -1
"""The place of a row that has no adapter."""


class RoutedLoraLinear(LoraLinear):
    """A peft layer while its rows have adapters of their own. An existing layer becomes one by its class."""

    graft_routes: AdapterRoutes

    def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
        A_RI, B_OR, owner_R = self.graft_routes.matrices[self]
        own_BKR = self.graft_routes.place_BK[..., None] == owner_R
        low_BKR = F.linear(x.to(A_RI.dtype), A_RI) * own_BKR
        wide: Tensor = self.base_layer(x)
        return wide + F.linear(low_BKR, B_OR).to(wide.dtype)


class AdapterRoutes:
    """The adapters of a peft model, and which of them each row takes.

    Args:
        model: peft's, with plain LoRA adapters on linear layers; their weights are copied as they are now.

    Attributes:
        names: the adapters, in the order of their places.

    Raises:
        ModelError: the model has no adapters, or one that is not plain LoRA.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self.names: tuple[str, ...] = tuple(getattr(model, "peft_config", ()))
        if not self.names:
            raise ModelError("it has no adapters that requests could name", fix="load them by name with peft")
        for module in model.modules():
            if isinstance(module, ModulesToSaveWrapper) or (isinstance(module, BaseTunerLayer) and not _plain(module)):
                raise ModelError(
                    f"{type(module).__name__} is not plain LoRA on a linear layer, so that rows cannot share a step",
                    fix="merge the adapter into the base, or make an engine for each",
                )
        layers = [module for module in model.modules() if isinstance(module, LoraLinear)]
        self.matrices = {layer: self._side_by_side(layer) for layer in layers}
        self.place_BK = torch.empty(0)

    def place(self, name: str | None) -> int:
        """Where an adapter is in `names`."""
        if name is not None and name not in self.names:
            raise ModelError(f"no adapter `{name}`", fix=f"one of: {', '.join(self.names)}")
        return NONE if name is None else self.names.index(name)

    @contextmanager
    def on(self, place_BK: Tensor) -> Iterator[None]:
        """Inside, the model's rows take these adapters.

        Args:
            place_BK: [B, K or 1] adapter of each token, or `NONE`.
        """
        self.place_BK = place_BK
        for layer in self.matrices:
            layer.__class__, layer.graft_routes = RoutedLoraLinear, self  # type: ignore[assignment]
        try:
            yield
        finally:
            for layer in self.matrices:
                layer.__class__ = LoraLinear
                del layer.graft_routes

    @torch.no_grad()
    def _side_by_side(self, layer: LoraLinear) -> tuple[Tensor, Tensor, Tensor]:
        """A [R, I], B [O, R] with the scaling in it, and each rank's adapter [R]."""
        present = [name for name in self.names if name in layer.lora_A]
        A: list[Tensor] = [layer.lora_A[name].weight for name in present]  # type: ignore[misc]
        B: list[Tensor] = [layer.lora_B[name].weight * layer.scaling[name] for name in present]
        owners = [self.names.index(name) for name, a in zip(present, A, strict=True) for _ in range(len(a))]
        return torch.cat(A), torch.cat(B, dim=1), torch.tensor(owners, device=A[0].device)


def _plain(layer: BaseTunerLayer) -> bool:
    if type(layer) is not LoraLinear or layer.merged or layer.fan_in_fan_out:
        return False
    return not (any(layer.use_dora.values()) or layer.lora_variant or any(layer.lora_bias.values()))
