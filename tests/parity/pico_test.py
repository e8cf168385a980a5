"""The GPT-2 to be read is short, right, and answers as the fast engine does, in the shapes of its descendants, too."""

from __future__ import annotations

import ast
import json
import tokenize
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from graftlm.inference.decoding import Decoding
from graftlm.inference.generation import generate
from graftlm.models import pico
from graftlm.models.loading import load_model
from tests.parity.families import Family, random_model

CPU = torch.device("cpu")
PROMPT = [5, 17, 49, 0, 3, 3, 21, 8, 30]

SHAPES: dict[str, dict[str, int]] = {  # as many heads and layers as the published ones, fewer numbers
    "GPT-2": {"vocab_size": 503, "n_embd": 48, "n_layer": 12, "n_head": 12, "n_positions": 64},
    "Wenzhong": {"vocab_size": 503, "n_embd": 48, "n_layer": 6, "n_head": 24, "n_positions": 32},
    "Yuyuan": {"vocab_size": 503, "n_embd": 64, "n_layer": 30, "n_head": 32, "n_positions": 32},
}


@pytest.fixture(scope="module", params=SHAPES)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """(name, folder of a random model of this shape)."""
    folder = tmp_path_factory.mktemp(request.param)
    ends = {"bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0}
    family = Family("gpt2", SHAPES[request.param] | ends, read=lambda state: pytest.fail("not read"))
    random_model(family).save_pretrained(folder)
    return request.param, folder


def test_its_logits_are_those_of_transformers(saved: tuple[str, Path], parity: Any) -> None:
    name, folder = saved
    with torch.no_grad():
        wanted = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float64)(torch.tensor([PROMPT])).logits[0].numpy()
    weights, heads, eps = pico.load(folder)
    found = pico.forward(PROMPT, weights, heads, eps)
    parity(f"pico, {name}", "transformers, float64", float(np.abs(found - wanted).max()), float(np.abs(wanted).max()))
    for change, other in {
        "eps 1e-2": pico.forward(PROMPT, weights, heads, 1e-2),
        "half the heads": pico.forward(PROMPT, weights, heads // 2, eps),
    }.items():
        parity.differs(f"pico, {name}", change, float(np.abs(other - wanted).max()))


def test_it_answers_as_the_fast_engine_does(saved: tuple[str, Path]) -> None:
    given = list(PROMPT)
    answer = pico.greedy(given, 16, *pico.load(saved[1]))
    assert given == PROMPT, "the prompt is left alone"
    model = load_model(str(saved[1]), dtype=torch.float32, device=CPU)
    decoding = Decoding(temperature=0, max_new_tokens=16)
    [done] = generate(model, [PROMPT], decoding, stop_ids=(), pad_id=0)
    assert list(done.tokens) == answer
    assert len(set(answer)) > 1


def test_it_refuses_more_tokens_than_positions(saved: tuple[str, Path]) -> None:
    loaded = pico.load(saved[1])
    longest = SHAPES[saved[0]]["n_positions"]
    assert len(pico.forward([1] * longest, *loaded)) == longest
    with pytest.raises(AssertionError, match=f"{longest + 1} tokens do not fit {longest} positions"):
        pico.forward([1] * (longest + 1), *loaded)


def test_it_reads_names_without_prefix_and_heads_of_their_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = SHAPES["GPT-2"] | {"initializer_range": 0.3}
    model = GPT2LMHeadModel(GPT2Config(**sizes, tie_word_embeddings=False)).eval()
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file(
        {name.removeprefix("transformer."): weight for name, weight in weights.items()}, tmp_path / "model.safetensors"
    )
    assert not torch.equal(weights["lm_head.weight"], weights["transformer.wte.weight"])
    with torch.no_grad():
        wanted = model(torch.tensor([PROMPT])).logits[0].numpy()
    np.testing.assert_allclose(pico.forward(PROMPT, *pico.load(tmp_path)), wanted, atol=1e-4)
    assert json.loads((tmp_path / "config.json").read_text())["n_head"] == 12


def test_it_fits_one_page_and_every_line_of_arithmetic_says_its_shape() -> None:
    file = Path(pico.__file__)
    assert len(file.read_text().splitlines()) <= 60
    with file.open("rb") as source:
        commented = {token.start[0] for token in tokenize.tokenize(source.readline) if token.type == tokenize.COMMENT}
    tree = ast.parse(file.read_text())
    for function in [node for node in tree.body if isinstance(node, ast.FunctionDef)]:
        if function.name in ("load", "greedy"):
            continue
        for line in [node for node in ast.walk(function) if isinstance(node, ast.Assign | ast.Return)]:
            assert line.lineno in commented, f"line {line.lineno} of {function.name} does not say its shape"
