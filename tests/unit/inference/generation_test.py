from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

from graftlm.core.errors import DataError, GraftError, ModelError
from graftlm.inference.decoding import Decoding
from graftlm.inference.generation import generate, stream
from graftlm.models.trunk import prepare_trunk

Decode = Callable[[Sequence[int]], str]
SAMPLED = Decoding(temperature=0.9, top_p=0.95, repetition_penalty=1.1, max_new_tokens=12, seed=5)


def test_a_sampled_row_is_independent_of_its_neighbours(model: LlamaForCausalLM) -> None:
    """Rows stop at many different steps, so the rest moves up in the batch again and again."""
    generator = torch.Generator().manual_seed(2)
    prompts = [torch.randint(0, 260, (1 + n % 7,), generator=generator).tolist() for n in range(24)]
    decoding = Decoding(temperature=0.9, top_p=0.95, repetition_penalty=1.8, max_new_tokens=20, seed=5)
    stops = range(0, 260, 7)
    together = generate(model, prompts, decoding, stop_ids=stops, pad_id=0)
    assert len({len(answer.tokens) for answer in together}) > 5
    for count in (1, 11):
        some = generate(model, prompts[:count], decoding, stop_ids=stops, pad_id=0)
        assert [c.tokens for c in some] == [c.tokens for c in together[:count]]
    alone = generate(model, prompts, decoding, stop_ids=stops, pad_id=0, batch_size=1)
    assert [c.tokens for c in alone] == [c.tokens for c in together]


def test_seeds_matter_and_repeat(model: LlamaForCausalLM) -> None:
    same = [[1, 2, 3]] * 6
    answers = [c.tokens for c in generate(model, same, SAMPLED, stop_ids=[], pad_id=0)]
    assert len(set(answers)) == 6  # equal prompts draw from generators of their own
    assert answers == [c.tokens for c in generate(model, same, SAMPLED, stop_ids=[], pad_id=0)]
    other = SAMPLED.model_copy(update={"seed": 6})
    assert answers != [c.tokens for c in generate(model, same, other, stop_ids=[], pad_id=0)]
    equal = generate(model, same, SAMPLED, stop_ids=[], pad_id=0, seeds=[9] * 6)
    assert len({c.tokens for c in equal}) == 1


def test_first_tokens_follow_the_model(model: LlamaForCausalLM) -> None:
    """Chi-square of 4,000 first tokens over 10 groups of the vocabulary: 27.9 is the 99.9 % point."""
    n = 4000
    decoding = Decoding(max_new_tokens=1, seed=11)
    answers = generate(
        model, [[1, 2, 3]] * n, decoding, stop_ids=[], pad_id=0, batch_size=500, batch_tokens=10**6
    )
    with torch.no_grad():
        p_V = model(torch.tensor([[1, 2, 3]])).logits[0, -1].softmax(-1)
    group_V = torch.arange(260) % 10
    expected = n * torch.zeros(10).scatter_add(0, group_V, p_V)
    counts = torch.bincount(torch.tensor([c.tokens[0] for c in answers]) % 10, minlength=10)
    assert float(((counts - expected) ** 2 / expected).sum()) < 27.9


def test_the_repetition_penalty_counts_the_prompt(model: LlamaForCausalLM) -> None:
    prompt = [1, 2, 3]
    best = generate(model, [prompt], Decoding(greedy=True, max_new_tokens=1), stop_ids=[], pad_id=0)[
        0
    ].tokens[0]
    harsh = Decoding(greedy=True, max_new_tokens=30, repetition_penalty=1e6)
    answer = generate(model, [[*prompt, best], prompt], harsh, stop_ids=[], pad_id=0)
    for completion, start in zip(answer, ([*prompt, best], prompt), strict=True):
        assert len({*completion.tokens, *start}) == len(completion.tokens) + len(start)  # nothing twice


def test_stop_strings_cut_the_text(model: LlamaForCausalLM, prompts: list[list[int]], decode: Decode) -> None:
    def letters(tokens: Sequence[int]) -> str:
        return "".join(chr(0x4E00 + token) for token in tokens)

    greedy = Decoding(greedy=True, max_new_tokens=12)
    whole = generate(model, prompts, greedy, stop_ids=[], pad_id=0, decode=letters)
    stop = whole[1].text[4:6]  # type: ignore[index]
    cut = generate(
        model,
        prompts,
        Decoding(greedy=True, max_new_tokens=12, stop=(stop,)),
        stop_ids=[],
        pad_id=0,
        decode=letters,
    )
    for before, after in zip(whole, cut, strict=True):
        assert before.text is not None
        assert after.text == before.text.split(stop)[0]
        assert after.finish_reason == ("stop" if stop in before.text else "length")
    assert len(cut[1].tokens) == whole[1].text.index(stop) + 2  # type: ignore[union-attr]


