"""GLM-130B's architecture: blanks, caches, packed rows, the gradient's shrink, DeepNorm, options in one pass.

What its logits are, tests/parity/glm130b_test.py compares with an independent forward pass.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from graftlm.core.errors import ModelError
from graftlm.inference.cached import CachedBatch
from graftlm.inference.decoding import Decoding
from graftlm.inference.generation import generate
from graftlm.inference.scorer import score_choices
from graftlm.models.adapters import make_trainable, merge_adapter, recompute_activations
from graftlm.models.families.glm130b import infilling_states
from graftlm.models.families.glm130b_config import MARKS
from graftlm.models.families.glm130b_options import option_log_probabilities
from graftlm.models.loading import load_config, load_model, load_tokenizer, save_model
from graftlm.models.scratch import marks_of, new_model, train_tokenizer
from graftlm.models.trunk import causal_lm, hidden_states, output_head, prepare_trunk

MASK, SMASK, GMASK, SOP, EOP = 3, 4, 5, 6, 7
IDS = dict(zip(MARKS, (MASK, SMASK, GMASK, SOP, EOP), strict=True))
SIZES = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
CPU = torch.device("cpu")


def make(*, spread: float | None = 0.3, **sizes):
    torch.manual_seed(0)
    config = AutoConfig.for_model("glm130b", **(SIZES | {"max_position_embeddings": 64} | IDS | sizes))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters() if spread else ():
            parameter.add_(torch.randn_like(parameter) * spread)
    prepare_trunk(model)
    return model.eval()


@pytest.fixture(scope="module")
def model():
    return make()


PROMPTS = [
    [1, 20, MASK, 31, 8, 44, SOP],
    [1, 20, 31, GMASK, SOP],
    [1, 9, 10, 11, 12, 13, 14, 15, 16, 17, SMASK, 18, SOP],
    [1, 40, 41],  # no blank: a plain causal continuation
    [MASK, SOP],
]


def naive(model, prompt: list[int], count: int) -> tuple[list[int], list[float]]:
    """Greedy answer without a cache, one prompt by itself."""
    tokens, log_ps = list(prompt), []
    for _ in range(count):
        with torch.no_grad():
            log_p_V = model(torch.tensor([tokens])).logits[0, -1].double().log_softmax(-1)
        tokens.append(int(log_p_V.argmax()))
        log_ps.append(float(log_p_V.max()))
    return tokens[len(prompt) :], log_ps


def test_cached_generation_equals_naive_generation(model):
    """All prompts run in one batch, padded on the left: neither neighbours nor padding change an answer."""
    found = generate(model, PROMPTS, Decoding(greedy=True, max_new_tokens=8), stop_ids=(), pad_id=0)
    for prompt, answer in zip(PROMPTS, found, strict=True):
        tokens, log_ps = naive(model, prompt, 8)
        assert list(answer.tokens) == tokens
        assert answer.log_probabilities == pytest.approx(log_ps, abs=2e-4)


def test_rows_that_stay_keep_their_own_blank(model):
    """Rows leave a batch when they are finished, and the rest moves up."""
    batch = CachedBatch(model, PROMPTS, 0, room=2)
    with torch.no_grad():
        batch.prefill()
        batch.select(torch.tensor([2, 0, 1]))
        found = batch.step(torch.tensor([9, 10, 11]))
        for logits, prompt, token in zip(found, (PROMPTS[2], PROMPTS[0], PROMPTS[1]), (9, 10, 11), strict=True):
            alone = model(torch.tensor([[*prompt, token]])).logits[0, -1]
            torch.testing.assert_close(logits, alone, rtol=1e-4, atol=1e-4)


def test_the_transformers_generate_writes_the_same(model):
    prompt = PROMPTS[0]
    out = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=6, pad_token_id=0)
    assert out[0, len(prompt) :].tolist() == naive(model, prompt, 6)[0]


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_changes_nothing(model, side):
    longest = max(map(len, PROMPTS))
    rows, mask = [], []
    for prompt in PROMPTS:
        pad = [33] * (longest - len(prompt))
        rows.append([*pad, *prompt] if side == "left" else [*prompt, *pad])
        mask.append([0] * len(pad) + [1] * len(prompt) if side == "left" else [1] * len(prompt) + [0] * len(pad))
    with torch.no_grad():
        found = model(torch.tensor(rows), torch.tensor(mask)).logits
        for row, keep, prompt in zip(found, torch.tensor(mask).bool(), PROMPTS, strict=True):
            alone = model(torch.tensor([prompt])).logits[0]
            torch.testing.assert_close(row[keep], alone, rtol=1e-4, atol=1e-4)


def test_context_sees_both_ways_and_the_answer_its_past(model):
    """What changes where one token is replaced."""
    tokens = torch.tensor([[1, 20, MASK, 31, 8, SOP, 40, 41, 42]])

    def changed(place: int) -> list[bool]:
        other = tokens.clone()
        other[0, place] = 33
        with torch.no_grad():
            difference = (model(tokens).logits - model(other).logits)[0].abs().amax(-1)
        return (difference > 1e-4).tolist()

    assert changed(4) == [True] * 9
    assert changed(1) == [True] * 9
    assert changed(7) == [False] * 7 + [True] * 2


def test_packed_samples_equal_single_ones(model):
    samples = [([1, 20, MASK, 31, SOP, 9, 10], 4, 2), ([1, MASK, 8, SOP, 9], 3, 1), ([1, 20, GMASK, SOP, 9], 3, None)]
    positions = [
        place if place < context or mark is None else mark
        for tokens, context, mark in samples
        for place in range(len(tokens))
    ]
    branch = [int(place >= context) for tokens, context, _ in samples for place in range(len(tokens))]
    boundaries = [0, *itertools.accumulate(len(tokens) for tokens, *_ in samples)]
    row = [token for tokens, *_ in samples for token in tokens]
    with torch.no_grad():
        packed = infilling_states(
            model, torch.tensor(row), torch.tensor(positions), torch.tensor(boundaries).int(), torch.tensor(branch)
        )
        alone = torch.cat([model.model(torch.tensor([tokens])).last_hidden_state[0] for tokens, *_ in samples])
    torch.testing.assert_close(packed, alone, rtol=1e-4, atol=1e-4)


def test_documents_without_blanks_are_causal_and_apart(model):
    """The way of all other stages: nothing is scored that was seen, and documents do not see each other."""
    tokens, boundaries = torch.randint(8, 50, (20,)), torch.tensor([0, 9, 20], dtype=torch.int32)
    with torch.no_grad():
        whole = hidden_states(model, tokens, boundaries)
        first = hidden_states(model, tokens[:5], torch.tensor([0, 5], dtype=torch.int32))
    torch.testing.assert_close(whole[:5], first, rtol=1e-4, atol=1e-4)


def test_it_is_saved_and_loaded_bit_equal(tmp_path):
    texts = ["The cat sat on the mat.", "一只猫坐在垫子上。"] * 30
    tokenizer = train_tokenizer(texts, 340, max_tokens=64, marks=list(marks_of("glm130b").values()))
    sizes = {name: SIZES[name] for name in SIZES if name != "vocab_size"}
    model = new_model({"model_type": "glm130b", **sizes}, tokenizer, seed=0)
    assert [getattr(model.config, name) for name in MARKS] == tokenizer.convert_tokens_to_ids(list(MARKS.values()))
    save_model(model, tokenizer, tmp_path)
    again = load_model(str(tmp_path), dtype=torch.float32, device=CPU)
    assert type(again) is type(model)
    assert load_config(str(tmp_path)).to_dict() | {"dtype": 0} == again.config.to_dict() | {"dtype": 0}
    assert again.lm_head.weight is again.model.embed_tokens.weight
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    loaded = load_tokenizer(str(tmp_path))
    for name, mark in MARKS.items():
        assert loaded.encode(f"a {mark} cat", add_special_tokens=False) == [
            *loaded.encode("a", add_special_tokens=False),
            getattr(again.config, name),
            *loaded.encode(" cat", add_special_tokens=False),
        ], "a mark takes the space before it along"


def test_unknown_and_impossible_sizes_are_refused():
    tokenizer = train_tokenizer(["some text"] * 3, 300, max_tokens=64)
    with pytest.raises(ModelError, match="embedding_gradien"):
        new_model({"model_type": "glm130b", "embedding_gradien": 0.1}, tokenizer, seed=0)
    with pytest.raises(ModelError, match="even size"):
        new_model({"model_type": "glm130b", "hidden_size": 30, "num_attention_heads": 2}, tokenizer, seed=0)


def embedding_gradient(share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(loss, gradient of an embedding that is not the head, too) when each token comes once."""
    model = make(embedding_gradient=share, tie_word_embeddings=False)
    tokens = torch.arange(8, 20)[None]
    loss = F.cross_entropy(model(tokens).logits[0, :-1], tokens[0, 1:])
    loss.backward()
    return loss.detach(), model.model.embed_tokens.weight.grad


