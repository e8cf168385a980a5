"""llama2.c checkpoints against an independent forward pass, SentencePiece, and a checkpoint's known text.

The forward pass below is written from the paper and run.c, in numpy float64: interleaved rotary pairs,
grouped queries, one position at a time with all positions before it. It shares nothing with transformers.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from graftlm.core.errors import ModelError
from graftlm.models import llama2c
from graftlm.models.conversion import convert
from graftlm.models.loading import load_model, load_tokenizer, save_model
from graftlm.models.trunk import hidden_states, output_head

SHARED = Path(__file__).parents[3] / "shared" / "data"
STORIES = SHARED / "model" / "stories260k" / "checkpoint_legacy.bin"
LLAMA2 = SHARED / "tokenizer" / "llama2"

CPU = torch.device("cpu")
SIZES = {"dim": 32, "hidden": 48, "layers": 3, "heads": 4, "kv_heads": 2, "vocabulary": 50, "context": 64}


def random_weights(tied: bool, seed: int = 0) -> dict[str, np.ndarray]:
    """Named arrays in the file's order."""
    D, M, L, V = (SIZES[name] for name in ("dim", "hidden", "layers", "vocabulary"))
    K = D // SIZES["heads"] * SIZES["kv_heads"]
    random = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        return (random.standard_normal(shape) * 0.3).astype(np.float32)

    weights = {
        "embed": draw(V, D),
        "attention_norm": 1 + draw(L, D),
        "wq": draw(L, D, D),
        "wk": draw(L, K, D),
        "wv": draw(L, K, D),
        "wo": draw(L, D, D),
        "mlp_norm": 1 + draw(L, D),
        "w1": draw(L, M, D),
        "w2": draw(L, D, M),
        "w3": draw(L, M, D),
        "norm": 1 + draw(D),
        "cosine": draw(SIZES["context"], D // SIZES["heads"] // 2),
        "sine": draw(SIZES["context"], D // SIZES["heads"] // 2),
    }
    return weights if tied else weights | {"head": draw(V, D)}


def write_checkpoint(path: Path, weights: dict[str, np.ndarray]) -> Path:
    sizes = SIZES | {"vocabulary": SIZES["vocabulary"] * (-1 if "head" in weights else 1)}
    path.write_bytes(
        struct.pack("7i", *sizes.values()) + b"".join(array.tobytes() for array in weights.values())
    )
    return path


def normed(x_D: np.ndarray, weight_D: np.ndarray) -> np.ndarray:
    return x_D / np.sqrt((x_D**2).mean() + 1e-5) * weight_D


def rotated(heads_HK: np.ndarray, position: int) -> np.ndarray:
    """Turn each pair (2i, 2i+1) by position / 10000^(2i/K)."""
    K = heads_HK.shape[1]
    angle = position / 10000 ** (np.arange(0, K, 2) / K)
    pairs = (heads_HK[:, 0::2] + 1j * heads_HK[:, 1::2]) * np.exp(1j * angle)
    return np.stack([pairs.real, pairs.imag], axis=-1).reshape(heads_HK.shape)


def forward(weights: dict[str, np.ndarray], tokens: list[int]) -> np.ndarray:
    """[T, V] logits."""
    w = {name: array.astype(np.float64) for name, array in weights.items()}
    H, G = SIZES["heads"], SIZES["kv_heads"]
    keys: list[list[np.ndarray]] = [[] for _ in range(SIZES["layers"])]
    values: list[list[np.ndarray]] = [[] for _ in range(SIZES["layers"])]
    logits = []
    for position, token in enumerate(tokens):
        x_D = w["embed"][token]
        for layer in range(SIZES["layers"]):
            h_D = normed(x_D, w["attention_norm"][layer])
            q_HK = rotated((w["wq"][layer] @ h_D).reshape(H, -1), position)
            keys[layer].append(rotated((w["wk"][layer] @ h_D).reshape(G, -1), position))
            values[layer].append((w["wv"][layer] @ h_D).reshape(G, -1))
            attended = []
            for head in range(H):
                group = head // (H // G)
                scores = np.array([k[group] @ q_HK[head] for k in keys[layer]]) / np.sqrt(q_HK.shape[1])
                share = np.exp(scores - scores.max())
                attended.append(
                    sum(p * v[group] for p, v in zip(share / share.sum(), values[layer], strict=True))
                )
            x_D = x_D + w["wo"][layer] @ np.concatenate(attended)
            h_D = normed(x_D, w["mlp_norm"][layer])
            gate = w["w1"][layer] @ h_D
            x_D = x_D + w["w2"][layer] @ (gate / (1 + np.exp(-gate)) * (w["w3"][layer] @ h_D))
        logits.append(w.get("head", w["embed"]) @ normed(x_D, w["norm"]))
    return np.stack(logits)


@pytest.mark.parametrize("tied", [True, False])
def test_logits_equal_the_independent_forward(tmp_path, tied, parity):
    weights = random_weights(tied)
    path = write_checkpoint(tmp_path / "model.bin", weights)
    documents = [[5, 17, 49, 0, 3, 3, 21, 8, 30], [7], [44, 2, 9, 11]]
    expected = np.concatenate([forward(weights, tokens) for tokens in documents])

    model = load_model(str(path), dtype=torch.float32, device=CPU)
    assert model.config.tie_word_embeddings is tied
    assert model.graft_packs
    boundaries = torch.tensor([0, 9, 10, 14], dtype=torch.int32)
    with torch.no_grad():
        alone = torch.cat([model(input_ids=torch.tensor([tokens])).logits[0] for tokens in documents])
        packed = output_head(model).logits(
            hidden_states(
                model, torch.tensor([token for tokens in documents for token in tokens]), boundaries
            )
        )
    scale, name = float(np.abs(expected).max()), f"llama2.c, {'tied' if tied else 'own'} head"
    parity(name, "forward pass of its own layout", away(alone, expected), scale)
    parity(name, "the same, documents packed", away(packed, expected), scale)


def test_the_comparison_would_see_wrong_rotary_pairs(tmp_path, monkeypatch, parity):
    monkeypatch.setattr(llama2c, "halves_from_pairs", lambda weight, heads: weight)
    weights = random_weights(tied=True)
    model = load_model(str(write_checkpoint(tmp_path / "m.bin", weights)), dtype=torch.float32, device=CPU)
    with torch.no_grad():
        found = model(input_ids=torch.tensor([[5, 17, 49]])).logits[0]
    parity.differs("llama2.c", "rotary pairs not reordered", away(found, forward(weights, [5, 17, 49])))


def away(found: torch.Tensor, expected: np.ndarray) -> float:
    return float(np.abs(found.numpy() - expected).max())


@pytest.mark.parametrize("tied", [True, False])
def test_graft_convert_takes_it(tmp_path, tied):
    path = write_checkpoint(tmp_path / "model.bin", random_weights(tied))
    done = convert(path, tmp_path / "converted")
    assert done.source.name == "llama2.c" and "no tokenizer.bin" in done.notes[0]
    direct, again = (load_model(str(one), dtype=torch.float32, device=CPU) for one in (path, tmp_path / "converted"))
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in direct.state_dict().items())


def test_a_converted_model_is_saved_and_loaded_bit_equal(tmp_path):
    path = write_checkpoint(tmp_path / "model.bin", random_weights(tied=True))
    model = load_model(str(path), dtype=torch.float32, device=CPU)
    model.save_pretrained(tmp_path / "converted")
    again = load_model(str(tmp_path / "converted"), dtype=torch.float32, device=CPU)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_damaged_files_are_model_errors(tmp_path):
    path = write_checkpoint(tmp_path / "model.bin", random_weights(tied=True))
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ModelError, match=r"weights in the file, but its header asks for"):
        load_model(str(path), dtype=torch.float32, device=CPU)
    path.write_bytes(b"short")
    with pytest.raises(ModelError, match="header"):
        load_model(str(path), dtype=torch.float32, device=CPU)
    with pytest.raises(ModelError, match=r"tokenizer\.bin"):
        load_tokenizer(str(path))


