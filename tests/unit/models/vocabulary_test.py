"""More pieces for a tokenizer: every one is reached, other text is encoded as before, rows begin as means."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from graftlm.core.errors import GraftError, ModelError
from graftlm.data.samples import Origin, Text
from graftlm.evaluation.runner import run_tasks
from graftlm.evaluation.tasks import Task
from graftlm.models.loading import save_model
from graftlm.models.sentencepiece_file import fast_tokenizer, read_sentencepiece
from graftlm.models.vocabulary import NOISE, Extension, extend_model, extend_tokenizer
from graftlm.models.vocabulary_pieces import LEAST_SEEN, take_pieces
from graftlm.models.vocabulary_rules import Rules, read_rules

SHARED = Path(__file__).parents[4] / "shared" / "data"
needs_shared = pytest.mark.skipif(not (SHARED / "tokenizer/llama2").is_dir(), reason="no shared data")

OLD = ["The patient takes 25 mg of aspirin twice a day.", "Room 101 is open; the doctor said: drink!", "大小中"] * 9
LAW = [
    "全国人民代表大会常务委员会，国务院。人民法院依法审判。",
    "人民检察院依照法律规定：全国人民代表大会。",
    "the plaintiff's litigation，原告的诉讼请求，litigation costs",
] * 6
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def sentencepiece_like() -> PreTrainedTokenizerFast:
    """Llama 2's form: characters, merges, bytes for unknown characters."""
    rust = RustTokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    rust.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=["<unk>", "<s>", "</s>", *BYTES], show_progress=False)
    rust.train_from_iterator(OLD, trainer)
    tree = json.loads(rust.to_str())
    tree["added_tokens"] = tree["added_tokens"][:3]  # bytes are usual pieces
    rust = RustTokenizer.from_str(json.dumps(tree))
    ends = decoders.Strip(" ", 1, 0)
    rust.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), ends])
    return PreTrainedTokenizerFast(tokenizer_object=rust, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def byte_level(*, ignore_merges: bool = False) -> PreTrainedTokenizerFast:
    """GPT-2's form, with special tokens behind the pieces as Qwen has them; with `ignore_merges` as Llama 3."""
    rust = RustTokenizer(models.BPE(ignore_merges=ignore_merges))
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    rust.train_from_iterator(OLD, trainers.BpeTrainer(vocab_size=330, initial_alphabet=letters, show_progress=False))
    rust.add_special_tokens(["<|end|>", "<|user|>"])
    template = "{% for m in messages %}<|user|>{{ m.content }}<|end|>{% endfor %}"
    return PreTrainedTokenizerFast(
        tokenizer_object=rust, eos_token="<|end|>", additional_special_tokens=["<|user|>"], chat_template=template
    )


KINDS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "sentencepiece": sentencepiece_like,
    "byte-level": byte_level,
    "byte-level that ignores merges": lambda: byte_level(ignore_merges=True),
}


@pytest.fixture(scope="module", params=KINDS)
def pair(request: Any) -> tuple[PreTrainedTokenizerFast, Extension]:
    """(tokenizer, the same with 60 pieces from the law)."""
    return made(request.param)


def ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def decode(tokenizer: Any, tokens: list[int]) -> str:
    return str(tokenizer.decode(tokens, clean_up_tokenization_spaces=False))


def test_the_domain_needs_fewer_tokens_and_old_ids_stay(pair: Any) -> None:
    old, extension = pair
    new = extension.tokenizer
    assert all(new.get_vocab()[piece] == number for piece, number in old.get_vocab().items())
    assert len(new) == len(old) + len(extension.parts) == extension.size
    before, after = (sum(len(ids(one, text)) for text in LAW) for one in (old, new))
    assert after < 0.6 * before


def test_every_new_piece_is_reached_in_text(pair: Any) -> None:
    """Through the whole tokenizer, not its model alone: a piece of whole characters is one token between others."""
    _, extension = pair
    new, seen = extension.tokenizer, set[int]()
    for text in LAW:
        seen |= set(ids(new, text))
    rules, lonely = extension.rules, 0
    for piece in rules.new_pieces:
        number = rules.ids[piece]
        text = decode(new, [number])
        if "�" in text:  # a part of a character: only merges lead to it
            continue
        assert number in ids(new, text) or number in ids(new, "x" + text), piece
        lonely += 1
    assert lonely > 10 and seen & set(range(rules.first_new, extension.size))


