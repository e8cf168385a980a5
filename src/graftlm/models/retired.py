"""Architectures of the Fengshenbang family that transformers no longer has, or never had: refused with what serves
instead."""

from __future__ import annotations

import json
from pathlib import Path

from graftlm.core.errors import ModelError

RETIRED: dict[str, tuple[str, str]] = {
    "transfoxl": ("Transformer-XL", "write with Wenzhong (gpt2) or any causal model instead"),
    "deltalm": ("DeltaLM", "translate with an mt5 or mbart model instead"),
    "zen": ("ZEN", "use Erlangshen's bert, megatron-bert or deberta-v2 models instead"),
}
"""Beginning of the name, without marks: what it is, and what to do."""


def refuse_retired(folder: Path) -> None:
    """Raises ModelError when a model folder's configuration names one of them."""
    file = folder / "config.json"
    if not file.is_file():
        return
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:  # the loader says what is wrong with it
        return
    if not isinstance(config, dict):
        return
    named = [config.get("model_type"), *(config.get("architectures") or ())]
    for name in (str(one).lower().replace("-", "").replace("_", "") for one in named if one):
        for start, (what, instead) in RETIRED.items():
            if name.startswith(start):
                raise ModelError(f"it is a {what}, which transformers does not have", where=file, fix=instead)