SENTENCES = [
    "Once upon a time, there was a little girl named Lily.",
    "  leading and  double   spaces ",
    "The dose is 12.5 mg/kg, e.g. 1,000 IU (twice).",
    "高血压患者应当控制饮食，定期复查血压。",
    "患者服用aspirin 25毫克。生僻字：龘",
    "naïve café — “quotes” … 🐈",
    "line\nbreaks\tand tabs",
    "internationalization antidisestablishmentarianism",
]


@pytest.mark.skipif(not (LLAMA2 / "tokenizer.model").is_file(), reason="LLaMA 2's tokenizer is not here")
def test_token_ids_equal_sentencepiece(tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    oracle = sentencepiece.SentencePieceProcessor(model_file=str(LLAMA2 / "tokenizer.model"))
    checkpoint = tmp_path / "model.bin"
    checkpoint.write_bytes(struct.pack("7i", *(SIZES | {"vocabulary": oracle.vocab_size()}).values()))
    (tmp_path / "tokenizer.bin").symlink_to(LLAMA2 / "tokenizer.bin")
    tokenizer = load_tokenizer(str(checkpoint))
    assert len(tokenizer) == oracle.vocab_size()
    for sentence in SENTENCES:
        ids = tokenizer.encode(sentence, add_special_tokens=False)
        assert ids == oracle.encode(sentence), sentence
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == sentence


@pytest.mark.skipif(not STORIES.is_file(), reason="stories260K is not here")
def test_stories260k_tells_its_story(tmp_path):
    model = load_model(str(STORIES), dtype=torch.float32, device=CPU)
    tokenizer = load_tokenizer(str(STORIES))
    with torch.no_grad():
        out = model.generate(torch.tensor([[1]]), do_sample=False, max_new_tokens=40)
    text = tokenizer.decode(out[0], skip_special_tokens=True)
    assert text.startswith("Once upon a time, there was a little girl named Lily.")

    save_model(model, tokenizer, tmp_path)
    again = load_tokenizer(str(tmp_path))
    assert again.encode(text, add_special_tokens=False) == tokenizer.encode(text, add_special_tokens=False)
