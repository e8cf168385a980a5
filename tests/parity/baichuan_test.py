"""Baichuan 1/2 checkpoints against independent forward passes in their own layout.

Written from the technical report (arXiv 2309.10305) and the published layout, in numpy float64: `W_pack` in equal
thirds; 7B rotates the two halves of a head, 13B adds -slope · distance to the scores (ALiBi, arXiv 2108.12409);
Baichuan 2 takes the head's rows at length 1.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from graftlm.core.errors import ModelError
from graftlm.data.encode import encode_chats
from graftlm.data.samples import Turn
from graftlm.data.templates import tokenizer_template
from graftlm.inference.decoding import Decoding
from graftlm.inference.generation import generate
from graftlm.models import trunk
from graftlm.models.adapters import make_trainable
from graftlm.models.conversion import convert
from graftlm.models.families.baichuan import make_tokenizer
from graftlm.models.families.baichuan_alibi import (
    BaichuanAlibiConfig,
    BaichuanAlibiForCausalLM,
    NormHead,
    alibi_slopes,
    max_z_loss,
)
from graftlm.models.loading import load_model, load_tokenizer, save_model
from graftlm.models.trunk import hidden_states, output_head
from graftlm.ops.linear_cross_entropy import linear_cross_entropy

CPU = torch.device("cpu")
D, M, H, V, LAYERS = 48, 64, 6, 512, 2
K = D // H
TOKENS = [5, 17, 49, 0, 3, 3, 211, 8, 30, 400]
KINDS = {
    "7B": {"max_position_embeddings": 64, "model_max_length": 64},
    "2-7B": {"max_position_embeddings": 64, "model_max_length": 64, "z_loss_weight": 0},
    "13B": {"model_max_length": 64},
    "2-13B": {"model_max_length": 64, "z_loss_weight": 0},
}


def random_weights(seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)

    def draw(*shape: int, around: float = 0.0, spread: float = 0.25) -> torch.Tensor:
        return (around + spread * torch.randn(shape)).to(dtype)

    weights = {"model.embed_tokens.weight": draw(V, D), "model.norm.weight": draw(D, around=1)}
    weights["lm_head.weight"] = draw(V, D) * torch.rand(V, 1).add(0.5).to(dtype)  # rows of unequal length
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        weights |= {
            f"{at}input_layernorm.weight": draw(D, around=1),
            f"{at}self_attn.W_pack.weight": draw(3 * D, D),
            f"{at}self_attn.o_proj.weight": draw(D, D),
            f"{at}post_attention_layernorm.weight": draw(D, around=1),
            f"{at}mlp.gate_proj.weight": draw(M, D),
            f"{at}mlp.up_proj.weight": draw(M, D),
            f"{at}mlp.down_proj.weight": draw(D, M),
        }
    return weights


def write_checkpoint(folder: Path, kind: str, weights: dict[str, torch.Tensor]) -> Path:
    folder.mkdir(parents=True)
    config = {
        "model_type": "baichuan", "vocab_size": V, "hidden_size": D, "intermediate_size": M, "rms_norm_eps": 1e-6,
        "num_hidden_layers": LAYERS, "num_attention_heads": H, "hidden_act": "silu", "tie_word_embeddings": False,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config | KINDS[kind]))
    torch.save(weights, folder / "pytorch_model.bin")
    return folder


def slopes_of(heads: int) -> list[float]:
    """By the rule of ALiBi's authors, recursively."""
    if heads & (heads - 1) == 0:
        first = 2.0 ** (-8 / heads)
        return [first ** (i + 1) for i in range(heads)]
    lower = 1 << (heads.bit_length() - 1)
    return slopes_of(lower) + slopes_of(2 * lower)[0::2][: heads - lower]


