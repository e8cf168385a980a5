"""How many parameters a model has, and how many of them are trained."""

from __future__ import annotations

import torch

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
