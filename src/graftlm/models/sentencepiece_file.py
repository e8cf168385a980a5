"""A sentencepiece `tokenizer.model` as a fast tokenizer, without the sentencepiece package.

The file is a protocol buffer (google/sentencepiece, sentencepiece_model.proto); the few fields that matter are read
here. Merges are not stored: they are all the ways in which a piece splits into two pieces, the better scored piece
first.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as RustTokenizer

from graftlm.core.errors import ModelError

UNIGRAM, BPE = 1, 2
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6


@dataclass
class SentencePieceFile:
    """What a `tokenizer.model` says.

    Attributes:
        pieces: the vocabulary in the order of the ids, spaces as ▁.
        kinds: of each piece, the constants above.
        dummy_prefix: a space is put before every text.
        extra_whitespaces: spaces at the ends and several in a row are dropped.
        character_map: compiled normalisation, empty where text stays as it is.
    """

    pieces: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    kinds: list[int] = field(default_factory=list)
    model: int = UNIGRAM
    byte_fallback: bool = False
    unknown_id: int = 0
    dummy_prefix: bool = True
    extra_whitespaces: bool = True
    character_map: bytes = b""

    def of_kind(self, kind: int) -> list[str]:
        return [piece for piece, found in zip(self.pieces, self.kinds, strict=True) if found == kind]


def read_sentencepiece(file: Path) -> SentencePieceFile:
    """Raises ModelError when the file is no sentencepiece model with a BPE or unigram vocabulary."""
    found = SentencePieceFile()
    try:
        value: Any
        for number, value in _fields(file.read_bytes()):
            if number == 1:
                _add_piece(found, dict(_fields(value)))
            elif number == 2:
                trainer: dict[int, Any] = dict(_fields(value))
                found.model = trainer.get(3, UNIGRAM)
                found.byte_fallback, found.unknown_id = bool(trainer.get(35, 0)), trainer.get(40, 0)
            elif number == 3:
                rules: dict[int, Any] = dict(_fields(value))
                found.character_map = rules.get(2, b"")
                found.dummy_prefix, found.extra_whitespaces = bool(rules.get(3, 1)), bool(rules.get(4, 1))
    except (IndexError, ValueError, TypeError, struct.error, AttributeError):
        found.pieces.clear()
    if not found.pieces or found.model not in (UNIGRAM, BPE):
        raise ModelError("not a sentencepiece model (BPE or unigram)", where=file, fix="download it again")
    return found


def _add_piece(found: SentencePieceFile, piece: dict[int, Any]) -> None:
    found.pieces.append(piece[1].decode())
    found.scores.append(struct.unpack("<f", piece[2])[0] if 2 in piece else 0.0)
    found.kinds.append(piece.get(3, NORMAL))


def _fields(raw: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) of a protocol buffer message: integers as such, all else as bytes."""
    at = 0
    while at < len(raw):
        key, at = _varint(raw, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(raw, at)
            yield key >> 3, value
            continue
        if kind == 2:
            length, at = _varint(raw, at)
        else:
            length = {1: 8, 5: 4}[kind] if kind in (1, 5) else -1
        if length < 0 or at + length > len(raw):
            raise ValueError("not a protocol buffer")
        yield key >> 3, raw[at : at + length]
        at += length


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[at]
        value, at, shift = value | (byte & 127) << shift, at + 1, shift + 7
        if byte < 128:
            return value, at


def fast_tokenizer(file: SentencePieceFile, specials: Sequence[str] = ()) -> RustTokenizer:
    """The same tokens for the same text.

    Where the model puts a space before a text, it comes before each part between special tokens, as it does in chat
    formats that tokenise their parts one by one.

    Args:
        specials: pieces that are special besides the control pieces, or new tokens that get the next ids.
    """
    rust = RustTokenizer(_model(file))
    steps: list[normalizers.Normalizer] = []
    if file.character_map:
        steps.append(normalizers.Precompiled(file.character_map))
    if file.extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if file.dummy_prefix:
        steps.append(normalizers.Prepend("▁"))
    rust.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    symbols = file.of_kind(USER_DEFINED)
    if symbols:
        rust.pre_tokenizer = pre_tokenizers.Split(Regex(_apart(symbols, specials)), "isolated")
    ends = [decoders.Strip(" ", 1, 0)] if file.dummy_prefix else []
    fallback = [decoders.ByteFallback()] if file.byte_fallback else []
    rust.decoder = decoders.Sequence([decoders.Replace("▁", " "), *fallback, decoders.Fuse(), *ends])
    names = [*file.of_kind(UNKNOWN), *file.of_kind(CONTROL), *specials]
    rust.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in dict.fromkeys(names)])
    return rust


def _apart(symbols: Sequence[str], specials: Sequence[str]) -> str:
    """What stands apart before anything is merged: symbols, the longest first.

    Of a symbol that is special, its first letter: spelled out in a user's text it then stays a row of characters.
    """
    longest_first = sorted(symbols, key=len, reverse=True)
    return "|".join(
        f"{re.escape(symbol[0])}(?={re.escape(symbol[1:])})" if symbol in specials else re.escape(symbol)
        for symbol in longest_first
    )


def _model(file: SentencePieceFile) -> models.Model:
    if file.model == UNIGRAM:
        vocabulary = list(zip(file.pieces, file.scores, strict=True))
        return models.Unigram(vocabulary, file.unknown_id, file.byte_fallback)
    ids = {piece: number for number, piece in enumerate(file.pieces)}
    if len(ids) != len(file.pieces):
        raise ModelError("two pieces of the tokenizer are the same", fix="download tokenizer.model again")
    plain = [(piece, score) for piece, score, kind in zip(file.pieces, file.scores, file.kinds, strict=True)
             if kind == NORMAL]  # fmt: skip
    merges = [
        (-score, piece[:cut], piece[cut:])
        for piece, score in plain
        for cut in range(1, len(piece))
        if piece[:cut] in ids and piece[cut:] in ids
    ]
    merges.sort(key=lambda merge: merge[0])
    return models.BPE(
        ids,
        [(left, right) for _, left, right in merges],
        unk_token=file.pieces[file.unknown_id],
        byte_fallback=file.byte_fallback,
        fuse_unk=True,
        ignore_merges=file.of_kind(USER_DEFINED) != [],  # a symbol that stands apart is a token at once
    )
