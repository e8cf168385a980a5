"""Encoding: bos and eos once, the tokenizers that cannot serve. The mask: target_mask_test."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from graftlm.core.errors import ModelError
from graftlm.data.encode import encode_chats, encode_preferences, encode_prompt, encode_texts
from graftlm.data.samples import Chat, Origin, Preference, Text, Turn
from graftlm.data.templates import named_template

O = Origin("x", 1)
TURNS = (Turn("user", "q one"), Turn("assistant", "a one"))


def tokenizer(*, adds_bos: bool, bos: str | None = "<s>", eos: str | None = "</s>") -> Any:
    built = Tokenizer(models.BPE())
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<s>", "</s>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    built.train_from_iterator(["one two three q a"], trainer)
    if adds_bos:
        built.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=built, bos_token=bos, eos_token=eos)


def test_texts_are_framed_and_wholly_learnt() -> None:
    framed = encode_texts(tokenizer(adds_bos=False), [Text("one two", O), "x"])
    assert framed[0].tokens.dtype == np.uint32 and framed[0].targets.dtype == bool
    assert framed[0].tokens[0] == 0 and framed[0].tokens[-1] == 1
    assert framed[0].targets.tolist() == [False] + [True] * (len(framed[0].tokens) - 1)
    bare = tokenizer(adds_bos=False, bos=None, eos=None)
    naked = encode_texts(bare, ["one two"])[0]
    assert (
        bare.decode(naked.tokens.tolist()) == "one two" and not naked.targets[0] and naked.targets[1:].all()
    )


def test_special_tokens_in_a_document_stay_characters() -> None:
    made = tokenizer(adds_bos=False)
    one = encode_texts(made, ["a </s> b <s>"])[0]
    assert one.tokens.tolist().count(1) == 1 and one.tokens.tolist().count(0) == 1
    assert made.decode(one.tokens[1:-1].tolist()) == "a </s> b <s>"
    # ... and the tokenizer is not left in that state for the templates, which need the marks.
    chat = encode_chats(made, named_template("vicuna", eos="</s>"), [TURNS])[0]
    assert chat.tokens[-1] == 1


@pytest.mark.parametrize("name", ["vicuna", "llama2"])
def test_bos_stands_once(name: str) -> None:
    for adds_bos in (True, False):
        made = tokenizer(adds_bos=adds_bos)
        template = named_template(name, bos="<s>", eos="</s>")
        ids = encode_chats(made, template, [Chat(TURNS, O)])[0].tokens.tolist()
        assert ids.count(0) == int(adds_bos or name == "llama2")
        prompt = encode_prompt(made, template, TURNS[:1])
        assert all(type(token) is int for token in prompt) and ids[: len(prompt)] == prompt


def test_preferences_come_in_pairs() -> None:
    made, template = tokenizer(adds_bos=True), named_template("vicuna", eos="</s>")
    pairs = [Preference(TURNS[:1], f"good {i}", f"bad {i}", O) for i in range(3)]
    encoded = encode_preferences(made, template, pairs)
    said = [[made.decode(one.tokens[one.targets].tolist()) for one in pair] for pair in encoded]
    assert said == [[f" good {i}</s>", f" bad {i}</s>"] for i in range(3)]


def test_refusals() -> None:
    class Slow:
        is_fast = False
        name_or_path = "old-model"

    with pytest.raises(ModelError, match=r"old-model.*offsets") as caught:
        encode_texts(Slow(), ["x"])
    assert caught.value.fix


ODD_TOKENIZERS = {
    "accents taken off": (
        normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]),
        pre_tokenizers.Whitespace(),
    ),
    "composed": (normalizers.NFKC(), pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "words replaced": (normalizers.Replace("é", "e!e"), pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "a piece put before": (normalizers.Prepend("▁"), pre_tokenizers.Metaspace(prepend_scheme="never")),
    "prefixed, split": (normalizers.Lowercase(), pre_tokenizers.Metaspace(prepend_scheme="always", split=True)),
}


@pytest.mark.parametrize("trimmed", [False, True])
@pytest.mark.parametrize("kind", ODD_TOKENIZERS)
def test_targets_are_those_of_the_whole_list_of_offsets(kind: str, trimmed: bool) -> None:
    built = Tokenizer(models.BPE(unk_token="<unk>"))
    built.normalizer, built.pre_tokenizer = ODD_TOKENIZERS[kind]
    if trimmed:
        built.post_processor = processors.ByteLevel(trim_offsets=True)
    words = ["one two", "é è e\u0301 ﬁ ½", "每日一次 口服", " \u3000 x  y\n\n", "😀 ß", "ÀÉ\u0323\u0301 end"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<unk>", "</s>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    built.train_from_iterator(words[:4] * 5, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=built, eos_token="</s>", unk_token="<unk>")
    template, rng = named_template("vicuna", eos="</s>"), random.Random(kind)
    chats = [
        [Turn(role, "".join(rng.choices(words, k=3))) for _ in range(n) for role in ("user", "assistant")]  # type: ignore[arg-type]
        for n in (1, 2, 3) * 10
    ]
    for turns, one in zip(chats, encode_chats(made, template, chats), strict=True):
        rendered = template.render(turns)
        starts = [start for start, _ in made(rendered.text, return_offsets_mapping=True)["offset_mapping"]]
        wanted = [any(a <= start < b for a, b in rendered.targets) for start in starts]
        assert one.targets.tolist() == [False, *wanted[1:]]
        assert 0 < sum(wanted) < len(wanted)
