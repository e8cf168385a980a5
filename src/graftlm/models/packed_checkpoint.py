"""Quantised layers on disk: compressed-tensors' layout `pack-quantized`, which transformers and vLLM load.

transformers asks for the package compressed-tensors to load it (Python only, no kernels), and dequantises. graft reads
the same files without that package and keeps them packed, through transformers' registry of quantisers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from graftlm.core.errors import ModelError
from graftlm.models.quant_linear import QuantLinear, dequantise_layers, put_in_place, quantised_layers
from graftlm.ops.int_weights import IntFormat

OWN = "graft-int"
"""How graft's loading is registered with transformers; files never carry the name."""

LAYOUT = "pack-quantized"


def describe(model: PreTrainedModel) -> dict[str, Any]:
    """The `quantization_config` of a model with quantised layers, in compressed-tensors' words.

    One format for all linear layers but those named in `ignore`; several formats name their layers.
    """
    formats = {name: layer.form for name, layer in quantised_layers(model).items()}
    plain = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    distinct = list(dict.fromkeys(formats.values()))
    groups = {}
    for number, form in enumerate(distinct):
        names = [name for name, other in formats.items() if other == form]
        groups[f"group_{number}"] = _scheme(form, ["Linear"] if len(distinct) == 1 else names)
    return {
        "quant_method": "compressed-tensors",
        "format": LAYOUT,
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": plain,
    }


def _scheme(form: IntFormat, targets: list[str]) -> dict[str, Any]:
    weights = {
        "num_bits": form.bits,
        "type": "int",
        "symmetric": form.symmetric,
        "strategy": "channel" if form.group is None else "group",
        "group_size": form.group,
        "dynamic": False,
    }
    return {"targets": targets, "weights": weights, "input_activations": None, "output_activations": None,
            "format": LAYOUT}  # fmt: skip


def is_packed(config: PretrainedConfig) -> bool:
    """Whether a model's files are of this layout."""
    found = _quantization(config)
    return found.get("quant_method") == "compressed-tensors" and found.get("format") == LAYOUT


def read_as_own(config: PretrainedConfig) -> PretrainedConfig:
    """The configuration of packed files for `from_pretrained(config=...)`, which then keeps them packed."""
    config.quantization_config = _quantization(config) | {"quant_method": OWN}
    return config


def _quantization(config: PretrainedConfig) -> dict[str, Any]:
    found = getattr(config, "quantization_config", None) or {}
    return found if isinstance(found, dict) else found.to_dict()


def format_of(name: str, description: dict[str, Any]) -> IntFormat | None:
    """The format of a linear layer; None where it is not quantised.

    Raises:
        ModelError: a format that is not of 4 or 8 bits with scales of rows or groups.
    """
    if _matches(name, description.get("ignore") or ()):
        return None
    for group in description["config_groups"].values():
        if _matches(name, group["targets"]):
            return _format(group)
    return None


def _matches(name: str, targets: Iterable[str]) -> bool:
    patterns = (target.removeprefix("re:") for target in targets if target.startswith("re:"))
    return name in targets or "Linear" in targets or any(re.match(pattern, name) for pattern in patterns)


def _format(group: dict[str, Any]) -> IntFormat:
    weights = group["weights"]
    bits, strategy = weights["num_bits"], weights["strategy"]
    own = bits in (4, 8) and weights.get("type", "int") == "int" and strategy in ("channel", "group")
    if not own or group.get("input_activations") or weights.get("actorder") == "group":
        raise ModelError(
            f"quantised in a way that graft cannot compute: {bits} bits, {strategy}, order {weights.get('actorder')}",
            where="config.json: quantization_config",
            fix="use 4 or 8 bits with scales of rows or groups, weights only; or load it with vLLM",
        )
    group_size = None if strategy == "channel" else weights["group_size"]
    return IntFormat(bits, group_size, weights.get("symmetric", True))


class OwnConfig(QuantizationConfigMixin):
    """compressed-tensors' description under graft's name, as transformers wants it."""

    def __init__(self, quant_method: str = OWN, **description: Any) -> None:
        self.quant_method = quant_method  # type: ignore[assignment]
        self.description = description

    def to_dict(self) -> dict[str, Any]:
        """As it stands in files."""
        return self.description | {"quant_method": "compressed-tensors"}


class OwnQuantizer(HfQuantizer):
    """Puts empty quantised layers in their places before transformers fills the model from its files."""

    requires_calibration = False
    quantization_config: OwnConfig

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> None:
        """transformers passes its own arguments along; the model is on the meta device."""
        linear = {name: layer for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear)}
        for name, layer in linear.items():
            form = format_of(name, self.quantization_config.description)
            if form is not None:
                empty = self._empty(layer, form)
                put_in_place(model, name, empty)

    def _empty(self, layer: torch.nn.Linear, form: IntFormat) -> QuantLinear:
        with torch.device(layer.weight.device):
            return QuantLinear.empty(
                form, layer.out_features, layer.in_features, bias=layer.bias is not None, dtype=layer.weight.dtype
            )

    def _dequantize(self, model: PreTrainedModel, dtype: torch.dtype | None = None) -> PreTrainedModel:
        dequantise_layers(model, dtype or model.dtype)
        return model

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return False


register_quantization_config(OWN)(OwnConfig)
register_quantizer(OWN)(OwnQuantizer)
