from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from graftlm.core.errors import DataError
from graftlm.inference import scorer
from graftlm.inference.likelihood import text_log_probability
from graftlm.inference.scorer import score_choices
from graftlm.models.trunk import prepare_trunk


def naive(model: LlamaForCausalLM, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    """One full forward, no cache, no batch."""
    with torch.no_grad():
        log_p_TV = model(torch.tensor([context + continuation])).logits[0].double().log_softmax(-1)
    places = range(len(context) - 1, len(context) + len(continuation) - 1)
    total = sum(float(log_p_TV[place, token]) for place, token in zip(places, continuation, strict=True))
    return total, all(int(log_p_TV[p].argmax()) == t for p, t in zip(places, continuation, strict=True))


def best_token(model: LlamaForCausalLM, tokens: list[int]) -> int:
    with torch.no_grad():
        return int(model(torch.tensor([tokens])).logits[0, -1].argmax())


@pytest.fixture
def items(prompts: list[list[int]], model: LlamaForCausalLM) -> list[list[list[int]]]:
    """Continuations of 1 to 6 tokens; each context's last one is the greedy answer."""
    generator = torch.Generator().manual_seed(4)
    items = []
    for number, prompt in enumerate(prompts):
        lengths = [1 + (number + k) % 6 for k in range(2 + number % 3)]
        options = [torch.randint(0, 260, (length,), generator=generator).tolist() for length in lengths]
        greedy = [best_token(model, prompt)]
        greedy.append(best_token(model, prompt + greedy))
        items.append([*options, greedy])
    return items


@pytest.mark.parametrize("budget", [{"batch_tokens": 40}, {"batch_size": 1}, {}])
def test_scores_equal_one_full_forward_each(
    model: LlamaForCausalLM, prompts: list[list[int]], items: list[list[list[int]]], budget: dict[str, int]
) -> None:
    scores = score_choices(model, prompts, items, pad_id=0, **budget)
    for prompt, options, found in zip(prompts, items, scores, strict=True):
        for option, score in zip(options, found, strict=True):
            total, greedy = naive(model, prompt, option)
            assert score.log_probability == pytest.approx(total, abs=1e-4)
            assert score.greedy == greedy
            assert score.tokens == len(option)
        assert found[-1].greedy


@pytest.fixture
def passes(model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Tokens of each pass through the model; the trial whether it takes trees is left out."""
    prepare_trunk(model)
    monkeypatch.setattr(scorer, "takes_trees", lambda model: True)
    seen: list[int] = []
    hook = model.model.embed_tokens.register_forward_hook(lambda module, args, out: seen.append(args[0].numel()))
    yield seen
    hook.remove()


def test_a_context_runs_once(model: LlamaForCausalLM, passes: list[int]) -> None:
    score_choices(model, [[1] * 20], [[[2, 3], [4, 5], [6, 7]]], pad_id=0)
    assert passes == [20 + 3]  # the context, then one token of each continuation; their last tokens never run


def test_a_header_runs_once_and_equal_requests_too(model: LlamaForCausalLM, passes: list[int]) -> None:
    contexts = [[1] * 20 + [n] * 5 for n in (2, 3, 4, 3)]
    same = score_choices(model, contexts, [[[9], [8]]] * 4, pad_id=0)
    assert passes == [20 + 3 * 5]
    assert same[1] == same[3]


def test_one_token_options_need_one_place(
    model: LlamaForCausalLM, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    places: list[int] = []
    whole = scorer.shared_statistics

    def counted(hidden_UD: torch.Tensor, *others: Any) -> Any:
        places.append(len(hidden_UD))
        return whole(hidden_UD, *others)

    monkeypatch.setattr(scorer, "shared_statistics", counted)
    [[a, b]] = score_choices(model, [[1, 2, 3]], [[[65], [66]]], pad_id=0)
    assert (passes, places) == ([3], [1])
    assert a.log_probability == pytest.approx(naive(model, [1, 2, 3], [65])[0], abs=1e-4)
    assert b.log_probability == pytest.approx(naive(model, [1, 2, 3], [66])[0], abs=1e-4)


def test_contexts_are_told_when_all_their_options_are_done(model: LlamaForCausalLM) -> None:
    told: list[int] = []
    contexts = [[1] * 20 + [n] * 5 for n in (2, 3, 4, 3)] + [[7]]
    options = [[[9] * 4, [8] * 4]] * 4 + [[]]
    score_choices(model, contexts, options, pad_id=0, batch_tokens=12, on_progress=told.append)
    assert told == [1, 1, 2, 1]  # without options, 2, both of 3, 4


def test_empty_parts_are_refused(model: LlamaForCausalLM) -> None:
    with pytest.raises(DataError, match="item 1: the context"):
        score_choices(model, [[1], []], [[[2]], [[2]]], pad_id=0)
    with pytest.raises(DataError, match="item 0: an option"):
        score_choices(model, [[1]], [[[2], []]], pad_id=0)
    with pytest.raises(DataError, match="130 tokens, the model 128"):
        score_choices(model, [[1] * 128], [[[2, 3]]], pad_id=0)
    with pytest.raises(ValueError, match="2 contexts"):
        score_choices(model, [[1], [2]], [[[2]]], pad_id=0)
    assert score_choices(model, [[1], [2]], [[], [[3]]], pad_id=0)[0] == []


def test_the_last_token_needs_no_position(model: LlamaForCausalLM) -> None:
    context, option = [3] * 100 + [5] * 27, [7, 9]
    [[score]] = score_choices(model, [context], [[option]], pad_id=0)
    assert score.log_probability == pytest.approx(naive(model, context, option)[0], abs=1e-4)


@pytest.mark.parametrize("budget", [64, 10_000])
def test_documents_equal_one_full_forward_each(
    model: LlamaForCausalLM, prompts: list[list[int]], budget: int
) -> None:
    found = text_log_probability(model, prompts, batch_tokens=budget)
    for document, (log_p, count) in zip(prompts, found, strict=True):
        assert count == len(document) - 1
        expected = naive(model, document[:1], document[1:])[0] if count else 0.0
        assert log_p == pytest.approx(expected, abs=1e-4)


def test_a_long_document_is_scored_in_windows_that_share_one_token(model: LlamaForCausalLM) -> None:
    document = torch.randint(0, 260, (50,), generator=torch.Generator().manual_seed(2)).tolist()
    [(log_p, count)] = text_log_probability(model, [document], window=20)
    cuts = [document[0:20], document[19:39], document[38:50]]
    assert count == 49
    assert log_p == pytest.approx(sum(naive(model, cut[:1], cut[1:])[0] for cut in cuts), abs=1e-4)


def test_documents_without_a_scored_token(model: LlamaForCausalLM) -> None:
    assert text_log_probability(model, [[], [5]]) == [(0.0, 0), (0.0, 0)]
