"""A reward model on the trunk of the language model that it judges: an adapter and a head, no second copy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from graftlm.models.loading import load_config
from graftlm.models.trunk import causal_lm

ADAPTER = "adapter_model.safetensors"


class SharedTrunk:
    """A reward model that was trained as a LoRA adapter on the very weights that `model` is an adapter on.

    Args:
        model: the language model with its own adapter, which stays the active one.
        folder: a finished reward model with its adapter in `adapter/`.
        name: of the second adapter.

    Attributes:
        reward_model: scores while `active`; outside it would score with the language model's adapter.
    """

    def __init__(self, model: PeftModel, folder: Path, name: str) -> None:
        self._model, self._name, self._own = model, name, model.active_adapter
        weights = load_file(folder / "adapter" / ADAPTER)
        heads = [key for key in weights if ".score." in key]
        head_1D = weights.pop(heads[0])
        adapter = LoraConfig.from_pretrained(str(folder / "adapter"))
        adapter.task_type, adapter.modules_to_save = "CAUSAL_LM", None  # the head is not the trunk's business
        model.add_adapter(name, adapter)
        set_peft_model_state_dict(model, weights, adapter_name=name)
        model.set_adapter(self._own)  # also freezes the other adapter
        self.reward_model = _with_head(causal_lm(model), folder, head_1D)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Inside, the trunk is the reward model's."""
        self._model.set_adapter(self._name)
        try:
            yield
        finally:
            self._model.set_adapter(self._own)


def _with_head(language_model: PreTrainedModel, folder: Path, head_1D: torch.Tensor) -> PreTrainedModel:
    """A sequence classifier whose trunk is the language model's."""
    trunk = getattr(language_model, language_model.base_model_prefix)
    with torch.device("meta"):
        shell: PreTrainedModel = AutoModelForSequenceClassification.from_config(load_config(str(folder)))
    setattr(shell, shell.base_model_prefix, trunk)
    shell.score = torch.nn.Linear(head_1D.shape[1], 1, bias=False)
    shell.score.weight = torch.nn.Parameter(head_1D.to(trunk.device), requires_grad=False)
    shell.graft_packs, shell.graft_kernel = language_model.graft_packs, language_model.graft_kernel
    return shell
