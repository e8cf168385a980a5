"""The rules of a BPE tokenizer as a value that takes further pieces, every one of them reachable.

A new piece is made by one merge behind all others. What the old merges make is made first, so a text in which no new
merge applies is encoded as before. Greedy merging never joins symbols across the border of two of its tokens, so what
lies between two borders is split as it would be by itself: one merge a piece, of the two tokens that the piece is split
into so far, is enough to reach the piece wherever it stands (Sennrich et al., arXiv 1508.07909).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

from tokenizers import Tokenizer as RustTokenizer
from tokenizers import pre_tokenizers
from transformers import PreTrainedTokenizerBase as Tokenizer

from graftlm.core.errors import ModelError

Kind = Literal["sentencepiece", "byte-level"]

SPACE = "▁"
"""A space in the pieces of a SentencePiece vocabulary."""
BYTE_LETTERS = frozenset(pre_tokenizers.ByteLevel.alphabet())
ASCII_LETTERS = frozenset(chr(code) for code in range(33, 127)) | {"Ġ", "Ċ", "ĉ", "č"}
"""Byte-level BPE's letters for printable ASCII signs, space, newline, tab and carriage return."""


@dataclass
class Rules:
    """What `tokenizer.json` says, with the vocabulary and the merges taken out.

    Attributes:
        kind: SentencePiece-like (characters, bytes for those that have no piece) or byte-level.
        ids: of the pieces, added tokens included.
        merges: (left, right), the first of two first.
        first_new: the lowest id of a new piece.
    """

    kind: Kind
    tree: dict[str, Any]
    ids: dict[str, int]
    merges: list[tuple[str, str]]
    first_new: int
    ranks: dict[tuple[str, str], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ranks = {pair: rank for rank, pair in reversed(list(enumerate(self.merges)))}

    @property
    def new_pieces(self) -> list[str]:
        """In the order of their ids."""
        return [piece for piece, number in self.ids.items() if number >= self.first_new]

    @property
    def new_count(self) -> int:
        return len(self.ids) - self.first_new

    def split(self, piece: str) -> list[str]:
        """The tokens of a piece by itself."""
        parts = self._symbols(piece)
        while len(parts) > 1:
            pairs = enumerate(pairwise(parts))
            ranked = [(self.ranks[pair], at) for at, pair in pairs if pair in self.ranks]
            if not ranked:
                break
            at = min(ranked)[1]
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        return parts

    def _symbols(self, piece: str) -> list[str]:
        found: list[str] = []
        for sign in piece:
            found += [sign] if sign in self.ids else [f"<0x{byte:02X}>" for byte in sign.encode()]
        return found

    def add_symbol(self, sign: str) -> None:
        """A character by itself: it needs no merge."""
        self.ids.setdefault(sign, len(self.ids))

    def add_merge(self, left: str, right: str) -> None:
        self.ids.setdefault(left + right, len(self.ids))
        self.ranks[left, right] = len(self.merges)
        self.merges.append((left, right))

    def is_ascii(self, piece: str) -> bool:
        """Whether it stands for ASCII signs only: such pieces change how English is encoded."""
        if self.kind == "byte-level":
            return ASCII_LETTERS.issuperset(piece)
        return piece.replace(SPACE, " ").isascii()

    def spell(self, text: str) -> str | None:
        """Text as a piece of this vocabulary; None where the tokenizer would cut it before merging."""
        if self.kind == "sentencepiece":
            return text.replace(" ", SPACE)
        words = self._splitter.pre_tokenize_str(text)
        return words[0][0] if len(words) == 1 else None

    @cached_property
    def _splitter(self) -> pre_tokenizers.PreTokenizer:
        splitter = self.build().pre_tokenizer
        assert splitter is not None
        return splitter

    def build(self) -> RustTokenizer:
        model = self.tree["model"] | {"vocab": self.ids, "merges": [list(pair) for pair in self.merges]}
        return RustTokenizer.from_str(json.dumps(self.tree | {"model": model}, ensure_ascii=False))


def read_rules(tokenizer: Tokenizer) -> Rules:
    """The rules of a fast tokenizer.

    Raises:
        ModelError: it is of a kind that cannot be extended: WordPiece, unigram, whole words, or a BPE of another form.
    """
    tree = json.loads(tokenizer.backend_tokenizer.to_str())
    model, where = tree["model"], str(tokenizer.name_or_path or type(tokenizer).__name__)
    if model["type"] != "BPE":
        raise ModelError(
            f"its tokenizer is {model['type']}, which has no merges that could be continued",
            where=where,
            fix="start from a model with byte-level BPE (GPT-2, Llama 3, Qwen) or SentencePiece BPE (Llama 2, Mistral)",
        )
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix") or model.get("dropout"):
        raise ModelError(
            "its BPE marks the inside or the end of words, or drops merges at random: such rules are not continued",
            where=where,
            fix="start from a model whose pieces are plain text or bytes",
        )
    added = {token["content"]: token["id"] for token in tree["added_tokens"]}
    ids = dict(model["vocab"]) | added  # with the added tokens among them the ids have no holes
    first_new = max(ids.values()) + 1
    for number in set(range(first_new)).difference(ids.values()):
        ids[f"<|no token {number}|>"] = number
    merges = [_pair(merge) for merge in model["merges"]]
    return Rules(_kind_of(model, where), tree, ids, merges, first_new)


def _pair(merge: str | list[str]) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _kind_of(model: dict[str, Any], where: str) -> Kind:
    if model.get("byte_fallback"):
        return "sentencepiece"
    if BYTE_LETTERS.issubset(model["vocab"]):
        return "byte-level"
    raise ModelError(
        "its BPE has neither all bytes as pieces nor a fallback to bytes",
        where=where,
        fix="start from a model with byte-level BPE or with byte fallback",
    )
