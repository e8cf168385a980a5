"""A pruned model cuts texts of kept pieces as before and gives kept tokens the logits that they had."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from graftlm.core.errors import ModelError
from graftlm.data import worlds
from graftlm.data.cleaning import text_of_sample
from graftlm.models.loading import load_model, load_tokenizer, save_model
from graftlm.models.vocabulary_pruning import choose_pieces, count_tokens, prune_model, prune_tokenizer

MINIMIND = Path(__file__).parents[4] / "shared" / "data" / "tokenizer" / "minimind_bpe_6400"
TEXTS = [text_of_sample(sample) for sample in worlds.generate("general", "text", count=300, start=0, seed=0)]
STRANGE = "naïve 🐈 龘 Ωmega\t\n\n  ünder 患者服用 #!/bin/sh"


def wrapped(rust: RustTokenizer, **more: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=rust, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>", **more
    )


SPECIALS = ["<unk>", "<s>", "</s>", "<pad>"]


def byte_level() -> PreTrainedTokenizerFast:
    rust = RustTokenizer(models.BPE())
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
    )
    rust.train_from_iterator(TEXTS, trainer)
    rust.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 1))
    return wrapped(rust)


def sentencepiece_bpe() -> PreTrainedTokenizerFast:
    """As LLaMA's: ▁ for a space, bytes for unknown characters, every way to merge a piece listed."""
    rust = RustTokenizer(models.BPE())
    rust.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trained = trainers.BpeTrainer(vocab_size=900, show_progress=False)
    rust.train_from_iterator([word for text in TEXTS for word in text.split()], trained)
    pieces = sorted(json.loads(rust.to_str())["model"]["vocab"].items(), key=lambda item: item[1])
    names = [*(f"<0x{byte:02X}>" for byte in range(256)), *(piece for piece, _ in pieces), *SPECIALS]  # marks move
    vocab = {name: token for token, name in enumerate(dict.fromkeys(names))}
    merges = [
        (whole[:cut], whole[cut:])
        for whole in vocab
        for cut in range(1, len(whole))
        if not whole.startswith("<") and {whole[:cut], whole[cut:]} <= vocab.keys()
    ]
    bpe = models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    made = RustTokenizer(bpe)
    made.normalizer = rust.normalizer
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    made.add_special_tokens(SPECIALS)
    ends = [(mark, vocab[mark]) for mark in ("<s>", "</s>")]
    made.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    return wrapped(made, chat_template="{{ bos_token }}{% for m in messages %}user says {{ m.content }}{% endfor %}")


def unigram() -> PreTrainedTokenizerFast:
    rust = RustTokenizer(models.Unigram())
    rust.pre_tokenizer = pre_tokenizers.Metaspace()
    rust.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=700, special_tokens=SPECIALS, unk_token="<unk>", show_progress=False
    )
    rust.train_from_iterator(TEXTS, trainer)
    rust.add_tokens(["<extra>"])
    return wrapped(rust)


KINDS: dict[str, Callable[[], Any]] = {
    "byte-level BPE": byte_level,
    "SentencePiece BPE": sentencepiece_bpe,
    "Unigram": unigram,
    "rootstock": lambda: load_tokenizer("rootstock"),
    "minimind": lambda: AutoTokenizer.from_pretrained(MINIMIND),
}


def tokenizer_of(kind: str) -> Any:
    if kind == "minimind" and not MINIMIND.is_dir():
        pytest.skip("this tokenizer is not here")
    return KINDS[kind]()


def small_model(tiny_model: Any, tokenizer: Any, family: str = "llama", **sizes: Any) -> Any:
    return tiny_model(family, vocab_size=len(tokenizer) + 7, pad_token_id=tokenizer.pad_token_id, **sizes)


