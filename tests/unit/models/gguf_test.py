"""GGUF files read back: tensors, keys, tokens; what llama.cpp cannot express is refused. (In llama.cpp itself:
tests/parity/gguf_test.py.)"""

from __future__ import annotations

import json
import math

import jinja2
import numpy as np
import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, PreTrainedTokenizerFast

from graftlm.core.errors import ModelError
from graftlm.data.worlds import generate
from graftlm.models import gguf_export, gguf_tokens
from graftlm.models.gguf_export import write_gguf
from graftlm.models.gguf_families import FAMILIES, family_of, rotation_factors
from graftlm.models.gguf_pieces import merge_by_score, merge_scores
from graftlm.models.gguf_tokens import portable_template, token_table
from graftlm.models.gguf_words import RULES, WordChoice, WordRule, choose_words, under_rule
from graftlm.models.loading import load_tokenizer, save_model
from graftlm.models.saved_weights import WeightFiles

gguf = pytest.importorskip("gguf", reason="the extra `gguf` is not installed")


@pytest.fixture
def words_known(monkeypatch):
    """The way of cutting words is not searched for."""
    monkeypatch.setattr(gguf_tokens, "choose_words", lambda tokenizer, name: WordChoice("qwen2", exact=True))


@pytest.fixture
def written(plain_model, tmp_path, words_known):
    """family, type → (the reader of its file, the model's weight files)."""

    def write(family="llama", kind="f32", dtype=torch.float32, **sizes):
        model = plain_model(family, vocab_size=3072, **sizes).to(dtype)
        save_model(model, load_tokenizer("rootstock"), tmp_path / "model")
        made = write_gguf(str(tmp_path / "model"), tmp_path / "model.gguf", kind)
        assert made.bytes == (tmp_path / "model.gguf").stat().st_size
        return gguf.GGUFReader(tmp_path / "model.gguf"), WeightFiles(str(tmp_path / "model"))

    return write


def tensors(reader):
    return {tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}


def value(reader, key):
    return reader.fields[key].contents()


def test_llama_bit_by_bit(written):
    """Heads' rows change places (pairs instead of halves), everything else is as it was, under other names."""
    reader, files = written()
    found = tensors(reader)
    assert len(found) == len(files.names)
    for there, here in {
        "token_embd.weight": "model.embed_tokens.weight",
        "output.weight": "lm_head.weight",
        "output_norm.weight": "model.norm.weight",
        "blk.1.ffn_gate.weight": "model.layers.1.mlp.gate_proj.weight",
        "blk.1.attn_v.weight": "model.layers.1.self_attn.v_proj.weight",
        "blk.0.ffn_norm.weight": "model.layers.0.post_attention_layernorm.weight",
    }.items():
        assert np.array_equal(found[there], files.read(here).numpy()), there
    for there, here, heads in (("attn_q", "q_proj", 4), ("attn_k", "k_proj", 2)):
        rows = files.read(f"model.layers.0.self_attn.{here}.weight").numpy()
        moved = found[f"blk.0.{there}.weight"]
        for head in range(heads):
            for pair in range(4):  # heads of 8: number i turns with number i + 4
                assert np.array_equal(moved[8 * head + 2 * pair], rows[8 * head + pair])
                assert np.array_equal(moved[8 * head + 2 * pair + 1], rows[8 * head + pair + 4])


def test_sizes_are_those_of_the_configuration(written):
    reader, _ = written(rms_norm_eps=1e-5)
    assert value(reader, "general.architecture") == "llama"
    wanted = {
        "block_count": 2, "context_length": 128, "embedding_length": 32, "feed_forward_length": 48,
        "attention.head_count": 4, "attention.head_count_kv": 2, "attention.key_length": 8, "vocab_size": 3072,
        "rope.dimension_count": 8, "rope.freq_base": 10000.0,
    }  # fmt: skip
    assert {key: value(reader, f"llama.{key}") for key in wanted} == wanted
    assert value(reader, "llama.attention.layer_norm_rms_epsilon") == pytest.approx(1e-5)


def test_gpt2_is_transposed_and_positions_stay_in_32_bits(written):
    reader, files = written("gpt2", kind="f16")
    stored = {tensor.name: tensor for tensor in reader.tensors}
    layer = files.read("transformer.h.0.mlp.c_fc.weight")
    assert np.array_equal(stored["blk.0.ffn_up.weight"].data, layer.T.half().numpy())
    assert stored["position_embd.weight"].tensor_type == gguf.GGMLQuantizationType.F32
    assert np.array_equal(stored["position_embd.weight"].data, files.read("transformer.wpe.weight").numpy())
    assert value(reader, "gpt2.feed_forward_length") == 128


