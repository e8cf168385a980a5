from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from transformers import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from graftlm.inference.decoding import (
    PRESETS,
    Decoding,
    draw,
    keep_nucleus,
    keep_top_k,
    penalise_repetition,
    process_logits,
    seen_tokens,
)


def logits(seed: int, rows: int = 8, vocabulary: int = 500) -> torch.Tensor:
    return 3 * torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.6, "top_p": 0.9},
        {"temperature": 1.7, "top_k": 20},
        {"temperature": 0.85, "top_p": 0.85, "top_k": 50, "repetition_penalty": 1.3},
        {"repetition_penalty": 0.8, "top_p": 0.05},
    ],
)
def test_processors_equal_those_of_transformers(seed: int, settings: dict[str, float]) -> None:
    decoding = Decoding.model_validate(settings)
    scores_BV = logits(seed)
    history_BL = torch.randint(0, 500, (8, 40), generator=torch.Generator().manual_seed(seed + 100))
    theirs = scores_BV.clone()
    if decoding.repetition_penalty != 1:
        theirs = RepetitionPenaltyLogitsProcessor(decoding.repetition_penalty)(history_BL, theirs)
    if decoding.temperature != 1:
        theirs = TemperatureLogitsWarper(decoding.temperature)(history_BL, theirs)
    if decoding.top_k:
        theirs = TopKLogitsWarper(decoding.top_k)(history_BL, theirs)
    if decoding.top_p < 1:
        theirs = TopPLogitsWarper(decoding.top_p)(history_BL, theirs)
    ours = process_logits(scores_BV, decoding, seen_tokens(history_BL.tolist(), 500))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("p", [0.01, 0.3, 0.85, 0.999])
def test_the_nucleus_is_the_smallest_set_that_reaches_p(p: float) -> None:
    scores_BV = logits(7)
    probabilities_BV = scores_BV.double().softmax(-1)
    kept_BV = keep_nucleus(scores_BV, p).isfinite()
    for probability_V, kept_V in zip(probabilities_BV, kept_BV, strict=True):
        inside = probability_V[kept_V]
        assert inside.sum() >= p - 1e-6
        assert inside.sum() - inside.min() < p  # without its last member it does not reach p
        assert inside.min() >= probability_V[~kept_V].max()


def test_a_tiny_p_keeps_the_best_token() -> None:
    scores_BV = logits(8)
    assert keep_nucleus(scores_BV, 1e-9).isfinite().sum(-1).tolist() == [1] * 8
    assert torch.equal(keep_nucleus(scores_BV, 1e-9).argmax(-1), scores_BV.argmax(-1))


def test_top_k_larger_than_the_vocabulary_keeps_all() -> None:
    assert torch.equal(keep_top_k(logits(1), 10_000), logits(1))


def test_the_penalty_makes_both_signs_less_likely() -> None:
    out = penalise_repetition(torch.tensor([[2.0, -2.0, 2.0]]), torch.tensor([[True, True, False]]), 2.0)
    assert out.tolist() == [[1.0, -4.0, 2.0]]


def test_draws_follow_the_probabilities() -> None:
    """Chi-square over 20,000 draws, 11 degrees of freedom: 31.3 is the 99.9 % point."""
    scores_V = torch.linspace(-2, 1.5, 12)
    n = 20_000
    uniform_B = torch.rand(n, generator=torch.Generator().manual_seed(3))
    counts = torch.bincount(draw(scores_V.expand(n, -1), uniform_B), minlength=12)
    expected = n * scores_V.softmax(-1)
    assert float(((counts - expected) ** 2 / expected).sum()) < 31.3


def test_a_token_of_probability_zero_is_never_drawn() -> None:
    scores = torch.tensor([-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf])
    extremes = torch.tensor([0.0, 0.5, 1 - 2**-24])
    assert draw(scores.expand(3, -1), extremes).tolist() == [1, 3, 3]


def test_temperature_zero_is_greedy() -> None:
    assert Decoding(temperature=0).is_greedy
    assert not Decoding().is_greedy


def test_published_presets() -> None:
    assert (PRESETS["ziya-writing"].temperature, PRESETS["ziya-writing"].max_new_tokens) == (0.85, 2048)
    assert (PRESETS["llama2"].temperature, PRESETS["llama2"].top_p) == (0.6, 0.9)
    assert PRESETS["greedy"].is_greedy


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"top_p": 0}, "top_p"),
        ({"temperature": -1}, "temperature"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"stop": [""]}, "empty stop string"),
        ({"topp": 0.9}, "topp"),
        ({"repetition_penalty": float("nan")}, "repetition_penalty"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, object], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        Decoding.model_validate(settings)
