"""Gap sentences: chosen as by brute force, in English and Chinese, and put together again."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from graftlm.data.encode_pairs import encode_pairs
from graftlm.data.gap_sentences import chosen_sentences, mask_sentences, sentences, words
from graftlm.models.loading import load_tokenizer

WORDS = ["the", "cat", "dog", "sat", "ran", "on", "mat", "road", "7", "药", "剂", "量"]


def rouge_1(sentence: list[str], rest: list[str]) -> float:
    """By its definition: matches, precision, recall, their harmonic mean."""
    left, hits = Counter(rest), 0
    for word in sentence:
        hits += left[word] > 0
        left[word] -= left[word] > 0
    if not hits:
        return 0.0
    precision, recall = hits / len(sentence), hits / len(rest)
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize("seed", range(20))
def test_the_most_telling_sentences_are_chosen(seed: int) -> None:
    rng = random.Random(seed)
    parts = [" ".join(rng.choices(WORDS, k=rng.randrange(1, 9))) + "." for _ in range(rng.randrange(2, 9))]
    scores = []
    for place, part in enumerate(parts):
        rest = [word for other, text in enumerate(parts) if other != place for word in words(text)]
        scores.append(rouge_1(words(part), rest))
    chosen = chosen_sentences(parts, 0.4)
    assert len(chosen) == min(len(parts) - 1, max(1, int(0.4 * len(parts))))
    left = [scores[place] for place in range(len(parts)) if place not in chosen]
    assert min(scores[place] for place in chosen) >= max(left) - 1e-12


def test_sentences_of_two_languages() -> None:
    assert sentences("One. Two!? “Three.” \nFour") == ["One.", " Two!?", " “Three.”", "Four"]
    assert sentences("甲药用于高血压。乙药呢？丙。") == ["甲药用于高血压。", "乙药呢？", "丙。"]
    assert words("The药 is 5 mg") == ["the", "药", "is", "5", "mg"]


def test_the_gap_stands_where_the_sentence_stood() -> None:
    gaps = mask_sentences("A cat sat. A cat sat on it. Rain fell.", "[MASK]", 0.4)
    assert gaps is not None
    assert gaps.target in ("A cat sat.", "A cat sat on it.")
    assert gaps.source.replace("[MASK]", gaps.target) == "A cat sat. A cat sat on it. Rain fell."
    assert mask_sentences("Only one.", "[MASK]") is None


def test_pairs_are_encoded_with_the_target_behind() -> None:
    tokenizer = load_tokenizer("rootstock")
    pairs = [("What is 2?", "Two."), ("x " * 50, "y " * 50)]
    (one, other), cut = encode_pairs(tokenizer, pairs, most_source=20, most_target=10)
    target = one.tokens[one.targets].tolist()
    assert tokenizer.decode(target, skip_special_tokens=True) == "Two."
    assert target[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(one.tokens[~one.targets].tolist(), skip_special_tokens=True) == "What is 2?"
    assert (len(other.tokens), int(other.targets.sum()), int(other.tokens[-1])) == (30, 10, tokenizer.eos_token_id)
    assert cut["cut"] == 1 and cut["targets_cut"] > 0
