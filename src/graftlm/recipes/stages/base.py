"""The model that a run starts from: one that exists, or a new one with its own tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from transformers import PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from graftlm.core.console import say
from graftlm.core.files import atomic_folder
from graftlm.core.hashing import hash_file, hash_value
from graftlm.data.cleaning import text_of_sample
from graftlm.models.loading import locate, save_model
from graftlm.models.scratch import marks_of, new_model, train_tokenizer
from graftlm.models.scratch_encoder import is_encoder_architecture, new_encoder, train_wordpiece
from graftlm.models.seq2seq import is_seq2seq_architecture, new_seq2seq
from graftlm.recipes.schema import NewBase, Recipe
from graftlm.recipes.sources import read_source, source_key

SMALL_FILE = 64 * 2**20

MASK = "[MASK]"


def prepare_base(recipe: Recipe, folder: Path) -> tuple[str, str]:
    """(where the base model is, identity of its content); a new one is made in `folder`."""
    if isinstance(recipe.base, str):
        return recipe.base, model_key(recipe.base)
    blocks = recipe.base.tokenizer_blocks
    key = hash_value(
        [recipe.base.model_dump(mode="json"), recipe.seed, [source_key(recipe.data[name]) for name in blocks]]
    )
    target = folder / f"model-{key}"
    if not target.is_dir():
        say(f"  new model: {recipe.base.architecture}")
        with atomic_folder(target) as temporary:
            if is_encoder_architecture(recipe.base.architecture):
                save_model(*_new_encoder(recipe, recipe.base), temporary)
            elif is_seq2seq_architecture(recipe.base.architecture):
                save_model(*_new_seq2seq(recipe, recipe.base), temporary)
            else:
                save_model(*_new_language_model(recipe, recipe.base), temporary)
    return str(target), key


def _new_encoder(recipe: Recipe, base: NewBase) -> tuple[PreTrainedModel, Tokenizer]:
    tokenizer = train_wordpiece(_tokenizer_texts(recipe), base.vocabulary, max_tokens=_positions(base))
    return new_encoder(base.architecture, tokenizer, recipe.seed), tokenizer


def _new_seq2seq(recipe: Recipe, base: NewBase) -> tuple[PreTrainedModel, Tokenizer]:
    tokenizer = train_tokenizer(_tokenizer_texts(recipe), base.vocabulary, max_tokens=_positions(base), marks=[MASK])
    tokenizer.mask_token = MASK
    return new_seq2seq(base.architecture, tokenizer, recipe.seed), tokenizer


def _new_language_model(recipe: Recipe, base: NewBase) -> tuple[PreTrainedModel, Tokenizer]:
    tokenizer = train_tokenizer(
        _tokenizer_texts(recipe),
        base.vocabulary,
        max_tokens=_positions(base),
        marks=list(marks_of(base.architecture.get("model_type")).values()),
    )
    return new_model(base.architecture, tokenizer, recipe.seed), tokenizer


def _positions(base: NewBase) -> int:
    return int(base.architecture.get("max_position_embeddings", 2048))


def _tokenizer_texts(recipe: Recipe) -> Iterator[str]:
    assert isinstance(recipe.base, NewBase)
    for name in recipe.base.tokenizer_blocks:
        source = recipe.data[name]
        count = min(source.count or recipe.base.tokenizer_samples, recipe.base.tokenizer_samples)
        source = source.model_copy(update={"count" if source.world else "limit": count})
        yield from (text_of_sample(sample) for sample in read_source(name, source).samples)


def model_key(base: str) -> str:
    """Identity of a model: its files' bytes (of large ones size and time of change); of hub models the name."""
    path = Path(locate(base))
    if not path.exists():
        return hash_value(base)
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    return hash_value({file.name: _file_key(file) for file in files})


def tokenizer_key(tokenizer: Tokenizer, template: str) -> str:
    """Identity of everything that turns text into tokens: vocabulary, rules, special tokens, chat template."""
    rules = tokenizer.backend_tokenizer.to_str()
    return hash_value(
        [
            rules,
            tokenizer.special_tokens_map,
            template,
            tokenizer.chat_template if template == "own" else None,
        ]
    )


def _file_key(file: Path) -> str:
    stat = file.stat()
    return hash_file(file) if stat.st_size <= SMALL_FILE else f"{stat.st_size}-{stat.st_mtime_ns}"
