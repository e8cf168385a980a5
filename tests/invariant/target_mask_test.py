"""The target mask equals an oracle that never asks the tokenizer for offsets.

The oracle rebuilds each token's place in the text from the token's own characters: byte bookkeeping for
byte-level BPE, a walk over the pieces for SentencePiece-style BPE and Unigram, BERT's word splitting redone
for WordPiece. The answers' places are searched in the rendered text, with each template's stop marker written
out here again.
"""

from __future__ import annotations

import json
import random
import unicodedata
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from graftlm.data.encode import encode_chats, encode_preferences, encode_prompt
from graftlm.data.samples import Chat, Origin, Preference, Turn
from graftlm.data.templates import TEMPLATES, ChatTemplate, named_template, tokenizer_template

BOS, EOS = "<s>", "</s>"
SPECIALS = ["<unk>", BOS, EOS, "<|im_start|>", "<|im_end|>", "<reserved_106>", "<reserved_107>", "<|user|>"]
BYTE_PIECES = [f"<0x{value:02X}>" for value in range(256)]
ORIGIN = Origin("test", 1)

# What closes an answer, and what the format puts before it; where nothing is listed: eos, and no lead.
STOPS = {
    **dict.fromkeys(("chatml", "internlm2", "qwen", "yi"), "<|im_end|>"),
    "gemma": "<end_of_turn>",
    "llama3": "<|eot_id|>",
    "phi3": "<|end|>",
    "chatglm3": "<|user|>",
    "llama2": " </s>",
    "firefly": " </s>",
}
LEADS = {
    **dict.fromkeys(("deepseek", "firefly", "llama2", "mistral", "mixtral", "vicuna", "xverse"), " "),
    "chatglm3": "\n ",
}

WORDS = [
    "the",
    "dose",
    "of",
    "this",
    "drug",
    "is",
    "5",
    "mg,",
    "once",
    "a",
    "day.",
    "What?",
    "Don't",
    "stop",
    "(never)!",
    "fever\n\n-",
    "one\n-",
    "two",
]
CHINESE = "每日一次口服，饭后服用。高血压患者慎用！请遵医嘱？药物剂量与发热头痛"
RARE = "😀🎉é龘ñ𠮷ß—“”"
SPACES = ["  ", "\n", "\n\n", "\t", " \n "]

OWN_TEMPLATES = {
    "own, marked": "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ m.content }}<|im_end|>{% endif %}\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "own, plain": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
}


def random_text(rng: random.Random, tag: str) -> str:
    """Mixed text without white space at its ends, unmistakable by its tag."""
    parts = [tag]
    for _ in range(rng.randrange(0, 12)):
        kind = rng.random()
        if kind < 0.4:
            part = " " + rng.choice(WORDS)
        elif kind < 0.7:
            at = rng.randrange(len(CHINESE) - 4)
            part = CHINESE[at : at + rng.randrange(1, 5)]
        elif kind < 0.85:
            part = rng.choice(RARE)
        else:
            part = rng.choice(SPACES)
        parts.insert(rng.randrange(len(parts) + 1), part)
    return "".join(parts).strip()


def random_chat(rng: random.Random) -> list[Turn]:
    turns = [Turn("system", random_text(rng, "s0"))] if rng.random() < 0.5 else []
    for number in range(rng.randrange(1, 6)):
        turns.append(Turn("user", random_text(rng, f"q{number}")))
        turns.append(Turn("assistant", random_text(rng, f"a{number}")))
    return turns


def corpus() -> list[str]:
    """Common characters only: the rare ones must fall back to bytes, or to the unknown token."""
    rng = random.Random(5)
    lines = []
    for _ in range(300):
        at = rng.randrange(len(CHINESE) - 4)
        lines.append(" ".join(rng.choices(WORDS, k=6)) + CHINESE[at : at + 6] + " ".join(WORDS[:3]))
    # Letters of the markup, so that every template's marks are known characters.
    return [*lines, "".join(map(chr, range(33, 127))), " ".join(map(chr, range(33, 127))), "问答第轮：用户"]


