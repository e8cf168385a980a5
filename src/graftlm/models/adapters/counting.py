"""How many parameters a model has, and how many of them are trained."""

from __future__ import annotations

import torch

from graftlm.models.acceleration import decoder_layers
from graftlm.models.quantised import weight_count
from graftlm.models.trunk import causal_lm


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


def layers_with_gradient(model: torch.nn.Module) -> int | None:
    """Layers that the backward pass goes through: from the first one with something trained to the last.

    All of them where the embedding is trained, or something outside the layers that all of them read. None where it is
    not known which modules are layers.
    """
    layers = decoder_layers(model)
    if not layers:
        return None
    in_layers = {id(p) for layer in layers for p in layer.parameters()}
    head = causal_lm(model).get_output_embeddings()
    behind = {id(p) for p in head.parameters()} if head is not None else set()
    behind -= {id(p) for p in causal_lm(model).get_input_embeddings().parameters()}
    outside = [p for p in model.parameters() if p.requires_grad and id(p) not in in_layers | behind]
    if any(p.ndim > 1 for p in outside):  # a norm behind the last layer is a vector
        return len(layers)
    trained = (number for number, layer in enumerate(layers) if any(p.requires_grad for p in layer.parameters()))
    return len(layers) - next(trained, len(layers))
