"""What of a model is trained: a file a method, and what all of them need. `make_trainable` is the one way in."""

from graftlm.models.adapters.counting import parameter_counts
from graftlm.models.adapters.full import Full
from graftlm.models.adapters.lora import Lora
from graftlm.models.adapters.methods import Adaptation, Method, make_trainable
from graftlm.models.adapters.recomputing import recompute_activations
from graftlm.models.adapters.saving import merge_adapter, save_adapter

__all__ = [
    "Adaptation",
    "Full",
    "Lora",
    "Method",
    "make_trainable",
    "merge_adapter",
    "parameter_counts",
    "recompute_activations",
    "save_adapter",
]
