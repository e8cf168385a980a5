"""Reward models: what they score is what transformers' own forward gives, and their files load anywhere."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from transformers import AutoConfig, AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

from graftlm.core.errors import ModelError
from graftlm.models.adapters import make_trainable, merge_adapter, parameter_counts, recompute_activations
from graftlm.models.loading import ROOTSTOCK, load_config, load_tokenizer
from graftlm.models.reward import (
    document_rewards,
    is_encoder,
    is_encoder_place,
    load_reward_model,
    save_reward_model,
)
from graftlm.models.scratch import train_tokenizer
from graftlm.models.trunk import causal_lm, choose_packing

CPU = torch.device("cpu")
DECODERS = ["llama", "gpt2", "qwen2", "gemma2"]
SMALL = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64, "pad_token_id": 0, "hidden_dropout_prob": 0.1,
}  # fmt: skip
ENCODERS = {
    "deberta-v2": SMALL
    | {"type_vocab_size": 0, "relative_attention": True, "position_biased_input": False, "pos_att_type": ["c2p"]},
    "bert": SMALL | {"type_vocab_size": 2},
    "roberta": SMALL | {"type_vocab_size": 1, "pad_token_id": 1},
    # Not an encoder, but its head reads the last token that is not padding by itself: which token pads matters.
    "ctrl": {"vocab_size": 96, "n_positions": 64, "n_embd": 32, "dff": 48, "n_layer": 2, "n_head": 4}
    | {"pad_token_id": 0},
}
SEPARATOR = 2
LENGTHS = [17, 4, 30, 5, 12]


@dataclass(frozen=True)
class Documents:
    tokens: torch.Tensor
    boundaries: torch.Tensor
    padding: int = 0

    @property
    def documents(self) -> int:
        return len(self.boundaries) - 1 - bool(self.padding)

    @property
    def longest(self) -> int:
        return int(self.boundaries.diff().max())


@pytest.fixture
def scorer(plain_model, tmp_path):
    """family → a random reward model, loaded from files."""

    def make(family: str) -> torch.nn.Module:
        torch.manual_seed(1)
        if family in ENCODERS:
            model = AutoModelForSequenceClassification.from_config(
                AutoConfig.for_model(family, num_labels=1, **ENCODERS[family])
            )
            spread(model)
        else:
            model = plain_model(family)
        model.save_pretrained(tmp_path / family)
        loaded = load_reward_model(str(tmp_path / family), dtype=torch.float32, device=CPU)
        if family not in ENCODERS:
            torch.nn.init.normal_(loaded.score.weight)
        return loaded

    return make


@torch.no_grad()
def spread(model: torch.nn.Module) -> None:
    """Weights this large let every token matter."""
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            parameter.normal_(0, 0.2)


def row(padding: int = 0) -> Documents:
    """Documents that are a pair each: a separator inside, one at the end; padding at the end of the row."""
    parts = []
    for number, length in enumerate(LENGTHS):
        part = torch.randint(3, 96, (length,), generator=torch.Generator().manual_seed(number))
        part[length // 2] = part[-1] = SEPARATOR
        parts.append(part)
    lengths = [*LENGTHS, *([padding] if padding else [])]
    tokens = torch.cat([*parts, torch.zeros(padding, dtype=torch.long)])
    return Documents(tokens, torch.tensor([0, *lengths]).cumsum(0).int(), padding)


def documents_of(batch: Documents) -> list[torch.Tensor]:
    return [batch.tokens[a:b] for a, b in pairwise(batch.boundaries.tolist())][: len(LENGTHS)]


@torch.no_grad()
def one_by_one(model: torch.nn.Module, documents: list[torch.Tensor]) -> torch.Tensor:
    """transformers' own forward, a document at a time."""
    found = []
    for tokens in documents:
        types = {}
        if causal_lm(model).config.model_type == "bert":
            place = tokens.tolist().index(SEPARATOR)
            types = {"token_type_ids": (torch.arange(len(tokens)) > place).long()[None]}
        found.append(model(input_ids=tokens[None], attention_mask=torch.ones_like(tokens)[None], **types).logits[0, 0])
    return torch.stack(found)


