"""GGUF files of random models and of the rootstock in llama.cpp itself: same logits, tokens and greedy answers.

`GRAFT_LLAMA_CPP` names a Python that has llama-cpp-python; without it, and without it here, one is built from PyPI
(cmake and a C++ compiler, minutes) into graft's cache.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as RustTokenizer
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from graftlm.core.files import cache_folder
from graftlm.data.worlds import generate as generate_world
from graftlm.inference.decoding import Decoding
from graftlm.inference.generation import generate
from graftlm.models import gguf_families
from graftlm.models.gguf_export import write_gguf
from graftlm.models.gguf_pieces import merge_by_score
from graftlm.models.gguf_words import probes
from graftlm.models.loading import load_model, load_tokenizer, save_model
from graftlm.recipes.loading import load_recipe
from graftlm.recipes.pipeline import run_recipe
from graftlm.recipes.talking import load_speaker

gguf = pytest.importorskip("gguf", reason="the extra `gguf` is not installed")
pytestmark = pytest.mark.slow
CPU = torch.device("cpu")
SMALL = {
    "vocab_size": 3072, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
}  # fmt: skip
ROTATION = {"rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
LLAMA3 = ROTATION | {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": SMALL | {"tie_word_embeddings": False},
    "llama, one matrix, biases": SMALL | {"model_type": "llama", "tie_word_embeddings": True, "attention_bias": True},
    "llama 3 rotation": SMALL | {"model_type": "llama", "rope_parameters": LLAMA3},
    "llama, linear rotation": SMALL | {"model_type": "llama", "rope_parameters": ROTATION | {"rope_type": "linear"}},
    "llama, YaRN": SMALL | {"model_type": "llama", "rope_parameters": ROTATION | {"rope_type": "yarn"}},
    "mistral": SMALL | {"sliding_window": None, "head_dim": 32},
    "qwen2": SMALL | {"tie_word_embeddings": True},
    "qwen3": SMALL | {"head_dim": 32},
    "gpt2": {"vocab_size": 3072, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256},
    "gemma": SMALL | {"head_dim": 32},
    "gemma2": SMALL | {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 64},
}
BUILD = {
    "CMAKE_ARGS": "-DGGML_NATIVE=OFF -DGGML_OPENMP=OFF -DLLAMA_CURL=OFF -DLLAMA_BUILD_TESTS=OFF "
    "-DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF -DMTMD_BUILD=OFF",
    "CMAKE_BUILD_PARALLEL_LEVEL": "2",
}


@pytest.fixture(scope="session")
def llama_cpp_python() -> str:
    if given := os.environ.get("GRAFT_LLAMA_CPP"):
        return given
    if importlib.util.find_spec("llama_cpp") is not None:
        return sys.executable
    folder = cache_folder() / "llama-cpp"
    python = folder / "bin" / "python"
    if not (folder / "built").is_file():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        built = subprocess.run(
            [str(python), "-m", "pip", "install", "-q", "llama-cpp-python"],
            env=os.environ | BUILD,
            capture_output=True,
            text=True,
        )
        if built.returncode:
            pytest.skip(f"llama-cpp-python cannot be built: {built.stderr[-300:]}")
        (folder / "built").touch()
    return str(python)


@pytest.fixture
def llama_cpp(llama_cpp_python: str) -> Callable[..., dict[str, Any]]:
    """GGUF file and questions → llama.cpp's answers."""

    def ask(file: Path, **questions: Any) -> dict[str, Any]:
        worker = Path(__file__).with_name("llama_cpp_worker.py")
        asked = json.dumps({"file": str(file), **questions})
        done = subprocess.run([llama_cpp_python, str(worker)], input=asked, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return dict(json.loads(done.stdout))

    return ask


def random_model(kind: str, config: dict[str, Any]) -> PreTrainedModel:
    """Weights large enough for logits of size 5 or more that depend on every token."""
    torch.manual_seed(0)
    sizes = {"model_type": kind} | config
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(sizes.pop("model_type"), **sizes))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.15)
            elif "bias" in name:
                parameter.normal_(0, 0.1)
            else:
                parameter += 0.2 * torch.randn_like(parameter)
    return model.eval()


@torch.no_grad()
def own_logits(model: torch.nn.Module, rows: list[list[int]]) -> list[torch.Tensor]:
    return [model(input_ids=torch.tensor([row])).logits[0] for row in rows]


