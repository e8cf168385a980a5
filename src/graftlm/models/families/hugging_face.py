"""The layout of the Hugging Face hub: config.json, safetensors, tokenizer.json."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoConfig, AutoTokenizer

from graftlm.core.errors import ModelError
from graftlm.models.families.layout import Checkpoint, Layout, config_of, copy_files, present
from graftlm.models.weight_files import model_files, open_weights, write_safetensors


def recognises(folder: Path) -> bool:
    return "model_type" in config_of(folder) and bool(model_files(folder))


def read(folder: Path) -> Checkpoint:
    """Raises ModelError when transformers does not know the model, or its files are not whole."""
    try:
        config = AutoConfig.from_pretrained(folder)
        has_tokenizer = bool(present(folder, "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt"))
        tokenizer = AutoTokenizer.from_pretrained(folder) if has_tokenizer else None
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise ModelError(f"cannot be read: {reason}", where=folder, fix="check its config.json") from error
    source = open_weights(folder)
    copies = present(folder, "tokenizer.model", "generation_config.json")
    return Checkpoint(config, {name: source.tensor(name) for name in source.names}, tokenizer, copies)


def write(checkpoint: Checkpoint, folder: Path) -> int:
    checkpoint.config.dtype = checkpoint.dtype
    checkpoint.config.save_pretrained(folder)
    copy_files(checkpoint, folder)
    if checkpoint.tokenizer is not None:
        checkpoint.tokenizer.save_pretrained(folder)
    return write_safetensors(folder, checkpoint.tensors)


HUGGING_FACE = Layout("hugging-face", "Hugging Face", recognises, read, write)