# --- the four kinds of tokenizer, each with its oracle ---------------------------------------------------


def byte_level() -> Tokenizer:
    built = Tokenizer(models.BPE())
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    built.train_from_iterator(corpus(), trainer)
    return built


def sentencepiece_bpe() -> Tokenizer:
    built = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    built.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    built.decoder = _metaspace_decoder()
    trainer = trainers.BpeTrainer(vocab_size=800, special_tokens=SPECIALS + BYTE_PIECES, show_progress=False)
    built.train_from_iterator(corpus(), trainer)
    built = _without_added_bytes(built)
    # Llama's convention: bos before every text.
    built.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 1)])
    return built


def unigram() -> Tokenizer:
    built = Tokenizer(models.Unigram())
    built.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    built.decoder = _metaspace_decoder()
    trainer = trainers.UnigramTrainer(
        vocab_size=400, special_tokens=SPECIALS, unk_token="<unk>", show_progress=False
    )
    built.train_from_iterator(corpus(), trainer)
    state = json.loads(built.to_str())
    state["model"]["vocab"] += [[piece, -30.0] for piece in BYTE_PIECES]
    state["model"]["byte_fallback"] = True
    return Tokenizer.from_str(json.dumps(state))


def word_piece() -> Tokenizer:
    built = Tokenizer(models.WordPiece(unk_token="<unk>", max_input_chars_per_word=100))
    built.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    built.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    built.decoder = decoders.WordPiece()
    built.train_from_iterator(
        corpus(), trainers.WordPieceTrainer(vocab_size=500, special_tokens=SPECIALS, show_progress=False)
    )
    return built


def _metaspace_decoder() -> Any:
    return decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])


def _without_added_bytes(built: Tokenizer) -> Tokenizer:
    """The byte pieces belong to the model; as added tokens they would match a literal "<0x41>" in a text."""
    state = json.loads(built.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] not in BYTE_PIECES]
    return Tokenizer.from_str(json.dumps(state))


def gpt2_bytes() -> dict[str, int]:
    """GPT-2's printable stand-in for each byte, from its published rule."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(value): value for value in kept}
    for place, value in enumerate(value for value in range(256) if value not in kept):
        table[chr(256 + place)] = value
    return table


def char_of_byte(text: str) -> list[int]:
    return [index for index, char in enumerate(text) for _ in char.encode()]


Span = tuple[int, int]


def oracle_bytes(tokens: list[str], text: str) -> list[Span]:
    table, owner, place, spans = gpt2_bytes(), char_of_byte(text), 0, []
    for token in tokens:
        raw = token.encode() if token in SPECIALS else bytes(table[char] for char in token)
        assert text.encode()[place : place + len(raw)] == raw
        spans.append((owner[place], owner[place + len(raw) - 1] + 1))
        place += len(raw)
    assert place == len(owner)
    return spans


def oracle_pieces(tokens: list[str], text: str) -> list[Span]:
    owner, data, place, spans = char_of_byte(text), text.encode(), 0, []
    for token in tokens:
        if token in BYTE_PIECES:
            raw = bytes([int(token[3:5], 16)])
        else:
            raw = (token if token in SPECIALS else token.replace("▁", " ")).encode()
            if token.startswith("▁") and not data.startswith(raw, place):
                raw = raw[
                    1:
                ]  # the space that the tokenizer puts before a segment is no character of the text
        assert data.startswith(raw, place), (token, data[place : place + 20])
        start = owner[place] if place < len(owner) else len(text)
        spans.append((start, owner[place + len(raw) - 1] + 1 if raw else start))
        place += len(raw)
    assert place == len(owner)
    return spans


def oracle_words(tokens: list[str], text: str) -> list[Span]:
    """WordPiece: pieces fill the words of BERT's basic tokenisation; the unknown token takes a whole word."""
    queue, spans = list(tokens), []
    for start, end in bert_words(text):
        word, place = text[start:end].lower(), start
        while place < end:
            token = queue.pop(0)
            if token == "<unk>" and word != token:
                assert place == start
                spans.append((start, end))
                break
            piece = token if token in SPECIALS else token.removeprefix("##") if place > start else token
            assert text[place : place + len(piece)].lower() == piece.lower(), (token, text[start:end])
            spans.append((place, place + len(piece)))
            place += len(piece)
    assert queue == []
    return spans