@pytest.mark.parametrize("padding", [0, 9])
@pytest.mark.parametrize("family", [*DECODERS, *ENCODERS])
def test_rewards_are_those_of_transformers_own_forward(scorer, family, padding):
    model, batch = scorer(family), row(padding)
    assert is_encoder(model) is (family in ENCODERS)
    assert model.graft_packs is (family in ("llama", "gpt2", "qwen2"))
    with torch.no_grad():
        found = document_rewards(model, batch)
    assert found.dtype == torch.float32 and found.shape == (len(LENGTHS),)
    assert found.std() > 0.05, "documents must differ"
    torch.testing.assert_close(found, one_by_one(model, documents_of(batch)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2", *ENCODERS])
def test_a_batch_padded_by_transformers_gives_the_same(scorer, family, tmp_path):
    """Read again by transformers alone, documents padded with the configuration's own padding token."""
    model, batch = scorer(family), row()
    model.save_pretrained(tmp_path / "saved")
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    documents = documents_of(batch)
    padded = torch.nn.utils.rnn.pad_sequence(documents, batch_first=True, padding_value=stock.config.pad_token_id)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(one) for one in documents], batch_first=True)
    types = {}
    if family == "bert":
        types = {"token_type_ids": (((padded == SEPARATOR).cumsum(1) - (padded == SEPARATOR).long()) > 0) * mask}
    with torch.no_grad():
        expected = stock(input_ids=padded, attention_mask=mask, **types).logits[:, 0]
        torch.testing.assert_close(document_rewards(model, batch), expected, atol=1e-5, rtol=1e-5)


def test_segments_reach_a_model_that_has_them(scorer):
    model, batch = scorer("bert"), row()
    with torch.no_grad():
        without = torch.stack([model(input_ids=tokens[None]).logits[0, 0] for tokens in documents_of(batch)])
        assert (document_rewards(model, batch) - without).abs().min() > 1e-4


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_document_that_ends_with_the_padding_token_is_read_as_transformers_reads_it(scorer, family):
    """A tokenizer without a padding token of its own pads with its end token."""
    model, batch = scorer(family), row()
    model.config.pad_token_id = SEPARATOR
    with torch.no_grad():
        found = document_rewards(model, batch)
        shortened = [tokens[:-1] for tokens in documents_of(batch)]
        torch.testing.assert_close(found, one_by_one(model, documents_of(batch)), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found, one_by_one(model, shortened), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", *ENCODERS])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_gradients_reach_the_head_and_the_trunk(scorer, family, method):
    model = scorer(family)
    before = document_rewards(model, row()).detach()
    trained = make_trainable(model, method, rank=4)
    rewards = document_rewards(trained.eval(), row(padding=5))
    torch.testing.assert_close(rewards.detach(), before, atol=1e-6, rtol=1e-6)
    rewards.sum().backward()
    graded = {name for name, p in trained.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    head = "score" if family in DECODERS else "classifier"
    assert any(head in name for name in graded)
    assert any("lora_B" in name if method == "lora" else head not in name for name in graded)
    if method == "lora":
        assert all("lora_" in name or head in name for name in graded)


@pytest.mark.parametrize("family", ["llama", "gpt2", *ENCODERS])
def test_a_merged_adapter_is_saved_as_a_plain_classifier(scorer, family, tmp_path):
    adapted = make_trainable(scorer(family), "lora", rank=4)
    trained = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    assert all(p.dtype == torch.float32 for p in trained.values())
    with torch.no_grad():
        for parameter in trained.values():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2))
        expected = document_rewards(adapted.eval(), row())
    tokenizer = train_tokenizer(["one two three"], 270, max_tokens=64)
    save_reward_model(merge_adapter(adapted), tokenizer, tmp_path / "merged")
    stock, report = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and stock.config.num_labels == 1
    torch.testing.assert_close(one_by_one(stock.eval(), documents_of(row())), expected, atol=1e-5, rtol=1e-4)
    again = load_reward_model(str(tmp_path / "merged"), dtype=torch.float32, device=CPU)
    with torch.no_grad():
        torch.testing.assert_close(document_rewards(again, row()), expected, atol=1e-5, rtol=1e-4)