WORDS = ["the", " doctor", " litigation", "人民", "代表大会", "诉讼", "，", "101", " 鱀", "é", "\n", "  ", "!", "mg"]


@given(text=st.one_of(st.text(max_size=40), st.lists(st.sampled_from(WORDS), max_size=12).map("".join)))
@settings(max_examples=150, deadline=None)
@pytest.mark.parametrize("kind", KINDS)
def test_any_text_comes_back_as_with_the_old_tokenizer(kind: str, text: str) -> None:
    old, extension = made(kind)
    assert decode(extension.tokenizer, ids(extension.tokenizer, text)) == decode(old, ids(old, text))


@given(text=st.text(st.characters(max_codepoint=127), max_size=60))
@settings(max_examples=150, deadline=None)
@pytest.mark.parametrize("kind", KINDS)
def test_ascii_text_is_encoded_as_before(kind: str, text: str) -> None:
    old, extension = made(kind)
    assert ids(extension.tokenizer, text) == ids(old, text)


@given(text=st.lists(st.sampled_from(WORDS), max_size=12).map("".join))
@settings(max_examples=150, deadline=None)
@pytest.mark.parametrize("kind", KINDS)
def test_new_pieces_spread_into_old_ones_are_the_old_encoding(kind: str, text: str) -> None:
    """So text without new pieces is encoded as before."""
    old, extension = made(kind)
    found = ids(extension.tokenizer, text)
    first = extension.rules.first_new
    spread = [part for token in found for part in ([token] if token < first else extension.parts[token - first])]
    assert spread == ids(old, text)


@cache
def made(kind: str) -> tuple[PreTrainedTokenizerFast, Extension]:
    """Once a kind: examples are many."""
    tokenizer = KINDS[kind]()
    return tokenizer, extend_tokenizer(tokenizer, LAW, 60)


def test_merges_are_learnt_most_frequent_first() -> None:
    """By hand: 甲乙 stands 12 times, 丙丁 7 times, 戊己 too seldom; 甲乙丙丁 never in one run."""
    texts = ["甲乙，"] * 12 + ["丙丁，"] * 7 + ["戊己，"] * (LEAST_SEEN - 1)
    extension = extend_tokenizer(sentencepiece_like(), texts, 50)
    assert extension.rules.new_pieces[:4] == ["甲", "乙", "丙", "丁"]  # characters first, by how often they stand
    assert extension.rules.new_pieces[4:] == ["甲乙", "丙丁"]
    byte_names = sentencepiece_like().convert_ids_to_tokens(extension.parts[0])
    assert byte_names == [f"<0x{byte:02X}>" for byte in "甲".encode()]


def test_english_is_learnt_only_when_it_may_change() -> None:
    texts = ["litigation "] * 20
    with pytest.raises(ModelError, match="ASCII"):
        extend_tokenizer(byte_level(), texts, 10)
    extension = extend_tokenizer(byte_level(), texts, 10, ascii_pieces=True)
    assert "litigation" in extension.rules.new_pieces


def test_offered_pieces_are_counted_and_bridged() -> None:
    rules = read_rules(sentencepiece_like())
    taken = take_pieces(rules, ["中", "人民", "人", "民", "人民代表", "the", "abcq", "25;。", "人q"], 100)
    assert (taken.offered, taken.known, taken.ascii) == (9, 1, 2)  # 中 is known
    assert set(taken.bridges) >= {"代", "表"}
    assert taken.left_out == ["人q"]  # q has no piece of its own, and none is added
    assert rules.split("人民代表") == ["人民代表"] and rules.split("25;。") == ["25;。"]
    assert not any(rules.is_ascii(piece) for piece in rules.new_pieces)


def test_bridges_never_go_beyond_the_limit() -> None:
    rules = read_rules(sentencepiece_like())
    taken = take_pieces(rules, ["人", "民", "国", "家", "人民国家"], 5)
    assert rules.new_pieces == ["人", "民", "国", "家"] and taken.left_out == ["人民国家"]


def test_unigram_pieces_are_learnt_by_sentencepiece() -> None:
    pytest.importorskip("sentencepiece")
    tokenizer = sentencepiece_like()
    extension = extend_tokenizer(tokenizer, LAW, 60, kind="spm-unigram")
    assert 0 < len(extension.parts) <= 60
    assert all(len(ids(extension.tokenizer, text)) < len(ids(tokenizer, text)) for text in LAW[:2])


