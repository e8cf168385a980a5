"""PiSSA adapters as plain LoRA: what the file holds fits the weights that training began from, not their remainder.

PiSSA freezes W - s·B₀A₀ and trains B, A from B₀, A₀. Against W the change is s·(BA - B₀A₀): a LoRA of twice the rank.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file


def is_pissa(model: torch.nn.Module) -> bool:
    """Whether the frozen weights of an adapted model are what PiSSA left of them."""
    return hasattr(model, "graft_start")


def remember_start(model: PeftModel) -> None:
    """Keep A₀ and B₀ in host memory."""
    weights = get_peft_model_state_dict(model)
    start = {name: weight.detach().to("cpu", copy=True) for name, weight in weights.items() if ".lora_" in name}
    model.graft_start = start  # type: ignore[assignment]


def save_as_plain_lora(model: PeftModel, folder: Path) -> None:
    """peft's files of a LoRA adapter on the original weights."""
    start: dict[str, torch.Tensor] = model.graft_start
    weights = {}
    for name, weight in get_peft_model_state_dict(model).items():
        whole = weight.detach().cpu()
        if ".lora_A." in name:
            whole = torch.cat([whole, start[name]])  # [2 · rank, I]
        elif ".lora_B." in name:
            whole = torch.cat([whole, -start[name]], dim=1)  # [O, 2 · rank]
        weights[name] = whole.contiguous()
    config = copy.deepcopy(model.active_peft_config)
    assert isinstance(config, LoraConfig)
    config.r, config.lora_alpha = 2 * config.r, 2 * config.lora_alpha  # the same scaling
    config.init_lora_weights, config.inference_mode = True, True
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(folder))
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