def bert_words(text: str) -> list[Span]:
    words: list[Span] = []
    place = 0
    start: int | None = None

    def close(end: int) -> None:
        nonlocal start
        if start is not None:
            words.append((start, end))
        start = None

    while place < len(text):
        special = next((name for name in SPECIALS if text.startswith(name, place)), None)
        width = len(special) if special else 1
        if special or not text[place].isspace():
            alone = special or is_bert_single(text[place])
            if alone:
                close(place)
                words.append((place, place + width))
            elif start is None:
                start = place
        else:
            close(place)
        place += width
    close(len(text))
    return words


def is_bert_single(char: str) -> bool:
    ascii_mark = 33 <= ord(char) < 127 and not char.isalnum()
    return (
        ascii_mark
        or unicodedata.category(char).startswith("P")
        or "\u3400" <= char <= "\u9fff"
        or char == "𠮷"
    )


KINDS: dict[str, tuple[Callable[[], Tokenizer], Callable[[list[str], str], list[Span]]]] = {
    "byte-level BPE": (byte_level, oracle_bytes),
    "SentencePiece BPE": (sentencepiece_bpe, oracle_pieces),
    "Unigram": (unigram, oracle_pieces),
    "WordPiece": (word_piece, oracle_words),
}
LOSSLESS = ("byte-level BPE", "SentencePiece BPE", "Unigram")


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, PreTrainedTokenizerFast]:
    return {
        kind: PreTrainedTokenizerFast(
            tokenizer_object=build(), bos_token=BOS, eos_token=EOS, unk_token="<unk>", pad_token="<unk>",
            additional_special_tokens=SPECIALS[3:],
        )
        for kind, (build, _) in KINDS.items()
    }  # fmt: skip


def template_of(name: str, tokenizer: PreTrainedTokenizerFast) -> ChatTemplate:
    if name not in OWN_TEMPLATES:
        return named_template(name, bos=BOS, eos=EOS)
    tokenizer.chat_template = OWN_TEMPLATES[name]
    return tokenizer_template(tokenizer)


def answer_spans(name: str, turns: list[Turn], text: str) -> list[Span]:
    """Where the answers stand, found by searching for each turn behind the one before it."""
    stop = "<|im_end|>" if name in OWN_TEMPLATES else STOPS.get(name, EOS)
    lead = LEADS.get(name, "")
    spans, cursor = [], 0
    for turn in turns:
        start = text.index(turn.content, cursor)
        cursor = start + len(turn.content)
        if turn.role == "assistant":
            assert text.startswith(stop, cursor) and text.endswith(lead, 0, start)
            spans.append((start - len(lead), cursor + len(stop)))
    return spans


def expected_mask(token_spans: list[Span], answers: list[Span]) -> list[bool]:
    return [any(first <= start < last for first, last in answers) for start, _ in token_spans]


