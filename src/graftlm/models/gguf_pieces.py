"""Types and scores of the pieces of a sentencepiece BPE vocabulary."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from tokenizers import Tokenizer as RustTokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Token types of the GGUF format."""

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "Hello,  world!  two  spaces",
    "中文测试，今天天气很好。",
    "a\nb\n\nc\td",
    "naïve café 1234 5,678.90",
    "def f(x):\n    return x + 1",
    "😀 emoji ½ ≠ ∑",
    "don't we'll I'm",
    "日本語 한국어 русский",
)


def added_type(special: bool) -> int:
    return CONTROL if special else USER_DEFINED


def byte_type(piece: str) -> int:
    return BYTE if _BYTE.fullmatch(piece) else NORMAL


def merge_scores(pieces: Sequence[str], merges: Sequence[tuple[str, ...]]) -> list[float]:
    """Sentencepiece merges the pair whose union scores best: minus the rank of the first merge that makes a piece.

    A piece that no merge makes (a character, a byte) is never the union of a pair; it scores below all others.
    """
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(merges):
        ranks.setdefault(left + right, rank)
    last = len(merges)
    return [-float(ranks.get(piece, last)) for piece in pieces]


def scores_fit(tokenizer: RustTokenizer, pieces: Sequence[str], scores: Sequence[float], prefix: str) -> str | None:
    """A text of which merging by scores makes other tokens than the tokenizer does; None where there is none."""
    score_of = dict(zip(pieces, scores, strict=True))
    for text in _TEXTS:
        found = merge_by_score(prefix + text.replace(" ", "▁"), score_of)
        if found != list(tokenizer.encode(text, add_special_tokens=False).tokens):
            return text
    return None


def merge_by_score(text: str, score_of: dict[str, float]) -> list[str]:
    """Sentencepiece's BPE: join the neighbours whose union has the best score, leftmost first; what is no piece in
    the end falls apart into bytes."""
    parts = list(text)
    while True:
        pairs = enumerate(left + right for left, right in pairwise(parts))
        unions = [(score_of[union], -place) for place, union in pairs if union in score_of]
        if not unions:
            break
        place = -max(unions)[1]
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    found: list[str] = []
    for part in parts:
        found += [part] if part in score_of else [f"<0x{byte:02X}>" for byte in part.encode()]
    return found
