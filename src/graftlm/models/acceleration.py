"""Speed from outside: what is done to a model before it is trained, in a fixed order. Its own code stays as it is.

1. LoRA layers on one input become one matmul (`stacked_lora`), in 8-bit floating point if asked.
2. Linear layers that are trained work in 8-bit floating point if asked.
3. Each decoder layer is compiled. Layers are alike, so one compilation (ten seconds or so) serves all, as long as
   rows have one length; the trainer fills them up.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch
import torch._functorch.config as functorch_config
import torch._inductor.config
from transformers.modeling_layers import GradientCheckpointingLayer

from graftlm.models.stacked_lora import stack_lora, stack_mlps
from graftlm.models.trunk import causal_lm
from graftlm.ops.float8 import trained_product

CAT_INPUTS = ("max_pointwise_cat_inputs", "max_complex_pointwise_cat_inputs")


def _compile_options() -> dict[str, str | int | bool]:
    """The gradients of queries, keys and values are written where they belong, each by itself.

    By default one pass computes all three for every place and chooses one: 0.49 instead of about 0.3 ms at 16,384
    tokens on an H200. The two halves of a rotary embedding are still chosen from. Torch 2.11 cannot be told so.
    """
    return {name: 2 for name in CAT_INPUTS if hasattr(torch._inductor.config, name)}


class Float8Linear(torch.nn.Linear):
    """A linear layer whose three products are done in 8-bit floating point. An existing layer becomes one by its
    class."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = trained_product(x.flatten(0, -2), self.weight).unflatten(0, x.shape[:-1])
        return found if self.bias is None else found + self.bias


class OneRowLinear(torch.nn.Linear):
    """A linear layer that multiplies a single row on a GPU by a kernel of ours."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.numel() != self.in_features or not x.is_cuda:
            return super().forward(x)
        from graftlm.ops.kernels.one_row import one_row

        found = one_row(x.view(1, -1), self.weight).view(*x.shape[:-1], -1)
        return found if self.bias is None else found + self.bias


def accelerate(model: torch.nn.Module, *, float8: bool = False) -> None:
    """Put fast layers in the place of a trainable model's own: same parameters, same outputs to rounding.

    Args:
        float8: products of the decoder's linear layers in 8 bits; the head stays as it is.
    """
    stacked = stack_lora(model, float8=float8)
    if next(model.parameters()).is_cuda and find_spec("triton"):
        stack_mlps(model)
    if not float8 or stacked:
        return
    for layer in decoder_layers(model):
        for module in layer.modules():
            if type(module) is torch.nn.Linear and not (module.in_features % 16 or module.out_features % 16):
                module.__class__ = Float8Linear


@contextmanager
def compiled_layers(model: torch.nn.Module, *, cheap_again: bool = False) -> Iterator[None]:
    """Compile each decoder layer for as long as rows of one length are trained on.

    Args:
        cheap_again: the backward pass computes again all but the matmuls.
    """
    layers = decoder_layers(model)
    for layer in layers:
        layer.compile(dynamic=False, options=_compile_options())
    try:
        with functorch_config.patch(aggressive_recomputation=cheap_again):
            yield
    finally:
        for layer in layers:
            layer._compiled_call_impl = None


@contextmanager
def compiled_for_decoding(model: torch.nn.Module) -> Iterator[None]:
    """Compile each decoder layer for steps of decoding: once for a single sequence, once for any larger number."""
    layers = decoder_layers(model)
    linear = [module for layer in layers for module in layer.modules() if type(module) is torch.nn.Linear]
    for module in linear:
        module.__class__ = OneRowLinear
    for layer in layers:
        layer.compile(dynamic=True)
    try:
        yield
    finally:
        for module in linear:
            module.__class__ = torch.nn.Linear
        for layer in layers:
            layer._compiled_call_impl = None


def decoder_layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    return [module for module in causal_lm(model).modules() if isinstance(module, GradientCheckpointingLayer)]
