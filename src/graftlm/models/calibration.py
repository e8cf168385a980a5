"""What the linear layers of a model see: one decoder layer after the other, so that memory holds one layer's figures.

Shapes: R rows of L tokens, I inputs of a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from graftlm.core.errors import ModelError
from graftlm.models.acceleration import decoder_layers
from graftlm.models.trunk import causal_lm


@dataclass
class Siblings:
    """Linear layers with one input: queries, keys and values; gate and up; or a layer alone.

    Attributes:
        layers: by name.
        gram_II: sum of x·xᵀ over the tokens, fp32. ‖(W - Ŵ)x‖² summed over the tokens is the trace of
            (W - Ŵ)·gram·(W - Ŵ)ᵀ: with it, no token has to be kept.
        magnitude_I: sum of |x|.
        norm: the norm whose output is the input, if there is one.
    """

    layers: dict[str, torch.nn.Linear]
    gram_II: torch.Tensor
    magnitude_I: torch.Tensor
    norm: torch.nn.Module | None = None

    def add(self, x: torch.Tensor) -> None:
        x_TI = x.detach().reshape(-1, x.shape[-1]).float()
        self.gram_II += x_TI.t() @ x_TI
        self.magnitude_I += x_TI.abs().sum(0)


@dataclass
class Visit:
    """A decoder layer, its linear layers, and a way to ask it for its outputs on the first row as it is now."""

    layer: torch.nn.Module
    found: list[Siblings]
    outputs: Callable[[], torch.Tensor]


@dataclass
class Call:
    """How the model calls its decoder layers for one row of tokens."""

    hidden: torch.Tensor
    others: list[tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)


@torch.no_grad()
def visit_layers(model: torch.nn.Module, rows_RL: torch.Tensor) -> Iterator[Visit]:
    """For each decoder layer, in order: its linear layers and what they see.

    Whoever is visited may be changed meanwhile: the layers behind see what the changed ones give.

    Raises:
        ModelError: the model has no decoder layers that can be called one by one.
    """
    layers = decoder_layers(model)
    if not layers:
        raise ModelError(
            "its decoder layers cannot be told apart", where=type(causal_lm(model)).__name__, fix="use method: absmax"
        )
    names = {module: name for name, module in causal_lm(model).named_modules()}
    calls = [_record(model, layers, row_L) for row_L in rows_RL]
    for number, layer in enumerate(layers):
        with _Ear(names[layer], layer).listening() as ear:
            for call in calls:
                _call(layer, number, call)
                ear.forget_row()
        yield Visit(layer, ear.found, partial(_call, layer, number, calls[0]))
        for call in calls:
            call.hidden = _call(layer, number, call)


def _call(layer: torch.nn.Module, number: int, call: Call) -> torch.Tensor:
    args, options = call.others[number]
    found = layer(call.hidden, *args, **options)
    return found if isinstance(found, torch.Tensor) else found[0]


def _record(model: torch.nn.Module, layers: list[torch.nn.Module], row_L: torch.Tensor) -> Call:
    """The first layer's input, and what each layer is called with beside it."""
    found: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    first: list[torch.Tensor] = []

    def note(module: torch.nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        options = dict(options)
        hidden = args[0] if args else options.pop("hidden_states")
        if not found:
            first.append(hidden)
        found.append((args[1:], options))

    hooks = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in layers]
    try:
        causal_lm(model)(input_ids=row_L[None], use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return Call(first[0], found)


class _Ear:
    """Finds the linear layers of a decoder layer that have one input, and sums up what they see."""

    def __init__(self, prefix: str, layer: torch.nn.Module) -> None:
        self.found: list[Siblings] = []
        self._prefix, self._layer = prefix, layer
        self._of: dict[torch.nn.Module, Siblings] = {}
        # Tensors of the row at hand, held so that none takes another's place in memory: same tensor, same input.
        self._inputs: list[tuple[torch.Tensor, Siblings]] = []
        self._normed: list[tuple[torch.Tensor, torch.nn.Module]] = []

    @contextmanager
    def listening(self) -> Iterator[_Ear]:
        hooks = []
        for name, module in self._layer.named_modules():
            if isinstance(module, torch.nn.Linear):
                hooks.append(module.register_forward_pre_hook(self._hear(f"{self._prefix}.{name}")))
            elif isinstance(getattr(module, "weight", None), torch.nn.Parameter) and module.weight.ndim == 1:
                hooks.append(module.register_forward_hook(self._hear_norm))
        try:
            yield self
        finally:
            for hook in hooks:
                hook.remove()

    def forget_row(self) -> None:
        self._inputs.clear()
        self._normed.clear()

    def _hear(self, name: str) -> Any:
        def hear(module: torch.nn.Linear, args: tuple[torch.Tensor, ...]) -> None:
            x = args[0]
            siblings = self._of.get(module) or next((one for seen, one in self._inputs if seen is x), None)
            if siblings is None:
                siblings = self._new(x)
            self._of[module] = siblings
            siblings.layers[name] = module
            if not any(seen is x for seen, _ in self._inputs):
                siblings.add(x)
                self._inputs.append((x, siblings))

        return hear

    def _hear_norm(self, module: torch.nn.Module, args: Any, output: torch.Tensor) -> None:
        self._normed.append((output, module))

    def _new(self, x: torch.Tensor) -> Siblings:
        I = x.shape[-1]
        norm = next((module for made, module in self._normed if made is x), None)
        gram, magnitude = x.new_zeros(I, I, dtype=torch.float32), x.new_zeros(I, dtype=torch.float32)
        self.found.append(Siblings({}, gram, magnitude, norm))
        return self.found[-1]


def output_error(difference_OI: torch.Tensor, gram_II: torch.Tensor) -> float:
    """‖difference·x‖² summed over the tokens."""
    difference = difference_OI.float()
    return float(((difference @ gram_II) * difference).sum().clamp(min=0))
