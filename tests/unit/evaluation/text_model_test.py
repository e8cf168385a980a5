from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from graftlm.core.errors import ModelError
from graftlm.data.templates import named_template
from graftlm.evaluation.text_model import TextModel, chat_frame, rolling_windows, text_model
from graftlm.evaluation.text_subject import Open, Options, Passage, Writing
from graftlm.models import families as families
from graftlm.models.trunk import prepare_trunk
from tests.parity.harness.rows import POSITIONS, model, tokenizer


@pytest.fixture(scope="module")
def network() -> PreTrainedModel:
    made = model()
    prepare_trunk(made)
    return made


@pytest.fixture(scope="module")
def words() -> PreTrainedTokenizerFast:
    return tokenizer()


@pytest.fixture
def subject(network: PreTrainedModel, words: Any) -> TextModel:
    return text_model(network, words)


def naive(network: Any, context: list[int], continuation: list[int]) -> float:
    """One full forward pass."""
    with torch.no_grad():
        log_p_TV = network(torch.tensor([context + continuation])).logits[0].double().log_softmax(-1)
    return sum(float(log_p_TV[len(context) - 1 + n, token]) for n, token in enumerate(continuation))


def options(*pairs: tuple[str, str]) -> Options:
    contexts, continuations = zip(*pairs, strict=True)
    return Options(contexts, continuations, continuations, (0,))


def test_a_pair_is_tokenised_in_one_piece(subject: TextModel, words: Any) -> None:
    pairs = [("the cat ", "sat on"), ("the", " old man"), ("12", "3 trees")]
    for (context, continuation), (head, tail) in zip(pairs, subject.encode_pairs(pairs), strict=True):
        assert head == words(context.rstrip())["input_ids"]
        assert head + tail == words(context + continuation)["input_ids"]
    [(_, tail)] = subject.encode_pairs([("the cat ", "sat")])
    assert words.decode(tail) == " sat"  # the space went over


def test_nothing_before_is_the_first_token(subject: TextModel, words: Any) -> None:
    assert subject.encode_pairs([("", "cat"), ("  ", "cat")]) == [
        ([0], words("cat")["input_ids"]),
        ([0], words("  cat")["input_ids"]),
    ]
    assert subject.encode_pairs([("", "<s>cat")]) == [([0], words("cat")["input_ids"])]


def test_a_bos_is_added_once() -> None:
    """Of a tokenizer that begins every text with bos, texts that have it already are left alone."""
    from tokenizers.processors import TemplateProcessing

    words = tokenizer()
    words.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    subject = text_model(model(), words)
    plain = words("the cat", add_special_tokens=False)["input_ids"]
    assert subject.encode_pairs([("the", " cat"), ("<s>the", " cat")]) == [([0, *plain[:-1]], plain[-1:])] * 2
    found = subject.text_likelihoods([Passage("the cat sat")], lambda _: None)
    assert found == pytest.approx(text_model(model(), tokenizer()).text_likelihoods([Passage("the cat sat")], print))


def test_likelihoods_are_those_of_a_full_pass(subject: TextModel, network: Any) -> None:
    """Shared contexts, different ones, and options of one token and many."""
    asked = [
        options(("the cat", " sat on a red mat"), ("the cat", " sang"), ("the old man", " sang")),
        options(("", "7 trees"), ("the cat ", "sat")),
    ]
    done: list[int] = []
    found = subject.continuation_likelihoods(asked, done.append)
    for question, row in zip(asked, found, strict=True):
        pairs = subject.encode_pairs(list(zip(question.contexts, question.continuations, strict=True)))
        for one, pair in zip(row, pairs, strict=True):
            assert one.log_p == pytest.approx(naive(network, *pair), abs=1e-4)
            assert not one.greedy
    assert sum(done) == 2
    assert subject.truncated == 0