def test_tokenizers_without_merges_are_refused() -> None:
    words = RustTokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    with pytest.raises(ModelError, match="WordPiece"):
        extend_tokenizer(PreTrainedTokenizerFast(tokenizer_object=words), LAW, 10)
    bare = RustTokenizer(models.BPE({"a": 0, "b": 1}, []))
    with pytest.raises(ModelError, match="bytes"):
        extend_tokenizer(PreTrainedTokenizerFast(tokenizer_object=bare), LAW, 10)
    with pytest.raises(ModelError, match="does not fit"):
        extend_tokenizer(byte_level(), LAW, 10, kind="spm-unigram")
    with pytest.raises(GraftError, match="no such file"):
        extend_tokenizer(byte_level(), LAW, source=Path("nowhere.model"))


def tiny(rows: int, *, tied: bool) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=rows, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=tied,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("spare", [0, 37])
def test_rows_begin_as_means_and_old_logits_stay(tied: bool, spare: int, tmp_path: Path) -> None:
    """`spare`: rows that the model has beyond its tokenizer's pieces, as Qwen's."""
    tokenizer = byte_level()
    model, extension = tiny(len(tokenizer) + spare, tied=tied), extend_tokenizer(tokenizer, LAW, 60)
    first, probe = len(tokenizer), torch.tensor([ids(tokenizer, LAW[0] + OLD[0])])
    old = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        before = model(probe).logits
    extend_model(model, extension, multiple=64)
    with torch.no_grad():
        after = model(probe).logits
    assert torch.equal(before[..., :first], after[..., :first])
    assert model.config.vocab_size % 64 == 0 and model.config.vocab_size >= extension.size
    for name in ["model.embed_tokens.weight"] + ([] if tied else ["lm_head.weight"]):
        table, were = model.state_dict()[name], old[name].numpy()
        assert len(table) == model.config.vocab_size
        assert np.array_equal(table[:first].numpy(), were[:first])
        for place, part in enumerate(extension.parts):
            mean = were[part].astype(np.float64).mean(0)
            assert np.allclose(table[first + place].numpy(), mean, atol=1e-7)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    save_model(model, extension.tokenizer, tmp_path)
    again, words = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert (again.lm_head.weight is again.model.embed_tokens.weight) == tied
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    assert all(ids(words, text) == ids(extension.tokenizer, text) for text in [*LAW[:3], *OLD[:3]])
    assert words.chat_template == tokenizer.chat_template and words.special_tokens_map == tokenizer.special_tokens_map
    assert words.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False) == "<|user|>a<|end|>"


def test_noise_lies_around_the_mean() -> None:
    tokenizer = byte_level()
    extension = extend_tokenizer(tokenizer, LAW, 60)
    models_ = [tiny(len(tokenizer), tied=True) for _ in range(2)]
    for model, start in zip(models_, ("mean", "noise"), strict=True):
        extend_model(model, extension, start=start)  # type: ignore[arg-type]
    mean, noisy = (model.get_input_embeddings().weight.detach()[len(tokenizer) :] for model in models_)
    spread = models_[0].get_input_embeddings().weight.detach()[: len(tokenizer)].std()
    assert (noisy - mean).std().item() == pytest.approx(NOISE * spread.item(), rel=0.1)


def test_numbers_without_a_token_stay_free() -> None:
    """A vocabulary with holes, as some have between pieces and special tokens."""
    tree = json.loads(byte_level().backend_tokenizer.to_str())
    for token in tree["added_tokens"]:
        token["id"] += 10
    old = PreTrainedTokenizerFast(tokenizer_object=RustTokenizer.from_str(json.dumps(tree)), eos_token="<|end|>")
    extension = extend_tokenizer(old, LAW, 60)
    assert extension.rules.first_new == max(old.get_vocab().values()) + 1
    assert all(extension.tokenizer.get_vocab()[piece] == number for piece, number in old.get_vocab().items())
    assert ids(extension.tokenizer, OLD[0] + "<|end|>") == ids(old, OLD[0] + "<|end|>")