@pytest.mark.parametrize("kind", KINDS)
def test_texts_of_kept_pieces_are_cut_as_before(kind: str, tiny_model: Any, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(kind)
    wanted = count_tokens(tokenizer, TEXTS[:40])
    kept = choose_pieces(tokenizer, small_model(tiny_model, tokenizer), wanted)
    assert len(kept) < len(tokenizer)
    prune_tokenizer(tokenizer, kept).save_pretrained(tmp_path)
    smaller = AutoTokenizer.from_pretrained(tmp_path)
    assert len(smaller) == len(kept)
    new = {token: place for place, token in enumerate(kept)}
    met = 0
    parts = {part for text in TEXTS for part in (text, *text.split("."), *text.split())}
    for text in [*sorted(parts), STRANGE]:
        for specials in (True, False):
            tokens = tokenizer.encode(text, add_special_tokens=specials)
            if new.keys() >= set(tokens):
                assert smaller.encode(text, add_special_tokens=specials) == [new[token] for token in tokens], text
                met += text not in TEXTS[:40]
    assert met > 300, "not only the given texts, also others that need no more"
    for name in ("bos_token", "eos_token", "pad_token"):
        assert getattr(smaller, name) == getattr(tokenizer, name)
        assert getattr(smaller, f"{name}_id") == new[getattr(tokenizer, f"{name}_id")]


@pytest.mark.parametrize("kind", ["byte-level BPE", "SentencePiece BPE", "rootstock", "minimind"])
def test_what_was_not_kept_is_spelt_in_bytes(kind: str, tiny_model: Any) -> None:
    tokenizer = tokenizer_of(kind)
    kept = choose_pieces(tokenizer, small_model(tiny_model, tokenizer), count_tokens(tokenizer, TEXTS[:3]))
    smaller = prune_tokenizer(tokenizer, kept)
    for text in (STRANGE, TEXTS[77]):
        tokens, before = (some.encode(text, add_special_tokens=False) for some in (smaller, tokenizer))
        assert smaller.decode(tokens).strip() == tokenizer.decode(before).strip() == text.strip()
        assert len(tokens) > len(before)
        assert smaller.unk_token_id not in tokens


def test_words_of_the_chat_template_are_kept(tiny_model: Any) -> None:
    tokenizer = tokenizer_of("SentencePiece BPE")
    model = small_model(tiny_model, tokenizer)
    bare = set(choose_pieces(tokenizer, model, []))
    tokenizer.chat_template = None
    assert bare > set(choose_pieces(tokenizer, model, []))


@pytest.mark.parametrize(("family", "tied"), [("llama", True), ("llama", False), ("gpt2", True), ("bloom", True)])
def test_kept_logits_are_what_they_were(family: str, tied: bool, tiny_model: Any, tmp_path: Path) -> None:
    tokenizer = tokenizer_of("byte-level BPE")
    sizes = {"max_position_embeddings": 64} if family == "llama" else {}
    model = small_model(tiny_model, tokenizer, family, tie_word_embeddings=tied, **sizes)
    model.config.eos_token_id = [2, 5]
    model.generation_config.eos_token_id = 2
    model.generation_config.pad_token_id = 3
    kept = choose_pieces(tokenizer, model, count_tokens(tokenizer, TEXTS[:20]))
    assert {2, 5} <= set(kept)
    tokens = tokenizer.encode(TEXTS[0], add_special_tokens=False)[:40]
    base = getattr(model, model.base_model_prefix)
    with torch.no_grad():
        before, logits = base(torch.tensor([tokens])).last_hidden_state, model(torch.tensor([tokens])).logits[..., kept]
    parameters = sum(p.numel() for p in model.parameters())
    rows = len(tokenizer) + 7 - len(kept)
    prune_model(model, kept)
    assert parameters - sum(p.numel() for p in model.parameters()) == rows * 32 * (1 if tied else 2)
    new = {token: place for place, token in enumerate(kept)}
    assert model.config.eos_token_id == [new[2], new[5]]
    assert (model.generation_config.eos_token_id, model.generation_config.pad_token_id) == (new[2], new[3])

    save_model(model, prune_tokenizer(tokenizer, kept), tmp_path)
    again = load_model(str(tmp_path), dtype=torch.float32, device=torch.device("cpu"))
    head, embedding = again.get_output_embeddings().weight, again.get_input_embeddings().weight
    assert (head is embedding) is tied
    assert again.config.vocab_size == len(embedding) == len(head) == len(kept)
    mapped = torch.tensor([[new[token] for token in tokens]])
    with torch.no_grad():
        assert torch.equal(getattr(again, again.base_model_prefix)(mapped).last_hidden_state, before)
        torch.testing.assert_close(again(mapped).logits, logits, rtol=0, atol=1e-5)
    assert load_tokenizer(str(tmp_path)).encode(TEXTS[0], add_special_tokens=False)[:40] == mapped[0].tolist()


def test_counts_are_counts() -> None:
    tokenizer = tokenizer_of("Unigram")
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in ("a b", "b b")]
    assert count_tokens(tokenizer, ["a b", "b b"]) == Counter(ids[0] + ids[1])


def test_what_cannot_be_pruned_is_said(tiny_model: Any) -> None:
    words = wrapped(RustTokenizer(models.WordLevel({name: n for n, name in enumerate(SPECIALS)}, unk_token="<unk>")))
    model = tiny_model("llama")
    with pytest.raises(ModelError, match="kind WordLevel"):
        choose_pieces(words, model, [])
    with pytest.raises(ModelError, match="no row in it"):
        prune_model(model, [1, 2, 96])
    model.model.second = torch.nn.Embedding(96, 4)
    with pytest.raises(ModelError, match="several tables"):
        prune_model(model, [1, 2])
