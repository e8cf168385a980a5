"""LLaMA 1, 2 and 3 as Meta's files hold them, against an independent forward pass in that layout, and tiktoken.

The forward pass is written from the papers and meta-llama/llama's published layout in numpy float64: rotary pairs
(2i, 2i + 1) as complex numbers, grouped queries; LLaMA 3.1's scaling of the rotary frequencies from its report
(arXiv 2407.21783) and published settings.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from graftlm.core.errors import ModelError
from graftlm.models.conversion import convert
from graftlm.models.families import meta_llama, meta_tokenizer
from graftlm.models.loading import load_model, load_tokenizer

CPU = torch.device("cpu")
D, M, H, G, V, LAYERS = 32, 96, 4, 2, 640, 2
K = D // H
TOKENS = [5, 17, 49, 0, 3, 3, 211, 8, 30, 400]
KINDS = {
    "2": {"norm_eps": 1e-5, "vocab_size": -1},
    "3": {"norm_eps": 1e-5, "vocab_size": V, "rope_theta": 500000.0},
    "3.1": {"norm_eps": 1e-5, "vocab_size": V, "rope_theta": 500000.0, "use_scaled_rope": True, "rope_scale_factor": 8},
}
SPLIT_BY = {"wq": 0, "wk": 0, "wv": 0, "wo": 1, "w1": 0, "w2": 1, "w3": 0, "output": 0}


def random_weights(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)

    def draw(*shape: int, around: float = 0.0, spread: float = 0.25) -> torch.Tensor:
        return (around + spread * torch.randn(shape)).to(dtype)

    weights = {"tok_embeddings.weight": draw(V, D), "norm.weight": draw(D, around=1), "output.weight": draw(V, D)}
    for layer in range(LAYERS):
        at = f"layers.{layer}."
        weights |= {
            f"{at}attention.wq.weight": draw(D, D),
            f"{at}attention.wk.weight": draw(G * K, D),
            f"{at}attention.wv.weight": draw(G * K, D),
            f"{at}attention.wo.weight": draw(D, D),
            f"{at}feed_forward.w1.weight": draw(M, D),
            f"{at}feed_forward.w2.weight": draw(D, M),
            f"{at}feed_forward.w3.weight": draw(M, D),
            f"{at}attention_norm.weight": draw(D, around=1),
            f"{at}ffn_norm.weight": draw(D, around=1),
        }
    return weights


def write_checkpoint(folder: Path, kind: str, weights: dict[str, torch.Tensor], files: int = 1) -> Path:
    """Split over `files` GPUs as Meta does: LLaMA 2's embedding by columns, LLaMA 3's by rows."""
    folder.mkdir(parents=True)
    params = {"dim": D, "n_layers": LAYERS, "n_heads": H, "n_kv_heads": G, "multiple_of": 32} | KINDS[kind]
    (folder / "params.json").write_text(json.dumps(params))
    split_by = SPLIT_BY | {"tok_embeddings": 1 if kind == "2" else 0}
    for number in range(files):
        part = {"rope.freqs": torch.ones(K // 2)}
        for name, tensor in weights.items():
            dim = split_by.get(name.split(".")[-2])
            part[name] = tensor if dim is None else tensor.chunk(files, dim)[number].clone()
        torch.save(part, folder / f"consolidated.{number:02}.pth")
    return folder


def frequencies(kind: str) -> np.ndarray:
    found = KINDS[kind].get("rope_theta", 10000.0) ** (-np.arange(0, K, 2) / K)
    if kind != "3.1":
        return found
    turns = 8192 / (2 * np.pi / found)  # of each pair within the positions trained on before
    share = np.clip((turns - 1) / (4 - 1), 0, 1)
    return share * found + (1 - share) * found / 8


def forward(weights: dict[str, torch.Tensor], tokens: list[int], kind: str) -> np.ndarray:
    """[T, V] logits, from the checkpoint's own names."""
    w = {name: tensor.double().numpy() for name, tensor in weights.items()}
    T = len(tokens)

    def normed(x_TD: np.ndarray, weight_D: np.ndarray) -> np.ndarray:
        return x_TD / np.sqrt((x_TD**2).mean(-1, keepdims=True) + 1e-5) * weight_D

    turn = np.exp(1j * np.arange(T)[:, None] * frequencies(kind))

    def rotated(x_TK: np.ndarray) -> np.ndarray:
        turned = (x_TK[:, 0::2] + 1j * x_TK[:, 1::2]) * turn
        return np.stack([turned.real, turned.imag], -1).reshape(T, K)

    x_TD = w["tok_embeddings.weight"][tokens]
    for layer in range(LAYERS):
        at = f"layers.{layer}."
        h_TD = normed(x_TD, w[at + "attention_norm.weight"])
        q, k, v = ((h_TD @ w[f"{at}attention.w{letter}.weight"].T).reshape(T, -1, K) for letter in "qkv")
        out = []
        for head in range(H):
            group = head // (H // G)
            scores = rotated(q[:, head]) @ rotated(k[:, group]).T / np.sqrt(K)
            scores = np.where(np.tri(T, dtype=bool), scores, -np.inf)
            share = np.exp(scores - scores.max(-1, keepdims=True))
            out.append(share / share.sum(-1, keepdims=True) @ v[:, group])
        x_TD = x_TD + np.concatenate(out, -1) @ w[at + "attention.wo.weight"].T
        h_TD = normed(x_TD, w[at + "ffn_norm.weight"])
        gate = h_TD @ w[at + "feed_forward.w1.weight"].T
        up = h_TD @ w[at + "feed_forward.w3.weight"].T
        x_TD = x_TD + gate / (1 + np.exp(-gate)) * up @ w[at + "feed_forward.w2.weight"].T
    return normed(x_TD, w["norm.weight"]) @ w["output.weight"].T


