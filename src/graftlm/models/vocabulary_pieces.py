"""New pieces for a tokenizer's rules: learnt from texts, or taken from a SentencePiece vocabulary."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from tokenizers import Regex, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as RustTokenizer

from graftlm.core.errors import GraftError, ModelError
from graftlm.models.sentencepiece_file import NORMAL, read_sentencepiece
from graftlm.models.vocabulary_rules import SPACE, Rules

LEAST_SEEN = 5
"""Times that a learnt piece stands in the texts at least."""
LONGEST = 16
"""Old tokens of a learnt piece at most: longer ones are sentences learnt by heart."""
FIRST_LETTER = 0x10000
"""Old tokens are letters from here on while merges are learnt: a million fit."""
RUNS = pre_tokenizers.Split(Regex(r"\p{Han}+| ?(?:(?!\p{Han})\p{L})+"), "isolated")
"""Where SentencePiece vocabularies learn: in runs of Chinese, and in words with the space before them."""


@dataclass
class Taken:
    """What became of offered pieces.

    Attributes:
        bridges: pieces that were not offered: steps to a longer one.
        known: offered pieces that the vocabulary had.
        ascii: offered pieces of ASCII signs only, left out so that English stays as it was.
        left_out: pieces that the tokenizer cuts before merging, or whose bridges found no room.
    """

    offered: int
    bridges: list[str] = field(default_factory=list)
    known: int = 0
    ascii: int = 0
    left_out: list[str] = field(default_factory=list)


def learn_merges(rules: Rules, texts: Sequence[str], pieces: int, *, ascii_pieces: bool = False) -> None:
    """Go on with the base's own training: up to `pieces` merges of its tokens, the most frequent pair first.

    A SentencePiece vocabulary first gets the characters that it spelled as bytes.

    Args:
        ascii_pieces: also pieces of ASCII signs only, after which English is encoded differently.
    """
    if rules.kind == "sentencepiece":
        for sign, count in characters(texts).most_common():
            if count < LEAST_SEEN or rules.new_count == pieces:
                break
            if ascii_pieces or not sign.isascii():
                rules.add_symbol(sign)
    if rules.new_count < pieces:
        _learn(rules, texts, pieces - rules.new_count, ascii_pieces)


def characters(texts: Iterable[str]) -> Counter[str]:
    """How often each letter stands in the texts."""
    found: Counter[str] = Counter()
    for text in texts:
        found.update(text)
    return Counter({sign: count for sign, count in found.items() if sign.isalpha()})


def _learn(rules: Rules, texts: Sequence[str], pieces: int, ascii_pieces: bool) -> None:
    rust = rules.build()
    spelled: dict[str, str] = {}  # a word: its tokens as letters, a space where no merge may reach across

    def spell(word: str) -> str:
        letters = (
            chr(FIRST_LETTER + token.id) if _may_merge(rules, token.value, ascii_pieces) else " "
            for token in rust.model.tokenize(word)
        )
        return "".join(letters)

    lines = []
    for text in texts:
        words = split_words(rules, rust, text)
        for word in words:
            if word not in spelled:
                spelled[word] = spell(word)
        lines.append(" ".join(spelled[word] for word in words))
    alphabet = {sign for letters in spelled.values() for sign in letters} - {" "}
    pupil = RustTokenizer(models.BPE())
    pupil.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + pieces,
        min_frequency=LEAST_SEEN,
        max_token_length=LONGEST,
        show_progress=False,
    )
    pupil.train_from_iterator(lines, trainer)
    names = {number: piece for piece, number in rules.ids.items()}

    def read(letters: str) -> str:
        return "".join(names[ord(letter) - FIRST_LETTER] for letter in letters)

    for left, right in json.loads(pupil.to_str())["model"]["merges"]:
        rules.add_merge(read(left), read(right))


def split_words(rules: Rules, rust: RustTokenizer, text: str) -> list[str]:
    """The parts of a text with a letter, as the model sees them: no merge is learnt across their borders."""
    if rust.normalizer is not None and rules.kind == "byte-level":
        text = rust.normalizer.normalize_str(text)
    splitter = RUNS if rules.kind == "sentencepiece" else rust.pre_tokenizer
    found = [word for word, (start, end) in splitter.pre_tokenize_str(text) if _has_letter(text[start:end])]
    return [word.replace(" ", SPACE) for word in found] if rules.kind == "sentencepiece" else found


def _has_letter(text: str) -> bool:
    return any(sign.isalpha() for sign in text)


def _may_merge(rules: Rules, token: str, ascii_pieces: bool) -> bool:
    """Bytes of unknown characters never; tokens of ASCII signs when English may change."""
    if rules.kind == "sentencepiece" and token.startswith("<0x") and len(token) == 6:
        return False
    return ascii_pieces or not rules.is_ascii(token)


def take_pieces(rules: Rules, offered: Sequence[str], limit: int, *, ascii_pieces: bool = False) -> Taken:
    """Add pieces of another vocabulary, the best first, at most `limit` of them, with the merges that reach them.

    Shorter pieces are added first, so that longer ones are made of them. Where no two tokens make a piece, the tokens
    are joined one after the other, and what stands between becomes a piece as well (a bridge).
    """
    taken = Taken(len(offered))
    needed: dict[str, None] = {}  # pieces and the characters that they lack, in their order
    for text in offered:
        piece = rules.spell(text.replace(SPACE, " "))
        if piece is None:
            taken.left_out.append(text)
        elif piece in rules.ids:
            taken.known += 1
        elif not ascii_pieces and rules.is_ascii(piece):
            taken.ascii += 1
        else:
            _need(rules, piece, needed, taken, limit, ascii_pieces)
    waiting = sorted(needed, key=len)
    signs = [one for one in waiting if len(one) == 1]  # byte-level vocabularies have all of theirs
    for sign in signs:
        rules.add_symbol(sign)
    taken.bridges += sorted(set(signs).difference(offered))
    remaining = len(waiting) + 1
    while len(waiting) < remaining:  # what was added meanwhile may make more of them
        remaining = len(waiting)
        waiting = [piece for piece in waiting if not _join_two(rules, piece)]
    for piece in waiting:
        _bridge(rules, piece, taken, limit, ascii_pieces)
    return taken


def _need(
    rules: Rules, piece: str, needed: dict[str, None], taken: Taken, limit: int, ascii_pieces: bool
) -> None:
    """Note a piece and the characters that it lacks, if there is room for all of them."""
    unknown = [sign for sign in dict.fromkeys(piece) if sign not in rules.ids]
    if not ascii_pieces and any(map(rules.is_ascii, unknown)):
        taken.left_out.append(piece)
        return
    new = [one for one in dict.fromkeys([*unknown, piece]) if one not in needed]
    if len(needed) + len(new) <= limit:
        needed.update(dict.fromkeys(new))


def _join_two(rules: Rules, piece: str) -> bool:
    parts = rules.split(piece)
    if len(parts) == 2:
        rules.add_merge(*parts)
    return len(parts) <= 2


def _bridge(rules: Rules, piece: str, taken: Taken, limit: int, ascii_pieces: bool) -> None:
    parts = rules.split(piece)
    if rules.new_count + len(parts) - 1 > limit:
        taken.left_out.append(piece)
        return
    while len(parts) > 1:
        pairs = list(pairwise(parts))
        left, right = next(pair for pair in pairs if ascii_pieces or not rules.is_ascii("".join(pair)))
        rules.add_merge(left, right)
        if len(parts) > 2:
            taken.bridges.append(left + right)
        parts = rules.split(piece)


def sentencepiece_pieces(file: Path) -> list[str]:
    """The usual pieces of a SentencePiece model, spaces as ▁, the best first.

    Raises:
        ModelError: it is no SentencePiece model.
    """
    if not file.is_file():
        raise ModelError("no such file", where=file, fix="give a SentencePiece model, as chinese_sp.model")
    return read_sentencepiece(file).of_kind(NORMAL)


def learn_unigram(texts: Sequence[str], pieces: int) -> list[str]:
    """Pieces of a unigram vocabulary learnt by SentencePiece (Kudo, arXiv 1804.10959), the best first.

    Raises:
        GraftError: the package is not installed, or it cannot learn from these texts.
    """
    try:
        import sentencepiece
    except ImportError:
        raise GraftError(
            "a unigram vocabulary is learnt by the package sentencepiece, which is not installed",
            where="kind: spm-unigram",
            fix="pip install 'graftlm[sentencepiece]', or use another kind",
        ) from None
    lines = (line for text in texts for line in text.splitlines() if line.strip())
    with tempfile.TemporaryDirectory() as folder:
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=lines, model_prefix=f"{folder}/m", model_type="unigram", vocab_size=pieces + 3,
                hard_vocab_limit=False, max_sentence_length=100_000, minloglevel=2, num_threads=1,
            )  # fmt: skip
        except (RuntimeError, OSError) as error:
            reason = str(error).splitlines()[0][:200]
            raise GraftError(
                f"SentencePiece cannot learn: {reason}", where="kind: spm-unigram", fix="give more text or fewer pieces"
            ) from error
        return sentencepiece_pieces(Path(f"{folder}/m.model"))