def test_a_stream_is_the_whole_answer_in_whole_characters(model: LlamaForCausalLM, decode: Decode) -> None:
    """The answer is scripted: each character spans three tokens."""
    text = "每日两次，每次一片。"
    data = list(text.encode())
    prompt = [255]

    class Scripted(LlamaForCausalLM):
        """The model, whose answer is the sentence."""

        def forward(self, *args, **kwargs):  # type: ignore[no-untyped-def]
            output = super().forward(*args, **kwargs)
            place = int(kwargs["position_ids"][0, -1])
            output.logits[:, -1, data[place] if place < len(data) else 259] += 1000
            return output

    scripted = Scripted(model.config)
    greedy = Decoding(greedy=True, max_new_tokens=60)
    pieces = list(stream(scripted, prompt, greedy, stop_ids=[259], pad_id=0, decode=decode))
    assert pieces == list(text)
    [completion] = generate(scripted, [prompt], greedy, stop_ids=[259], pad_id=0, decode=decode)
    assert completion.text == text
    assert (completion.finish_reason, completion.stop_token) == ("stop", 259)
    stopped = Decoding(greedy=True, max_new_tokens=60, stop=("每次",))
    assert "".join(stream(scripted, prompt, stopped, stop_ids=[259], pad_id=0, decode=decode)) == "每日两次，"


@pytest.mark.parametrize("seed", range(3))
def test_a_stream_of_random_bytes_is_the_whole_decode(
    model: LlamaForCausalLM, decode: Decode, seed: int
) -> None:
    decoding = Decoding(max_new_tokens=40, seed=seed)
    pieces = stream(model, [1, 2], decoding, stop_ids=[], pad_id=0, decode=decode)
    [completion] = generate(model, [[1, 2]], decoding, stop_ids=[], pad_id=0, decode=decode)
    assert "".join(pieces) == completion.text


def test_the_budget_ends_at_the_models_positions(model: LlamaForCausalLM) -> None:
    long = Decoding(greedy=True, max_new_tokens=50)
    answers = generate(model, [[1] * 120, [1] * 10], long, stop_ids=[], pad_id=0)
    assert [len(c.tokens) for c in answers] == [8, 50]
    assert {c.finish_reason for c in answers} == {"length"}
    with pytest.raises(DataError, match="128 tokens and the model 128 positions"):
        generate(model, [[1] * 128], long, stop_ids=[], pad_id=0)


def test_a_row_at_its_last_position_does_not_stop_its_neighbours() -> None:
    """GPT-2 looks positions up in a table: a finished row that runs on must not look beyond its end."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=50, n_embd=32, n_layer=1, n_head=2, n_positions=16)
    answers = generate(
        GPT2LMHeadModel(config),
        [[1] * 14, *[[2]] * 9],
        Decoding(greedy=True, max_new_tokens=10),
        stop_ids=[],
        pad_id=0,
    )
    assert [len(answer.tokens) for answer in answers] == [2, *[10] * 9]


def test_the_training_state_is_restored(model: LlamaForCausalLM) -> None:
    model.train()
    model.model.layers[0].eval()
    before = [module.training for module in model.modules()]
    generate(model, [[1]], Decoding(greedy=True, max_new_tokens=1), stop_ids=[], pad_id=0)
    assert [module.training for module in model.modules()] == before
    model.eval()


def test_errors_name_the_prompt(model: LlamaForCausalLM) -> None:
    greedy = Decoding(greedy=True)
    with pytest.raises(DataError, match="prompt 1"):
        generate(model, [[1], []], greedy, stop_ids=[], pad_id=0)
    with pytest.raises(GraftError, match="decode"):
        generate(model, [[1]], Decoding(stop=("x",)), stop_ids=[], pad_id=0)
    assert generate(model, [], greedy, stop_ids=[], pad_id=0) == []


def test_logits_that_are_not_finite_stop_the_run(model: LlamaForCausalLM) -> None:
    broken = LlamaForCausalLM(model.config)
    with torch.no_grad():
        broken.model.norm.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="not finite"):
        generate(broken, [[1, 2]], Decoding(greedy=True), stop_ids=[], pad_id=0)


def test_progress_counts_every_prompt(model: LlamaForCausalLM, prompts: list[list[int]]) -> None:
    done: list[int] = []
    greedy = Decoding(greedy=True, max_new_tokens=2)
    generate(model, prompts, greedy, stop_ids=[], pad_id=0, batch_size=3, on_progress=done.append)
    assert done == [3, 3, 1]


@pytest.mark.parametrize("draft", [0, 3])
def test_a_stream_through_the_engine_is_the_whole_answer_up_to_its_stop_string(
    model: LlamaForCausalLM, decode: Decode, draft: int
) -> None:
    ready = copy.deepcopy(model)
    assert prepare_trunk(ready)
    prompt, decoding = [65, 66] * 6, Decoding(temperature=0.5, max_new_tokens=30, seed=2)
    [whole] = generate(ready, [prompt], decoding, stop_ids=[], pad_id=0, decode=decode)
    pieces = list(stream(ready, prompt, decoding, stop_ids=[], pad_id=0, decode=decode, draft=draft))
    assert "".join(pieces) == whole.text
    assert len(pieces) > 3
    stop = whole.text[8:10]  # type: ignore[index]
    stopping = decoding.model_copy(update={"stop": (stop,)})
    pieces = list(stream(ready, prompt, stopping, stop_ids=[], pad_id=0, decode=decode, draft=draft))
    [cut] = generate(ready, [prompt], stopping, stop_ids=[], pad_id=0, decode=decode, draft=draft)
    assert "".join(pieces) == cut.text == whole.text.partition(stop)[0]  # type: ignore[union-attr]
    assert cut.finish_reason == "stop"