def logits(folder: Path, tokens: list[int] = TOKENS) -> np.ndarray:
    model = load_model(str(folder), dtype=torch.float32, device=CPU)
    with torch.no_grad():
        return model(input_ids=torch.tensor([tokens])).logits[0].double().numpy()


def away(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).max())


@pytest.mark.parametrize(("kind", "files"), [("2", 1), ("2", 2), ("3", 2), ("3.1", 1)])
def test_logits_equal_the_independent_forward(tmp_path, parity, kind, files):
    weights = random_weights()
    done = convert(write_checkpoint(tmp_path / "source", kind, weights, files), tmp_path / "llama")
    assert done.source.name == "meta"
    tokens = [(7 * i * i + i) % V for i in range(300)] if kind == "3.1" else TOKENS
    expected = forward(weights, tokens, kind)
    name = f"LLaMA {kind}" + (f", {files} files" if files > 1 else "")
    error = away(logits(tmp_path / "llama", tokens), expected)
    parity(name, "forward pass of Meta's layout", error, float(np.abs(expected).max()))


def test_the_comparison_sees_what_differs(tmp_path, parity, monkeypatch):
    weights = random_weights()
    expected = forward(weights, TOKENS, "2")
    source = write_checkpoint(tmp_path / "source", "2", weights)
    with monkeypatch.context() as changed:
        changed.setattr(meta_llama, "halves_from_pairs", lambda weight, heads: weight)
        convert(source, tmp_path / "unpermuted")
    parity.differs("LLaMA 2", "rotary pairs not reordered", away(logits(tmp_path / "unpermuted"), expected))
    with monkeypatch.context() as changed:  # all query heads' reordering applied to the fewer key heads
        changed.setattr(meta_llama, "halves_from_pairs", lambda w, heads: meta_llama.pairs_from_halves(w, heads))
        convert(source, tmp_path / "inverse")
    parity.differs("LLaMA 2", "reordered the other way", away(logits(tmp_path / "inverse"), expected))
    long = [(7 * i * i + i) % V for i in range(300)]
    scaled = forward(weights, long, "3.1")
    convert(write_checkpoint(tmp_path / "unscaled-source", "3", weights), tmp_path / "unscaled")
    parity.differs("LLaMA 3.1", "rotary frequencies not scaled", away(logits(tmp_path / "unscaled", long), scaled))


@pytest.mark.parametrize(("kind", "files"), [("2", 2), ("3.1", 1)])
def test_there_and_back_is_bit_equal(tmp_path, kind, files):
    weights = random_weights(torch.bfloat16)
    convert(write_checkpoint(tmp_path / "source", kind, weights, files), tmp_path / "llama")
    done = convert(tmp_path / "llama", tmp_path / "back", to="meta")
    assert done.dtype == "bfloat16"
    back = torch.load(tmp_path / "back" / "consolidated.00.pth", weights_only=True)
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in weights.items())
    convert(tmp_path / "back", tmp_path / "again")
    one, other = ((tmp_path / name / "config.json").read_text() for name in ("llama", "again"))
    assert one == other
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("llama", "again"))
    assert one == other


