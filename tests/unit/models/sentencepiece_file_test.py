"""Published sentencepiece models as fast tokenizers, against sentencepiece itself; damaged files."""

from __future__ import annotations

from pathlib import Path

import pytest

from graftlm.core.errors import ModelError
from graftlm.models.sentencepiece_file import BPE, BYTE, CONTROL, UNIGRAM, fast_tokenizer, read_sentencepiece

SHARED = Path(__file__).parents[4] / "shared" / "data" / "tokenizer"
LLAMA2 = SHARED / "llama2" / "tokenizer.model"
CHINESE = SHARED / "chinese_sp_20k" / "chinese_sp.model"

TEXTS = [
    "Once upon a time, there was a little girl named Lily.",
    "  leading and  double   spaces ",
    "The dose is 12.5 mg/kg, e.g. 1,000 IU (twice).",
    "高血压患者应当控制饮食，定期复查血压。",
    "患者服用aspirin 25毫克。生僻字：龘",
    "naïve café — “quotes” … 🐈",
    "ﬁne ｆｕｌｌ ｗｉｄｔｈ １２３",
    "line\nbreaks\tand tabs",
    "",
]


@pytest.mark.parametrize("file", [LLAMA2, CHINESE], ids=["LLaMA 2, BPE", "20k Chinese, unigram with nmt_nfkc"])
def test_ids_equal_sentencepieces(file):
    if not file.is_file():
        pytest.skip("the tokenizer is not here")
    sentencepiece = pytest.importorskip("sentencepiece")
    oracle = sentencepiece.SentencePieceProcessor(model_file=str(file))
    fast = fast_tokenizer(read_sentencepiece(file))
    assert fast.get_vocab_size() == oracle.vocab_size()
    for text in TEXTS:
        ids = fast.encode(text, add_special_tokens=False).ids
        assert ids == oracle.encode(text), text
        if oracle.unk_id() not in ids:
            assert fast.decode(ids) == oracle.decode(ids)


@pytest.mark.skipif(not LLAMA2.is_file(), reason="LLaMA 2's tokenizer is not here")
def test_what_llama_2s_file_says():
    found = read_sentencepiece(LLAMA2)
    assert (found.model, found.byte_fallback, found.unknown_id) == (BPE, True, 0)
    assert found.dummy_prefix and not found.extra_whitespaces and found.character_map == b""
    assert found.of_kind(CONTROL) == ["<s>", "</s>"] and len(found.of_kind(BYTE)) == 256


def test_what_a_small_file_says(tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the cat sat on the mat"] * 20), model_prefix=str(tmp_path / "m"), vocab_size=30,
        hard_vocab_limit=False, minloglevel=2, unk_id=3, bos_id=0, eos_id=1, pad_id=2,
    )  # fmt: skip
    found = read_sentencepiece(tmp_path / "m.model")
    assert (found.model, found.byte_fallback, found.unknown_id) == (UNIGRAM, False, 3)
    assert found.pieces[:4] == ["<s>", "</s>", "<pad>", "<unk>"]
    assert found.dummy_prefix and found.extra_whitespaces and found.character_map


@pytest.mark.parametrize("raw", [b"", b"\xff\xff\xff", b'{"model": "json"}', b"\x0a\x05\x0a\x03"])
def test_what_is_no_sentencepiece_model_is_said(tmp_path, raw):
    file = tmp_path / "tokenizer.model"
    file.write_bytes(raw)
    with pytest.raises(ModelError, match="not a sentencepiece model") as caught:
        read_sentencepiece(file)
    assert caught.value.where == str(file)
