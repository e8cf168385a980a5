"""ChatGLM2/3 checkpoints against an independent forward pass in their own layout, and sentencepiece.

The forward pass is written from THUDM/ChatGLM2-6B's description in numpy float64: one fused projection split into
queries and two groups of keys and values, the first half of each head rotated in pairs (2i, 2i + 1), gate before up.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from graftlm.core.errors import ModelError
from graftlm.data.encode import encode_chats, encode_texts
from graftlm.data.samples import Turn
from graftlm.data.templates import tokenizer_template
from graftlm.evaluation.language_model import language_model
from graftlm.models.conversion import convert
from graftlm.models.families import chatglm
from graftlm.models.loading import load_model, load_tokenizer
from graftlm.models.trunk import hidden_states, output_head
from graftlm.recipes.stages.context import choose_template

CPU = torch.device("cpu")
D, M, H, G, K, V, LAYERS = 32, 48, 4, 2, 16, 512, 2
TOKENS = [5, 17, 49, 0, 3, 3, 211, 8, 30, 400]


def random_weights(seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)

    def draw(*shape: int, around: float = 0.0, spread: float = 0.2) -> torch.Tensor:
        return (around + spread * torch.randn(shape)).to(dtype)

    weights = {
        "transformer.embedding.word_embeddings.weight": draw(V, D),
        "transformer.rotary_pos_emb.inv_freq": torch.rand(K // 4),
        "transformer.encoder.final_layernorm.weight": draw(D, around=1),
        "transformer.output_layer.weight": draw(V, D, spread=0.25),
    }
    for layer in range(LAYERS):
        at = f"transformer.encoder.layers.{layer}."
        weights |= {
            f"{at}input_layernorm.weight": draw(D, around=1),
            f"{at}self_attention.query_key_value.weight": draw((H + 2 * G) * K, D),
            f"{at}self_attention.query_key_value.bias": draw((H + 2 * G) * K),
            f"{at}self_attention.dense.weight": draw(D, H * K),
            f"{at}post_attention_layernorm.weight": draw(D, around=1),
            f"{at}mlp.dense_h_to_4h.weight": draw(2 * M, D),
            f"{at}mlp.dense_4h_to_h.weight": draw(D, M),
        }
    return weights


def settings(**changes: object) -> dict[str, object]:
    return {
        "model_type": "chatglm", "architectures": ["ChatGLMModel"], "add_bias_linear": False, "add_qkv_bias": True,
        "ffn_hidden_size": M, "hidden_size": D, "kv_channels": K, "layernorm_epsilon": 1e-5,
        "multi_query_attention": True, "multi_query_group_num": G, "num_attention_heads": H, "num_layers": LAYERS,
        "original_rope": True, "padded_vocab_size": V, "post_layer_norm": True, "rmsnorm": True, "seq_length": 64,
    } | changes  # fmt: skip


def write_checkpoint(folder: Path, weights: dict[str, torch.Tensor], *, shards: int = 2, **changes: object) -> Path:
    """In `shards` .bin files with an index, as the hub has it; 0: one safetensors file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(settings(**changes)))
    if not shards:
        save_file(weights, folder / "model.safetensors")
        return folder
    places = {}
    for number in range(shards):
        name = f"pytorch_model-{number + 1:05}-of-{shards:05}.bin"
        part = dict(list(weights.items())[number::shards])
        torch.save(part, folder / name)
        places |= dict.fromkeys(part, name)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    return folder