def reading(tokenizer: PreTrainedTokenizerFast, ids: np.ndarray, text: str) -> tuple[list[str], int]:
    """Token strings of the text, and how many bos were put before it."""
    tokens = tokenizer.convert_ids_to_tokens([int(i) for i in ids])
    added = int(tokens[0] == BOS and not text.startswith(BOS))
    return tokens[added:], added


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [*TEMPLATES, *OWN_TEMPLATES])
def test_mask_equals_the_oracle(name: str, kind: str, tokenizers: dict[str, PreTrainedTokenizerFast]) -> None:
    tokenizer, oracle = tokenizers[kind], KINDS[kind][1]
    template = template_of(name, tokenizer)
    rng = random.Random(f"{name} {kind}")
    chats = [random_chat(rng) for _ in range(6)]
    encoded = encode_chats(tokenizer, template, [Chat(tuple(turns), ORIGIN) for turns in chats])
    whole = 0
    for turns, one in zip(chats, encoded, strict=True):
        text = template.render(turns).text
        tokens, added = reading(tokenizer, one.tokens, text)
        assert added == (kind == "SentencePiece BPE" and not text.startswith(BOS)), (
            "bos once, and only by custom"
        )
        spans, answers = oracle(tokens, text), answer_spans(name, turns, text)
        mask = one.targets[added:].tolist()
        assert mask == expected_mask(spans, answers)
        assert not one.targets[:added].any()
        if kind not in LOSSLESS or any(
            start < edge < end for start, end in spans for answer in answers for edge in answer
        ):
            continue  # a token lies across an edge of an answer: decoded, the targets cannot be the answer
        whole += 1
        said = tokenizer.decode([int(i) for i in one.tokens[one.targets]], clean_up_tokenization_spaces=False)
        wanted = "".join(text[start:end] for start, end in answers)
        if kind != "byte-level BPE":  # these may hold a space before a segment that the text does not
            said, wanted = said.replace(" ", ""), wanted.replace(" ", "")
        assert said == wanted
    if kind in LOSSLESS:
        assert whole >= 1, "every random chat had a token across an edge: the test has no teeth"


@pytest.mark.parametrize("kind", KINDS)
def test_the_oracle_sees_a_mask_that_is_off_by_one(
    kind: str, tokenizers: dict[str, PreTrainedTokenizerFast]
) -> None:
    tokenizer, oracle = tokenizers[kind], KINDS[kind][1]
    template = named_template("chatml")
    turns = [Turn("user", "q0 fever"), Turn("assistant", "a0 每日一次")]
    one = encode_chats(tokenizer, template, [turns])[0]
    text = template.render(turns).text
    tokens, added = reading(tokenizer, one.tokens, text)
    wanted = expected_mask(oracle(tokens, text), answer_spans("chatml", turns, text))
    assert one.targets[added:].tolist() == wanted
    assert np.roll(one.targets[added:], 1).tolist() != wanted
    assert np.roll(one.targets[added:], -1).tolist() != wanted


@pytest.mark.parametrize("kind", KINDS)
def test_preferences_learn_the_final_answer_only(
    kind: str, tokenizers: dict[str, PreTrainedTokenizerFast]
) -> None:
    tokenizer, oracle = tokenizers[kind], KINDS[kind][1]
    rng = random.Random(kind)
    for name in ("vicuna", "chatml", "llama2"):
        template = named_template(name, bos=BOS, eos=EOS)
        prompt = [*random_chat(rng), Turn("user", "q9 why?")]
        pair = Preference(tuple(prompt), "a9 因为 yes", "a9 no", ORIGIN)
        for answer, one in zip(
            (pair.chosen, pair.rejected), encode_preferences(tokenizer, template, [pair])[0], strict=True
        ):
            turns = [*prompt, Turn("assistant", answer)]
            text = template.render(turns).text
            tokens, added = reading(tokenizer, one.tokens, text)
            last = answer_spans(name, turns, text)[-1:]
            assert one.targets[added:].tolist() == expected_mask(oracle(tokens, text), last)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["chatml", "baichuan2", "mistral"])
def test_a_prompt_is_the_beginning_of_its_conversation(
    name: str, kind: str, tokenizers: dict[str, PreTrainedTokenizerFast]
) -> None:
    """What training shows before the answer is what generation will show: same ids, then the first target."""
    tokenizer, template = tokenizers[kind], named_template(name, bos=BOS, eos=EOS)
    turns = [Turn("user", "q0 发热 what?"), Turn("assistant", "每日一次 once")]
    prompt = encode_prompt(tokenizer, template, turns[:1])
    one = encode_chats(tokenizer, template, [turns])[0]
    first = int(one.targets.argmax())
    assert one.tokens[:first].tolist() == prompt
