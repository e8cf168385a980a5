"""Every family's logits against the published formulae in numpy, in all the ways graft computes them."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from graftlm.inference.decoding import Decoding
from graftlm.inference.generation import generate
from graftlm.models.anatomy import Step, dissect
from graftlm.models.trunk import hidden_states, output_head, prepare_trunk
from tests.parity.families import CONTEXT, FAMILIES, V, bloom, gpt2, random_model, state_of
from tests.parity.reference import Decoder

DOCUMENTS = [np.random.default_rng(n).integers(3, V, n).tolist() for n in (17, 1, 12, 30, 5)]
NEW = 12
"""Tokens to generate."""

every_family = pytest.mark.parametrize("name", FAMILIES)


@cache
def model_of(name: str) -> PreTrainedModel:
    """As transformers makes it."""
    return random_model(FAMILIES[name])


@cache
def graft_model_of(name: str) -> PreTrainedModel:
    """The same, ready for packed rows."""
    model = random_model(FAMILIES[name])
    prepare_trunk(model)
    return model


def decoder_of(name: str) -> Decoder:
    return FAMILIES[name].read(state_of(model_of(name)))


@cache
def expected(name: str) -> list[np.ndarray]:
    """[T, V] of each document."""
    return [decoder_of(name).logits(document) for document in DOCUMENTS]


def difference(found: list[Any], wanted: list[np.ndarray]) -> float:
    return max(float(np.abs(np.asarray(a) - b).max()) for a, b in zip(found, wanted, strict=True))


def size(name: str) -> float:
    return max(float(np.abs(logits).max()) for logits in expected(name))


@torch.no_grad()
def alone(model: PreTrainedModel) -> list[torch.Tensor]:
    return [model(input_ids=torch.tensor([document])).logits[0] for document in DOCUMENTS]


@every_family
def test_logits_equal_the_formulae(name: str, parity: Any) -> None:
    parity(name, "numpy, one by one", difference(alone(model_of(name)), expected(name)), size(name))


@pytest.mark.parametrize(("name", "change"), [(name, w) for name, family in FAMILIES.items() for w in family.wrong])
def test_the_comparison_sees(name: str, change: str, parity: Any) -> None:
    wrong = FAMILIES[name].wrong[change](decoder_of(name))
    found = [wrong.logits(document) for document in DOCUMENTS]
    parity.differs(name, change, difference(found, expected(name)))


def test_the_comparison_sees_wrong_splits(parity: Any) -> None:
    for name, wrong in (
        ("GPT-2", lambda state: gpt2(state, "kqv")),
        ("BLOOM, 6 heads", bloom(6, in_each_head=False)),
    ):
        decoder = wrong(state_of(model_of(name)))
        found = [decoder.logits(document) for document in DOCUMENTS]
        parity.differs(name, "queries, keys, values split another way", difference(found, expected(name)))


@every_family
def test_padding_on_the_left_changes_nothing(name: str, parity: Any) -> None:
    longest = max(map(len, DOCUMENTS))
    tokens = torch.tensor([[0] * (longest - len(document)) + document for document in DOCUMENTS])
    mask = torch.tensor([[0] * (longest - len(document)) + [1] * len(document) for document in DOCUMENTS])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    model = model_of(name)
    given = {} if FAMILIES[name].model_type == "bloom" else {"position_ids": positions}
    with torch.no_grad():
        logits = model(input_ids=tokens, attention_mask=mask, **given).logits
    found = [row[-len(document) :] for row, document in zip(logits, DOCUMENTS, strict=True)]
    parity(name, "numpy, one batch padded on the left", difference(found, expected(name)), size(name))


@every_family
def test_packed_documents_do_not_see_each_other(name: str, parity: Any) -> None:
    model = graft_model_of(name)
    assert model.graft_packs is FAMILIES[name].packs
    lengths = [len(document) for document in DOCUMENTS]
    boundaries = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)
    row = torch.tensor([token for document in DOCUMENTS for token in document])
    with torch.no_grad():
        logits = output_head(model).logits(hidden_states(model, row, boundaries))
    parity(name, "numpy, packed by graft", difference(list(logits.split(lengths)), expected(name)), size(name))


@every_family
def test_greedy_answers_are_the_formulae_and_transformers(name: str) -> None:
    decoder, model = decoder_of(name), model_of(name)
    prompts = DOCUMENTS[:3]
    wanted = [decoder.greedy(prompt, NEW) for prompt in prompts]
    assert len({token for answer in wanted for token in answer}) > 2, "answers of one token prove nothing"
    theirs = [
        model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=NEW)[0, len(prompt) :].tolist()
        for prompt in prompts
    ]
    decoding = Decoding(temperature=0, max_new_tokens=NEW)
    ours = [list(done.tokens) for done in generate(graft_model_of(name), prompts, decoding, stop_ids=(), pad_id=0)]
    assert theirs == wanted
    assert ours == wanted


def test_a_row_is_the_same_in_any_batch() -> None:
    decoding = Decoding(temperature=0, max_new_tokens=NEW)
    for name in FAMILIES:
        together = generate(graft_model_of(name), DOCUMENTS, decoding, stop_ids=(), pad_id=0)
        for document, done in zip(DOCUMENTS, together, strict=True):
            single = generate(graft_model_of(name), [document], decoding, stop_ids=(), pad_id=0)[0]
            assert single.tokens == done.tokens, name
            assert single.log_probability == pytest.approx(done.log_probability, abs=1e-4), name


def test_bloom_goes_beyond_any_length(parity: Any) -> None:
    tokens = np.random.default_rng(0).integers(3, V, 2 * CONTEXT).tolist()
    wanted = decoder_of("BLOOM, 6 heads").logits(tokens)
    with torch.no_grad():
        found = model_of("BLOOM, 6 heads")(input_ids=torch.tensor([tokens])).logits[0]
    parity("BLOOM, 6 heads", f"numpy, {len(tokens)} tokens", difference([found], [wanted]), float(np.abs(wanted).max()))


@every_family
def test_what_is_explained_is_what_is_computed(name: str, parity: Any) -> None:
    found = dissect(model_of(name), DOCUMENTS[0])
    parity(name, "numpy, dissected by graft", difference([found.logits_TV], expected(name)[:1]), size(name))
    steps = [step for block in found.blocks for step in block.steps if isinstance(step, Step)]
    assert {len(step.values_TN) for step in steps} == {len(DOCUMENTS[0])}, "a row a token"
