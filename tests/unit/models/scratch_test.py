"""New models: the trained tokenizer loses no text and splits Han characters and digits one by one."""

from __future__ import annotations

import pytest
import torch

from graftlm.core.errors import ModelError
from graftlm.models.scratch import SPECIALS, new_model, train_tokenizer

CORPUS = [
    "The patient takes 25 mg of aspirin, twice a day.",
    "患者每天两次服用阿司匹林二十五毫克。医生说：多喝水！",
    "Room 101 is open from 9:30 to 17:45.",
    "高血压患者应当控制饮食，定期复查。",
] * 20

TEXTS = [
    "The patient takes 250 mg.",
    "  two  spaces\n\nand a\ttab ",
    "患者服用阿司匹林25毫克，一天两次。",
    "mixed 中文 and English，以及 numbers 2024年3月",
    "emoji 🐈‍⬛👩‍⚕️🇨🇳 and naïve café Ⅷ ½",
    "生僻字：龘𠮷㐂々〇",
    "<not a mark> | \u0000 \ufeff end",
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(CORPUS, 370, max_tokens=128)


@pytest.mark.parametrize("text", TEXTS)
def test_text_comes_back(tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


def test_the_marks_come_first_and_are_whole(tokenizer):
    assert tokenizer.convert_tokens_to_ids(list(SPECIALS)) == list(range(6))
    assert len(tokenizer) == 370
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == SPECIALS[:3]
    for number, mark in enumerate(SPECIALS):
        assert tokenizer.encode(f"a{mark}b", add_special_tokens=False).count(number) == 1
    assert tokenizer.decode([0, 4, 1], skip_special_tokens=True) == ""


@pytest.mark.parametrize("character", list("患者阿司匹林龘〇"))
def test_a_han_character_is_one_token_or_its_bytes(tokenizer, character):
    alone = tokenizer.encode(character, add_special_tokens=False)
    assert len(alone) <= len(character.encode())
    in_text = tokenizer(f"的{character}人", add_special_tokens=False, return_offsets_mapping=True)
    for (start, end), _ in zip(in_text["offset_mapping"], in_text["input_ids"], strict=True):
        assert end - start == 1, "no token reaches over two Han characters"
    assert [
        i for i, span in zip(in_text["input_ids"], in_text["offset_mapping"], strict=True) if span == (1, 2)
    ] == alone


def test_frequent_han_characters_are_one_token(tokenizer):
    assert len(tokenizer.encode("患者", add_special_tokens=False)) == 2


def test_digits_are_single_tokens(tokenizer):
    pieces = tokenizer.convert_ids_to_tokens(tokenizer.encode("x 12345 101", add_special_tokens=False))
    assert [piece for piece in pieces if piece.isdigit()] == list("12345101")


def test_words_carry_their_space():
    tokenizer = train_tokenizer(["of aspirin"] * 10, 300, max_tokens=128)
    ids = tokenizer.encode("of aspirin", add_special_tokens=False)
    assert tokenizer.convert_ids_to_tokens(ids) == ["of", "Ġaspirin"]


def test_the_chat_template(tokenizer):
    turns = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "问"},
        {"role": "assistant", "content": "答"},
    ]
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    assert text == "<|begin|><|system|>S<|end|><|user|>问<|end|><|assistant|>答<|end|>"
    prompt = tokenizer.apply_chat_template(turns[:2], tokenize=False, add_generation_prompt=True)
    assert text.startswith(prompt)
    assert prompt.endswith("<|assistant|>")
    marked = tokenizer.apply_chat_template(
        turns, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    answer = [i for i, wanted in zip(marked["input_ids"], marked["assistant_masks"], strict=True) if wanted]
    assert answer == tokenizer.encode("答<|end|>", add_special_tokens=False)


def test_the_same_text_trains_the_same_tokenizer(tokenizer):
    again = train_tokenizer(CORPUS, 370, max_tokens=128)
    assert again.get_vocab() == tokenizer.get_vocab()


SMALL = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
}


def test_a_new_model_takes_vocabulary_and_marks_from_the_tokenizer_and_is_decided_by_the_seed(tokenizer):
    one, same, other = (new_model(SMALL, tokenizer, seed).state_dict() for seed in (1, 1, 2))
    model = new_model(SMALL, tokenizer, 1)
    assert model.config.vocab_size == 370
    assert (model.config.bos_token_id, model.config.eos_token_id, model.config.pad_token_id) == (0, 1, 2)
    assert model.graft_packs
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["lm_head.weight"], other["lm_head.weight"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hiden_size": 64}, r"no setting `hiden_size`(?s:.*)did you mean `hidden_size`"),
        ({"model_type": "lama"}, "lama"),
        ({"num_attention_heads": 5}, "multiple"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"num_attention_heads": 0}, "no model can be made"),
    ],
)
def test_wrong_architectures_are_model_errors(tokenizer, change, words):
    with pytest.raises(ModelError, match=words) as caught:
        new_model(SMALL | change, tokenizer, 1)
    assert caught.value.where == "base.architecture"
    assert caught.value.fix


def test_an_architecture_without_a_model_type_is_a_model_error(tokenizer):
    with pytest.raises(ModelError):
        new_model({"hidden_size": 32}, tokenizer, 1)