@pytest.mark.parametrize("share", [0.1, 0.2, 0.75])
def test_the_embedding_gradient_is_exactly_alpha_times(share):
    loss, gradient = embedding_gradient(share)
    whole_loss, whole = embedding_gradient(1.0)
    assert torch.equal(loss, whole_loss), "the value is untouched"
    assert whole.abs().max() > 0
    assert torch.equal(gradient, whole * share)


def test_weights_start_as_deepnorm_has_them():
    """Xavier; value, output and feed-forward projections times (2N)^-½."""
    model = make(spread=None, hidden_size=128, num_hidden_layers=8)
    layer, D, M = model.model.layers[3], 128, 128 * 8 // 3
    expected = {
        layer.attention.q_proj: (D, D, 1), layer.attention.k_proj: (D, D, 1),
        layer.attention.v_proj: (D, D, 4), layer.attention.o_proj: (D, D, 4),
        layer.mlp.gate_proj: (D, M, 4), layer.mlp.up_proj: (D, M, 4), layer.mlp.down_proj: (M, D, 4),
    }  # fmt: skip
    assert layer.alpha == 4
    for linear, (inputs, outputs, divisor) in expected.items():
        assert tuple(linear.weight.shape) == (outputs, inputs)
        std = math.sqrt(2 / (inputs + outputs)) / divisor
        assert float(linear.weight.detach().std()) == pytest.approx(std, rel=0.03)
        assert not linear.bias.any()