def forward(weights: dict[str, torch.Tensor], tokens: list[int], *, base: float = 1e4, eps: float = 1e-5) -> np.ndarray:
    """[T, V] logits, from the checkpoint's own names."""
    w = {name.removeprefix("transformer."): tensor.double().numpy() for name, tensor in weights.items()}

    def normed(x_TD: np.ndarray, weight_D: np.ndarray) -> np.ndarray:
        return x_TD / np.sqrt((x_TD**2).mean(-1, keepdims=True) + eps) * weight_D

    T, R = len(tokens), K // 2
    angle = np.arange(T)[:, None] * base ** (-np.arange(0, R, 2) / R)

    def rotated(x_TK: np.ndarray) -> np.ndarray:
        pairs = (x_TK[:, 0:R:2] + 1j * x_TK[:, 1:R:2]) * np.exp(1j * angle)
        return np.concatenate([np.stack([pairs.real, pairs.imag], -1).reshape(T, R), x_TK[:, R:]], -1)

    x_TD = w["embedding.word_embeddings.weight"][tokens]
    for layer in range(LAYERS):
        at = f"encoder.layers.{layer}."
        h_TD = normed(x_TD, w[at + "input_layernorm.weight"])
        fused = h_TD @ w[at + "self_attention.query_key_value.weight"].T + w[at + "self_attention.query_key_value.bias"]
        q, k, v = (part.reshape(T, -1, K) for part in np.split(fused, [H * K, (H + G) * K], axis=1))
        out = []
        for head in range(H):
            group = head // (H // G)
            scores = rotated(q[:, head]) @ rotated(k[:, group]).T / np.sqrt(K)
            scores = np.where(np.tri(T, dtype=bool), scores, -np.inf)
            share = np.exp(scores - scores.max(-1, keepdims=True))
            out.append(share / share.sum(-1, keepdims=True) @ v[:, group])
        x_TD = x_TD + np.concatenate(out, -1) @ w[at + "self_attention.dense.weight"].T
        h_TD = normed(x_TD, w[at + "post_attention_layernorm.weight"])
        gate, up = np.split(h_TD @ w[at + "mlp.dense_h_to_4h.weight"].T, 2, axis=1)
        x_TD = x_TD + gate / (1 + np.exp(-gate)) * up @ w[at + "mlp.dense_4h_to_h.weight"].T
    return normed(x_TD, w["encoder.final_layernorm.weight"]) @ w["output_layer.weight"].T


def logits(folder: Path, tokens: list[int] = TOKENS, dtype: torch.dtype = torch.float32) -> np.ndarray:
    model = load_model(str(folder), dtype=dtype, device=CPU)
    with torch.no_grad():
        return model(input_ids=torch.tensor([tokens])).logits[0].double().numpy()


def away(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).max())


@pytest.mark.parametrize("ratio", [1, 50])
def test_logits_equal_the_independent_forward(tmp_path, parity, ratio):
    weights = random_weights()
    source = write_checkpoint(tmp_path / "source", weights, rope_ratio=ratio)
    convert(source, tmp_path / "glm")
    expected = forward(weights, TOKENS, base=1e4 * ratio)
    name = "ChatGLM2" + (f", rope_ratio {ratio}" if ratio > 1 else "")
    found = logits(tmp_path / "glm")
    parity(name, "forward pass of its own layout", away(found, expected), float(np.abs(expected).max()))
    exact = logits(tmp_path / "glm", dtype=torch.float64)
    # The rotary angles are fp32 in transformers, whatever the weights are.
    assert away(exact, expected) < 1e-5


def test_the_comparison_sees_what_differs(tmp_path, parity):
    weights = random_weights()
    expected = forward(weights, TOKENS)

    def changed(name: str, tensors: dict[str, torch.Tensor] = weights, **changes: object) -> Path:
        convert(write_checkpoint(tmp_path / f"{name}-source", tensors, **changes), tmp_path / name)
        return tmp_path / name

    # It may be as little as 1e-4 in all; float64 leaves 1e-5 of rounding at most, as the test above holds.
    wrong_eps = logits(changed("eps", layernorm_epsilon=1.5625e-7), dtype=torch.float64)
    parity.differs("ChatGLM2", "GLM's eps 1.56e-7", away(wrong_eps, expected), at_least=1e-4)

    full = changed("full")
    config = json.loads((full / "config.json").read_text())
    config["rope_parameters"]["partial_rotary_factor"] = 1.0
    (full / "config.json").write_text(json.dumps(config))
    parity.differs("ChatGLM2", "whole heads rotated", away(logits(full), expected))

    up_first = dict(weights)
    for name in weights:
        if name.endswith("dense_h_to_4h.weight"):
            up_first[name] = weights[name].roll(M, 0)
    parity.differs("ChatGLM2", "up before gate", away(logits(changed("up", up_first)), expected))
    parity.differs("ChatGLM2", "base × 50", away(logits(changed("base", rope_ratio=50)), expected))


def test_left_padding_batches_and_packing_change_nothing(tmp_path):
    convert(write_checkpoint(tmp_path / "source", random_weights()), tmp_path / "glm")
    model = load_model(str(tmp_path / "glm"), dtype=torch.float32, device=CPU)
    assert model.graft_packs
    rows = [TOKENS, TOKENS[:3], TOKENS[4:9]]
    expected = [torch.from_numpy(logits(tmp_path / "glm", row)).float() for row in rows]
    width = max(map(len, rows))
    padded = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    places = (mask.cumsum(1) - 1).clamp(min=0)
    boundaries = torch.tensor([0, *np.cumsum([len(row) for row in rows])], dtype=torch.int32)
    flat = torch.tensor([token for row in rows for token in row])
    with torch.no_grad():
        batch = model(input_ids=padded, attention_mask=mask, position_ids=places).logits
        packed = output_head(model).logits(hidden_states(model, flat, boundaries))
    for row, alone, together in zip(rows, expected, batch, strict=True):
        torch.testing.assert_close(together[-len(row) :], alone, atol=2e-5, rtol=0)
    torch.testing.assert_close(packed, torch.cat(expected), atol=2e-5, rtol=0)


