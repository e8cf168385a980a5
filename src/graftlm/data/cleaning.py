"""Duplicates inside a data set (test items in training data: evaluation/contamination.py).

Functions over lists of texts that return index groups and evidence. Nothing is ever deleted here: what to do
with a finding is the recipe's decision.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from graftlm.data.samples import (
    Captioned,
    Chat,
    Classified,
    Labelled,
    Preference,
    Prompt,
    Sample,
    Tagged,
    Text,
    Unpaired,
)

SHINGLE = 5
BANDS, ROWS = 20, 5
"""100 hash functions in 20 bands of 5. A pair of Jaccard similarity J shares a band with probability
1 - (1 - J^5)^20: 0.9997 at 0.8, 0.05 at 0.3."""


def normalise(text: str) -> str:
    """The text with Unicode compatibility forms, letter case and runs of space levelled."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def exact_duplicates(texts: Sequence[str]) -> list[list[int]]:
    """Groups (two or more indices, ascending) of texts that are equal after `normalise`."""
    groups: dict[bytes, list[int]] = defaultdict(list)
    for index, text in enumerate(texts):
        groups[hashlib.sha256(normalise(text).encode("utf-8", "surrogatepass")).digest()].append(index)
    return [group for group in groups.values() if len(group) > 1]


def near_duplicates(texts: Sequence[str], threshold: float = 0.8, seed: int = 0) -> list[list[int]]:
    """Groups (two or more indices, ascending) of texts linked by Jaccard similarity >= `threshold`.

    Similarity is that of the sets of character 5-grams after `normalise`. MinHash signatures and banding
    (Broder 1997; Leskovec, Rajaraman & Ullman, "Mining of Massive Datasets", ch. 3) propose pairs, and each
    is verified on the sets themselves, so no pair is reported on a hash's word. Exact duplicates are among
    the groups. A group is a chain: its ends may be less alike than the threshold.
    """
    shingles = [_shingles(normalise(text)) for text in texts]  # each sorted and unique
    parent = list(range(len(texts)))

    # Equal sets are joined first, so that a thousand copies do not make half a million pairs.
    first_with: dict[bytes, int] = {}
    for index, members in enumerate(shingles):
        parent[index] = first_with.setdefault(members.tobytes(), index)
    distinct = [index for index in range(len(texts)) if parent[index] == index and len(shingles[index])]

    signatures = _minhash([shingles[index] for index in distinct], seed)  # [distinct, BANDS * ROWS]
    for band in range(BANDS):
        buckets: dict[bytes, list[int]] = defaultdict(list)
        columns = np.ascontiguousarray(signatures[:, band * ROWS : (band + 1) * ROWS])
        for place, index in enumerate(distinct):
            buckets[columns[place].tobytes()].append(index)
        for bucket in buckets.values():
            _join_similar(bucket, shingles, parent, threshold)

    groups: dict[int, list[int]] = defaultdict(list)
    for index in range(len(texts)):
        groups[_root(parent, index)].append(index)
    return [group for group in groups.values() if len(group) > 1]


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """Jaccard similarity of two sorted arrays of distinct values; 1 for two empty ones."""
    shared = len(np.intersect1d(a, b, assume_unique=True))
    union = len(a) + len(b) - shared
    return shared / union if union else 1.0


def _join_similar(bucket: list[int], shingles: list[np.ndarray], parent: list[int], threshold: float) -> None:
    for place, left in enumerate(bucket):
        for right in bucket[place + 1 :]:
            a, b = shingles[left], shingles[right]
            if _root(parent, left) == _root(parent, right):
                continue
            # The sizes alone bound the similarity: most chance pairs end here.
            if min(len(a), len(b)) < threshold * max(len(a), len(b)):
                continue
            if jaccard(a, b) >= threshold:
                parent[_root(parent, right)] = _root(parent, left)


def _root(parent: list[int], index: int) -> int:
    while parent[index] != index:
        parent[index] = parent[parent[index]]
        index = parent[index]
    return index


def _mixed(values: np.ndarray) -> np.ndarray:
    """Scatter uint64 values over the whole range (the finaliser of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _rolling(values: np.ndarray, width: int) -> np.ndarray:
    """[n - width + 1] uint64 hashes of all windows of `width` values; one hash of all if they are fewer."""
    width = min(width, len(values))
    if width == 0:
        return np.zeros(0, dtype=np.uint64)
    total = np.zeros(len(values) - width + 1, dtype=np.uint64)
    for step in range(width):
        window = values[step : step + len(total)] + np.uint64(1)
        total = _mixed(total * np.uint64(0x9E3779B97F4A7C15) + window)
    return total


def _shingles(text: str) -> np.ndarray:
    code_points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    return np.unique(_rolling(code_points.astype(np.uint64), SHINGLE))


def _minhash(sets: list[np.ndarray], seed: int) -> np.ndarray:
    """[len(sets), BANDS * ROWS] uint32: for each hash function the least value over the (non-empty) set."""
    signatures = np.empty((len(sets), BANDS * ROWS), dtype=np.uint32)
    if not sets:
        return signatures
    random = np.random.default_rng(seed)
    multipliers = random.integers(0, 1 << 63, BANDS * ROWS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    # A block of sets at a time stays in the cache.
    block = 256
    for start in range(0, len(sets), block):
        part = sets[start : start + block]
        edges = np.cumsum([0, *(len(one) for one in part[:-1])])
        values = np.concatenate(part)
        for number, multiplier in enumerate(multipliers):
            hashed = ((values * multiplier) >> np.uint64(32)).astype(np.uint32)
            signatures[start : start + block, number] = np.minimum.reduceat(hashed, edges)
    return signatures


def question_of(sample: Sample) -> str:
    """What a test item shows: its prompt, or the whole text of any other sample."""
    if isinstance(sample, Labelled):
        return "\n".join(turn.content for turn in sample.prompt)
    return text_of_sample(sample)


def text_of_sample(sample: Sample) -> str:
    """All text of a sample, for the functions above."""
    match sample:
        case Text():
            return sample.text
        case Chat():
            parts = [turn.content for turn in sample.turns]
        case Prompt():
            parts = [turn.content for turn in sample.prompt]
        case Preference():
            parts = [*(turn.content for turn in sample.prompt), sample.chosen, sample.rejected]
        case Unpaired():
            parts = [*(turn.content for turn in sample.prompt), sample.completion]
        case Labelled():
            parts = [*(turn.content for turn in sample.prompt), *(sample.choices or sample.answers)]
        case Classified():
            parts = [part for part in (sample.text, sample.text_b) if part]
        case Tagged() | Captioned():
            parts = [sample.text]
    return "\n".join(parts)
