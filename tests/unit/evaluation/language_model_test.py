"""The runner's questions reach a real (tiny, random) model as they should."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from graftlm.data.encode import encode_chats
from graftlm.data.samples import Labelled, Origin, Text, Turn
from graftlm.data.templates import ChatTemplate, named_template
from graftlm.evaluation.language_model import LanguageModel, language_model
from graftlm.evaluation.runner import run_tasks
from graftlm.evaluation.tasks import Task

ORIGIN = Origin("items.jsonl", 1)
END = "<|endoftext|>"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes as tokens, with the marks of chatml."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([END, "<|im_start|>", "<|im_end|>"])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END, bos_token=END)


@pytest.fixture(scope="module")
def model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).float().eval()


def chat_template(name: str) -> ChatTemplate:
    return named_template(name, bos=END, eos=END)


@torch.no_grad()
def log_p(model: LlamaForCausalLM, tokens: Sequence[int], start: int) -> float:
    log_p_TV = model(torch.tensor([list(tokens)])).logits[0].log_softmax(-1)
    return sum(float(log_p_TV[place - 1, tokens[place]]) for place in range(start, len(tokens)))


@pytest.mark.parametrize("template", ["chatml", "deepseek"])
def test_an_option_is_scored_as_training_would_hold_it(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, template: str
) -> None:
    chat = chat_template(template)
    subject = language_model(model, tokenizer, chat)
    prompt = [Turn("user", "哪个？ which?")]
    options = ["肺炎", "flu"]
    [found] = subject.option_log_probabilities([prompt], [options], lambda count: None)
    for option, score in zip(options, found, strict=True):
        [whole] = encode_chats(tokenizer, chat, [[*prompt, Turn("assistant", option)]])
        said = [int(t) for t in whole.tokens[whole.targets]]
        assert tokenizer.decode(said, skip_special_tokens=True).strip() == option
        start = int(whole.targets.argmax())
        stops = sum(token in subject.stop_ids for token in said)  # the stop marker is not scored
        assert stops == 1
        tokens = [int(t) for t in whole.tokens[: start + len(said) - stops]]
        assert score == pytest.approx(log_p(model, tokens, start), abs=1e-4)


def test_the_stop_of_the_template_is_found(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    subject = language_model(model, tokenizer, chat_template("chatml"))
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in subject.stop_ids
    assert tokenizer.eos_token_id in subject.stop_ids
    assert subject.stop_strings == ()


def test_all_bytes_of_a_document_are_scored(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    subject = language_model(model, tokenizer, chat_template("chatml"))
    text = "每日 5 mg"
    task = Task("notes", "domain", "bits_per_byte", [Text(text, ORIGIN)])
    [result] = run_tasks(subject, [task])
    tokens = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]
    assert len(tokens) == 1 + len(text.encode())
    expected = -log_p(model, tokens, 1) / math.log(2) / len(text.encode())
    assert result.value == pytest.approx(expected, abs=1e-4)


def test_plain_callables_are_enough(model: LlamaForCausalLM) -> None:
    """No tokenizer, no template: the runner sees only what it is given."""
    subject = LanguageModel(
        model=model,
        encode=lambda turns: list(turns[-1].content.encode()),
        encode_text=lambda text: list(text.encode()),
        decode=lambda tokens: bytes(token for token in tokens if token < 256).decode(errors="replace"),
        stop_ids=[0],
        pad_id=0,
    )
    prompt = (Turn("user", "which?"),)
    choice = Labelled(prompt, ("b",), ORIGIN, ("a", "b"))
    tasks = [
        Task("exam", "domain", "choice", [choice] * 3),
        Task("letters", "domain", "choice", [choice] * 3, style="letters"),
        Task("open", "domain", "generate", [choice], max_new_tokens=5),
        Task("prose", "general", "bits_per_byte", [Text("hello there", ORIGIN)]),
    ]
    results = run_tasks(subject, tasks)
    assert [result.name for result in results] == ["exam", "letters", "open", "prose"]
    a, b = (log_p(model, [*b"which?", *option], 6) for option in (b"a", b"b"))
    assert results[0].value == float(b > a)
    assert results[0].metrics["answer_probability"].value == pytest.approx(
        1 / (1 + math.exp(a - b)), abs=1e-4
    )
