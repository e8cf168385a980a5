"""The memory plan of accelerated training on a GPU: compiled layers, loss without logits, stacked adapters.

What autograd keeps of a layer was counted with saved-tensor hooks around compiled layers; the rest is arithmetic. All
numbers are bytes unless said otherwise.

Shapes: D hidden size, I inner size of the MLP, Q and K widths of all query and of all key heads, H query heads,
L layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from transformers import PretrainedConfig

from graftlm.ops.linear_cross_entropy import LOGITS_HELD
from graftlm.training.memory import MemoryPlan

Recompute = Literal["none", "cheap", "full"]
"""What is computed again in the backward pass: nothing that costs much; all but the matmuls; whole layers."""

CONTEXT = int(0.1 * 2**30)
"""Workspaces of the matrix library and small tensors. The CUDA context itself is outside torch's count."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of a decoder that decide what it keeps."""

    D: int
    I: int
    Q: int
    K: int
    H: int
    L: int
    vocabulary: int

    @classmethod
    def of(cls, config: PretrainedConfig) -> Sizes:
        text = config.get_text_config()
        H = getattr(text, "num_attention_heads", None) or 1
        G = getattr(text, "num_key_value_heads", None) or H
        head = getattr(text, "head_dim", None) or text.hidden_size // H
        I = getattr(text, "intermediate_size", None) or 4 * text.hidden_size
        return cls(text.hidden_size, I, H * head, G * head, H, text.num_hidden_layers, text.vocab_size)


def kept_of_a_layer(sizes: Sizes, *, adapter: bool, float8: bool, recompute: Recompute) -> int:
    """Bytes a token that a layer keeps for its backward pass, in bf16 training.

    Norms, rotary embedding and activation function are computed again in any case: they are cheap. What is kept:
    the two residual sums (2 D); queries, keys, values and attention's output (2 Q + 2 K) and its normaliser (4 H);
    what the matmuls need to find weight gradients, which adapters need only of small matrices: both norms' outputs
    (2 D), gate and up (2 I), and for full training their product (I). In 8 bits the matmuls' inputs take a byte each.
    """
    D, I, Q, K = sizes.D, sizes.I, sizes.Q, sizes.K
    if recompute == "full":
        return 2 * D
    if recompute == "cheap":
        return 2 * (2 * D + Q + 2 * K + 2 * I)
    base = 2 * D + 2 * Q + 2 * K + 2 * I
    if adapter:
        return 2 * (base + 2 * D) + 4 * sizes.H
    if float8:
        return 2 * base + (2 * D + Q + I) + 4 * sizes.H
    return 2 * (base + 2 * D + I) + 4 * sizes.H


def plan_accelerated(
    config: PretrainedConfig,
    *,
    parameters: int,
    trained: int,
    tokens: int,
    weight_bytes: float,
    copy_bytes: float = 0,
    moment_bytes: float,
    float8: bool,
    recompute: Recompute,
    accumulates: bool,
) -> MemoryPlan:
    """Predict the peak of a training step.

    Args:
        parameters, trained: number of all and of trained parameters.
        tokens: tokens of one forward and backward pass.
        weight_bytes: bytes of one weight as it is held: 2 in bf16, less where it is quantised.
        copy_bytes: bytes of its copy in the format that is computed in, where that is another one.
        moment_bytes: bytes that the optimizer keeps of a trained weight.
        accumulates: a step has several passes. With a single one, gradients take the room of what the backward pass
            has let go of.

    The peak is met when the loss is computed or the last layer goes backward, with all layers' values kept. An adapter
    is fp32. In 8 bits a frozen weight is held three times (bf16 for merging, e4m3 in both orders), a trained one is
    kept in e4m3 for the backward pass.
    """
    sizes, adapter = Sizes.of(config), trained < parameters
    held = 4 if adapter else weight_bytes
    linear = sizes.L * (2 * sizes.D * sizes.Q + 2 * sizes.D * sizes.K + 3 * sizes.D * sizes.I)
    kept = sizes.L * kept_of_a_layer(sizes, adapter=adapter, float8=float8, recompute=recompute)
    once = kept_of_a_layer(sizes, adapter=adapter, float8=float8, recompute="none") - kept // sizes.L
    targets = min(tokens, max(256, LOGITS_HELD // (4 * sizes.vocabulary)))
    loss = targets * sizes.vocabulary * 6 + 2 * tokens * sizes.D * 2
    if not adapter:
        loss += 6 * sizes.vocabulary * sizes.D  # the head's gradient is summed in fp32, then cast
    layer = tokens * 2 * (4 * sizes.I + sizes.D) + tokens * once
    activations = tokens * (kept + 4 * sizes.D) + max(loss, layer)
    gradients = int(trained * held)
    if not accumulates:
        gradients = max(0, gradients - activations)
    return MemoryPlan(
        weights=int((parameters - trained * adapter) * (weight_bytes + copy_bytes) + trained * 4 * adapter)
        + (linear * (2 if adapter else 1) if float8 else 0),
        gradients=gradients,
        optimizer=int(trained * moment_bytes),
        activations=activations,
        runtime=CONTEXT,
    )
