"""Converting: what is recognised, what is refused, weights in many files, and grouped queries."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from graftlm.core.errors import ModelError
from graftlm.models.conversion import LAYOUTS, convert, recognise
from graftlm.models.families.grouped_query import pool_heads
from graftlm.models.loading import load_model
from graftlm.models.weight_files import open_weights, write_safetensors

CPU = torch.device("cpu")
SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 8, "num_key_value_heads": 8, "max_position_embeddings": 64}
TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])


def write_model(folder: Path, family: str = "llama", *, alike: int = 1, **sizes: object) -> Path:
    """A random model whose key and value heads are equal within groups of `alike`."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SIZES | sizes), dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0, 0.3)
            if "k_proj" in name or "v_proj" in name:
                heads = parameter.view(8 // alike, alike, -1)
                heads.copy_(heads[:, :1].expand_as(heads).clone())
    model.save_pretrained(folder)
    return folder


@torch.no_grad()
def logits(folder: Path) -> torch.Tensor:
    return load_model(str(folder), dtype=torch.float32, device=CPU)(input_ids=TOKENS).logits


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
def test_pooling_is_exact_where_the_heads_of_a_group_are_equal(tmp_path, family):
    source = write_model(tmp_path / "source", family, alike=4)
    done = convert(source, tmp_path / "pooled", kv_heads=2)
    assert any("8 key/value heads pooled to 2" in note for note in done.notes)
    config = AutoConfig.from_pretrained(tmp_path / "pooled")
    assert config.num_key_value_heads == 2
    torch.testing.assert_close(logits(tmp_path / "pooled"), logits(source), atol=1e-5, rtol=0)


def test_pooling_unequal_heads_takes_their_mean(tmp_path):
    source = write_model(tmp_path / "source")
    convert(source, tmp_path / "pooled", kv_heads=4)
    before, after = (load_file(folder / "model.safetensors") for folder in (source, tmp_path / "pooled"))
    for name, tensor in before.items():
        if "k_proj" not in name and "v_proj" not in name:
            assert torch.equal(after[name], tensor), name
            continue
        for head in range(4):
            one, other = tensor[head * 8 : head * 8 + 4], tensor[head * 8 + 4 : head * 8 + 8]
            torch.testing.assert_close(after[name][head * 4 : head * 4 + 4], (one + other) / 2)
    assert (logits(tmp_path / "pooled") - logits(source)).abs().max() > 0.1


def test_a_bias_is_pooled_as_the_rows_are():
    bias = torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 8])
    assert pool_heads(bias, 4, 2).tolist() == [2, 3, 6, 7]
    assert pool_heads(bias.bfloat16(), 4, 1).dtype == torch.bfloat16


@pytest.mark.parametrize("count", [3, 8, 16])
def test_heads_that_make_no_groups_are_refused(tmp_path, count):
    with pytest.raises(ModelError, match="8 key/value heads") as caught:
        convert(write_model(tmp_path / "source"), tmp_path / "pooled", kv_heads=count)
    assert caught.value.fix == "choose one of 1, 2, 4"
    assert not (tmp_path / "pooled").exists()


def test_a_model_without_key_heads_of_its_own_is_refused(tmp_path):
    config = AutoConfig.for_model("gpt2", vocab_size=64, n_embd=32, n_layer=1, n_head=4, n_positions=32)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "source")
    with pytest.raises(ModelError, match="no key and value heads of its own"):
        convert(tmp_path / "source", tmp_path / "pooled", kv_heads=2)
    for to in ("chatglm", "baichuan", "meta"):
        with pytest.raises(ModelError, match="does not fit into"):
            convert(tmp_path / "source", tmp_path / "other", to=to)


def test_what_cannot_be_converted_is_said(tmp_path):
    source = write_model(tmp_path / "source")
    with pytest.raises(ModelError, match="in the layout of Hugging Face already"):
        convert(source, tmp_path / "target")
    with pytest.raises(ModelError, match="the target exists already"):
        convert(source, source, kv_heads=4)
    with pytest.raises(ModelError, match="no such file or folder"):
        convert(tmp_path / "absent", tmp_path / "target")
    with pytest.raises(ModelError, match="there is no layout `ggml`"):
        convert(source, tmp_path / "target", to="ggml")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="no checkpoint of a known layout") as caught:
        convert(tmp_path / "empty", tmp_path / "target")
    assert all(layout.what in caught.value.fix for layout in LAYOUTS)


def test_tied_heads_are_written_out_for_layouts_that_know_no_ties(tmp_path):
    source = write_model(tmp_path / "source", tie_word_embeddings=True)
    convert(source, tmp_path / "meta", to="meta")
    written = torch.load(tmp_path / "meta" / "consolidated.00.pth", weights_only=True)
    assert torch.equal(written["output.weight"], written["tok_embeddings.weight"])
    convert(tmp_path / "meta", tmp_path / "back")
    assert torch.equal(logits(tmp_path / "back"), logits(source))


def test_pickled_weights_become_safetensors(tmp_path):
    source = write_model(tmp_path / "source")
    expected = logits(source)
    torch.save(load_file(source / "model.safetensors"), source / "pytorch_model.bin")
    (source / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="safetensors") as caught:
        load_model(str(source), dtype=torch.float32, device=CPU)
    assert "graft convert" in caught.value.fix
    convert(source, tmp_path / "target")
    assert torch.equal(logits(tmp_path / "target"), expected)


def test_weights_are_written_a_shard_at_a_time(tmp_path):
    written = []

    def read(i: int) -> torch.Tensor:
        written.append(len(list(tmp_path.iterdir())))
        return torch.full((4, 8), float(i))

    tensors = {f"t{i}": (lambda i=i: read(i)) for i in range(7)}
    size = write_safetensors(tmp_path, tensors, shard_bytes=300)
    assert size == 7 * 128
    assert written == [0, 0, 0, 1, 1, 2, 2]  # two fit into a shard; the third one read sends them to the disk
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert sorted(set(index["weight_map"].values())) == [f"model-{n:05}-of-00004.safetensors" for n in range(1, 5)]
    assert index["metadata"]["total_size"] == size
    assert all((tmp_path / name).stat().st_size < 600 for name in index["weight_map"].values())
    again = open_weights(tmp_path)
    assert all(torch.equal(again.tensor(name)(), read()) for name, read in tensors.items())


def test_parts_of_one_tensor_do_not_take_the_whole_along(tmp_path):
    whole = torch.arange(1000.0)
    write_safetensors(tmp_path, {"first": lambda: whole[:10], "last": lambda: whole[-10:]})
    assert (tmp_path / "model.safetensors").stat().st_size < 400
    assert open_weights(tmp_path).tensor("last")().tolist() == list(range(990, 1000))


def test_a_missing_shard_is_named(tmp_path):
    write_safetensors(tmp_path, {f"t{i}": lambda: torch.ones(10) for i in range(3)}, shard_bytes=50)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ModelError) as caught:
        open_weights(tmp_path)
    assert caught.value.where.endswith("model-00002-of-00003.safetensors")


def test_a_converted_folder_is_recognised_as_what_it_is(tmp_path):
    source = write_model(tmp_path / "source")
    for name in ("meta", "baichuan"):
        convert(source, tmp_path / name, to=name)
        assert recognise(tmp_path / name).name == name
    assert recognise(source).name == "hugging-face"
    for file in (tmp_path / "meta").iterdir():  # as some repositories hold both
        (source / file.name).write_bytes(file.read_bytes())
    assert recognise(source).name == "hugging-face"
    assert recognise(tmp_path) is None