@pytest.mark.parametrize("shards", [0, 3])
def test_there_and_back_is_bit_equal(tmp_path, shards, train_sentencepiece):
    weights = random_weights(dtype=torch.bfloat16)
    del weights["transformer.rotary_pos_emb.inv_freq"]
    source = write_checkpoint(tmp_path / "source", weights, shards=shards, rope_ratio=50)
    train_sentencepiece(source / "tokenizer.model")
    there = convert(source, tmp_path / "glm")
    assert (there.source.name, there.dtype) == ("chatglm", "bfloat16")
    assert there.size == sum(tensor.nbytes for tensor in weights.values())
    convert(tmp_path / "glm", tmp_path / "back", to="chatglm")
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in weights.items())
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert {key: config[key] for key in settings()} == settings()
    assert config["rope_ratio"] == 50
    assert (tmp_path / "back" / "tokenizer.model").read_bytes() == (source / "tokenizer.model").read_bytes()
    convert(tmp_path / "back", tmp_path / "again")
    first, again = (load_file(tmp_path / name / "model.safetensors") for name in ("glm", "again"))
    assert all(torch.equal(again[name], tensor) for name, tensor in first.items())


def test_damaged_and_foreign_checkpoints_are_model_errors(tmp_path):
    source = write_checkpoint(tmp_path / "source", random_weights() | {"transformer.prefix": torch.ones(3)})
    with pytest.raises(ModelError, match=r"`transformer\.prefix`"):
        convert(source, tmp_path / "glm")
    weights = random_weights()
    del weights["transformer.encoder.layers.1.mlp.dense_4h_to_h.weight"]
    with pytest.raises(ModelError, match=r"no tensor `transformer\.encoder\.layers\.1\.mlp\.dense_4h_to_h\.weight`"):
        convert(write_checkpoint(tmp_path / "short", weights), tmp_path / "glm")
    with pytest.raises(ModelError, match="post_layer_norm is False"):
        convert(write_checkpoint(tmp_path / "other", random_weights(), post_layer_norm=False), tmp_path / "glm")
    with pytest.raises(ModelError, match="graft convert"):
        load_model(str(source), dtype=torch.float32, device=CPU)
    (source / "tokenizer.model").write_bytes(b"IQ== 0\nIg== 1\n")
    with pytest.raises(ModelError, match="GLM-4"):
        convert(write_checkpoint(source, random_weights()), tmp_path / "glm")
    (source / "tokenizer.model").unlink()
    (source / "pytorch_model-00001-of-00002.bin").write_bytes(b"no tensors")
    with pytest.raises(ModelError, match="no plain file of tensors"):
        convert(source, tmp_path / "glm")
    assert not (tmp_path / "glm").exists()


def test_pickles_that_run_code_are_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    source = write_checkpoint(tmp_path / "source", random_weights())
    torch.save({"transformer.output_layer.weight": Evil()}, source / "pytorch_model-00002-of-00002.bin")
    with pytest.raises(ModelError):
        convert(source, tmp_path / "glm")
    assert not (tmp_path / "ran").exists()


SENTENCES = [
    "The patient has a fever.",
    "  leading and  double   spaces ",
    "高血压患者应当控制饮食。",
    "philosophy, [MASK] and sop",
    "生僻字：龘 🐈",
    "line\nbreaks\tand tabs",
    "答：多喝水",
]


@pytest.mark.parametrize("rules", [{}, {"add_dummy_prefix": False, "user_defined_symbols": ["<n>", "问：", "  "]}])
@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_tokens_are_sentencepieces_with_the_prefix(tmp_path, train_sentencepiece, rules, kind):
    sentencepiece = pytest.importorskip("sentencepiece")
    file = train_sentencepiece(tmp_path / "tokenizer.model", model_type=kind, **rules)
    oracle = sentencepiece.SentencePieceProcessor(model_file=str(file))
    tokenizer = chatglm.make_tokenizer(file, roles=False)
    N = oracle.vocab_size()
    assert tokenizer.convert_tokens_to_ids(["[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>"]) == list(range(N, N + 5))
    for sentence in SENTENCES:
        plain = tokenizer(sentence, split_special_tokens=True, add_special_tokens=False)["input_ids"]
        assert plain == oracle.encode(sentence), sentence
        assert tokenizer(sentence, split_special_tokens=True)["input_ids"] == [N + 1, N + 3, *plain]
        if oracle.unk_id() not in plain:
            assert tokenizer.decode(plain) == oracle.decode(plain)
    batch = tokenizer(["高血压", "The patient has a fever."], padding=True)
    assert batch["attention_mask"][0][0] == 0 and batch["attention_mask"][0][-1] == 1
    assert batch["input_ids"][0][0] == tokenizer.pad_token_id == oracle.unk_id()
    assert tokenizer.eos_token_id == oracle.eos_id() == 2


