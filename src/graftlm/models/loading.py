"""Loading and saving: any causal LM that transformers loads, by hub name or path, and the rootstock."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging as transformers_logging

from graftlm.core.errors import ModelError
from graftlm.models import families as families  # makes the Auto classes know them
from graftlm.models import llama2c, packed_checkpoint
from graftlm.models.adapters.prefix_files import load_prefix, save_prefix, without_prefix
from graftlm.models.conversion import foreign_layout
from graftlm.models.quant_linear import quantised_layers
from graftlm.models.quantised import Bits, keep_differentiable, quantisation
from graftlm.models.retired import refuse_retired
from graftlm.models.trunk import causal_lm, prepare_trunk

# graft tells its own story: one bar for a stage, not one for each file that is read or written.
transformers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()

ROOTSTOCK = "rootstock"


def locate(base: str) -> str:
    """The folder of a local model or of the packaged rootstock, else the hub name as it is.

    Raises:
        ModelError: the name looks like a path, and nothing is there; or a checkpoint is that must be converted, or is
            of an architecture that transformers no longer has.
    """
    if base == ROOTSTOCK:
        return str(resources.files("graftlm.models") / ROOTSTOCK)
    path = Path(base).expanduser()
    if path.exists():
        _refuse_foreign(path)
        refuse_retired(path)
        return str(path)
    if base.startswith((".", "/", "~")) or base.count("/") != 1:
        raise ModelError(
            "no such model",
            where=base,
            fix=f"give a local folder, a hub name `owner/name`, or `{ROOTSTOCK}` (graft's own small model)",
        )
    return base


def _refuse_foreign(path: Path) -> None:
    layout = foreign_layout(path)
    if layout is not None:
        raise ModelError(
            f"a checkpoint of {layout.what}, which transformers cannot load",
            where=path,
            fix=f"convert it once: graft convert {path} {path}-hf",
        )


def load_tokenizer(base: str) -> Tokenizer:
    """Raises ModelError naming the base when there is no tokenizer or it is not a fast one."""
    where = locate(base)
    if llama2c.is_checkpoint(where):
        return llama2c.load_tokenizer(Path(where))
    try:
        tokenizer = AutoTokenizer.from_pretrained(where)
    except Exception as error:
        raise unloadable("tokenizer", base, error) from error
    if not tokenizer.is_fast:
        raise ModelError(
            "its tokenizer has no fast (Rust) version, which target masks need for character offsets",
            where=base,
            fix="convert it to tokenizer.json, or use a model that has one",
        )
    return tokenizer


def load_config(base: str) -> PretrainedConfig:
    where = locate(base)
    if llama2c.is_checkpoint(where):
        return llama2c.load_config(Path(where))
    try:
        return AutoConfig.from_pretrained(where)
    except Exception as error:
        raise unloadable("model", base, error) from error


def load_model(
    base: str, *, dtype: torch.dtype, device: torch.device, bits: Bits | None = None
) -> PreTrainedModel:
    """Weights in `dtype` on `device`, from safetensors only, ready for packed rows, in eval mode.

    Args:
        bits: quantise the linear layers' weights to so many bits while loading.
    """
    where = locate(base)
    if bits is not None:
        return _load_quantised(where, bits, dtype, device)
    try:
        if llama2c.is_checkpoint(where):
            model: PreTrainedModel = llama2c.load_model(Path(where)).to(dtype)  # type: ignore[arg-type]
        elif packed_checkpoint.is_packed(config := load_config(base)):
            own = packed_checkpoint.read_as_own(config)
            model = AutoModelForCausalLM.from_pretrained(where, config=own, dtype=dtype, use_safetensors=True)
        else:
            model = AutoModelForCausalLM.from_pretrained(where, dtype=dtype, use_safetensors=True)
    except Exception as error:
        raise unloadable("model", base, error) from error
    model.to(device)  # type: ignore[arg-type]
    keep_differentiable(model)
    prepare_trunk(model)
    load_prefix(model, Path(where))
    return model.eval()


def _load_quantised(where: str, bits: Bits, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    config = quantisation(bits, dtype)
    if llama2c.is_checkpoint(where):
        raise ModelError("it cannot be quantised while loading", where=where, fix="use method: lora")
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            where, dtype=dtype, use_safetensors=True, quantization_config=config, device_map={"": device}
        )
    except Exception as error:
        raise unloadable("model", where, error) from error
    if any(getattr(module, "source_cls", None) is Conv1D for module in model.modules()):
        raise ModelError(
            "its layers are stored transposed (Conv1D) and could not be merged", where=where, fix="use method: lora"
        )
    keep_differentiable(model)
    prepare_trunk(model)
    load_prefix(model, Path(where))
    return model.eval()


def save_model(
    model: torch.nn.Module, tokenizer: Tokenizer, folder: Path, dtype: torch.dtype | None = None
) -> None:
    """Hugging Face layout: config, safetensors, tokenizer with its chat template; a prefix lies in `prefix/` beside.
    `dtype` converts the model in place.

    Raises:
        ModelError: the model still carries an adapter.
    """
    if isinstance(model, PeftModel):
        raise ModelError("it still carries an adapter", where="save_model", fix="call merge_adapter first")
    inner = causal_lm(model)
    with without_prefix(inner):
        if dtype is not None:
            inner.to(dtype)  # type: ignore[arg-type]
        if quantised_layers(inner):
            inner.config.quantization_config = packed_checkpoint.describe(inner)
        inner.save_pretrained(folder)
    save_prefix(inner, Path(folder))
    tokenizer.save_pretrained(folder)


def unloadable(what: str, base: str, error: Exception) -> ModelError:
    if isinstance(error, ModelError):
        return error
    first = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
    return ModelError(
        f"the {what} cannot be loaded: {first}",
        where=base,
        fix="check the name or path; without internet use a local folder; weights must be safetensors "
        "(graft convert makes them of .bin files)",
    )
