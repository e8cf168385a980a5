"""Two models' answers side by side: what is said of them is what they wrote."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from graftlm.alignment.compare import compare_answers
from graftlm.alignment.rollouts import write_answers


def length(prompts, answers):
    return [float(len(answer)) for answer in answers]


@pytest.fixture
def compare(ask):
    def run(before, after, reward=length, **changes):
        settings = {"max_new_tokens": 10, "row_tokens": 64, "seed": 0, "samples": 2} | changes
        return compare_answers(before, after, ask("abc", "de", "f", "ghij", "kl"), reward, **settings)

    return run


@pytest.fixture
def answers(ask):
    """The answers that a subject gives there."""

    def write(subject):
        asked = ask("abc", "de", "f", "ghij", "kl")
        return write_answers(subject.model, subject, asked, max_new_tokens=10, seed=0)

    return write


def test_a_model_does_not_differ_from_itself(compare, tiny_model, speaker):
    found = compare(lambda: speaker(tiny_model()), lambda: speaker(tiny_model()))
    assert (found.kl.value, found.kl.low, found.kl.high) == (0.0, 0.0, 0.0)
    assert found.reward_before == found.reward_after and found.gain == 0.0
    assert (found.tokens_before, found.finished_before) == (found.tokens_after, found.finished_after)
    assert all(sample.before == sample.after for sample in found.samples)


def test_the_figures_are_those_of_the_answers(compare, answers, tiny_model, speaker):
    old, new = speaker(tiny_model()), speaker(tiny_model(seed=1))
    found = compare(lambda: old, lambda: new)
    wrote = {"before": answers(old), "after": answers(new)}
    scores = {name: [float(len(one.text.strip())) for one in some] for name, some in wrote.items()}
    assert found.reward_before.value == pytest.approx(sum(scores["before"]) / 5)
    assert found.reward_after.value == pytest.approx(sum(scores["after"]) / 5)
    spread = float(torch.tensor(scores["before"]).std(correction=0))
    assert found.reward_spread == pytest.approx(spread)
    assert found.tokens_after == sum(len(one.log_probabilities) for one in wrote["after"]) / 5
    assert found.finished_after == sum(one.finish_reason == "stop" for one in wrote["after"]) / 5
    assert found.prompts == 5 and [one.prompt for one in found.samples] == ["abc", "de"]
    for place, sample in enumerate(found.samples):
        assert (sample.before, sample.after) == tuple(wrote[side][place].text.strip() for side in ("before", "after"))
        assert (sample.before_score, sample.after_score) == (scores["before"][place], scores["after"][place])


@torch.no_grad()
def test_the_divergence_is_of_the_later_models_answers(compare, answers, ask, tiny_model, speaker):
    """log p(after) - log p(before), both over what the model after training says."""
    old, new = tiny_model(), tiny_model(seed=1, spread=0.1)
    expected = []
    for one, answer in zip(ask("abc", "de", "f", "ghij", "kl"), answers(speaker(new)), strict=True):
        stop = [] if answer.stop_token is None else [answer.stop_token]
        tokens = torch.tensor([*one.tokens, *answer.tokens, *stop])
        places = torch.arange(len(one.tokens), len(tokens))
        log_p = [
            model(tokens[None]).logits[0].log_softmax(-1)[places - 1, tokens[places]].sum() for model in (new, old)
        ]
        expected.append(float(log_p[0] - log_p[1]))
    found = compare(lambda: speaker(old), lambda: speaker(new))
    assert found.kl.value == pytest.approx(sum(expected) / 5, abs=1e-3)
    assert found.kl.low < found.kl.value < found.kl.high and found.kl.value > 1


def test_without_a_reward_there_are_no_scores(compare, tiny_model, speaker):
    found = compare(lambda: speaker(tiny_model()), lambda: speaker(tiny_model(seed=1)), reward=None)
    assert (found.reward_before, found.reward_after, found.reward_spread, found.gain) == (None,) * 4
    assert found.samples[0].before_score is None and found.tokens_before > 0


def test_one_model_is_in_memory_at_a_time(compare, tiny_model, speaker):
    seen: list[weakref.ref] = []

    def after():
        subject = speaker(tiny_model())
        seen.append(weakref.ref(subject.model))
        return subject

    def before():
        gc.collect()
        assert seen[0]() is None, "the model after training is still there"
        return speaker(tiny_model())

    compare(before, after)
