"""Blank after blank: each filling is in the text when the next blank is filled."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from graftlm.inference.blanks import blank_config, fill_blanks, open_answer
from graftlm.inference.decoding import Decoding
from graftlm.models import families as families

MASK, SMASK, GMASK, SOP, EOP = 3, 4, 5, 6, 7
GREEDY = Decoding(greedy=True, max_new_tokens=4)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    config = AutoConfig.for_model(
        "glm130b", vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, mask_token_id=MASK,
        smask_token_id=SMASK, gmask_token_id=GMASK, sop_token_id=SOP, eop_token_id=EOP, tie_word_embeddings=False,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0, 0.4).add_(1.0 if name.endswith("norm.weight") else 0.0)
    return model


def naive(model, context: list[int]) -> list[int]:
    tokens = [*context, SOP]
    for _ in range(4):
        with torch.no_grad():
            token = int(model(torch.tensor([tokens])).logits[0, -1].argmax())
        if token == EOP:
            break
        tokens.append(token)
    return [token for token in tokens[len(context) + 1 :] if token > EOP]


def test_blanks_are_filled_from_left_to_right_and_the_tail_last(model):
    first = naive(model, [1, 20, MASK, 21, SMASK, 22, GMASK])
    second = naive(model, [1, 20, *first, 21, SMASK, 22, GMASK])
    tail = naive(model, [1, 20, *first, 21, *second, 22, GMASK])
    found = fill_blanks(model, [1, 20, MASK, 21, SMASK, 22, GMASK], GREEDY, stop_ids={EOP}, pad_id=0)
    assert first != second != tail
    assert found.tokens == [1, 20, *first, 21, *second, 22, *tail]
    assert len(found.fillings) == 3


def test_a_text_without_a_mark_is_continued(model):
    found = fill_blanks(model, [1, 20, 21], GREEDY, stop_ids={EOP}, pad_id=0)
    assert found.tokens == [1, 20, 21, *naive(model, [1, 20, 21, GMASK])]


def test_an_answer_opens_behind_its_mark(model):
    config = blank_config(model)
    assert open_answer([1, 20], config) == [1, 20, GMASK, SOP]
    assert open_answer([1, MASK, 20], config) == [1, MASK, 20, SOP]
    assert open_answer([1, 20, GMASK], config) == [1, 20, GMASK, SOP]


def test_other_models_do_not_fill_blanks(tiny_model):
    assert blank_config(tiny_model()) is None
    with pytest.raises(ValueError, match="LlamaForCausalLM does not fill blanks"):
        fill_blanks(tiny_model(), [1, 2], GREEDY, stop_ids=(), pad_id=0)
