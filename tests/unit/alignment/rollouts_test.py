"""The buffer of answers: what is kept of them, and that packed rows point back into it."""

from __future__ import annotations

import pytest
import torch

from graftlm.alignment.policy import answer_token_log_probabilities
from graftlm.alignment.prompts import encode_prompts
from graftlm.alignment.rollouts import Rollouts, collect, write_answers
from graftlm.data.encode import encode_answers
from graftlm.data.samples import Origin, Prompt, Turn
from graftlm.data.templates import tokenizer_template
from graftlm.evaluation.language_model import language_model
from graftlm.inference.generation import Completion
from graftlm.models.loading import load_tokenizer
from graftlm.models.trunk import prepare_trunk

STOP = 2
ANSWERS = [
    Completion((10, 11), "stop", -3.5, (-1.0, -2.0, -0.5), stop_token=STOP, text="ab"),
    Completion((12,), "length", -4.0, (-4.0,), text="c"),
    Completion((13, 14), "stop", -1.0, (-0.25, -0.75), text="d"),  # at a stop string: no stop token
]


@pytest.fixture
def rollouts(ask) -> Rollouts:
    return collect(ask("xy", "z", "xyz"), ANSWERS, [1.0, -2.0, 0.5])


def test_an_answer_is_its_tokens_and_its_stop_token(rollouts, ask):
    asked = ask("xy", "z", "xyz")
    assert rollouts.tokens == [
        [*asked[0].tokens, 10, 11, STOP], [*asked[1].tokens, 12], [*asked[2].tokens, 13, 14],
    ]  # fmt: skip
    assert rollouts.lengths_R.tolist() == [3, 1, 2]
    assert rollouts.finished_R.tolist() == [True, False, True]
    assert rollouts.rewards_R.tolist() == [1.0, -2.0, 0.5] and rollouts.kept_R.all()


def test_sums_and_tables(rollouts):
    assert rollouts.sums("engine").tolist() == [-3.5, -4.0, -1.0]
    assert rollouts.real_RL.tolist() == [[True] * 3, [True, False, False], [True, True, False]]
    assert rollouts.table("engine").tolist() == [[-1.0, -2.0, -0.5], [-4.0, 0.0, 0.0], [-0.25, -0.75, 0.0]]


def test_a_row_points_back_into_the_buffer(rollouts):
    """Whatever order packing chooses: the targets are the answers' tokens, and `of` gives theirs."""
    seen = []
    for row in rollouts.plan([2, 0, 1], row_tokens=12).all_rows(pad=True):
        documents = row.document[: row.documents].tolist()
        targets = [t for document in documents for t in rollouts.tokens[document][rollouts.prompt_lengths[document] :]]
        assert row.targets[row.targets >= 0].tolist() == targets
        [engine] = rollouts.of(documents, ["engine"], torch.device("cpu"))
        assert engine.tolist() == [p for document in documents for p in ANSWERS[document].log_probabilities]
        rollouts.put("copy", documents, engine)
        seen += documents
    assert sorted(seen) == [0, 1, 2]
    assert torch.equal(rollouts.per_token["copy"], rollouts.per_token["engine"])


def test_a_restored_buffer_is_the_same(rollouts):
    again = Rollouts.restored(rollouts.state())
    assert (again.tokens, again.prompt_lengths) == (rollouts.tokens, rollouts.prompt_lengths)
    assert torch.equal(again.table("engine"), rollouts.table("engine"))


def test_answers_of_a_real_template_stand_as_training_would_hold_them(tiny_model):
    """Prompt, answer and stop token are those of the same conversation in instruction tuning."""
    tokenizer = load_tokenizer("rootstock")
    template = tokenizer_template(tokenizer)
    model = tiny_model(vocab_size=len(tokenizer))
    prepare_trunk(model)
    subject = language_model(model, tokenizer, template)
    turns = (Turn("user", "What is a cold?"),)
    [asked], _ = encode_prompts(subject, [Prompt(turns, Origin("a", 1))], 100)
    [whole] = encode_answers(tokenizer, template, [(turns, "A small illness.")])
    *words, stop = whole.tokens[whole.targets].tolist()
    assert stop in subject.stop_ids
    made = collect([asked], [Completion(tuple(words), "stop", 0.0, (0.0,) * (len(words) + 1), stop)], [1.0])
    assert made.tokens[0] == whole.tokens.tolist()
    assert made.prompt_lengths[0] == int(whole.targets.argmax())
    [answer] = write_answers(model, subject, [asked], max_new_tokens=6, seed=0)
    assert answer.text == tokenizer.decode(answer.tokens, skip_special_tokens=True)


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2", "gemma2"])
def test_the_engine_and_the_trainer_agree(family, tiny_model, speaker, ask):
    """fp32: within 1e-4 nats a token, in rows that hold several answers."""
    model = tiny_model(family)
    asked = ask("abc", "de", "f", "ghijklm")
    answers = write_answers(model, speaker(model), asked, max_new_tokens=12, seed=3)
    made = collect(asked, answers, [0.0] * 4)
    for row in made.plan(range(4), row_tokens=48).all_rows(pad=False):
        documents = row.document.tolist()
        with torch.no_grad():
            found = answer_token_log_probabilities(model, row)
        [engine] = made.of(documents, ["engine"], torch.device("cpu"))
        assert (found - engine).abs().max() < 1e-4
