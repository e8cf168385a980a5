"""The tokenizers of Meta's LLaMA: sentencepiece in 1 and 2, tiktoken's list of ranks in 3."""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import Path

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, processors
from tokenizers import Tokenizer as RustTokenizer
from transformers import PreTrainedTokenizerFast

from graftlm.core.errors import ModelError
from graftlm.models.sentencepiece_file import fast_tokenizer, read_sentencepiece

RANK = re.compile(rb"[A-Za-z0-9+/]+=* \d+\r?\n")

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""What LLaMA 3 splits text by before it merges (meta-llama/llama3, tokenizer.py)."""

SPECIALS = 256
"""LLaMA 3's special tokens, behind the vocabulary."""


def make_tokenizer(file: Path, *, newer: bool) -> PreTrainedTokenizerFast:
    """Every text begins with the begin token.

    Args:
        newer: LLaMA 3.1's names of the special tokens instead of 3's.

    Raises:
        ModelError: the file is neither sort.
    """
    if is_ranked(file):
        return _ranked(file, newer)
    pieces = read_sentencepiece(file)
    begin = pieces.pieces[1]
    rust = fast_tokenizer(pieces)
    _begin_with(rust, begin)
    return PreTrainedTokenizerFast(
        tokenizer_object=rust, unk_token=pieces.pieces[0], bos_token=begin, eos_token=pieces.pieces[2],
        pad_token=pieces.pieces[0], clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def is_ranked(file: Path) -> bool:
    """Whether it is tiktoken's list of ranks."""
    with file.open("rb") as opened:
        return RANK.match(opened.read(400)) is not None


def _begin_with(rust: RustTokenizer, begin: str) -> None:
    rust.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", pair=f"{begin} $A {begin}:1 $B:1", special_tokens=[(begin, rust.token_to_id(begin))]
    )


def _ranked(file: Path, newer: bool) -> PreTrainedTokenizerFast:
    ranks = read_ranks(file)
    letters = _byte_letters()
    ids = {_spelled(token, letters): rank for token, rank in ranks.items()}
    merges = [
        (rank, token[:cut], token[cut:])
        for token, rank in ranks.items()
        for cut in range(1, len(token))
        if token[:cut] in ranks and token[cut:] in ranks
    ]
    merges.sort(key=lambda merge: (merge[0], ranks[merge[1]], ranks[merge[2]]))
    pairs = [(_spelled(left, letters), _spelled(right, letters)) for _, left, right in merges]
    rust = RustTokenizer(models.BPE(ids, pairs, ignore_merges=True))
    rust.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(SPLIT), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    rust.decoder = decoders.ByteLevel()
    specials = special_tokens(newer)
    rust.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in specials])
    _begin_with(rust, specials[0])
    return PreTrainedTokenizerFast(
        tokenizer_object=rust, bos_token=specials[0], eos_token=specials[1], pad_token=specials[4],
        clean_up_tokenization_spaces=False, model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def read_ranks(file: Path) -> dict[bytes, int]:
    """Bytes of each token and its rank, which is its id. Raises ModelError naming a line that cannot be read."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token)] = int(rank)
        except (ValueError, binascii.Error):
            raise ModelError("not a token and its rank", where=f"{file}:{number}", fix="download it again") from None
    return ranks


def special_tokens(newer: bool) -> list[str]:
    """The names of the 256 special tokens of LLaMA 3, or of 3.1 and later."""
    named = {0: "begin_of_text", 1: "end_of_text", 6: "start_header_id", 7: "end_header_id", 9: "eot_id"}
    if newer:
        named |= {4: "finetune_right_pad_id", 8: "eom_id", 10: "python_tag"}
    found, reserved = [], 0
    for place in range(SPECIALS):
        if place in named:
            found.append(f"<|{named[place]}|>")
        else:
            found.append(f"<|reserved_special_token_{reserved}|>")
            reserved += 1
    return found


def _byte_letters() -> list[str]:
    """The letter that stands for each byte in byte-level BPE (openai/gpt-2): itself if it can be seen."""
    seen = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return [chr(byte if byte in seen else next(spare)) for byte in range(0x100)]


def _spelled(token: bytes, letters: list[str]) -> str:
    return "".join(letters[byte] for byte in token)
