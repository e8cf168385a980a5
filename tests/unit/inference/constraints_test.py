"""Rules leave nothing but allowed answers, and choose among them as the model would."""

from __future__ import annotations

import copy
import json
import re
from collections import Counter

import pytest
import torch
from transformers import LlamaForCausalLM

from graftlm.core.errors import GraftError
from graftlm.inference.constraints import OneOf
from graftlm.inference.decoding import Decoding
from graftlm.inference.engine import Engine
from graftlm.inference.generation import generate
from graftlm.inference.grammar import Grammar
from graftlm.inference.request import open_requests
from graftlm.models.loading import load_tokenizer
from graftlm.models.trunk import prepare_trunk

CHOICES = [[10, 20, 30], [10, 20, 31], [10, 21], [40], [40, 50]]
STOP = 7
GREEDY = Decoding(greedy=True, max_new_tokens=8)


@pytest.fixture(scope="module")
def ready(model: LlamaForCausalLM) -> LlamaForCausalLM:
    own = copy.deepcopy(model)
    prepare_trunk(own)
    return own


@torch.no_grad()
def chances(model, prompt, temperature=1.0) -> dict[tuple[int, ...], float]:
    """Of each choice, by walking the tree: at each fork the model's logits among the branches."""
    found = {}
    paths = [(*choice, STOP) if choice == [40] else tuple(choice) for choice in CHOICES]
    for path in paths:
        chance = 1.0
        for taken in range(len(path)):
            branches = sorted({p[taken] for p in paths if len(p) > taken and p[:taken] == path[:taken]})
            logits_V = model(torch.tensor([[*prompt, *path[:taken]]])).logits[0, -1] / temperature
            chance *= float(logits_V[branches].softmax(0)[branches.index(path[taken])])
        found[tuple(token for token in path if token != STOP)] = chance
    assert sum(found.values()) == pytest.approx(1)
    return found


def test_answers_come_as_often_as_the_model_has_them_among_the_choices(ready):
    """Chi-square over 800 answers, 4 degrees of freedom: 18.5 is the 99.9 % point."""
    prompt, n = [1, 2, 3], 800
    decoding = Decoding(temperature=3.0, max_new_tokens=8, seed=5)
    rules = [OneOf(CHOICES, [STOP]) for _ in range(n)]
    found = generate(ready, [prompt] * n, decoding, stop_ids=[STOP], pad_id=0, constraints=rules, batch_size=200)
    counts, wanted = Counter(answer.tokens for answer in found), chances(ready, prompt, 3.0)
    assert {answer.finish_reason for answer in found} == {"stop"}
    assert set(counts) <= set(wanted)
    assert len(counts) >= 3
    assert sum((counts[path] - n * p) ** 2 / (n * p) for path, p in wanted.items()) < 18.5


@pytest.mark.parametrize("draft", [0, 3])
def test_one_row_has_a_rule_and_the_next_has_none(ready, draft):
    prompts = [[5, 6, 7], [10, 20, 30] * 4, [5, 6, 7]]
    free = open_requests(ready, prompts, GREEDY, [STOP], None, None)
    Engine(ready, slots=3, positions=32).run(free)
    ruled = open_requests(ready, prompts, GREEDY, [STOP], None, None)
    ruled[1].constraint = OneOf(CHOICES, [STOP])
    Engine(ready, slots=3, positions=32, draft=draft).run(ruled)
    assert [ruled[0].tokens, ruled[2].tokens] == [free[0].tokens, free[2].tokens]
    assert ruled[1].tokens in CHOICES
    assert free[1].tokens not in CHOICES


def test_the_engine_and_padded_rows_agree(model, ready):
    rules = [[OneOf(CHOICES, [STOP]) for _ in range(4)] for _ in range(2)]
    prompts = [[n, n + 1] for n in range(4)]
    found = [
        [answer.tokens for answer in generate(one, prompts, GREEDY, stop_ids=[STOP], pad_id=0, constraints=some)]
        for one, some in zip((model, ready), rules, strict=True)
    ]
    assert found[0] == found[1]


def test_log_probabilities_are_those_without_the_rule(ready):
    rule = OneOf([[10, 20]], [])
    (found,) = generate(ready, [[1, 2]], GREEDY, stop_ids=[], pad_id=0, constraints=[rule])
    with torch.no_grad():
        log_p_TV = ready(torch.tensor([[1, 2, 10]])).logits[0].log_softmax(-1)
    assert found.log_probabilities == pytest.approx([float(log_p_TV[1, 10]), float(log_p_TV[2, 20])], abs=1e-4)


def test_choices_that_cannot_be_told_apart_are_refused():
    with pytest.raises(GraftError, match="beginning of another"):
        OneOf([[1], [1, 2]], [])
    with pytest.raises(GraftError, match="have tokens"):
        OneOf([[], [1]], [2])
    with pytest.raises(GraftError, match="have tokens"):
        OneOf([], [2])


def test_without_the_library_the_way_to_it_is_told(monkeypatch):
    monkeypatch.setattr("graftlm.inference.grammar.find_spec", lambda name: None)
    with pytest.raises(GraftError, match=r"graftlm\[grammar\]"):
        Grammar(None, 10, [1])


@pytest.fixture(scope="module")
def rootstock():
    pytest.importorskip("llguidance")
    return load_tokenizer("rootstock")


@pytest.fixture(scope="module")
def babbler(rootstock) -> LlamaForCausalLM:
    """Random weights over the rootstock's tokens."""
    from transformers import LlamaConfig

    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(rootstock) + 5, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    model = LlamaForCausalLM(config).float()
    prepare_trunk(model)
    return model


def texts(model, tokenizer, rules):
    decoding = Decoding(temperature=1.0, max_new_tokens=60, seed=3)
    found = generate(
        model, [[5, 6]] * len(rules), decoding, stop_ids=[tokenizer.eos_token_id], pad_id=0, constraints=rules,
        decode=tokenizer.decode,
    )  # fmt: skip
    assert {answer.finish_reason for answer in found} == {"stop"}
    return [answer.text for answer in found]


def test_answers_match_a_regular_expression(babbler, rootstock):
    grammar = Grammar(rootstock, babbler.config.vocab_size, [rootstock.eos_token_id])
    pattern = "(每日|每周)[1-9]次，(5|10) mg"
    found = texts(babbler, rootstock, [grammar.regex(pattern) for _ in range(6)])
    assert len(set(found)) > 1
    assert all(re.fullmatch(pattern, text) for text in found), found


def test_answers_follow_a_json_schema(babbler, rootstock):
    grammar = Grammar(rootstock, babbler.config.vocab_size, [rootstock.eos_token_id])
    schema = {
        "type": "object", "required": ["drug", "mg"], "additionalProperties": False,
        "properties": {
            "drug": {"enum": ["aspirin", "阿司匹林"]}, "mg": {"type": "integer", "minimum": 5, "maximum": 99},
        },
    }  # fmt: skip
    for text in texts(babbler, rootstock, [grammar.json_schema(schema) for _ in range(4)]):
        answer = json.loads(text)
        assert set(answer) == {"drug", "mg"}
        assert "\n" not in text
        assert answer["drug"] in ("aspirin", "阿司匹林")
        assert 5 <= answer["mg"] <= 99


def test_a_form_that_cannot_be_followed_is_named(babbler, rootstock):
    grammar = Grammar(rootstock, babbler.config.vocab_size, [rootstock.eos_token_id])
    with pytest.raises(GraftError, match="regular expression"):
        grammar.regex("(unclosed")
    with pytest.raises(GraftError, match="no token ends"):
        Grammar(rootstock, 300, [])
