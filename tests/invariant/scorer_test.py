"""Scores of requests that begin alike are what the definition gives: one full forward for each context and option."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedModel

from graftlm.inference import scorer
from graftlm.inference.scorer import Score, score_choices
from graftlm.models.adapters import Lora, Prefix, make_trainable
from graftlm.models.families.baichuan_alibi import BaichuanAlibiConfig, BaichuanAlibiForCausalLM
from graftlm.models.token_tree import takes_trees
from graftlm.models.trunk import prepare_trunk

V = 96
SIZES = {
    "vocab_size": V, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
SMALL = {"vocab_size": V, "hidden_size": 32, "n_layer": 2, "n_head": 4}
EXPERTS = {"num_experts": 4, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}
GLM = {"vocab_size": V, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
BART = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 128,
}  # fmt: skip
IDS = {"mask_token_id": 3, "smask_token_id": 4, "gmask_token_id": 5, "sop_token_id": 6, "eop_token_id": 7}

TREES: dict[str, tuple[str, dict[str, object]]] = {
    "llama": ("llama", SIZES),
    "gpt2": ("gpt2", {"vocab_size": V, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}),
    "qwen3": ("qwen3", SIZES),
    "gemma": ("gemma", SIZES),
    "glm": ("glm", SIZES),
    "glm4": ("glm4", SIZES),
    "mistral, wide window": ("mistral", SIZES | {"sliding_window": 100}),
    "mistral, some behind the window": ("mistral", SIZES | {"sliding_window": 30}),
}  # fmt: skip
ROWS: dict[str, tuple[str, dict[str, object]]] = {
    "mistral, narrow window": ("mistral", SIZES | {"sliding_window": 4}),
    "gemma2, capped scores": ("gemma2", SIZES),
    "bloom, ALiBi": ("bloom", SMALL),
    "qwen2_moe": ("qwen2_moe", SIZES | EXPERTS),
    "mamba": ("mamba", {"vocab_size": V, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}),
    "glm130b": ("glm130b", GLM | IDS),
}  # fmt: skip


def build(kind: str) -> PreTrainedModel:
    torch.manual_seed(0)
    family, sizes = (TREES | ROWS)[kind]
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes), dtype=torch.float32)
    return spread(model)


def spread(model: PreTrainedModel) -> PreTrainedModel:
    """Weights so large that each token matters: a leak shows far above the tolerance."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, 0.2)
    return model.eval()


def random_requests(seed: int, longest: int = 30) -> tuple[list[list[int]], list[list[list[int]]]]:
    """Contexts with common headers, options that begin alike, equal contexts and equal options, in no order."""
    rng = random.Random(seed)

    def some(low: int, high: int, kinds: int = V - 8) -> list[int]:
        return [8 + rng.randrange(kinds) for _ in range(rng.randint(low, high))]

    headers = [some(0, longest) for _ in range(3)]
    contexts = [rng.choice(headers) + some(1, 9, rng.choice((3, V - 8))) for _ in range(9)]
    contexts += [list(rng.choice(contexts)), contexts[0][:1]]
    rng.shuffle(contexts)
    stems = [some(0, 4) for _ in range(3)]
    options = [[rng.choice(stems) + some(1, 4) for _ in range(rng.randint(1, 4))] for _ in contexts]
    options[0] += [list(options[0][0]), [9], [10]]
    return contexts, options


@torch.no_grad()
def by_definition(model: PreTrainedModel, context: list[int], option: list[int]) -> Score:
    log_p_TV = model(torch.tensor([context + option])).logits[0].double().log_softmax(-1)
    found = [log_p_TV[len(context) - 1 + place] for place in range(len(option))]
    total = sum(float(log_p_V[token]) for log_p_V, token in zip(found, option, strict=True))
    greedy = all(int(log_p_V.argmax()) == token for log_p_V, token in zip(found, option, strict=True))
    return Score(total, len(option), greedy)


def check(model: PreTrainedModel, requests: tuple[list[list[int]], list[list[list[int]]]], **budget: int) -> None:
    contexts, options = requests
    wanted = [
        [by_definition(model, context, option) for option in some]
        for context, some in zip(contexts, options, strict=True)
    ]
    finished: list[int] = []
    found = score_choices(model, contexts, options, pad_id=0, on_progress=finished.append, **budget)
    assert sum(finished) == len(contexts)
    for row, right in zip(found, wanted, strict=True):
        log_ps, rights = ([score.log_probability for score in some] for some in (row, right))
        assert log_ps == pytest.approx(rights, abs=1e-4)
        assert log_ps.index(max(log_ps)) == rights.index(max(rights))
        assert [(one.tokens, one.greedy) for one in row] == [(one.tokens, one.greedy) for one in right]