@torch.no_grad()
def own_greedy(model: torch.nn.Module, prompt: list[int], count: int) -> list[int]:
    row = list(prompt)
    for _ in range(count):
        row.append(int(model(input_ids=torch.tensor([row])).logits[0, -1].argmax()))
    return row[len(prompt) :]


def apart(found: list[Any], wanted: list[torch.Tensor]) -> tuple[float, float]:
    pairs = [(torch.tensor(one), other) for one, other in zip(found, wanted, strict=True)]
    return max(float((a - b).abs().max()) for a, b in pairs), max(float(b.abs().max()) for _, b in pairs)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_random_model_says_the_same_in_llama_cpp(name, llama_cpp, parity, tmp_path):
    model = random_model(name, FAMILIES[name])
    save_model(model, load_tokenizer("rootstock"), tmp_path / "model")
    write_gguf(str(tmp_path / "model"), tmp_path / "model.gguf", "f32")
    draw = random.Random(0)
    rows = [[draw.randrange(6, 3072) for _ in range(length)] for length in (5, 40, 120)]
    found = llama_cpp(tmp_path / "model.gguf", rows=rows, greedy=[[rows[1], 40]])
    # llama.cpp looks GELU up in a table of 16-bit floats: what differs there is its rounding.
    bound = 5e-3 if name.startswith(("gpt2", "gemma")) else 1e-4
    parity(name, "llama.cpp, GGUF f32", *apart(found["logits"], own_logits(model, rows)), bound=bound)
    assert found["greedy"] == [own_greedy(model, rows[1], 40)]


def test_rows_that_stay_where_they_are_show(llama_cpp, parity, tmp_path, monkeypatch):
    """Without the change of rows the rotation mixes other pairs of numbers."""
    plain = dataclasses.replace(gguf_families.FAMILIES["llama"], change=lambda name, tensor, config: tensor)
    monkeypatch.setattr(gguf_families, "FAMILIES", {"llama": plain})
    model = random_model("llama", SMALL)
    save_model(model, load_tokenizer("rootstock"), tmp_path / "model")
    write_gguf(str(tmp_path / "model"), tmp_path / "model.gguf", "f32")
    rows = [list(range(100, 140))]
    found = llama_cpp(tmp_path / "model.gguf", rows=rows)
    parity.differs("llama", "rows of q and k not interleaved", apart(found["logits"], own_logits(model, rows))[0])


def as_written(file: Path) -> PreTrainedModel:
    """The rootstock with the weights of its GGUF file, dequantised, heads' rows put back in halves."""
    model = load_model("rootstock", dtype=torch.float32, device=CPU)
    known = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, model.config.num_hidden_layers)
    stored = {tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type) for tensor in gguf.GGUFReader(file).tensors}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = torch.tensor(stored[known.get_name(name, try_suffixes=(".weight",))])
            if "q_proj" in name or "k_proj" in name:
                values = values.view(4, 32, 2, 256).transpose(1, 2).reshape(256, 256)
            parameter.copy_(values)
    return model


@pytest.mark.parametrize(("kind", "bound"), [("f32", 1e-4), ("bf16", 0.1), ("f16", 0.1), ("q8_0", 0.8), ("q4_0", 0.8)])
def test_the_rootstock_says_the_same_in_llama_cpp(kind, bound, llama_cpp, parity, tmp_path):
    """Against the weights as they were written. In fewer than 32 bits llama.cpp rounds activations, too: the bounds
    are its arithmetic's."""
    write_gguf("rootstock", tmp_path / "model.gguf", kind)
    tokenizer, model = load_tokenizer("rootstock"), as_written(tmp_path / "model.gguf")
    asked = [
        "<|begin|><|user|>" + text + "<|end|><|assistant|>"
        for text in ("What is 12 + 7?", "What is a fever?", "医生，我头痛怎么办？", "Translate into Chinese: good day")
    ]
    rows = [tokenizer(text)["input_ids"] for text in asked]
    found = llama_cpp(tmp_path / "model.gguf", rows=rows, texts=asked, greedy=[[row, 24] for row in rows])
    parity(f"rootstock, {kind}", "llama.cpp", *apart(found["logits"], own_logits(model, rows)), bound=bound)
    assert found["tokens"] == rows
    assert found["end"] == tokenizer.eos_token_id
    if kind in ("f32", "bf16", "f16"):
        assert found["greedy"] == [own_greedy(model, row, 24) for row in rows]