def test_a_tokenizer_of_another_model_is_refused() -> None:
    extension = extend_tokenizer(byte_level(), LAW, 60)
    with pytest.raises(ModelError, match="has no row"):
        extend_model(tiny(100, tied=True), extension)


def test_bits_per_byte_do_not_depend_on_the_tokenizer(pair: Any) -> None:
    """A source that gives every old piece 1/V, spelled with old pieces or with new ones that keep their probability:
    as many bits for the same bytes, though fewer tokens."""
    old, extension = pair
    first = extension.rules.first_new
    nats = math.log(first)

    def score(tokenizer: Any, texts: list[str], advance: Callable[[int], None]) -> list[float]:
        advance(len(texts))
        sizes = [[1 if t < first else len(extension.parts[t - first]) for t in ids(tokenizer, text)] for text in texts]
        return [-nats * sum(size) for size in sizes]

    items = [Text(text, Origin("made", place)) for place, text in enumerate(LAW[:3])]
    task = Task("law", "domain", "bits_per_byte", items)
    found = []
    for tokenizer in (old, extension.tokenizer):
        subject = SimpleNamespace(text_log_probabilities=lambda t, a, one=tokenizer: score(one, t, a))
        [result] = run_tasks(subject, [task])  # type: ignore[list-item]
        found.append(result.value)
    spent = sum(len(ids(old, text)) for text in LAW[:3]) * math.log2(first)
    assert found[0] == pytest.approx(spent / sum(len(text.encode()) for text in LAW[:3]))
    assert found[1] == pytest.approx(found[0])


@pytest.fixture(scope="module")
def statutes() -> list[str]:
    files = sorted((SHARED / "pretrain/laws_zh").rglob("*.md"))
    return [file.read_text(encoding="utf-8") for file in files]


@pytest.fixture(scope="module")
def english() -> list[str]:
    text = (SHARED / "pretrain/wikitext2/wikitext2_train_5k.txt").read_text(encoding="utf-8")
    return text.splitlines()[:2000]


@needs_shared
def test_llama_2_with_twenty_thousand_chinese_pieces(statutes: list[str], english: list[str]) -> None:
    file = read_sentencepiece(SHARED / "tokenizer/llama2/tokenizer.model")
    old = PreTrainedTokenizerFast(tokenizer_object=fast_tokenizer(file), bos_token="<s>", eos_token="</s>")
    extension = extend_tokenizer(old, [], source=SHARED / "tokenizer/chinese_sp_20k/chinese_sp.model")
    assert extension.taken is not None and extension.taken.offered == 19_997 and not extension.taken.left_out
    before, after = (sum(len(ids(one, text)) for text in statutes[::4]) for one in (old, extension.tokenizer))
    assert after <= 0.7 * before
    assert all(ids(old, line) == ids(extension.tokenizer, line) for line in english)
    model = tiny(32_000, tied=False)
    probe = torch.tensor([ids(old, english[3] + statutes[1])[:200]])
    with torch.no_grad():
        first = model(probe).logits
        extend_model(model, extension, multiple=64)
        assert torch.equal(model(probe).logits[..., :32_000], first)


@needs_shared
def test_byte_level_merges_go_on_in_minimind(statutes: list[str], english: list[str]) -> None:
    old = AutoTokenizer.from_pretrained(SHARED / "tokenizer/minimind_bpe_6400")
    kept, learnt_from = statutes[::8], [text for place, text in enumerate(statutes) if place % 8]
    extension = extend_tokenizer(old, learnt_from, 3000)
    before, after = (sum(len(ids(one, text)) for text in kept) for one in (old, extension.tokenizer))
    assert after <= 0.7 * before
    assert all(ids(old, line) == ids(extension.tokenizer, line) for line in english)
    assert all(decode(extension.tokenizer, ids(extension.tokenizer, text)) == text for text in kept)


def test_rules_split_as_the_tokenizer_does(pair: Any) -> None:
    """Our splitting, which merges are chosen by, against that of the tokenizers package."""
    _, extension = pair
    rules: Rules = extension.rules
    model = rules.build().model
    for piece in [*rules.new_pieces, *[a + b for a, b in zip(rules.new_pieces, rules.new_pieces[1:], strict=False)]]:
        found = [token.value for token in model.tokenize(piece)]
        if len(found) > 1 or not model.unk_token:
            assert rules.split(piece) == found
