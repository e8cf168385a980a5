"""A model with the pieces of its vocabulary that the user's texts need: a multilingual one for one or two languages.

Of BLOOM-560m 46 % are embeddings of 250,880 pieces in 46 languages. Text that the old tokenizer cut into kept pieces is
cut into the same pieces by the new one:

- BPE: a piece is kept with all pieces that it can be merged from, and so are the merges among kept pieces, in their
  order. Merging that text goes through parts of its pieces only, so each of its merges is there, and none comes before
  it that did not before.
- Unigram: the best cut of a text stays the best among fewer. The worst piece is kept: its score decides what an unknown
  character costs.

What the texts did not hold is spelt in bytes where the tokenizer can do so; else all single characters are kept.
"""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import torch
from tokenizers import Tokenizer as RustTokenizer
from transformers import PretrainedConfig, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from graftlm.core.errors import ModelError
from graftlm.models.trunk import causal_lm, prepare_trunk


@dataclass(frozen=True)
class Sizes:
    """Of a model: pieces of its vocabulary, parameters."""

    vocabulary: int
    parameters: int

    @classmethod
    def of(cls, model: PreTrainedModel, tokenizer: Tokenizer) -> Sizes:
        return cls(len(tokenizer), sum(p.numel() for p in model.parameters()))


def count_tokens(tokenizer: Tokenizer, texts: Iterable[str]) -> Counter[int]:
    """How often each token stands in the texts."""
    counts: Counter[int] = Counter()
    left = iter(texts)
    while some := list(islice(left, 1000)):
        for ids in tokenizer(some, add_special_tokens=False, verbose=False)["input_ids"]:
            counts.update(ids)
    return counts


def choose_pieces(tokenizer: Tokenizer, model: PreTrainedModel, wanted: Iterable[int]) -> list[int]:
    """The tokens to keep, ascending: the wanted ones and all that the tokenizer cannot do without.

    Raises:
        ModelError: the tokenizer is neither BPE nor Unigram.
    """
    rules = _rules(tokenizer)
    pieces = _pieces(rules)
    ids = {piece: token for token, piece in enumerate(pieces)}
    kept = {token for token in wanted if token < len(pieces)} | _always_kept(rules, pieces)
    kept |= set(count_tokens(tokenizer, _template_text(tokenizer)))
    kept |= {token for config in _configs(model) for token in _named_tokens(config)}
    kept &= set(range(len(pieces))) | {added["id"] for added in rules["added_tokens"]}
    if rules["model"]["type"] == "BPE":
        _add_parts(kept, [(ids[left], ids[right], ids[whole]) for left, right, whole in _merges(rules)])
    return sorted(kept | {added["id"] for added in rules["added_tokens"]})


def prune_tokenizer(tokenizer: Tokenizer, kept: list[int]) -> Tokenizer:
    """A copy that knows the kept tokens only, in their old order; everything else about it is as it was."""
    rules = _rules(tokenizer)
    new = {token: place for place, token in enumerate(kept)}
    model = rules["model"]
    if model["type"] == "BPE":
        model["vocab"] = {piece: new[token] for piece, token in model["vocab"].items() if token in new}
        left_over = model["vocab"].keys()
        model["merges"] = [merge[:2] for merge in _merges(rules) if set(merge) <= left_over]
    else:
        model["vocab"] = [entry for token, entry in enumerate(model["vocab"]) if token in new]
        model["unk_id"] = new[model["unk_id"]] if model["unk_id"] is not None else None
    for added in rules["added_tokens"]:
        added["id"] = new[added["id"]]
    _renumber(rules["post_processor"], new)
    pruned = copy.deepcopy(tokenizer)
    pruned._tokenizer = RustTokenizer.from_str(json.dumps(rules, ensure_ascii=False))
    return pruned


def prune_model(model: PreTrainedModel, kept: list[int]) -> None:
    """Keep the given rows of embedding and head, in place; tied ones stay tied, and all tokens that the configuration
    names get their new numbers.

    Raises:
        ModelError: an architecture with more tables of the vocabulary than these two, or a token without a row.
    """
    inner = causal_lm(model)
    embedding, head = vocabulary_tables(inner, kept[-1])
    kept_N = torch.tensor(kept, device=embedding.weight.device)
    tied = head.weight is embedding.weight
    embedding.weight = _rows(embedding.weight, kept_N)
    head.weight = embedding.weight if tied else _rows(head.weight, kept_N)
    if head.bias is not None:
        head.bias = _rows(head.bias, kept_N)
    embedding.num_embeddings = head.out_features = len(kept)
    new = {token: place for place, token in enumerate(kept)}
    if embedding.padding_idx is not None:
        embedding.padding_idx = new.get(embedding.padding_idx)
    for config in _configs(inner):
        _rename_tokens(config, new)
    inner.config.get_text_config().vocab_size = len(kept)
    prepare_trunk(model)