def test_a_greedy_continuation_is_known(subject: TextModel, network: Any, words: Any) -> None:
    head = words("the cat")["input_ids"]
    with torch.no_grad():
        best = int(network(torch.tensor([head])).logits[0, -1].argmax())
    [[one]] = subject.continuation_likelihoods([options(("the cat", words.decode([best])))], lambda _: None)
    if words("the cat" + words.decode([best]))["input_ids"] != [*head, best]:
        pytest.skip("the token does not survive being written out")
    assert one.greedy


def test_long_prompts_lose_their_beginning(subject: TextModel, network: Any, words: Any) -> None:
    long = " ".join(["the old man sang"] * 120)
    [(head, tail)] = subject.encode_pairs([(long, " to birds")])
    assert len(head) > POSITIONS
    found = subject.continuation_likelihoods([options((long, " to birds"), (long, " sat"))], lambda _: None)
    kept = head[-(POSITIONS + 1 - len(tail)) :]
    assert found[0][0].log_p == pytest.approx(naive(network, kept, tail), abs=1e-4)
    assert subject.truncated == 1  # a question, however many options
    with pytest.raises(ModelError, match="an option has"):
        subject.continuation_likelihoods([options(("a", " " + long))], lambda _: None)


@pytest.mark.parametrize("length", [1, 7, 8, 9, 16, 21])
def test_windows_predict_every_token_once_with_as_much_before_it_as_fits(length: int) -> None:
    tokens = list(range(100, 100 + length))
    windows = rolling_windows(tokens, 0, 8)
    assert list(chain.from_iterable(tail for _, tail in windows)) == tokens
    assert windows[0][0] == [0]
    for head, tail in windows[1:]:
        assert len(head) + len(tail) == 9  # eight are read, the last is only predicted
    assert rolling_windows([], 0, 8) == []


def test_a_text_is_the_sum_of_its_windows(subject: TextModel, network: Any, words: Any) -> None:
    texts = ["cat", " ".join(["the old man sang"] * 120), ""]
    found = subject.text_likelihoods([Passage(text) for text in texts], lambda _: None)
    for text, log_p in zip(texts, found, strict=True):
        windows = rolling_windows(words(text)["input_ids"], 0, POSITIONS)
        assert log_p == pytest.approx(sum(naive(network, *window) for window in windows), abs=1e-3)


def test_answers_end_where_they_should(subject: TextModel) -> None:
    prompts = [Open("the cat", (), ""), Open("an old man's", (), "")]
    whole = subject.completions(prompts, Writing(until=(), max_tokens=12), lambda _: None)
    stop = whole[0][0][3]
    cut = subject.completions(prompts, Writing(until=(stop,), max_tokens=12), lambda _: None)
    assert [texts[0] for texts in cut] == [texts[0].split(stop)[0] for texts in whole]
    several = subject.completions(prompts, Writing((), 6, samples=3, temperature=1.0), lambda _: None)
    assert [len(texts) for texts in several] == [3, 3]
    assert len(set(several[0])) > 1
    with pytest.raises(ModelError, match="256 positions"):
        subject.completions(prompts, Writing((), POSITIONS), lambda _: None)


def test_a_model_that_fills_blanks_answers_behind_a_mark(words: Any) -> None:
    torch.manual_seed(1)
    config = AutoConfig.for_model(
        "glm130b", vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, mask_token_id=3,
        smask_token_id=4, gmask_token_id=5, sop_token_id=6, eop_token_id=7, tie_word_embeddings=False,
    )  # fmt: skip
    filler = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    asked = options(("the cat", " sat on"), ("the cat", " sang"))
    [row] = text_model(filler, words).continuation_likelihoods([asked], lambda _: None)
    for one, continuation in zip(row, asked.continuations, strict=True):
        context = [*words("the cat")["input_ids"], 5, 6]
        tail = words("the cat" + continuation)["input_ids"][len(context) - 2 :]
        assert one.log_p == pytest.approx(naive(filler, context, tail), abs=1e-4)


def test_a_question_in_a_chat(words: Any) -> None:
    frame: Callable[[str], str] = chat_frame(named_template("vicuna", bos="<s>", eos="</s>"))
    text = frame("Is it red?")
    assert "Is it red?" in text
    assert text.endswith("ASSISTANT:")