def test_the_rootstocks_words_are_cut_alike(llama_cpp, tmp_path):
    """Thousands of odd texts; only runs of white space before a word are cut in another way, as the note says."""
    tokenizer = load_tokenizer("rootstock")
    made = write_gguf("rootstock", tmp_path / "model.gguf", "f32")
    assert any("white space" in note for note in made.notes)
    texts = [text for text in probes(tokenizer.backend_tokenizer) if "\0" not in text]
    world = generate_world("clinic", "documents", count=200)
    texts += [sample.text for sample in world]
    found = llama_cpp(tmp_path / "model.gguf", texts=texts)["tokens"]
    wanted = tokenizer(texts, add_special_tokens=False)["input_ids"]
    odd = [text for text, one, other in zip(texts, found, wanted, strict=True) if one != other]
    assert 0 < len(odd) < 0.05 * len(texts)
    assert all(re.search(r"\s\s", text) for text in odd)


def test_a_trained_and_merged_model_answers_alike(llama_cpp, tmp_path):
    """An adapter trained on the clinic, merged, exported: the same greedy answers to consultations."""
    recipe = {
        "name": "clinic", "base": "rootstock", "output": str(tmp_path / "run"), "device": "cpu", "save_as": "bf16",
        "data": {"talk": {"world": "clinic", "part": "consultations", "count": 400}},
        "stages": {
            "sft": {"stage": "sft", "blocks": ["talk"], "tokens": 30_000, "method": "lora", "learning_rate": 2e-3},
            "file": {"stage": "export", "to": "gguf", "type": "f32"},
        },
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    run = run_recipe(load_recipe(tmp_path / "recipe.yaml"))
    speaker = load_speaker(str(run), "own")
    asked = [sample.turns[:1] for sample in generate_world("clinic", "consultations", count=12, start=2000)]
    prompts = [speaker.prompt(list(turns)) for turns in asked]
    stops = speaker.subject.stop_ids
    answers = generate(
        speaker.subject.model, prompts, Decoding(greedy=True, max_new_tokens=40), stop_ids=stops, pad_id=0
    )
    found = llama_cpp(run / "02-file" / "export" / "clinic-f32.gguf", greedy=[[prompt, 40] for prompt in prompts])
    for theirs, ours in zip(found["greedy"], answers, strict=True):
        assert theirs[: len(ours.tokens)] == list(ours.tokens)
        assert len(ours.tokens) == 40 or theirs[len(ours.tokens)] in stops
    assert len({answer.tokens for answer in answers}) > 3


def sentencepiece_like() -> PreTrainedTokenizerFast:
    """LLaMA 2's sort: BPE over characters, ▁ for spaces, bytes for what is unknown."""
    rust = RustTokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    rust.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    marks = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=marks, show_progress=False)
    rust.train_from_iterator((sample.text for sample in generate_world("clinic", "documents", count=150)), trainer)
    described = json.loads(rust.to_str())
    described["pre_tokenizer"] = None
    described["added_tokens"] = described["added_tokens"][:3]  # bytes are pieces, no special tokens
    rust = RustTokenizer.from_str(json.dumps(described))
    rust.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    rust.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    rust.add_special_tokens([AddedToken(mark, normalized=False) for mark in marks[:3]])
    return PreTrainedTokenizerFast(tokenizer_object=rust, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def test_a_sentencepiece_vocabulary_is_cut_alike(llama_cpp, tmp_path):
    tokenizer = sentencepiece_like()
    model = random_model("llama", SMALL | {"vocab_size": len(tokenizer) + 5})
    save_model(model, tokenizer, tmp_path / "model")
    made = write_gguf(str(tmp_path / "model"), tmp_path / "model.gguf", "f32")
    assert made.words == "sentencepiece"
    texts = ["Hello, world!  two  spaces", "中文测试，😀", "a\nb\tc", "The patient has a fever.", "naïve 1234", "x"]
    texts += [sample.text[:300] for sample in generate_world("clinic", "documents", count=40, start=1000)]
    texts += ["<s>The fever</s>"]
    found = llama_cpp(tmp_path / "model.gguf", texts=texts)["tokens"]
    assert found == tokenizer(texts, add_special_tokens=False)["input_ids"]
    assert merge_by_score("▁ab", {"▁": 0.0, "a": 0.0, "b": 0.0, "ab": -1.0, "▁a": -2.0}) == ["▁", "ab"]