def test_a_frozen_bf16_trunk_has_its_head_trained_in_fp32(scorer, tmp_path):
    scorer("llama").save_pretrained(tmp_path / "saved")
    model = load_reward_model(str(tmp_path / "saved"), dtype=torch.bfloat16, device=CPU)
    adapted = make_trainable(model, "lora", rank=2)
    heads = [p for name, p in adapted.named_parameters() if "score" in name and p.requires_grad]
    assert [p.dtype for p in heads] == [torch.float32]
    with torch.autocast("cpu", torch.bfloat16):
        rewards = document_rewards(adapted, row())
    assert rewards.dtype == torch.float32
    assert not torch.equal(rewards, rewards.bfloat16().float()), "rounded to bf16 on the way"


def test_activations_can_be_recomputed(scorer):
    model = make_trainable(scorer("llama"), "full")
    document_rewards(model.train(), row()).sum().backward()
    expected = model.model.layers[0].mlp.up_proj.weight.grad.clone()
    model.zero_grad()
    recompute_activations(model)
    document_rewards(model, row()).sum().backward()
    torch.testing.assert_close(model.model.layers[0].mlp.up_proj.weight.grad, expected)


def test_parameter_counts(scorer):
    model = scorer("llama")
    counts = parameter_counts(model)
    assert counts["all"] == sum(p.numel() for p in model.parameters())
    assert counts["matmul"] == counts["all"] - 96 * 32
    adapted = parameter_counts(make_trainable(model, "lora", rank=2))
    assert adapted["trained"] == 2 * 2 * (2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 48)) + 32


def test_a_new_head_scores_nothing_and_the_trunk_is_that_of_the_language_model(plain_model, tmp_path):
    causal = plain_model("llama", tie_word_embeddings=True)
    causal.save_pretrained(tmp_path)
    model = load_reward_model(str(tmp_path), dtype=torch.float32, device=CPU)
    with torch.no_grad():
        assert document_rewards(model, row()).tolist() == [0.0] * len(LENGTHS)
    expected = causal.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.model.state_dict().items())
    assert not model.training


def test_saving_and_loading_a_finished_model_keeps_its_head(scorer, tmp_path):
    model = scorer("qwen2")
    save_reward_model(model, train_tokenizer(["one"], 270, max_tokens=64), tmp_path / "saved", torch.float32)
    again = load_reward_model(str(tmp_path / "saved"), dtype=torch.float32, device=CPU)
    assert torch.equal(again.score.weight, model.score.weight)
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["architectures"] == [
        "Qwen2ForSequenceClassification"
    ]