def vocabulary_tables(model: PreTrainedModel, last: int = 0) -> tuple[torch.nn.Embedding, torch.nn.Linear]:
    """Embedding and head, the only tables of the vocabulary, with a row for token `last`."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    reason = "its embedding or its head is not a plain table"
    if isinstance(embedding, torch.nn.Embedding) and isinstance(head, torch.nn.Linear):
        rows = embedding.num_embeddings
        tables = [p for p in model.modules() if isinstance(p, torch.nn.Embedding) and p.num_embeddings == rows]
        if last < rows and len(tables) == 1:
            return embedding, head
        reason = f"token {last} has no row in it" if last >= rows else "it has several tables of its tokens"
    raise ModelError(f"its vocabulary cannot be changed: {reason}", where=type(model).__name__, fix="leave it whole")


def _rows(weight: torch.Tensor, kept_N: torch.Tensor) -> torch.nn.Parameter:
    return torch.nn.Parameter(weight.data[kept_N], weight.requires_grad)


def _rules(tokenizer: Tokenizer) -> dict[str, Any]:
    """tokenizer.json's content."""
    rules: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    kind = rules["model"]["type"]
    if kind not in ("BPE", "Unigram"):
        raise ModelError(
            f"its tokenizer is of the kind {kind}", where="prune_vocabulary", fix="BPE and Unigram can be pruned"
        )
    return rules


def _pieces(rules: dict[str, Any]) -> list[str]:
    """By token; numbers that belong to no piece are empty."""
    vocabulary = rules["model"]["vocab"]
    if rules["model"]["type"] == "Unigram":
        return [piece for piece, _ in vocabulary]
    found = [""] * (max(vocabulary.values()) + 1)
    for piece, token in vocabulary.items():
        found[token] = piece
    return found


def _merges(rules: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(left, right, both) in their order; older files write a pair as one string. The prefix of pieces inside a word
    is not repeated inside the merged one."""
    pairs = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in rules["model"]["merges"]]
    prefix = rules["model"].get("continuing_subword_prefix") or ""
    return [(left, right, left + right.removeprefix(prefix)) for left, right in pairs]


def _always_kept(rules: dict[str, Any], pieces: list[str]) -> set[int]:
    """Bytes, the unknown token, of Unigram the worst piece, and single characters where no bytes stand in for them (the
    characters of byte-level BPE are its 256 bytes)."""
    model = rules["model"]
    spelt = bool(model.get("byte_fallback"))
    kept = {t for t, piece in enumerate(pieces) if (_is_byte(piece) if spelt else len(piece) == 1)}
    kept |= {t for t, piece in enumerate(pieces) if piece and piece == model.get("unk_token")}
    if model["type"] == "Unigram":
        kept.add(min(range(len(pieces)), key=lambda token: model["vocab"][token][1]))
        kept |= {model["unk_id"]} - {None}
    return kept


def _is_byte(piece: str) -> bool:
    return len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">")


def _add_parts(kept: set[int], merges: list[tuple[int, int, int]]) -> None:
    """Whatever kept pieces can be merged from, and what that can be merged from, and so on."""
    parts: dict[int, list[int]] = {}
    for left, right, whole in merges:
        parts.setdefault(whole, []).extend((left, right))
    to_do = list(kept)
    while to_do:
        for part in parts.get(to_do.pop(), ()):
            if part not in kept:
                kept.add(part)
                to_do.append(part)


def _template_text(tokenizer: Tokenizer) -> list[str]:
    """The words of the chat template: with every answer the model meets them."""
    template = tokenizer.chat_template
    texts = template.values() if isinstance(template, dict) else [template] if template else []
    return [*texts, *(text.replace("\\n", "\n") for text in texts)]


def _configs(model: PreTrainedModel) -> list[PretrainedConfig]:
    inner = causal_lm(model)
    found: list[Any] = [inner.config, inner.config.get_text_config(), inner.generation_config]
    return list({id(config): config for config in found if config is not None}.values())


def _named_tokens(config: PretrainedConfig) -> set[int]:
    """Tokens that a configuration names, as `eos_token_id`."""
    values = [value for name, value in config.to_dict().items() if name.endswith("_token_id")]
    lists = [value if isinstance(value, list) else [value] for value in values]
    return {token for token in chain.from_iterable(lists) if isinstance(token, int) and token >= 0}


def _rename_tokens(config: PretrainedConfig, new: dict[int, int]) -> None:
    for name, value in config.to_dict().items():
        if not name.endswith("_token_id") or value is None:
            continue
        listed = [new[token] for token in (value if isinstance(value, list) else [value]) if token in new]
        setattr(config, name, listed if isinstance(value, list) else next(iter(listed), None))


def _renumber(processor: dict[str, Any] | None, new: dict[int, int]) -> None:
    """What a post-processor puts around a text."""
    if processor is None:
        return
    for part in processor.get("processors", ()):
        _renumber(part, new)
    specials = processor.get("special_tokens")
    for special in specials.values() if isinstance(specials, dict) else ():
        special["ids"] = [new[token] for token in special["ids"]]
    for end in ("sep", "cls"):  # of BERT's and RoBERTa's kind: [text, number]
        if end in processor:
            processor[end][1] = new[processor[end][1]]