SPOKEN = ["感冒了怎么办？", "多喝水", "然后？", "多休息"]
TURNS = [Turn(role, text) for role, text in zip(["user", "assistant"] * 2, SPOKEN, strict=True)]


def converted_tokenizer(tmp_path, train_sentencepiece, **changes):
    source = write_checkpoint(tmp_path / "source", random_weights(), **changes)
    train_sentencepiece(source / "tokenizer.model")
    convert(source, tmp_path / "glm")
    return load_tokenizer(str(tmp_path / "glm"))


def test_chatglm2_asks_in_rounds(tmp_path, train_sentencepiece):
    tokenizer = converted_tokenizer(tmp_path, train_sentencepiece)
    assert tokenizer.padding_side == "left"
    template = tokenizer_template(tokenizer)
    assert template.render(TURNS[:3], generation_prompt=True).text == (
        "[gMASK]<sop>[Round 1]\n\n问：感冒了怎么办？\n\n答：多喝水</s>\n\n[Round 2]\n\n问：然后？\n\n答："
    )
    (chat,) = encode_chats(tokenizer, template, [TURNS])
    gmask, sop = tokenizer.convert_tokens_to_ids(["[gMASK]", "<sop>"])
    assert chat.tokens[:2].tolist() == [gmask, sop]
    assert tokenizer.decode(chat.tokens[chat.targets].tolist()) == "多喝水</s>多休息</s>"
    (text,) = encode_texts(tokenizer, ["高血压"])
    assert text.tokens[:2].tolist() == [gmask, sop] and text.tokens[-1] == tokenizer.eos_token_id
    assert not text.targets[:2].any() and text.targets[2:].all()


def test_documents_begin_with_the_prefix_wherever_they_are_read(tmp_path, train_sentencepiece):
    tokenizer = converted_tokenizer(tmp_path, train_sentencepiece)
    model = load_model(str(tmp_path / "glm"), dtype=torch.float32, device=CPU)
    subject = language_model(model, tokenizer, tokenizer_template(tokenizer))
    start = tokenizer.convert_tokens_to_ids(["[gMASK]", "<sop>"])
    assert subject.document_start == tuple(start)
    tokens = [*start, *subject.encode_text("定期复查血压")]
    with torch.no_grad():
        log_p_TV = model(input_ids=torch.tensor([tokens])).logits[0].log_softmax(-1)
    expected = sum(log_p_TV[place, token].item() for place, token in enumerate(tokens[2:], start=1))
    [found] = subject.text_log_probabilities(["定期复查血压"], lambda count: None)
    assert found == pytest.approx(expected, rel=1e-5)
    named = choose_template("chatglm2", tokenizer)
    assert named.render(TURNS).text == tokenizer_template(tokenizer).render(TURNS).text


def test_chatglm3_asks_in_roles(tmp_path, train_sentencepiece):
    tokenizer = converted_tokenizer(tmp_path, train_sentencepiece, _name_or_path="THUDM/chatglm3-6b")
    template = tokenizer_template(tokenizer)
    whole = "[gMASK]<sop><|user|>\n 感冒了怎么办？<|assistant|>\n 多喝水<|user|>\n 然后？<|assistant|>\n 多休息<|user|>"
    assert template.render(TURNS).text == whole
    asked = template.render(TURNS[:1], generation_prompt=True).text
    assert asked == "[gMASK]<sop><|user|>\n 感冒了怎么办？<|assistant|>"
    (chat,) = encode_chats(tokenizer, template, [TURNS])
    spoken = tokenizer.decode(chat.tokens[chat.targets].tolist())
    assert spoken.replace(" ", "").replace("\n", "") == "多喝水<|user|>多休息<|user|>"
    config = json.loads((tmp_path / "glm" / "config.json").read_text())
    assert config["eos_token_id"] == [2, *tokenizer.convert_tokens_to_ids(["<|user|>", "<|observation|>"])]
    convert(tmp_path / "glm", tmp_path / "back", to="chatglm")
    assert chatglm.speaks_in_roles(tmp_path / "back")
