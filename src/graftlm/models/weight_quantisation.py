"""Quantise a trained model's linear layers in place: plain rounding, GPTQ or AWQ, to the same layout.

Embeddings, norms, biases and (unless asked for) the head stay as they are. What is kept in 8 or 16 bits instead of 4
can be chosen by measured error. NF4 is bitsandbytes' (see `quantised.py`): those weights are made while loading.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from transformers.pytorch_utils import Conv1D

from graftlm.core.errors import ModelError
from graftlm.models.acceleration import decoder_layers
from graftlm.models.bit_choice import KEPT, choose_bits, measured_errors
from graftlm.models.calibration import Siblings, output_error, visit_layers
from graftlm.models.channel_scaling import scale_channels
from graftlm.models.quant_linear import QuantLinear, put_in_place
from graftlm.models.trunk import causal_lm
from graftlm.ops.gptq import gptq
from graftlm.ops.int_weights import Bits, IntFormat, IntWeight, dequantise, quantise

Method = Literal["absmax", "gptq", "awq", "nf4"]

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Rounding:
    """How weights are rounded.

    Attributes:
        group: weights of a row that share a scale; None: the row. Where it does not divide a layer's inputs, half of
            it is tried, and so on to 32, then the row.
        mean_bits: choose 4, 8 or 16 bits a layer so that the mean is at most this; None: `bits` everywhere.
        head: also the output head, where it is not the embedding.
    """

    method: Method = "gptq"
    bits: Bits = 4
    group: int | None = 64
    symmetric: bool = True
    mean_bits: float | None = None
    head: bool = False


@dataclass
class Outcome:
    """What was done.

    Attributes:
        bits: of each linear layer of the decoder layers; 16: left as it was.
        errors: squared error of a layer's outputs on the calibration tokens by that of the outputs; of its weights
            where there was no calibration.
        notes: what was done otherwise than asked.
    """

    bits: dict[str, int] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@torch.no_grad()
def quantise_model(
    model: torch.nn.Module, rounding: Rounding, rows_RL: torch.Tensor | None, advance: Advance = lambda layers: None
) -> Outcome:
    """Replace the linear layers of the decoder layers by quantised ones.

    Args:
        model: its weights are changed; for AWQ those of norms, too.
        rows_RL: calibration tokens; gptq, awq and mean_bits need them.
        advance: called with 1 for each decoder layer that is done.

    Raises:
        ModelError: layers that are stored transposed, or no calibration tokens where they are needed.
    """
    inner, outcome = causal_lm(model), Outcome()
    linear = _linear_layers(inner)
    forms = {name: _fitting(layer, rounding, rounding.bits) for name, layer in linear.items()}
    if rows_RL is None:
        _round_plainly(inner, linear, forms, rounding, outcome, advance)
    else:
        forms = _forms_by_layer(inner, linear, rounding, rows_RL, outcome) if rounding.mean_bits else forms
        _round_by_layer(inner, linear, forms, rounding, rows_RL, outcome, advance)
    outcome.bits = {name: forms[name].bits if name in forms else KEPT for name in linear}
    _note_groups(forms, rounding, outcome)
    if rounding.head:
        _round_head(inner, rounding, outcome)
    return outcome


def _linear_layers(inner: torch.nn.Module) -> dict[str, torch.nn.Linear]:
    inside = {module for layer in decoder_layers(inner) for module in layer.modules()}
    named = {name: module for name, module in inner.named_modules() if module in inside}
    if any(isinstance(module, Conv1D) for module in named.values()):
        raise ModelError(
            "its layers are stored transposed (Conv1D), which the layout cannot hold",
            where=type(inner).__name__,
            fix="use method: nf4",
        )
    found = {name: module for name, module in named.items() if isinstance(module, torch.nn.Linear)}
    if not found:
        raise ModelError("it has no linear layers to quantise", where=type(inner).__name__, fix="use another model")
    return found


def _fitting(layer: torch.nn.Linear, rounding: Rounding, bits: Bits) -> IntFormat:
    group = rounding.group
    while group is not None and layer.in_features % group:
        group = group // 2 if group >= 64 else None
    return IntFormat(bits, group, rounding.symmetric)


def _forms_by_layer(
    inner: torch.nn.Module,
    linear: Mapping[str, torch.nn.Linear],
    rounding: Rounding,
    rows_RL: torch.Tensor,
    outcome: Outcome,
) -> dict[str, IntFormat]:
    """Formats within the budget of bits; layers without one stay as they are."""
    assert rounding.mean_bits is not None
    choices: tuple[Bits, ...] = (4, 8)
    by_bits: dict[int, dict[str, IntFormat]] = {
        bits: {name: _fitting(layer, rounding, bits) for name, layer in linear.items()} for bits in choices
    }
    errors = measured_errors(inner, rows_RL, by_bits)
    sizes = {names: sum(linear[name].weight.numel() for name in names) for names in errors}
    chosen = choose_bits(errors, sizes, rounding.mean_bits)
    mean = sum(bits * sizes[names] for names, bits in chosen.items()) / sum(sizes.values())
    outcome.notes.append(f"bits by layer: {mean:.2f} on the average, at most {rounding.mean_bits:g} were asked for")
    return {name: by_bits[bits][name] for names, bits in chosen.items() if bits in by_bits for name in names}


def _round_plainly(
    inner: torch.nn.Module,
    linear: Mapping[str, torch.nn.Linear],
    forms: Mapping[str, IntFormat],
    rounding: Rounding,
    outcome: Outcome,
    advance: Advance,
) -> None:
    if rounding.method != "absmax" or rounding.mean_bits:
        wanted = "mean_bits" if rounding.method == "absmax" else f"method: {rounding.method}"
        raise ModelError("no calibration data", where=wanted, fix="give data, or use method: absmax")
    for name, layer in linear.items():
        rounded = quantise(layer.weight, forms[name])
        lost = (dequantise(rounded, torch.float32) - layer.weight.float()).square().sum()
        outcome.errors[name] = float(lost / layer.weight.float().square().sum().clamp(min=1e-30))
        put_in_place(inner, name, QuantLinear(rounded, layer.bias))
    advance(len(decoder_layers(inner)))


def _round_by_layer(
    inner: torch.nn.Module,
    linear: Mapping[str, torch.nn.Linear],
    forms: Mapping[str, IntFormat],
    rounding: Rounding,
    rows_RL: torch.Tensor,
    outcome: Outcome,
    advance: Advance,
) -> None:
    plain: list[str] = []
    for visit in visit_layers(inner, rows_RL):
        if rounding.method == "awq":
            eight = {name: forms.get(name, IntFormat(8, None)) for siblings in visit.found for name in siblings.layers}
            plain += scale_channels(visit, eight)
        for siblings in visit.found:
            for name, layer in siblings.layers.items():
                if name in forms:
                    rounded = _rounded(layer.weight, siblings, forms[name], rounding.method)
                    outcome.errors[name] = _relative(rounded, layer.weight, siblings)
                    put_in_place(inner, name, QuantLinear(rounded, layer.bias))
        advance(1)
    unseen = [name for name in forms if name not in outcome.errors]
    for name in unseen:
        put_in_place(inner, name, QuantLinear(quantise(linear[name].weight, forms[name]), linear[name].bias))
    if unseen:
        outcome.notes.append(f"no calibration token reached {len(unseen)} layers: plainly rounded ({unseen[0]} …)")
    if plain:
        kinds = ", ".join(sorted({name.rpartition(".")[2] for name in plain}))
        outcome.notes.append(f"inputs of {kinds} cannot be scaled where they are made: {len(plain)} plainly rounded")


def _rounded(weight_OI: torch.Tensor, siblings: Siblings, form: IntFormat, method: Method) -> IntWeight:
    return gptq(weight_OI, siblings.gram_II, form) if method == "gptq" else quantise(weight_OI, form)


def _relative(rounded: IntWeight, weight_OI: torch.Tensor, siblings: Siblings) -> float:
    whole = output_error(weight_OI, siblings.gram_II)
    lost = output_error(dequantise(rounded, torch.float32) - weight_OI.float(), siblings.gram_II)
    return lost / whole if whole else 0.0


def _note_groups(forms: Mapping[str, IntFormat], rounding: Rounding, outcome: Outcome) -> None:
    others = {name: form.group for name, form in forms.items() if form.group != rounding.group}
    if others:
        kinds = sorted({f"{name.rpartition('.')[2]}: {group or 'row'}" for name, group in others.items()})
        outcome.notes.append(f"{rounding.group} does not divide the inputs of all layers; groups of {', '.join(kinds)}")


def _round_head(inner: torch.nn.Module, rounding: Rounding, outcome: Outcome) -> None:
    """Plainly: no decoder layer's figures tell what it sees."""
    head = inner.get_output_embeddings()  # type: ignore[operator]
    if not isinstance(head, torch.nn.Linear) or head.weight is inner.get_input_embeddings().weight:  # type: ignore[operator]
        outcome.notes.append("the head is the embedding and stays as it is")
        return
    name = next(name for name, module in inner.named_modules() if module is head)
    form = _fitting(head, rounding, rounding.bits)
    put_in_place(inner, name, QuantLinear(quantise(head.weight, form), head.bias))
    outcome.bits[name] = form.bits
