"""P-Tuning v2: the prefix is seen by every token of every document, and by nothing else is anything changed."""

from __future__ import annotations

import copy
import importlib.util

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from graftlm.core.errors import ModelError
from graftlm.inference.decoding import Decoding
from graftlm.inference.generation import generate, stream
from graftlm.inference.scorer import score_choices
from graftlm.models.adapters import (
    Lora,
    Prefix,
    layers_with_gradient,
    make_trainable,
    merge_adapter,
    parameter_counts,
    prefix_of,
    recompute_activations,
    save_adapter,
)
from graftlm.models.loading import load_model, load_tokenizer, save_model
from graftlm.models.reward import load_reward_model, save_reward_model
from graftlm.models.trunk import hidden_states, output_head
from graftlm.objectives.causal_lm import CausalLM
from graftlm.ops.learnt_prefix import PrefixStates, attention_behind, packed_attention_behind
from graftlm.training.trainer import Trainer, TrainingSettings

CPU = torch.device("cpu")
TOKENS = torch.arange(3, 30)
BOUNDARIES = torch.tensor([0, 8, 9, 27], dtype=torch.int32)


def prefixed(model: PreTrainedModel, **options: object) -> PreTrainedModel:
    torch.manual_seed(1)
    return make_trainable(model, Prefix(tokens=5, dropout=0.0, **options)).eval()  # type: ignore[arg-type,return-value]


