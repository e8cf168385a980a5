"""Checkpoints of other layouts: recognised by their files, converted both ways, a tensor at a time.

Numbers are kept as they are: the same dtype, and the same bits after a way there and back.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from graftlm.core.errors import ModelError
from graftlm.core.files import atomic_folder
from graftlm.models.families.baichuan import BAICHUAN
from graftlm.models.families.chatglm import CHATGLM
from graftlm.models.families.grouped_query import pool_key_value_heads
from graftlm.models.families.hugging_face import HUGGING_FACE
from graftlm.models.families.layout import Checkpoint, Layout
from graftlm.models.families.meta_llama import META
from graftlm.models.llama2c import LLAMA2C
from graftlm.models.weight_files import model_files

LAYOUTS: tuple[Layout, ...] = (CHATGLM, BAICHUAN, META, LLAMA2C, HUGGING_FACE)
"""In the order in which they are tried: Hugging Face's, the most general, last."""

TARGETS = tuple(layout.name for layout in LAYOUTS if layout.write is not None)


@dataclass(frozen=True)
class Conversion:
    """What was found and made.

    Attributes:
        size: bytes of all tensors written.
        notes: what a user should know.
    """

    source: Layout
    target: Layout
    size: int
    dtype: str
    notes: list[str]


def recognise(path: Path) -> Layout | None:
    """The layout of a folder or file; None when it is none of those known."""
    return next((layout for layout in LAYOUTS if layout.recognises(path)), None)


def foreign_layout(path: Path) -> Layout | None:
    """The layout of a model that must be converted before it can be loaded."""
    found = recognise(path) if path.is_dir() else None
    return None if found is HUGGING_FACE else found


def convert(source: Path, target: Path, *, to: str = HUGGING_FACE.name, kv_heads: int | None = None) -> Conversion:
    """Write `source` in another layout as the folder `target`.

    Args:
        to: one of TARGETS.
        kv_heads: pool keys and values to so many heads (arXiv 2305.13245).

    A source in the target's layout already is worth converting when its weights are pickles: they become safetensors.

    Raises:
        ModelError: the source is not recognised, is damaged or does not fit into the target's layout, or there is
            nothing to do.
    """
    if not source.exists():
        raise ModelError("no such file or folder", where=source, fix="download the model, then give its folder")
    found = recognise(source)
    if found is None:
        raise ModelError(
            "no checkpoint of a known layout",
            where=source,
            fix="known: " + "; ".join(layout.what for layout in LAYOUTS),
        )
    if to not in TARGETS:
        raise ModelError(f"there is no layout `{to}` to write", where="--to", fix=f"known: {', '.join(TARGETS)}")
    wanted = next(layout for layout in LAYOUTS if layout.name == to)
    pickled = any(file.suffix == ".bin" for file in model_files(source)) if source.is_dir() else False
    if wanted is found and kv_heads is None and not pickled:
        reason = f"it is in the layout of {found.what} already"
        raise ModelError(reason, where=source, fix="choose another one with --to")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ModelError("the target exists already", where=target, fix="give a new folder, or delete this one")
    try:
        checkpoint = found.read(source)
    except KeyError as error:
        fix = "download config.json (Meta's: params.json) again"
        raise ModelError(f"its settings lack {error}", where=source, fix=fix) from error
    _refuse_unknown_tokens(checkpoint, source)
    if kv_heads is not None:
        checkpoint = pool_key_value_heads(checkpoint, kv_heads)
    assert wanted.write is not None
    with atomic_folder(target) as folder:
        size = wanted.write(checkpoint, folder)
    dtype = str(checkpoint.dtype).removeprefix("torch.")
    return Conversion(found, wanted, size, dtype, checkpoint.notes)


def _refuse_unknown_tokens(checkpoint: Checkpoint, source: Path) -> None:
    tokenizer, rows = checkpoint.tokenizer, checkpoint.config.get_text_config().vocab_size
    if tokenizer is not None and len(tokenizer) > rows:
        raise ModelError(
            f"the tokenizer has {len(tokenizer):,} tokens, the model only {rows:,} rows for them",
            where=source,
            fix="put the tokenizer of this very model beside its weights",
        )
