"""A tokenizer as a GGUF file holds it: pieces with types, merges or scores, special tokens, chat template."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerBase as Tokenizer

from graftlm.core.errors import ModelError
from graftlm.models.gguf_pieces import NORMAL, UNUSED, added_type, byte_type, merge_scores, scores_fit
from graftlm.models.gguf_words import choose_words

SPACE = "▁"


@dataclass(frozen=True)
class TokenTable:
    """What the file says about tokens.

    Attributes:
        model: `gpt2` (byte-level BPE) or `llama` (sentencepiece BPE), llama.cpp's names.
        words: the pre-tokenizer's name, for `gpt2`.
        pieces, types: one a token id.
        merges: pairs, best first, for `gpt2`.
        scores: one a token id, for `llama`.
        space_before: whether a text gets a space in front, for `llama`.
        notes: what llama.cpp does otherwise.
    """

    model: str
    pieces: list[str]
    types: list[int]
    words: str = ""
    merges: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    space_before: bool = False
    notes: list[str] = field(default_factory=list)


def token_table(tokenizer: Tokenizer, size: int, where: str) -> TokenTable:
    """The table for a model with `size` rows in its embedding.

    Raises:
        ModelError: llama.cpp has no tokenizer of this sort.
    """
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    left_out = [token["content"] for token in rules["added_tokens"] if token["id"] >= size]
    notes = [f"left out, the model has no row for them: {', '.join(left_out)}"] if left_out else []
    if rules["model"].get("type") == "BPE" and _kinds(rules["pre_tokenizer"]) & {"ByteLevel"}:
        return _byte_level(tokenizer, rules, size, where, notes)
    if rules["model"].get("type") == "BPE" and rules["model"].get("byte_fallback"):
        return _sentencepiece(tokenizer, rules, size, where, notes)
    raise ModelError(
        f"its tokenizer ({rules['model'].get('type')}) is neither byte-level BPE nor sentencepiece's BPE",
        where=where,
        fix="export with --to hugging-face",
    )


def _byte_level(
    tokenizer: Tokenizer, rules: dict[str, Any], size: int, where: str, notes: list[str]
) -> TokenTable:
    words = choose_words(tokenizer.backend_tokenizer, where)
    if not words.exact:
        notes = [*notes, "llama.cpp cuts runs of white space before a word in another way: other tokens"]
    if rules["normalizer"] is not None:
        notes = [*notes, f"llama.cpp does not normalise text ({rules['normalizer']['type']})"]
    pieces, types = _pieces(tokenizer, rules, size)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in rules["model"]["merges"]]
    return TokenTable("gpt2", pieces, types, words=words.name, merges=merges, notes=notes)


def _sentencepiece(
    tokenizer: Tokenizer, rules: dict[str, Any], size: int, where: str, notes: list[str]
) -> TokenTable:
    space_before, everywhere = _space_rule(rules, where)
    pieces, types = _pieces(tokenizer, rules, size)
    types = [byte_type(piece) if kind == NORMAL else kind for piece, kind in zip(pieces, types, strict=True)]
    unknown = rules["model"].get("unk_token")
    if unknown in pieces:
        types[pieces.index(unknown)] = 2
    merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in rules["model"]["merges"]]
    scores = merge_scores(pieces, merges)
    if odd := scores_fit(tokenizer.backend_tokenizer, pieces, scores, prefix=SPACE if space_before else ""):
        raise ModelError(
            f"its merges are not those of sentencepiece: by scores {odd[:60]!r} has other tokens",
            where=where,
            fix="export with --to hugging-face",
        )
    if space_before and not everywhere:
        notes = [*notes, "llama.cpp puts a space after special tokens, too"]
    return TokenTable("llama", pieces, types, scores=scores, space_before=space_before, notes=notes)


def _space_rule(rules: dict[str, Any], where: str) -> tuple[bool, bool]:
    """(whether a text gets a space in front, whether also one that follows a special token)."""
    normalizer, cutter = json.dumps(rules["normalizer"]), rules["pre_tokenizer"] or {}
    if '"Prepend"' in normalizer:
        return True, True
    if cutter.get("type") == "Metaspace":
        scheme = cutter.get("prepend_scheme", "always")
        if cutter.get("split"):
            raise ModelError("it cuts words at spaces before merging, which llama.cpp does not", where=where)
        return scheme != "never", scheme == "always"
    return False, True


def _pieces(tokenizer: Tokenizer, rules: dict[str, Any], size: int) -> tuple[list[str], list[int]]:
    """Piece and type of each id; rows of the embedding that stand for no token are unused.

    Tokens without a row (transformers adds a class's own marks to any vocabulary) are left out.
    """
    pieces = [f"[unused{number}]" for number in range(size)]
    types = [UNUSED] * size
    for piece, number in rules["model"]["vocab"].items():
        if number < size:
            pieces[number], types[number] = piece, NORMAL
    for token in rules["added_tokens"]:
        if token["id"] >= size:
            continue
        pieces[token["id"]], types[token["id"]] = token["content"], added_type(token["special"])
    return pieces, types


def _kinds(cutter: dict[str, Any] | None) -> set[str]:
    if cutter is None:
        return set()
    return {cutter["type"]}.union(*(_kinds(part) for part in cutter.get("pretokenizers", [])))


def portable_template(template: str) -> str:
    """A chat template without transformers' own `generation` tags, which other readers of Jinja do not know; what
    they enclose stays, and so does their trimming of white space."""
    opened = re.sub(r"\{%(-?)\s*generation\s*(-?)%\}", r"{%\1 if true \2%}", template)
    return re.sub(r"\{%(-?)\s*endgeneration\s*(-?)%\}", r"{%\1 endif \2%}", opened)


def adds(tokenizer: Tokenizer) -> tuple[bool, bool]:
    """Whether the tokenizer puts its begin token before a text, and its end token behind."""
    bare, whole = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
    begins = len(whole) > len(bare) and whole[0] == tokenizer.bos_token_id
    ends = len(whole) > len(bare) and whole[-1] == tokenizer.eos_token_id
    return begins, ends