def states(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return hidden_states(model.eval(), TOKENS, BOUNDARIES)


def by_definition(q, k, v, prefix: PrefixStates, seen: torch.Tensor) -> torch.Tensor:
    """One softmax over prefix and own keys, head by head, in fp64. q [T, H, D], seen [T, S] → [T, H, D]."""
    out = torch.empty_like(q, dtype=torch.float64)
    repeat = q.shape[1] // k.shape[1]
    for h in range(q.shape[1]):
        keys = torch.cat([prefix.key_PGD[:, h // repeat], k[:, h // repeat]]).double()
        values = torch.cat([prefix.value_PGD[:, h // repeat], v[:, h // repeat]]).double()
        scores = q[:, h].double() @ keys.T / q.shape[-1] ** 0.5
        visible = F.pad(seen, (len(prefix.key_PGD), 0), value=True)
        out[:, h] = scores.masked_fill(~visible, float("-inf")).softmax(-1) @ values
    return out


@pytest.mark.parametrize("window", [None, 4])
def test_packed_attention_is_its_definition(window):
    torch.manual_seed(0)
    q, k, v = torch.randn(27, 4, 8), torch.randn(27, 2, 8), torch.randn(27, 2, 8)
    prefix = PrefixStates(torch.randn(5, 2, 8), torch.randn(5, 2, 8))
    found = packed_attention_behind(q, k, v, prefix, BOUNDARIES, window=window)
    document = torch.tensor([0] * 8 + [1] + [2] * 18)
    distance = torch.arange(27)[:, None] - torch.arange(27)[None, :]
    seen = (document[:, None] == document) & (distance >= 0) & (distance < (window or 99))
    torch.testing.assert_close(found.double(), by_definition(q, k, v, prefix, seen), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("queries", "masked"), [(1, False), (9, False), (3, True), (9, "additive")])
def test_attention_with_a_cache_is_its_definition(queries, masked):
    torch.manual_seed(0)
    q, k, v = torch.randn(1, 4, queries, 8), torch.randn(1, 2, 9, 8), torch.randn(1, 2, 9, 8)
    prefix = PrefixStates(torch.randn(5, 2, 8), torch.randn(5, 2, 8))
    seen = torch.arange(9 - queries, 9)[:, None] >= torch.arange(9)[None, :]
    mask = seen[None, None] if masked else None
    if masked == "additive":
        mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[None, None]
    found = attention_behind(q, k, v, prefix, mask)[0].transpose(0, 1)
    wanted = by_definition(q[0].transpose(0, 1), k[0].transpose(0, 1), v[0].transpose(0, 1), prefix, seen)
    torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "gpt2"])
def test_packed_is_each_document_alone(tiny_model, family):
    """In one row, in padded rows, and by transformers' own forward; without the prefix all three differ from it."""
    model = tiny_model(family)
    without = states(model)
    model = prefixed(model)
    packed = states(model)
    model.graft_packs = False
    padded = states(model)
    torch.testing.assert_close(packed, padded, atol=1e-4, rtol=1e-4)
    logits = output_head(model).logits(packed)
    for start, end in ((0, 8), (8, 9), (9, 27)):
        alone = model(input_ids=TOKENS[None, start:end], use_cache=False).logits[0]
        torch.testing.assert_close(logits[start:end], alone, atol=1e-3, rtol=1e-3)
    assert (packed - without).abs().max() > 0.1


def test_with_equal_scores_prefix_and_own_values_are_averaged(tiny_model):
    """Queries of 0 make all scores 0: the first token of a document then hears the mean of P + 1 values."""
    model = prefixed(tiny_model("llama"))
    layer = model.model.layers[0]
    with torch.no_grad():
        layer.self_attn.q_proj.weight.zero_()
    heard = []
    layer.self_attn.o_proj.register_forward_pre_hook(lambda module, inputs: heard.append(inputs[0]))
    model(input_ids=TOKENS[None, :1])
    own = layer.self_attn.v_proj(layer.input_layernorm(model.model.embed_tokens(TOKENS[:1])))[0].view(2, 8)
    value = prefix_of(model).layer(0).value_PGD
    wanted = ((value.sum(0) + own) / 6).repeat_interleave(2, dim=0).flatten()
    torch.testing.assert_close(heard[0].flatten(), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("projection", [False, True])
def test_only_the_prefix_is_trained_every_layer_of_it(tiny_model, make_plan, projection):
    model = make_trainable(tiny_model("llama"), Prefix(tokens=4, projection=projection, hidden=16))
    width = 2 * 2 * 2 * 8
    sizes = 4 * width + (projection and width * 16 + 16 + 16 * width + width)
    assert parameter_counts(model)["trained"] == sizes
    assert layers_with_gradient(model) == 2
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    plan = make_plan([30] * 20, row_tokens=64, learnable=True)
    record = Trainer(model, CausalLM(), plan, TrainingSettings(learning_rate=0.03, log_every=1)).fit()
    assert record.losses[-1]["loss"] < record.losses[0]["loss"]
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) != name.startswith("graft_prefix."), name
    after, old = prefix_of(model), before["graft_prefix.embedding.weight"]
    changed = (after.embedding.weight - old).abs().view(4, 4, 16).amax(dim=(0, 2))
    assert (changed > 0).all(), "keys and values of both layers"


def test_recomputed_activations_give_the_same_gradients(tiny_model):
    found = []
    for again in (False, True):
        model = prefixed(tiny_model("llama")).train()
        if again:
            recompute_activations(model)
        hidden_states(model, TOKENS, BOUNDARIES).square().sum().backward()
        found.append(prefix_of(model).embedding.weight.grad)
    torch.testing.assert_close(found[0], found[1])
    assert found[0].abs().max() > 0


def test_dropout_is_of_training_alone(tiny_model):
    model = make_trainable(tiny_model("llama"), Prefix(tokens=4, dropout=0.5))
    assert torch.equal(states(model), states(model))
    model.train()
    with torch.no_grad():
        assert not torch.equal(*(hidden_states(model, TOKENS, BOUNDARIES) for _ in range(2)))


def test_a_copy_has_a_prefix_of_its_own(tiny_model):
    """The reference of a policy is a deep copy."""
    model = prefixed(tiny_model("llama"))
    frozen = copy.deepcopy(model)
    before = states(model)
    with torch.no_grad():
        prefix_of(model).embedding.weight += 1
    assert torch.equal(states(frozen), before)
    assert not torch.allclose(states(model), before)


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral"])
def test_cached_generation_is_naive_generation(tiny_model, family):
    """In slots and, streamed, in a cache of its own; Mistral's window is shorter than the answers."""
    model = prefixed(tiny_model(family))
    prompts = [[5, 6, 7], [9] * 11, [40]]
    decoding = Decoding(greedy=True, max_new_tokens=6)
    found = generate(model, prompts, decoding, stop_ids={999}, pad_id=0)
    for prompt, completion in zip(prompts, found, strict=True):
        tokens = list(prompt)
        for _ in range(6):
            boundaries = torch.tensor([0, len(tokens)], dtype=torch.int32)
            last = hidden_states(model, torch.tensor(tokens), boundaries)[-1:]
            tokens.append(int(output_head(model).logits(last).argmax()))
        assert tokens[len(prompt) :] == list(completion.tokens)
        pieces = stream(model, prompt, decoding, stop_ids={999}, pad_id=0, decode=lambda ids: "".join(map(chr, ids)))
        assert [ord(letter) for letter in "".join(pieces)] == list(completion.tokens)


def test_an_answer_that_ends_leaves_the_others_alone(tiny_model):
    """Fewer requests than slots: a stop token of the first answer ends it alone."""
    model, prompts = prefixed(tiny_model("llama")), [[5, 6, 7], [9] * 11, [40]]
    decoding = Decoding(greedy=True, max_new_tokens=9)
    whole = [list(one.tokens) for one in generate(model, prompts, decoding, stop_ids={999}, pad_id=0)]
    stop = next(token for token in whole[0] if token not in whole[1] + whole[2])
    found = generate(model, prompts, decoding, stop_ids={stop}, pad_id=0)
    assert list(found[0].tokens) == whole[0][: whole[0].index(stop)]
    assert [list(one.tokens) for one in found[1:]] == whole[1:]


def test_options_are_scored_behind_the_prefix(tiny_model):
    model = prefixed(tiny_model("llama"))
    [[first, second]] = score_choices(model, [[5, 6, 7]], [[[8, 9], [10, 11, 12]]], pad_id=0)
    for score, option in ((first, [8, 9]), (second, [10, 11, 12])):
        tokens = torch.tensor([5, 6, 7, *option])
        with torch.no_grad():
            log_p = model(input_ids=tokens[None]).logits[0].log_softmax(-1)
        wanted = sum(float(log_p[2 + place, token]) for place, token in enumerate(option))
        assert score.log_probability == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("projection", [False, True])
def test_a_saved_model_is_loaded_with_its_prefix(projection, tmp_path):
    tokenizer = load_tokenizer("rootstock")
    model = prefixed(load_model("rootstock", dtype=torch.float32, device=CPU), projection=projection)
    before = states(model)
    save_model(merge_adapter(model), tokenizer, tmp_path, torch.float32)
    assert torch.equal(states(model), before), "saving leaves the model as it is"
    again = load_model(str(tmp_path), dtype=torch.float32, device=CPU)
    assert not any(parameter.requires_grad for parameter in prefix_of(again).parameters())
    torch.testing.assert_close(states(again), before, atol=1e-5, rtol=1e-5)
    plain = load_model("rootstock", dtype=torch.float32, device=CPU)
    own = {name: p for name, p in again.named_parameters() if not name.startswith("graft_prefix")}
    assert all(torch.equal(own[name], p) for name, p in plain.named_parameters()), "the base is bit-equal"


def test_a_reward_model_keeps_the_prefix_of_its_start(tmp_path):
    model, tokenizer = prefixed(load_model("rootstock", dtype=torch.float32, device=CPU)), load_tokenizer("rootstock")
    before = states(model)
    save_model(model, tokenizer, tmp_path / "start")
    reward = load_reward_model(str(tmp_path / "start"), dtype=torch.float32, device=CPU)
    torch.testing.assert_close(states(reward), before, atol=1e-5, rtol=1e-5)
    save_reward_model(reward, tokenizer, tmp_path / "reward")
    again = load_reward_model(str(tmp_path / "reward"), dtype=torch.float32, device=CPU)
    torch.testing.assert_close(states(again), before, atol=1e-5, rtol=1e-5)


def test_the_prefix_stays_fp32_beside_bf16_weights(tmp_path):
    model = prefixed(load_model("rootstock", dtype=torch.bfloat16, device=CPU))
    before = prefix_of(model).embedding.weight.detach().clone()
    assert states(model).dtype == torch.bfloat16
    save_model(model, load_tokenizer("rootstock"), tmp_path, torch.bfloat16)
    again = load_model(str(tmp_path), dtype=torch.bfloat16, device=CPU)
    assert torch.equal(prefix_of(again).embedding.weight, before) and before.dtype == torch.float32


def test_a_later_adapter_leaves_the_prefix(tiny_model):
    model = make_trainable(prefixed(tiny_model("llama")), Lora(rank=2))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    before = states(model)
    torch.testing.assert_close(states(merge_adapter(model)), before, atol=1e-5, rtol=1e-5)


def test_training_goes_on_with_the_prefix_that_is_there(tiny_model):
    model = prefixed(tiny_model("llama"))
    before = states(model)
    again = make_trainable(model, Prefix(tokens=5))
    assert torch.equal(states(again), before)
    assert parameter_counts(again)["trained"] == prefix_of(model).embedding.weight.numel()
    with pytest.raises(ModelError, match="a prefix of 5 tokens already"):
        make_trainable(model, Prefix(tokens=6))


@pytest.mark.parametrize("family", ["mamba", "bloom", "gemma2"])
def test_attention_that_takes_no_prefix_is_a_clear_error(tiny_model, family):
    with pytest.raises(ModelError, match=r"takes no prefix(?s:.*)method: lora"):
        make_trainable(tiny_model(family), Prefix(tokens=4))


def test_a_folder_of_another_method_is_a_clear_error(tmp_path):
    model = prefixed(load_model("rootstock", dtype=torch.float32, device=CPU))
    save_model(model, load_tokenizer("rootstock"), tmp_path)
    weights = load_file(tmp_path / "prefix" / "adapter_model.safetensors")
    save_file({"prompt_embeddings": weights["prompt_embeddings"][:-1]}, tmp_path / "prefix/adapter_model.safetensors")
    with pytest.raises(ModelError, match="is not what its config says"):
        load_model(str(tmp_path), dtype=torch.float32, device=CPU)
    adapted = make_trainable(load_model("rootstock", dtype=torch.float32, device=CPU), "lora")
    save_adapter(adapted, str(tmp_path / "prefix"))
    with pytest.raises(ModelError, match="it is not a prefix"):
        load_model(str(tmp_path), dtype=torch.float32, device=CPU)


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.filterwarnings("ignore")
def test_on_quantised_weights_what_is_saved_is_what_was_trained(tmp_path):
    model = prefixed(load_model("rootstock", dtype=torch.float32, device=CPU, bits=4))
    hidden_states(model.train(), TOKENS, BOUNDARIES).square().sum().backward()
    assert prefix_of(model).embedding.weight.grad.abs().max() > 0
    before = states(model)
    save_model(merge_adapter(model), load_tokenizer("rootstock"), tmp_path)
    again = load_model(str(tmp_path), dtype=torch.float32, device=CPU)
    assert float((states(again) - before).norm() / before.norm()) < 1e-4
