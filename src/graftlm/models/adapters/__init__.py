"""What of a model is trained: a file a method, and what all of them need. `make_trainable` is the one way in."""

from graftlm.models.adapters.counting import layers_with_gradient, parameter_counts
from graftlm.models.adapters.expand import Expand
from graftlm.models.adapters.freeze import Freeze
from graftlm.models.adapters.full import Full
from graftlm.models.adapters.heads import Heads, copied_weights, head_importance, most_important
from graftlm.models.adapters.lora import Lora
from graftlm.models.adapters.methods import Adaptation, Method, make_trainable
from graftlm.models.adapters.prefix import Prefix, prefix_of
from graftlm.models.adapters.recomputing import recompute_activations
from graftlm.models.adapters.saving import merge_adapter, save_adapter

__all__ = [
    "Adaptation",
    "Expand",
    "Freeze",
    "Full",
    "Heads",
    "Lora",
    "Method",
    "Prefix",
    "copied_weights",
    "head_importance",
    "layers_with_gradient",
    "make_trainable",
    "merge_adapter",
    "most_important",
    "parameter_counts",
    "prefix_of",
    "recompute_activations",
    "save_adapter",
]
