"""The two ways to find a span's tokens give the same; the quick one is taken only where its reasons hold."""

from __future__ import annotations

import random
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from graftlm.data import token_places
from graftlm.data.templates import Rendered
from graftlm.data.token_places import _by_bytes, _by_offsets, _byte_lengths, locate

PARTS = ["one", " two", "  ", "\n\n", "每日一次", "😀", "é", "e\u0301", "ß", "12", "</s>", "<|im_end|>", "\u3000", "!"]
WHOLE_BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)


def tokenizer(
    *,
    normalizer: Any = None,
    splits: Any = WHOLE_BYTES,
    post_processor: Any = None,
    added: AddedToken | None = None,
    alphabet: bool = True,
) -> Any:
    built = Tokenizer(models.BPE())
    built.normalizer, built.pre_tokenizer = normalizer, splits
    if post_processor is not None:
        built.post_processor = post_processor
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=["<s>", "</s>", "<|im_end|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if alphabet else [],
    )  # fmt: skip
    built.train_from_iterator(["one two every day 每日一次 é" * 3], trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=built, bos_token="<s>", eos_token="</s>")
    if added is not None:
        made.add_tokens([added])
    return made


def texts(seed: int, parts: list[str] = PARTS) -> list[Rendered]:
    """Random texts with random spans, empty ones and ones at the very ends among them."""
    rng = random.Random(seed)
    found = [Rendered("", ()), Rendered("one", ((0, 3),))]
    for _ in range(60):
        text = "".join(rng.choices(parts, k=rng.randrange(1, 12)))
        edges = sorted(rng.sample(range(len(text) + 1), k=min(len(text) + 1, 2 * rng.randrange(0, 3)) // 2 * 2))
        found.append(Rendered(text, tuple(zip(edges[0::2], edges[1::2], strict=True))))
    rng.shuffle(found)
    return found


DIGITS = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), WHOLE_BYTES])
PLAIN = {
    "bytes": {},
    "composed": {"normalizer": normalizers.NFC()},
    "digits apart": {"splits": DIGITS},
    "untrimmed": {"post_processor": processors.ByteLevel(trim_offsets=False)},
    "more tokens": {"added": AddedToken("每日", normalized=False)},
}
OTHERS = {
    "lower case": {"normalizer": normalizers.Lowercase()},
    "a space put before": {"splits": pre_tokenizers.ByteLevel(add_prefix_space=True)},
    "spaces are no tokens": {"splits": pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), WHOLE_BYTES])},
    "trimmed": {"post_processor": processors.ByteLevel(trim_offsets=True)},
    "a token that takes spaces": {"added": AddedToken("two", lstrip=True)},
    "not every byte": {"alphabet": False},
}


@pytest.mark.parametrize("kind", PLAIN)
def test_bytes_and_offsets_agree(kind: str) -> None:
    made = tokenizer(**PLAIN[kind])
    composed = [part for part in PARTS if part != "e\u0301"]
    for seed in range(4):
        batch = texts(seed, composed)
        quick, asked = _by_bytes(made, batch), _by_offsets(made, batch, None)
        assert quick is not None
        for name in ("tokens", "edges", "ends"):
            assert getattr(quick, name).tolist() == getattr(asked, name).tolist()


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_not_plainly_bytes_is_asked(kind: str) -> None:
    made = tokenizer(**OTHERS[kind])
    assert _byte_lengths(made, len(made)) is None
    batch = texts(0)
    assert locate(made, batch, None).edges.tolist() == _by_offsets(made, batch, None).edges.tolist()


def test_texts_that_are_changed_are_asked() -> None:
    """NFC makes one character of "e" and its accent; a split may drop what it splits at."""
    composing = tokenizer(normalizer=normalizers.NFC())
    assert _by_bytes(composing, [Rendered("e\u0301", ((0, 1),))]) is None
    dropping = pre_tokenizers.Sequence([pre_tokenizers.Split(" ", "removed"), WHOLE_BYTES])
    made = tokenizer(splits=dropping)
    assert _by_bytes(made, [Rendered("one two", ((3, 7),))]) is None
    assert _by_bytes(made, [Rendered("onetwo", ((3, 6),))]) is not None


def test_a_tokenizer_that_prepares_its_texts_is_asked() -> None:
    class Loud(PreTrainedTokenizerFast):
        def __call__(self, text: list[str], *args: Any, **named: Any) -> Any:
            return super().__call__([one.upper() for one in text], *args, **named)

    made = Loud(tokenizer_object=tokenizer().backend_tokenizer, eos_token="</s>")
    batch = [Rendered("one two", ((3, 7),))]
    assert _by_bytes(made, batch) is None
    assert locate(made, batch, None).tokens.tolist() == made(["one two"])["input_ids"][0]


def test_bos_stands_before_texts_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made = tokenizer()
    batch = [Rendered("one", ((0, 3),)), Rendered("<s>two", ((3, 6),))]
    found = locate(made, batch, "<s>")
    assert [found.tokens[a] for a in found.ends[:2]] == [0, 0]
    assert found.edges[0] == 1
    monkeypatch.setattr(token_places, "_by_offsets", lambda *_: pytest.fail("the quick way was not taken"))
    assert locate(made, batch[1:], "<s>").tokens[0] == 0
