"""Some weights are trained as they are, the rest stays: freezing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from graftlm.core.errors import ModelError
from graftlm.models.acceleration import decoder_layers
from graftlm.models.trunk import causal_lm


@dataclass(frozen=True)
class Freeze:
    """Train the last layers, or the parameters that match; trained weights are fp32, frozen ones as loaded.

    Attributes:
        last: number of layers, counted from the head.
        match: regular expression that is searched in parameter names; in place of `last`.
        embedding, head: train these, too. A tied embedding is both.

    The head of a reward model, which may be new, is always trained.
    """

    last: int | None = None
    match: str | None = None
    embedding: bool = False
    head: bool = False

    def apply(self, model: torch.nn.Module) -> torch.nn.Module:
        """Raises ModelError when the model has fewer layers, or nothing matches."""
        model.requires_grad_(False)
        train_in_fp32(self._chosen(model))
        return model

    def _chosen(self, model: torch.nn.Module) -> Iterator[torch.nn.Parameter]:
        inner = causal_lm(model)
        if self.match is None:
            yield from self._last_layers(model)
        else:
            yield from self._matching(inner, self.match)
        if self.embedding:
            yield from inner.get_input_embeddings().parameters()
        if self.head and inner.get_output_embeddings() is not None:
            yield from inner.get_output_embeddings().parameters()
        if type(inner).__name__.endswith("ForSequenceClassification"):
            trunk = inner.base_model_prefix + "."
            yield from (p for name, p in inner.named_parameters() if not name.startswith(trunk))

    def _last_layers(self, model: torch.nn.Module) -> Iterator[torch.nn.Parameter]:
        layers, last = decoder_layers(model), self.last or 2
        if last > len(layers):
            raise ModelError(f"it has {len(layers)} layers, not {last}", where="freeze.last", fix="name fewer")
        for layer in layers[-last:]:
            yield from layer.parameters()

    def _matching(self, inner: torch.nn.Module, match: str) -> Iterator[torch.nn.Parameter]:
        found = [p for name, p in inner.named_parameters() if re.search(match, name)]
        if not found:
            some = ", ".join(name for name, _ in list(inner.named_parameters())[1:4])
            raise ModelError(
                f"no parameter has a name like `{match}`", where="freeze.match", fix=f"names look like {some}"
            )
        yield from found


def train_in_fp32(parameters: Iterator[torch.nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
