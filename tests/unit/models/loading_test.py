"""Loading and saving: round trips to the bit, and errors that name the base and say what to do."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from graftlm.core.errors import ModelError
from graftlm.core.offline import offline
from graftlm.models.adapters import make_trainable
from graftlm.models.loading import (
    ROOTSTOCK,
    load_config,
    load_model,
    load_tokenizer,
    locate,
    save_model,
)
from graftlm.models.scratch import new_model, train_tokenizer

CPU = torch.device("cpu")
ARCHITECTURE = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["the cat sat on the mat 猫坐在垫子上"] * 3, 280, max_tokens=128)


@pytest.mark.parametrize("tied", [False, True])
def test_a_saved_model_comes_back_bit_equal(tokenizer, tmp_path, tied):
    model = new_model(ARCHITECTURE | {"tie_word_embeddings": tied}, tokenizer, seed=3)
    save_model(model, tokenizer, tmp_path)
    again = load_model(str(tmp_path), dtype=torch.float32, device=CPU)
    expected = model.state_dict()
    assert again.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in again.state_dict().items())
    assert again.graft_packs
    assert not again.training
    text = "the cat 猫 🐈"
    assert load_tokenizer(str(tmp_path)).encode(text) == tokenizer.encode(text)
    assert load_tokenizer(str(tmp_path)).chat_template == tokenizer.chat_template


def test_saving_asks_nobody_for_our_attention(tokenizer, tmp_path):
    model = new_model(ARCHITECTURE, tokenizer, seed=3)
    save_model(model, tokenizer, tmp_path)
    assert "graft" not in (tmp_path / "config.json").read_text()
    assert "attn_implementation" not in json.loads((tmp_path / "config.json").read_text())
    assert model.graft_packs and model.config._attn_implementation == "graft", "the model in hand still packs"
    stock = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert stock.config._attn_implementation == "sdpa"


def test_saving_in_bf16(tokenizer, tmp_path):
    model = new_model(ARCHITECTURE, tokenizer, seed=3)
    expected = {name: value.bfloat16() for name, value in model.state_dict().items()}
    save_model(model, tokenizer, tmp_path, torch.bfloat16)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    assert all(value.dtype == torch.bfloat16 and torch.equal(value, expected[name]) for name, value in again.items())


def test_a_model_with_an_adapter_is_not_saved_as_a_plain_one(tokenizer, tmp_path):
    model = make_trainable(new_model(ARCHITECTURE, tokenizer, seed=3), "lora")
    with pytest.raises(ModelError, match="merge_adapter"):
        save_model(model, tokenizer, tmp_path)


def test_locate(tmp_path):
    assert locate(str(tmp_path)) == str(tmp_path)
    assert locate("owner/name") == "owner/name"
    assert locate(ROOTSTOCK).endswith(ROOTSTOCK)


@pytest.mark.parametrize("base", ["./absent", "/absent/model", "~/absent-model", "absent", "a/b/c"])
def test_a_missing_path_is_named(base):
    with pytest.raises(ModelError) as caught:
        load_model(base, dtype=torch.float32, device=CPU)
    assert caught.value.where == base
    assert "owner/name" in (caught.value.fix or "")


@pytest.mark.parametrize(
    "load", [load_tokenizer, load_config, lambda base: load_model(base, dtype=torch.float32, device=CPU)]
)
def test_an_empty_folder_is_a_model_error_with_a_fix(load, tmp_path):
    with pytest.raises(ModelError) as caught, offline():
        load(str(tmp_path))
    assert caught.value.where == str(tmp_path)
    assert "cannot be loaded" in caught.value.reason
    assert caught.value.fix


def test_weights_in_a_pickle_are_refused(tokenizer, tmp_path):
    model = new_model(ARCHITECTURE, tokenizer, seed=3)
    save_model(model, tokenizer, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        load_model(str(tmp_path), dtype=torch.float32, device=CPU)