@pytest.fixture
def rows_run(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many contexts ran as rows of a cache."""
    counts: list[int] = []
    whole = scorer.score_cached

    def counted(model, contexts, *others, **budget):  # type: ignore[no-untyped-def]
        counts.append(len(contexts))
        return whole(model, contexts, *others, **budget)

    monkeypatch.setattr(scorer, "score_cached", counted)
    return counts


@pytest.mark.parametrize("kind", TREES)
@pytest.mark.parametrize("batch_tokens", [30, 10_000])
def test_families_that_take_trees(kind: str, batch_tokens: int, rows_run: list[int]) -> None:
    model = build(kind)
    check(model, random_requests(1), batch_tokens=batch_tokens)
    assert takes_trees(model)
    assert bool(sum(rows_run)) == ("behind" in kind)


@pytest.mark.parametrize("kind", ROWS)
def test_families_that_do_not(kind: str, rows_run: list[int]) -> None:
    model = build(kind)
    check(model, random_requests(2), batch_tokens=300)
    assert bool(sum(rows_run)) == (kind != "mamba")  # which runs whole requests


def test_ours_with_alibi(rows_run: list[int]) -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": V, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    config = BaichuanAlibiConfig(**sizes, num_attention_heads=4)
    check(spread(BaichuanAlibiForCausalLM(config)), random_requests(3))
    assert sum(rows_run) > 5


@pytest.mark.parametrize(("method", "trees"), [(Lora(rank=4), True), (Prefix(tokens=5, dropout=0.0), False)])
def test_adapters(method: Lora | Prefix, trees: bool, rows_run: list[int]) -> None:
    model = build("llama")
    prepare_trunk(model)
    torch.manual_seed(1)
    adapted = make_trainable(model, method).eval()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.2)
    check(adapted, random_requests(4))
    assert (sum(rows_run) == 0) == trees


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_encoder_decoders(family: str) -> None:
    """The context is the source, an option the target behind the start token."""
    sizes = {"t5": {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}, "bart": BART}[family]
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        family, vocab_size=V, pad_token_id=0, eos_token_id=1, bos_token_id=2, decoder_start_token_id=0, **sizes
    )
    model = AutoModelForSeq2SeqLM.from_config(config, dtype=torch.float32).eval()
    contexts, options = random_requests(6)
    found = score_choices(model, contexts, options, pad_id=0, batch_tokens=200)
    for context, some, row in zip(contexts, options, found, strict=True):
        for option, score in zip(some, row, strict=True):
            source, target = torch.tensor([context]), torch.tensor([[0, *option[:-1]]])
            with torch.no_grad():
                log_p_TV = model(input_ids=source, decoder_input_ids=target).logits[0].double().log_softmax(-1)
            total = sum(float(log_p_TV[place, token]) for place, token in enumerate(option))
            assert score.log_probability == pytest.approx(total, abs=1e-4)
            assert score.greedy == (log_p_TV.argmax(-1).tolist() == option)


@given(seed=st.integers(0, 10_000), batch_tokens=st.sampled_from([8, 25, 60, 200, 10_000]))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_shared(llama: PreTrainedModel, seed: int, batch_tokens: int) -> None:
    check(llama, random_requests(seed, longest=60), batch_tokens=batch_tokens)


@pytest.fixture(scope="module")
def llama() -> PreTrainedModel:
    return build("llama")


def test_a_leak_between_questions_would_be_seen(llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were the second question a child of the first, its score would be another."""
    requests = [[9, 8, 7, 10], [9, 8, 7, 11]], [[[20]], [[21]]]
    check(llama, requests)
    whole = scorer.pack_requests

    def wrong(*arguments, shared):  # type: ignore[no-untyped-def]
        for packed in whole(*arguments, shared=shared):
            packed.tree.parents[2] = 1
            yield packed

    monkeypatch.setattr(scorer, "pack_requests", wrong)
    with pytest.raises(AssertionError):
        check(llama, requests)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen3"])
def test_on_a_gpu_in_bf16(kind: str, rows_run: list[int]) -> None:
    model = build(kind)
    with torch.no_grad():
        for parameter in model.parameters():
            size = 0.25 if parameter.ndim >= 2 else 1.0  # logits of about 1, so that rounding stays below the bound
            parameter.copy_((size * parameter).bfloat16())
    contexts, options = random_requests(5)
    wanted = [
        [by_definition(model, context, option) for option in some]
        for context, some in zip(contexts, options, strict=True)
    ]
    found = score_choices(model.to("cuda", torch.bfloat16), contexts, options, pad_id=0)
    assert sum(rows_run) == 0
    for row, right in zip(found, wanted, strict=True):
        for one, other in zip(row, right, strict=True):
            assert abs(one.log_probability - other.log_probability) <= 1e-2 * one.tokens