def forward(weights: dict[str, torch.Tensor], tokens: list[int], kind: str) -> np.ndarray:
    """[T, V] logits, from the checkpoint's own names."""
    w = {name: tensor.double().numpy() for name, tensor in weights.items()}
    T, rotates = len(tokens), "7B" in kind

    def normed(x_TD: np.ndarray, weight_D: np.ndarray) -> np.ndarray:
        return x_TD / np.sqrt((x_TD**2).mean(-1, keepdims=True) + 1e-6) * weight_D

    turn = np.exp(1j * np.arange(T)[:, None] * 1e4 ** (-np.arange(K // 2) / (K // 2)))

    def rotated(x_TK: np.ndarray) -> np.ndarray:
        if not rotates:
            return x_TK
        turned = (x_TK[:, : K // 2] + 1j * x_TK[:, K // 2 :]) * turn
        return np.concatenate([turned.real, turned.imag], -1)

    distance = np.arange(T)[:, None] - np.arange(T)
    x_TD = w["model.embed_tokens.weight"][tokens]
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        packed = normed(x_TD, w[at + "input_layernorm.weight"]) @ w[at + "self_attn.W_pack.weight"].T
        q, k, v = (third.reshape(T, H, K) for third in np.split(packed, 3, axis=1))
        out = []
        for head in range(H):
            scores = rotated(q[:, head]) @ rotated(k[:, head]).T / np.sqrt(K)
            if not rotates:
                scores -= slopes_of(H)[head] * distance
            scores[distance < 0] = -np.inf
            share = np.exp(scores - scores.max(-1, keepdims=True))
            out.append(share / share.sum(-1, keepdims=True) @ v[:, head])
        x_TD = x_TD + np.concatenate(out, -1) @ w[at + "self_attn.o_proj.weight"].T
        h_TD = normed(x_TD, w[at + "post_attention_layernorm.weight"])
        gate = h_TD @ w[at + "mlp.gate_proj.weight"].T
        up = h_TD @ w[at + "mlp.up_proj.weight"].T
        x_TD = x_TD + gate / (1 + np.exp(-gate)) * up @ w[at + "mlp.down_proj.weight"].T
    head_VD = w["lm_head.weight"]
    if kind.startswith("2-"):
        head_VD = head_VD / np.linalg.norm(head_VD, axis=1, keepdims=True)
    return normed(x_TD, w["model.norm.weight"]) @ head_VD.T


def loaded(tmp_path: Path, kind: str, weights: dict[str, torch.Tensor] | None = None) -> torch.nn.Module:
    """The checkpoint, converted and loaded as any other model."""
    if not (tmp_path / kind).exists():
        source = write_checkpoint(tmp_path / f"{kind}-source", kind, weights or random_weights())
        convert(source, tmp_path / kind)
    return load_model(str(tmp_path / kind), dtype=torch.float32, device=CPU)


@torch.no_grad()
def logits(model: torch.nn.Module, tokens: list[int] = TOKENS) -> np.ndarray:
    return model(input_ids=torch.tensor([tokens])).logits[0].double().numpy()


def away(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).max())


@pytest.mark.parametrize("kind", list(KINDS))
def test_logits_equal_the_independent_forward(tmp_path, parity, kind):
    weights = random_weights()
    expected = forward(weights, TOKENS, kind)
    found = logits(loaded(tmp_path, kind, weights))
    parity(f"Baichuan {kind}", "forward pass of its own layout", away(found, expected), float(np.abs(expected).max()))


def test_the_comparison_sees_what_differs(tmp_path, parity):
    weights = random_weights()
    for kind in ("2-7B", "2-13B"):
        model = loaded(tmp_path, kind, weights)
        plain = forward(weights, TOKENS, kind.removeprefix("2-"))
        parity.differs(f"Baichuan {kind}", "head not normalised", away(logits(model), plain))
    interleaved = dict(weights)
    for name in weights:
        if "W_pack" in name:  # head by head, as BLOOM has it
            interleaved[name] = weights[name].view(H, 3, K, D).transpose(0, 1).reshape(3 * D, D)
    for kind in ("7B", "13B"):
        found = logits(loaded(tmp_path, kind, weights))
        wrong = forward(interleaved, TOKENS, kind)
        parity.differs(f"Baichuan {kind}", "W_pack split head by head", away(found, wrong))
        other = forward(weights, TOKENS, "13B" if kind == "7B" else "7B")
        parity.differs(f"Baichuan {kind}", "the other size's positions", away(found, other))


@pytest.mark.parametrize("kind", ["7B", "13B", "2-13B"])
def test_left_padding_batches_and_packing_change_nothing(tmp_path, kind):
    model = loaded(tmp_path, kind)
    assert model.graft_packs == ("7B" in kind)
    rows = [TOKENS, TOKENS[:3], TOKENS[4:9]]
    expected = [torch.from_numpy(logits(model, row)).float() for row in rows]
    width = max(map(len, rows))
    padded = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    boundaries = torch.tensor([0, *np.cumsum([len(row) for row in rows])], dtype=torch.int32)
    flat = torch.tensor([token for row in rows for token in row])
    with torch.no_grad():
        places = (mask.cumsum(1) - 1).clamp(min=0)
        batch = model(input_ids=padded, attention_mask=mask, position_ids=places).logits
        packed = output_head(model).logits(hidden_states(model, flat, boundaries))
    assert batch.isfinite().all()
    for row, alone, together in zip(rows, expected, batch, strict=True):
        torch.testing.assert_close(together[-len(row) :], alone, atol=2e-5, rtol=0)
    torch.testing.assert_close(packed, torch.cat(expected), atol=2e-5, rtol=0)


def test_13b_writes_with_a_cache_what_it_writes_without(tmp_path):
    model = loaded(tmp_path, "2-13B")
    rows, naive = [TOKENS, TOKENS[:3]], []
    for row in rows:
        text = list(row)
        for _ in range(6):
            text.append(int(logits(model, text)[-1].argmax()))
        naive.append(text[len(row) :])
    with torch.no_grad():
        padded = torch.tensor([TOKENS, [0] * 7 + TOKENS[:3]])
        mask = torch.tensor([[1] * 10, [0] * 7 + [1] * 3])
        own = model.generate(padded, attention_mask=mask, max_new_tokens=6, do_sample=False, eos_token_id=None)
    written = generate(model, rows, Decoding(greedy=True, max_new_tokens=6), stop_ids=[], pad_id=0)
    assert [list(one.tokens) for one in written] == naive
    assert own[:, 10:].tolist() == naive


@pytest.mark.parametrize("kind", ["7B", "13B", "2-13B"])
def test_there_and_back_is_bit_equal(tmp_path, kind, train_sentencepiece):
    weights = random_weights(dtype=torch.bfloat16)
    source = write_checkpoint(tmp_path / "source", kind, weights)
    train_sentencepiece(source / "tokenizer.model")
    convert(source, tmp_path / "there")
    done = convert(tmp_path / "there", tmp_path / "back", to="baichuan")
    assert done.dtype == "bfloat16"
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in weights.items())
    convert(tmp_path / "back", tmp_path / "again")
    assert logits_of(tmp_path / "again") == logits_of(tmp_path / "there")


def logits_of(folder: Path) -> list[list[float]]:
    return logits(load_model(str(folder), dtype=torch.float32, device=CPU)).tolist()


def test_a_folded_head_goes_back_folded(tmp_path):
    weights = random_weights(dtype=torch.bfloat16)
    convert(write_checkpoint(tmp_path / "source", "2-7B", weights), tmp_path / "there")
    convert(tmp_path / "there", tmp_path / "back", to="baichuan")
    back = load_file(tmp_path / "back" / "model.safetensors")
    unit = weights["lm_head.weight"].double()
    unit = unit / unit.norm(dim=1, keepdim=True)
    torch.testing.assert_close(back["lm_head.weight"].double(), unit, atol=2**-9, rtol=2**-8)
    others = {name for name in weights if name != "lm_head.weight"}
    assert all(torch.equal(back[name], weights[name]) for name in others)
    convert(tmp_path / "back", tmp_path / "again")
    again, there = (load_file(tmp_path / name / "model.safetensors") for name in ("again", "there"))
    assert all(torch.equal(again[name], tensor) for name, tensor in there.items())


def test_a_head_that_was_trained_does_not_go_back_to_baichuan_2(tmp_path, monkeypatch):
    monkeypatch.setattr("graftlm.models.families.baichuan.BAICHUAN2_VOCABULARY", V)
    convert(write_checkpoint(tmp_path / "source", "2-7B", random_weights()), tmp_path / "there")
    convert(tmp_path / "there", tmp_path / "back", to="baichuan")
    tensors = load_file(tmp_path / "there" / "model.safetensors")
    tensors["lm_head.weight"][7] *= 1.5
    save_file(tensors, tmp_path / "there" / "model.safetensors")
    with pytest.raises(ModelError, match="not of length 1"):
        convert(tmp_path / "there", tmp_path / "other", to="baichuan")


@pytest.mark.parametrize("kind", ["7B", "2-13B"])
def test_nothing_is_lost_and_nothing_missed(tmp_path, kind):
    weights = random_weights()
    extra = {"model.layers.0.self_attn.W_pack.weight_scale": torch.ones(1)}
    with pytest.raises(ModelError, match=r"W_pack\.weight_scale"):
        convert(write_checkpoint(tmp_path / "extra", kind, weights | extra), tmp_path / "there")
    del weights["model.layers.1.mlp.up_proj.weight"]
    with pytest.raises(ModelError, match=r"no tensor `model\.layers\.1\.mlp\.up_proj"):
        convert(write_checkpoint(tmp_path / "short", kind, weights), tmp_path / "there")
    with pytest.raises(ModelError, match="graft convert"):
        load_model(str(tmp_path / "short"), dtype=torch.float32, device=CPU)
    buffers = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(4) for i in range(LAYERS)}
    convert(write_checkpoint(tmp_path / "whole", kind, random_weights() | buffers), tmp_path / "there")


def test_a_saved_13b_comes_back_bit_equal(tmp_path, train_sentencepiece):
    source = write_checkpoint(tmp_path / "source", "2-13B", random_weights())
    train_sentencepiece(source / "tokenizer.model")
    convert(source, tmp_path / "there")
    model, tokenizer = loaded(tmp_path, "2-13B"), load_tokenizer(str(tmp_path / "there"))
    save_model(model, tokenizer, tmp_path / "saved")
    again = load_model(str(tmp_path / "saved"), dtype=torch.float32, device=CPU)
    assert isinstance(again, BaichuanAlibiForCausalLM)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_adapters_keep_the_originals_names(tmp_path):
    model = make_trainable(loaded(tmp_path, "2-13B"), "lora")
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert any("model.layers.0.self_attn.W_pack.lora_A" in name for name in names)
    assert not any("lm_head" in name for name in names)


def tiny_13b(**changes: object) -> BaichuanAlibiForCausalLM:
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 1}
    return BaichuanAlibiForCausalLM(BaichuanAlibiConfig(**sizes, num_attention_heads=3, **changes))


def test_scaling_the_heads_rows_leaves_the_logits():
    model = tiny_13b().eval()
    before = logits(model, [1, 2, 3])
    with torch.no_grad():
        model.lm_head.weight *= torch.rand(64, 1) + 0.5
    assert away(logits(model, [1, 2, 3]), before) < 1e-6
    plain = tiny_13b(norm_head=False).eval()
    before = logits(plain, [1, 2, 3])
    with torch.no_grad():
        plain.lm_head.weight *= 1.5
    assert away(logits(plain, [1, 2, 3]), before) > 1e-3


def test_the_head_stays_the_parameter_that_the_optimizer_holds():
    """The original replaces it at the first call in eval mode."""
    model = tiny_13b()
    trunk.prepare_trunk(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    held, before = model.lm_head.weight, model.lm_head.weight.detach().clone()
    tokens = torch.tensor([3, 9, 27, 4, 8])
    boundaries = torch.tensor([0, 5], dtype=torch.int32)
    model.eval()
    logits(model, [1, 2])
    model.train()
    targets = torch.tensor([9, 27, 4, 8, -100])
    linear_cross_entropy(hidden_states(model, tokens, boundaries), output_head(model), targets, 4).backward()
    optimizer.step()
    assert model.lm_head.weight is held
    assert (held != before).any()
    # A row can only be turned, not lengthened: the gradient is at right angles to it.
    assert (held.grad * before).sum(-1).abs().max() < 1e-6 < held.grad.abs().max()


def test_recomputed_layers_give_the_same_gradients():
    tokens = torch.tensor([[3, 9, 27, 4, 8]])
    gradients = []
    for recompute in (False, True):
        model = tiny_13b().train()
        if recompute:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            assert model.model.layers[0].gradient_checkpointing
        model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_max_z_loss_and_its_gradient_in_closed_form():
    torch.manual_seed(0)
    logits_TV = (4 * torch.randn(6, 10, dtype=torch.float64)).requires_grad_()
    targets = torch.tensor([1, -100, 3, 4, -100, 0])
    loss = max_z_loss(logits_TV, targets, 2e-4)
    largest, place = logits_TV.detach().max(dim=-1)
    real = targets != -100
    assert loss.item() == pytest.approx(2e-4 * float((largest[real] ** 2).mean()), rel=1e-6)
    loss.backward()
    expected = torch.zeros_like(logits_TV)
    expected[torch.arange(6), place] = torch.where(real, 2 * 2e-4 * largest / 4, 0)
    torch.testing.assert_close(logits_TV.grad, expected, rtol=1e-6, atol=1e-9)


def test_the_models_own_loss_adds_it():
    labels = torch.tensor([[1, 2, -100, 4]])
    plain = tiny_13b().eval()
    heavy = tiny_13b(z_loss_weight=0.5).eval()
    heavy.load_state_dict(plain.state_dict())
    with torch.no_grad():
        losses = [model(input_ids=torch.tensor([[1, 2, 3, 4]]), labels=labels).loss for model in (plain, heavy)]
    largest = torch.from_numpy(logits(plain, [1, 2, 3, 4])).max(-1).values[[0, 2]]
    assert float(losses[1] - losses[0]) == pytest.approx(0.5 * float((largest**2).mean()), rel=1e-4)


@pytest.mark.parametrize("heads", [1, 3, 5, 7, 8, 12, 40])
def test_slopes_are_the_authors(heads):
    np.testing.assert_allclose(alibi_slopes(heads).numpy(), slopes_of(heads), rtol=1e-6)


def test_slopes_of_eight_and_three_heads_by_hand():
    assert alibi_slopes(8).tolist() == [0.5**i for i in range(1, 9)]
    assert alibi_slopes(3).tolist() == pytest.approx([1 / 16, 1 / 256, 1 / 4])


def test_a_normalised_head_is_one(tmp_path):
    head = loaded(tmp_path, "2-13B").lm_head
    assert isinstance(head, NormHead)
    torch.testing.assert_close(head.effective_weight.norm(dim=1), torch.ones(V))
    assert AutoConfig.from_pretrained(tmp_path / "2-13B").norm_head


def test_turns_open_with_the_reserved_tokens(tmp_path, train_sentencepiece):
    reserved = [f"<reserved_{number}>" for number in range(200)]
    source = write_checkpoint(tmp_path / "source", "7B", random_weights())
    rules = {"user_defined_symbols": reserved, "add_dummy_prefix": False, "vocab_size": 620}
    train_sentencepiece(source / "tokenizer.model", **rules)
    with pytest.raises(ModelError, match="the tokenizer has 620 tokens, the model only 512 rows"):
        convert(source, tmp_path / "there")
    make_tokenizer(source / "tokenizer.model").save_pretrained(tmp_path / "there")
    tokenizer = load_tokenizer(str(tmp_path / "there"))
    user, assistant = tokenizer.convert_ids_to_tokens([195, 196])
    template = tokenizer_template(tokenizer)
    turns = [Turn("user", "感冒了怎么办？"), Turn("assistant", "多喝水"), Turn("user", "然后？")]
    text = template.render(turns, generation_prompt=True).text
    assert text == f"{user}感冒了怎么办？{assistant}多喝水</s>{user}然后？{assistant}"
    (chat,) = encode_chats(tokenizer, template, [turns[:2]])
    assert chat.tokens[0] == 195 and 196 in chat.tokens
    assert tokenizer.decode(chat.tokens[chat.targets].tolist()) == "多喝水</s>"
    assert template.contains_markers([Turn("user", f"a{user}")]) == [user]
    for text in (user, f"{user}?", f"a{user}"):  # spelled out in a document, a mark is plain characters
        assert 195 not in tokenizer(text, split_special_tokens=True)["input_ids"]