def test_gemmas_norms_are_one_more(written):
    reader, files = written("gemma2", query_pre_attn_scalar=8)
    found = tensors(reader)
    for there, here in (("output_norm", "norm"), ("blk.0.post_ffw_norm", "layers.0.post_feedforward_layernorm")):
        assert np.array_equal(found[f"{there}.weight"], files.read(f"model.{here}.weight").numpy() + 1)
    assert "output.weight" not in found


@pytest.mark.parametrize(("kind", "dtype"), [("bf16", torch.bfloat16), ("f16", torch.float16)])
def test_stored_halves_are_copied(kind, dtype, written):
    reader, files = written(kind=kind, dtype=dtype)
    for tensor in reader.tensors:
        if tensor.name == "blk.0.ffn_up.weight":
            ours = files.read("model.layers.0.mlp.up_proj.weight")
            assert tensor.data.tobytes() == ours.view(torch.uint8).numpy().tobytes()
    assert tensors(reader)["output_norm.weight"].dtype == np.float32


def q8_0(rows):
    """Blocks of 32 share the scale max/127, itself 16 bits (the format's definition)."""
    blocks = rows.reshape(-1, 32).astype(np.float32)
    scale = np.abs(blocks).max(1, keepdims=True) / 127
    return (np.round(blocks / scale) * scale.astype(np.float16).astype(np.float32)).reshape(rows.shape)


def test_eight_bits_are_their_formula_and_the_head_keeps_them(written):
    reader, files = written(kind="q4_0", intermediate_size=64)
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert kinds["blk.0.ffn_up.weight"] == "Q4_0"
    assert kinds["output.weight"] == "Q8_0"
    assert kinds["output_norm.weight"] == "F32"
    head = files.read("lm_head.weight").numpy()
    np.testing.assert_allclose(tensors(reader)["output.weight"], q8_0(head), atol=1e-6)
    layer = files.read("model.layers.0.mlp.up_proj.weight").numpy()
    step = np.abs(layer.reshape(-1, 32)).max(1).repeat(32).reshape(layer.shape) / 8
    assert (np.abs(tensors(reader)["blk.0.ffn_up.weight"] - layer) <= 1.01 * step).all()


def test_rows_that_blocks_do_not_divide_are_told(plain_model, tmp_path, words_known):
    model = plain_model(vocab_size=3072)  # the MLP is 48 wide
    save_model(model, load_tokenizer("rootstock"), tmp_path / "model")
    made = write_gguf(str(tmp_path / "model"), tmp_path / "model.gguf", "q8_0")
    assert "2 tensors are f16: blocks of 32 do not divide their rows" in made.notes


def test_tokens_and_the_chat_template(written):
    reader, _ = written()
    tokenizer = load_tokenizer("rootstock")
    pieces = value(reader, "tokenizer.ggml.tokens")
    assert pieces == [tokenizer.convert_ids_to_tokens(number) for number in range(3072)]
    types = value(reader, "tokenizer.ggml.token_type")
    assert types[:6] == [3] * 6
    assert set(types[6:]) == {1}
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    assert value(reader, "tokenizer.ggml.merges") == [" ".join(pair) for pair in merges]
    marks = {"bos": 0, "eos": 1, "padding": 2}
    assert {mark: value(reader, f"tokenizer.ggml.{mark}_token_id") for mark in marks} == marks
    assert value(reader, "tokenizer.ggml.add_bos_token") is False
    template = value(reader, "tokenizer.chat_template")
    turns = [{"role": role, "content": role} for role in ("system", "user", "assistant", "user")]
    shown = jinja2.Environment().from_string(template).render(
        messages=turns, bos_token="<|begin|>", eos_token="<|end|>", add_generation_prompt=True
    )
    assert shown == tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)


def test_generation_tags_become_plain_jinja_with_their_trimming():
    template = "a {%- generation %} b {% endgeneration -%} c"
    assert portable_template(template) == "a {%- if true %} b {% endif -%} c"
    assert jinja2.Environment().from_string(portable_template(template)).render() == "a b c"


def test_rows_without_a_token_and_tokens_without_a_row(words_known):
    tokenizer = load_tokenizer("rootstock")
    table = token_table(tokenizer, 3075, "x")
    assert table.pieces[3072:] == ["[unused3072]", "[unused3073]", "[unused3074]"]
    assert table.types[3072:] == [5, 5, 5]
    grown = load_tokenizer("rootstock")
    grown.add_tokens(["<new>"])
    table = token_table(grown, 3072, "x")
    assert len(table.pieces) == 3072
    assert "left out, the model has no row for them: <new>" in table.notes
    assert token_table(grown, 3073, "x").types[3072] == 4


def byte_level(cutter) -> Tokenizer:
    rust = Tokenizer(models.BPE())
    rust.pre_tokenizer, rust.decoder = cutter, decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1200, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    texts = [sample.text for sample in generate("clinic", "documents", count=60)]
    texts += [f"{n} {n * 37} + {n * 1001}  don't\n\n we'LL x_{n}" for n in range(100, 400)]
    rust.train_from_iterator(texts, trainer)
    return rust