@pytest.mark.parametrize(
    ("marks", "expected"),
    [
        ({"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}, 0),
        ({"pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2}, 1),
        ({"pad_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}, 1),
        ({"pad_token_id": None, "bos_token_id": 2, "eos_token_id": [2, 3]}, 2),
    ],
)
def test_padding_is_a_token_that_ends_no_answer(plain_model, tmp_path, marks, expected):
    plain_model("llama", **marks).save_pretrained(tmp_path)
    model = load_reward_model(str(tmp_path), dtype=torch.float32, device=CPU)
    assert model.config.pad_token_id == expected


def test_the_saved_tokenizer_pads_with_the_models_padding_token(scorer, tmp_path):
    model = scorer("llama")
    model.config.pad_token_id = 0
    tokenizer = train_tokenizer(["one two"], 270, max_tokens=64)
    assert tokenizer.pad_token_id == 2
    save_reward_model(model, tokenizer, tmp_path / "saved")
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").pad_token_id == 0
    assert tokenizer.pad_token_id == 2, "the tokenizer in hand is as it was"


def test_the_rootstock_can_become_a_reward_model():
    model = load_reward_model(ROOTSTOCK, dtype=torch.float32, device=CPU)
    assert model.config.pad_token_id == load_tokenizer(ROOTSTOCK).pad_token_id
    assert model.graft_packs


def test_a_llama2c_file_can_become_a_reward_model(tmp_path):
    import struct

    import numpy as np

    dim, hidden, layers, heads, vocabulary, context = 16, 24, 2, 2, 40, 32
    weights = 2 * vocabulary * dim + layers * (4 * dim * dim + 3 * dim * hidden + 2 * dim) + dim + context * dim // 2
    values = np.random.default_rng(0).normal(0, 0.2, weights).astype(np.float32)
    path = tmp_path / "model.bin"
    path.write_bytes(struct.pack("7i", dim, hidden, layers, heads, heads, -vocabulary, context) + values.tobytes())
    model = load_reward_model(str(path), dtype=torch.float32, device=CPU)
    assert torch.equal(model.model.embed_tokens.weight.flatten(), torch.from_numpy(values[: vocabulary * dim]))
    assert not model.score.weight.any() and model.graft_packs
    model.save_pretrained(tmp_path / "saved")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert again.config.num_labels == 1 and again.config.pad_token_id == load_config(str(path)).pad_token_id


def test_more_than_one_output_is_refused(tmp_path):
    config = AutoConfig.for_model("bert", num_labels=3, **ENCODERS["bert"])
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"3 outputs(?s:.*)num_labels=1"):
        load_reward_model(str(tmp_path), dtype=torch.float32, device=CPU)


@pytest.mark.parametrize(
    "ask", [is_encoder_place, lambda base: load_reward_model(base, dtype=torch.float32, device=CPU)]
)
def test_an_architecture_without_a_classifier_is_named(plain_model, tmp_path, ask):
    plain_model("mamba").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"`mamba`(?s:.*)fix: ") as caught:
        ask(str(tmp_path))
    assert caught.value.where == str(tmp_path)


@pytest.mark.parametrize("family", ["llama", "gpt2", "deberta-v2", "bert"])
def test_the_kind_is_known_without_weights(scorer, tmp_path, family):
    model = scorer(family)
    (tmp_path / family / "model.safetensors").unlink()
    assert is_encoder_place(str(tmp_path / family)) is is_encoder(model)


def test_an_encoder_that_was_never_a_classifier_is_refused(tmp_path):
    AutoModelForMaskedLM.from_config(AutoConfig.for_model("bert", **ENCODERS["bert"])).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"no finished reward model(?s:.*)ForSequenceClassification"):
        load_reward_model(str(tmp_path), dtype=torch.float32, device=CPU)


def test_weights_in_a_pickle_are_refused(scorer, tmp_path):
    model = scorer("llama")
    (tmp_path / "llama" / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "llama" / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        load_reward_model(str(tmp_path / "llama"), dtype=torch.float32, device=CPU)


def test_a_head_of_another_kind_is_found_out(plain_model, tmp_path, monkeypatch):
    """A zero head agrees with everything: the check must look through that."""
    from transformers import LlamaForSequenceClassification

    whole = LlamaForSequenceClassification.forward

    def doubled(self, *arguments, **options):
        output = whole(self, *arguments, **options)
        output.logits = 2 * output.logits
        return output

    plain_model("llama").save_pretrained(tmp_path)
    monkeypatch.setattr(LlamaForSequenceClassification, "forward", doubled)
    with pytest.raises(ModelError, match="not its head applied"):
        load_reward_model(str(tmp_path), dtype=torch.float32, device=CPU)


def test_the_probe_finds_a_leak_in_a_reward_model(scorer, monkeypatch):
    from graftlm.models import trunk

    model, whole = scorer("llama"), trunk.packed_attention

    def leaky(*args, boundaries, longest, **kwargs):
        T = int(boundaries[-1])
        return whole(*args, boundaries=boundaries.new_tensor([0, T]), longest=T, **kwargs)

    monkeypatch.setattr(trunk, "packed_attention", leaky)
    assert choose_packing(model) is False
    with torch.no_grad():
        found = document_rewards(model, row())
    torch.testing.assert_close(found, one_by_one(model, documents_of(row())), atol=1e-5, rtol=1e-5)