def deep(*, deepnorm: bool):
    """100 layers; without DeepNorm they are Post-LN with Xavier weights."""
    model = make(spread=None, vocab_size=32, hidden_size=16, num_hidden_layers=100, num_attention_heads=2,
                 embedding_gradient=1.0, **dict.fromkeys(MARKS)).train()  # fmt: skip
    for layer in model.model.layers if not deepnorm else ():
        layer.alpha = 1.0
        for module in layer.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_normal_(module.weight)
    return model


def counting(seed: int) -> torch.Tensor:
    """[8, 12] rows that count in sevens."""
    start = torch.randint(0, 32, (8, 1), generator=torch.Generator().manual_seed(seed))
    return (start + 7 * torch.arange(12)) % 32


def losses_and_update(model, *, rate: float, steps: int) -> tuple[list[float], float]:
    """Losses while training, and how far the first step moved the hidden states."""
    optimizer, losses, moved = torch.optim.Adam(model.parameters(), lr=rate, betas=(0.9, 0.95)), [], 0.0
    with torch.no_grad():
        before = model.model(counting(999)).last_hidden_state
    for step in range(steps):
        rows = counting(step)
        loss = F.cross_entropy(model(rows[:, :-1]).logits.flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if step == 0:
            with torch.no_grad():
                moved = float((model.model(counting(999)).last_hidden_state - before).norm(dim=-1).mean())
    return losses, moved


def test_a_step_of_a_hundred_layers_is_bounded_by_deepnorm():
    """Post-LN forgets its input in one step: hidden states of norm 4 move by √2 · 4."""
    _, moved = losses_and_update(deep(deepnorm=True), rate=1e-4, steps=1)
    _, plain = losses_and_update(deep(deepnorm=False), rate=1e-4, steps=1)
    assert moved < 0.3
    assert plain > 5 * moved


def test_a_hundred_layers_learn_with_deepnorm_and_not_without():
    losses, _ = losses_and_update(deep(deepnorm=True), rate=5e-3, steps=9)
    plain, _ = losses_and_update(deep(deepnorm=False), rate=5e-3, steps=9)
    assert losses[0] == pytest.approx(math.log(32), abs=0.1)
    assert min(losses[-3:]) < losses[0] - 0.2
    assert min(plain[-3:]) > losses[0] - 0.1


def test_recomputing_activations_gives_the_same_gradients():
    tokens = torch.tensor([PROMPTS[0] + [9, 10]])
    found = []
    for again in (False, True):
        model = make().train()
        if again:
            recompute_activations(model)
        model(tokens).logits.logsumexp(-1).sum().backward()
        found.append([parameter.grad for parameter in model.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_an_adapter_is_put_on_and_merged():
    model = make()
    adapted = make_trainable(model, "lora", rank=2)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.2)
        tokens = torch.tensor([PROMPTS[0]])
        before = causal_lm(adapted)(tokens).logits
        assert (before - make()(tokens).logits).abs().max() > 0.01
        torch.testing.assert_close(merge_adapter(adapted)(tokens).logits, before, rtol=1e-4, atol=1e-4)


OPTIONS = [[[20, 21, 22], [30], [20, 21, 23], [40, 41]], [[9, 8], [8, 9]]]


def one_by_one(model, context: list[int], option: list[int]) -> float:
    """log p of an option behind its context, alone."""
    tokens = torch.tensor([[*context, SOP, *option]])
    with torch.no_grad():
        log_p = model(tokens).logits[0].double().log_softmax(-1)
    return float(sum(log_p[len(context) + place, token] for place, token in enumerate(option)))


@pytest.mark.parametrize("mark", [MASK, SMASK, GMASK])
def test_options_in_one_pass_score_as_one_by_one(model, mark):
    contexts = [[1, 20, mark, 31, 8], [1, 9, 10, 11, 12, mark]]
    found = option_log_probabilities(model, contexts, OPTIONS)
    for context, options, scores in zip(contexts, OPTIONS, found, strict=True):
        assert scores == pytest.approx([one_by_one(model, context, option) for option in options], abs=2e-4)
    scored = score_choices(model, [[*context, SOP] for context in contexts], OPTIONS, pad_id=0)
    for scores, row in zip(found, scored, strict=True):
        assert scores == pytest.approx([score.log_probability for score in row], abs=2e-4)


def test_a_question_without_a_mark_gets_one(model):
    found = option_log_probabilities(model, [[1, 20, 31]], [OPTIONS[0]])[0]
    assert found == pytest.approx([one_by_one(model, [1, 20, 31, MASK], option) for option in OPTIONS[0]], abs=2e-4)


def test_options_that_saw_each_other_would_be_seen(model):
    """One causal branch for all options is another score."""
    context, (first, second, *_) = [1, 20, MASK, 31, 8], OPTIONS[0]
    tokens = torch.tensor([*context, SOP, *first[:-1], SOP, *second[:-1]])
    positions = torch.tensor([0, 1, 2, 3, 4, *[2] * (len(first) + len(second))])
    branch = torch.tensor([0] * 5 + [1] * (len(first) + len(second)))
    with torch.no_grad():
        states = infilling_states(model, tokens, positions, torch.tensor([0, len(tokens)]).int(), branch)
        log_p = output_head(model).logits(states)[5 + len(first)].log_softmax(-1)[second[0]]
    apart = option_log_probabilities(model, [context], [OPTIONS[0]])[0][1]
    assert abs(float(log_p) - apart) > 0.01