def cut_by(*expressions):
    splits = [pre_tokenizers.Split(Regex(text), behavior="isolated") for text in expressions]
    return pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


@pytest.mark.parametrize("name", ["qwen2", "dbrx", "gpt-2", "starcoder"])
def test_the_rule_that_a_tokenizer_was_trained_with_is_found(name):
    """Or one under which all its tokens are the same: measured on texts that the choice has not seen."""
    rule = next(rule for rule in RULES if rule.name == name)
    tokenizer = byte_level(cut_by(*rule.expressions))
    choice = choose_words(tokenizer, "x")
    assert choice.exact
    chosen = next(rule for rule in RULES if rule.name == choice.name)
    texts = [sample.text for sample in generate("clinic", "documents", count=40, start=500)]
    texts += ["It's 12345 + 678,  and  we'LL see\n\n  x\t1 000"]
    for text in texts:
        assert under_rule(tokenizer, chosen).encode(text).ids == tokenizer.encode(text).ids


def test_gpt2s_own_cutting_is_known():
    choice = choose_words(byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False)), "x")
    assert choice.exact


def test_a_way_of_cutting_that_llama_cpp_lacks_is_refused():
    """Words of at most two characters."""
    with pytest.raises(ModelError, match=r"has no pre-tokenizer(?s:.*)makes other tokens of \d+ of \d+ texts"):
        choose_words(byte_level(cut_by(r"\S{1,2}|\s")), "odd")


def test_other_tokenizers_are_refused():
    rust = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    with pytest.raises(ModelError, match=r"\(WordLevel\) is neither"):
        token_table(PreTrainedTokenizerFast(tokenizer_object=rust), 2, "x")


def test_scores_are_ranks_of_merges():
    pieces = ["a", "b", "ab", "abab", "c"]
    scores = merge_scores(pieces, [("a", "b"), ("ab", "ab")])
    assert scores == [-2, -2, 0, -1, -2]
    assert merge_by_score("abababc", dict(zip(pieces, scores, strict=True))) == ["abab", "ab", "c"]
    assert merge_by_score("é", {"a": 0.0}) == ["<0xC3>", "<0xA9>"]


def test_llama_3s_factors_are_the_models_own():
    """As transformers computes them: its inverse frequencies are the plain ones divided by these."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rotation = {
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    config = AutoConfig.for_model("llama", hidden_size=512, num_attention_heads=4, rope_parameters=rotation)
    wanted, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 1 / 500000.0 ** (torch.arange(0, 128, 2) / 128)
    found = rotation_factors(config)
    assert found is not None
    torch.testing.assert_close(plain / found, wanted, rtol=1e-5, atol=0)
    assert found[0] == 1
    assert math.isclose(found[-1], 8.0, rel_tol=1e-6)
    assert rotation_factors(AutoConfig.for_model("llama")) is None


@pytest.mark.parametrize(
    ("kind", "changed", "told"),
    [
        ("bloom", {}, "GGUF of `bloom` is not known here"),
        ("llama", {"hidden_act": "gelu"}, "computes activation silu, the model has gelu"),
        ("qwen3", {"attention_bias": True}, "attention_bias False, the model has True"),
        ("gemma2", {"query_pre_attn_scalar": 100}, "scales queries"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(kind, changed, told):
    with pytest.raises(ModelError, match=told):
        family_of(AutoConfig.for_model(kind, **changed), "x")
    if kind in FAMILIES:
        family_of(AutoConfig.for_model(kind), "x")


def test_a_sliding_window_is_told(plain_model, tmp_path, words_known):
    model = plain_model("mistral", vocab_size=3072, sliding_window=64)
    save_model(model, load_tokenizer("rootstock"), tmp_path / "model")
    made = write_gguf(str(tmp_path / "model"), tmp_path / "model.gguf", "f32")
    assert any("texts of up to 64 tokens" in note for note in made.notes)
    assert value(gguf.GGUFReader(tmp_path / "model.gguf"), "llama.context_length") == 64


def test_without_the_package_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(gguf_export.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"not installed(?s:.*)graftlm\[gguf\]"):
        write_gguf("rootstock", tmp_path / "x.gguf", "f32")


def test_the_rootstocks_words_are_cut_nearly_alike():
    """Of runs of white space before a word llama.cpp makes other tokens; nothing else differs."""
    assert choose_words(load_tokenizer("rootstock").backend_tokenizer, "x") == WordChoice("deepseek-v3", exact=False)


def test_rules_are_expressions_that_tokenizers_reads():
    tokenizer = load_tokenizer("rootstock").backend_tokenizer
    for rule in (*RULES, WordRule("all", (".+",))):
        assert under_rule(tokenizer, rule).encode("Fever 发烧 12").ids