@pytest.mark.parametrize(("dim", "size"), [(4096, 11008), (8192, 28672), (4096, 14336), (32, 96), (2048, 8192)])
def test_metas_code_arrives_at_the_size_of_the_mlp(dim, size):
    config = meta_llama.LlamaConfig(hidden_size=dim, intermediate_size=size, num_attention_heads=dim // 8)
    params = meta_llama.params_of(config)
    hidden = int(2 * (4 * dim) / 3)  # as Meta's FeedForward reckons
    hidden = int(params["ffn_dim_multiplier"] * hidden)
    step = params["multiple_of"]
    assert step * ((hidden + step - 1) // step) == size


def test_damaged_and_foreign_checkpoints_are_model_errors(tmp_path):
    source = write_checkpoint(tmp_path / "source", "2", random_weights(), files=2)
    with pytest.raises(ModelError, match="graft convert"):
        load_model(str(source), dtype=torch.float32, device=CPU)
    (source / "consolidated.01.pth").unlink()
    with pytest.raises(ModelError, match="8 rows of keys together"):
        convert(source, tmp_path / "llama")
    (source / "params.json").write_text('{"dim": 32}')
    with pytest.raises(ModelError, match="its settings lack 'n_heads'"):
        convert(source, tmp_path / "llama")
    extra = write_checkpoint(tmp_path / "extra", "2", random_weights() | {"vision.weight": torch.ones(2)})
    with pytest.raises(ModelError, match=r"vision\.weight"):
        convert(extra, tmp_path / "llama")


def test_llama_2s_tokenizer_is_found_above_the_weights(tmp_path, train_sentencepiece):
    sentencepiece = pytest.importorskip("sentencepiece")
    source = write_checkpoint(tmp_path / "models" / "llama-2-7b", "2", random_weights())
    file = train_sentencepiece(tmp_path / "models" / "tokenizer.model")
    convert(source, tmp_path / "llama")
    tokenizer = load_tokenizer(str(tmp_path / "llama"))
    oracle = sentencepiece.SentencePieceProcessor(model_file=str(file))
    for sentence in ("The patient has a fever.", "高血压 🐈", "  two  spaces"):
        ids = tokenizer(sentence)["input_ids"]
        assert ids == [oracle.bos_id(), *oracle.encode(sentence)]
        assert tokenizer.decode(ids, skip_special_tokens=True) == sentence
    convert(tmp_path / "llama", tmp_path / "back", to="meta")
    assert (tmp_path / "back" / "tokenizer.model").read_bytes() == file.read_bytes()


def ranks_of(texts: list[str], size: int) -> dict[bytes, int]:
    """A byte-level BPE vocabulary: the most frequent pair becomes a token, again and again."""
    import tiktoken._educational as educational

    return educational.bpe_train(" ".join(texts), size, meta_tokenizer.SPLIT, visualise=None)


@pytest.mark.parametrize("newer", [False, True])
def test_llama_3s_tokens_are_tiktokens(tmp_path, newer):
    tiktoken = pytest.importorskip("tiktoken")
    texts = ["The patient has had a fever and a dry cough for 3 days.", "高血压患者应当控制饮食，定期复查血压。"] * 3
    ranks = ranks_of(texts, 340)
    source = write_checkpoint(tmp_path / "source", "3.1" if newer else "3", random_weights())
    lines = [base64.b64encode(token) + f" {rank}\n".encode() for token, rank in ranks.items()]
    (source / "tokenizer.model").write_bytes(b"".join(lines))
    convert(source, tmp_path / "llama")
    tokenizer = load_tokenizer(str(tmp_path / "llama"))
    oracle = tiktoken.Encoding("tiny", pat_str=meta_tokenizer.SPLIT, mergeable_ranks=ranks, special_tokens={})
    for sentence in (*texts, "  spaces\n\n and 12345 don't", "naïve 🐈 café", "<|eot_id|>"):
        ids = tokenizer(sentence, split_special_tokens=True)["input_ids"]
        assert ids == [len(ranks), *oracle.encode_ordinary(sentence)], sentence
        assert tokenizer.decode(ids[1:]) == sentence
    named = {"<|begin_of_text|>": 0, "<|end_of_text|>": 1, "<|start_header_id|>": 6, "<|eot_id|>": 9}
    named |= {"<|python_tag|>": 10, "<|reserved_special_token_2|>": 5} if newer else {"<|reserved_special_token_4|>": 8}
    for name, place in named.items():
        assert tokenizer.convert_tokens_to_ids(name) == len(ranks) + place
    assert len(tokenizer) == len(ranks) + 256


def test_a_bad_line_of_ranks_is_named(tmp_path):
    file = tmp_path / "tokenizer.model"
    file.write_bytes(b"IQ== 0\nIg== one\n")
    with pytest.raises(ModelError, match=r"tokenizer\.model:2"):
        meta_tokenizer.make_tokenizer(file, newer=False)
    file.write_bytes(b"\x00\x01 neither")
    with pytest.raises(ModelError, match="not a sentencepiece model"):
        meta_tokenizer.make_tokenizer(file, newer=False)
