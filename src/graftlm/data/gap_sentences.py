"""Gap sentences: a document whose most telling sentences are masked, and those sentences as what is to be said.

Pegasus (Zhang et al., arXiv 1912.08777), `Ind-Orig`: each sentence by itself is scored by ROUGE-1 F against the rest
of the document, n-grams counted as often as they stand there; the best are replaced by a mask each.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass

_SENTENCE = re.compile(r"[^.!?。！？\n]+(?:[.!?。！？]+[\"'”’」』)）]*|\n+|$)")
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+")


@dataclass(frozen=True)
class GapDocument:
    """A document with gaps.

    Attributes:
        source: the text with each chosen sentence replaced by the mask.
        target: the chosen sentences, in their order.
    """

    source: str
    target: str


def sentences(text: str) -> list[str]:
    """Pieces of a text that end with a sentence mark or a line; joined they are the text from its first letter on."""
    return [found.group() for found in _SENTENCE.finditer(text) if found.group().strip()]


def words(text: str) -> list[str]:
    """Words in lower case; each Chinese character or kana is one."""
    return _WORD.findall(text.lower())


def overlap(sentence: Counter[str], rest: Counter[str]) -> float:
    """ROUGE-1 F of a sentence against the rest."""
    hits, lengths = sum((sentence & rest).values()), sum(sentence.values()) + sum(rest.values())
    return 2 * hits / lengths if hits else 0.0


def chosen_sentences(parts: list[str], share: float) -> list[int]:
    """Places of the sentences to mask, in order: the best `share` of them, at least one, never all.

    Equal scores: the earlier one. Empty where there are fewer than two sentences.
    """
    if len(parts) < 2:
        return []
    counts = [Counter(words(part)) for part in parts]
    whole = sum(counts, Counter[str]())
    scores = [overlap(count, whole - count) for count in counts]
    number = min(len(parts) - 1, max(1, math.floor(share * len(parts))))
    return sorted(sorted(range(len(parts)), key=lambda place: -scores[place])[:number])


def mask_sentences(text: str, mask: str, share: float = 0.3) -> GapDocument | None:
    """The text with its most telling sentences masked; None where it has fewer than two sentences."""
    parts = sentences(text)
    chosen = chosen_sentences(parts, share)
    if not chosen:
        return None
    source = "".join(_in_place(part, mask) if place in chosen else part for place, part in enumerate(parts))
    return GapDocument(source.strip(), " ".join(parts[place].strip() for place in chosen))


def _in_place(part: str, mask: str) -> str:
    """The mask with the white space that stood around the sentence."""
    bare = part.strip()
    before, _, after = part.partition(bare)
    return f"{before}{mask}{after}"
