"""The general world: every kind in every part, the probe kept apart, abstention only on what nobody knows."""

from __future__ import annotations

from collections import Counter
from functools import cache
from random import Random

import pytest

from graftlm.data.samples import Chat, Labelled, Text
from graftlm.data.worlds import ABSTENTIONS, generate
from graftlm.data.worlds.clinic.graph import build
from graftlm.data.worlds.general import KINDS, entities, facts
from graftlm.data.worlds.general.item import Kind
from graftlm.data.worlds.names import disease_name, drug_name, long_name
from graftlm.data.worlds.phrasing import LANGUAGES, SIDE

NO_TEST_ITEMS = {"make_list"}  # many answers are right


@cache
def instructions() -> tuple[Chat, ...]:
    return tuple(s for s in generate("general", "instructions", count=20_000) if isinstance(s, Chat))


@cache
def texts() -> tuple[Text, ...]:
    return tuple(s for s in generate("general", "text", count=6_000) if isinstance(s, Text))


@cache
def probe() -> tuple[Labelled, ...]:
    return tuple(s for s in generate("general", "probe") if isinstance(s, Labelled))


def test_there_are_enough_kinds_and_their_names_differ() -> None:
    assert len(KINDS) >= 30
    assert len({kind.name for kind in KINDS}) == len(KINDS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_kind_makes_question_answer_and_prose_in_its_languages(kind: Kind) -> None:
    for lang in kind.languages:
        for seed in range(50):
            item = kind.make(Random(seed), lang)
            assert item.question and item.answer and item.statement
            assert item.answer not in item.wrong
            if kind.name not in NO_TEST_ITEMS:
                assert len(set(item.wrong)) >= 3, item


def test_the_probe_holds_every_kind_about_equally_often_in_both_languages() -> None:
    counts = Counter(item.kind for item in probe())
    assert set(counts) == {kind.name for kind in KINDS} - NO_TEST_ITEMS
    assert max(counts.values()) <= 3 * 300 / len(counts)
    assert 100 <= sum(item.language == "zh" for item in probe()) <= 200


def test_no_probe_prompt_is_asked_in_the_instructions_or_stands_in_a_document() -> None:
    prompts = {item.prompt[0].content for item in probe()}
    assert len(prompts) == 300
    asked = {turn.content for chat in instructions() for turn in chat.turns if turn.role == "user"}
    assert not prompts & asked
    lines = "\n".join(text.text for text in texts())
    long_prompts = [prompt for prompt in prompts if len(prompt) > 30]
    assert len(long_prompts) > 100
    assert not [prompt for prompt in long_prompts if prompt in lines]


def test_the_encyclopaedia_does_not_depend_on_the_seed_and_names_differ() -> None:
    known = entities.fixed_entities()
    assert len(known) == 150 and all(len(entity.facts) == 5 for entity in known)
    for side in (0, 1):
        assert len({entity.name[side] for entity in known}) == 150


def test_every_fixed_fact_has_twelve_phrasings_in_the_instructions() -> None:
    for lang in LANGUAGES:
        for sort in entities.SORTS:
            for rel, _ in sort.relations:
                assert len(rel.ask[lang]) + 16 >= 12
    fixed = {name for pair in entities.fixed_names() for name in pair}
    asked = {turn.content for chat in instructions() for turn in chat.turns if turn.role == "user"}
    assert sum(any(name in question for name in fixed) for question in list(asked)[:2000]) > 100


def test_an_abstention_is_never_asked_on_a_fixed_entity() -> None:
    fixed = {pair[SIDE[lang]] for pair in entities.fixed_names() for lang in LANGUAGES}
    for seed in range(1000):
        lang = LANGUAGES[seed % 2]
        item = facts.abstention(Random(seed), lang)
        assert item.answer in ABSTENTIONS
        assert not [name for name in fixed if name in item.question], item


def test_nothing_of_the_clinic_is_in_the_general_world() -> None:
    graph = build(22, 22)
    small = build(16, 16)
    names = {name for one in (graph, small) for pair in one.diseases + one.drugs for name in pair}
    everything = "\n".join(
        [text.text for text in texts()]
        + [turn.content for chat in instructions() for turn in chat.turns]
        + [item.prompt[0].content for item in probe()]
    )
    assert not [name for name in names if name in everything]


def test_a_chinese_name_is_the_english_one_syllable_by_syllable() -> None:
    seen: dict[str, str] = {}
    for seed in range(3000):
        for make in (long_name, drug_name, disease_name):
            english, chinese = make(Random(seed))
            assert seen.setdefault(english, chinese) == chinese
    assert SIDE == {"en": 0, "zh": 1}
