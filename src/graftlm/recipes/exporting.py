"""Handing a model to other programs: what `graft export` and `stage: export` call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch

from graftlm.core.console import say
from graftlm.core.errors import GraftError
from graftlm.core.files import atomic_folder, write_text
from graftlm.data.templates.ollama import measure, modelfile
from graftlm.evaluation.language_model import language_model
from graftlm.models.gguf_export import GgufFile, stored_type, write_gguf
from graftlm.models.gguf_tokens import adds
from graftlm.models.loading import load_config, load_tokenizer
from graftlm.models.merging import Merging, merge_models
from graftlm.recipes.merging import PRECISIONS
from graftlm.recipes.model_card import model_card
from graftlm.recipes.stages.context import choose_template
from graftlm.recipes.talking import newest_model

Target = Literal["hugging-face", "gguf", "ollama"]
Figures = dict[str, float | str]

_HUB_TYPES: Mapping[str, torch.dtype] = {
    "f32": PRECISIONS["fp32"], "bf16": PRECISIONS["bf16"], "f16": PRECISIONS["fp16"],
}  # fmt: skip


@dataclass(frozen=True)
class Order:
    """What is to be written: the arguments of `export_model`, found and filled in."""

    model: str
    folder: Path
    title: str
    kind: str | None
    licence: str | None
    template: str


def export_model(
    model: str,
    out: Path,
    target: str,
    *,
    kind: str | None = None,
    licence: str | None = None,
    template: str = "own",
    title: str | None = None,
) -> Figures:
    """Write a model for another program into a new folder, and say what was written.

    Args:
        model: a folder, a hub name, `rootstock`, or a run folder (the model of its last finished stage).
        target: `hugging-face` (safetensors and a model card), `gguf` (one file), or `ollama` (that and a Modelfile).
        kind: format of the weights; as they are stored by default.
        template: chat template of the Modelfile.
        title: the model's name; that of the folder by default.

    Returns:
        What was written, by name.

    Raises:
        GraftError: there is something at `out`, or no such target or format.
        ModelError: the other program cannot express the model, its tokenizer or its chat template.
    """
    if target not in get_args(Target):
        raise GraftError(f"no target `{target}`", where="--to", fix=f"one of: {', '.join(get_args(Target))}")
    if out.exists() and (out.is_file() or any(out.iterdir())):
        raise GraftError("there is something already", where=out, fix="name a new folder, or delete this one")
    where = newest_model(model)
    with atomic_folder(out) as folder:
        figures = _WRITERS[target](Order(where, folder, title or out.name, kind, licence, template))
    say(f"exported: {where} to {target}")
    for what, value in figures.items():
        say(f"  {what}: {value if isinstance(value, str) else f'{value:,g}'}")
    say(f"  {out}")
    return figures


def _to_hub(order: Order) -> Figures:
    if order.kind is not None and order.kind not in _HUB_TYPES:
        raise GraftError(f"no type `{order.kind}` there", where="--type", fix=f"one of: {', '.join(_HUB_TYPES)}")
    dtype = _HUB_TYPES[order.kind] if order.kind else None
    tensors = merge_models(order.folder, [order.model], Merging("linear", (1.0,)), dtype=dtype)  # of one model: a copy
    write_text(order.folder / "README.md", model_card(order.model, order.title, order.licence))
    return {"tensors": tensors, "type": order.kind or stored_type(order.model), "card": "README.md"}


def _to_gguf(order: Order) -> Figures:
    return _told(_write_file(order))


def _to_ollama(order: Order) -> Figures:
    tokenizer = load_tokenizer(order.model)
    template = choose_template(order.template, tokenizer)
    form = measure(template)
    begins, _ = adds(tokenizer)
    if begins:
        form = form.without_begin(str(tokenizer.bos_token))
    made = _write_file(order)
    subject = language_model(_Silent(load_config(order.model)), tokenizer, template)
    stops = [*tokenizer.convert_ids_to_tokens(sorted(subject.stop_ids)), *subject.stop_strings]
    write_text(order.folder / "Modelfile", modelfile(made.path.name, form, [stop for stop in stops if stop]))
    system = {} if form.before_system is not None else {"system messages": "left out: the chat format has none"}
    return _told(made) | {"stops": ", ".join(stops)} | system


def _write_file(order: Order) -> GgufFile:
    kind = order.kind or stored_type(order.model)
    return write_gguf(order.model, order.folder / f"{order.title}-{kind}.gguf", kind)


class _Silent(torch.nn.Module):
    """Stands for the model where only its configuration is asked."""

    def __init__(self, config: object) -> None:
        super().__init__()
        self.config = self.generation_config = config  # holds eos_token_id


def _told(made: GgufFile) -> Figures:
    figures: Figures = {
        "file": made.path.name,
        "type": made.kind,
        "MB": round(made.bytes / 1e6, 1),
        "tensors": made.tensors,
        "words cut as": made.words,
    }
    return figures | {f"note {number}": note for number, note in enumerate(made.notes, 1)}


_WRITERS: Mapping[str, Callable[[Order], Figures]] = {
    "hugging-face": _to_hub,
    "gguf": _to_gguf,
    "ollama": _to_ollama,
}
