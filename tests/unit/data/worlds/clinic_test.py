"""The clinic world: what is tested is taught in other words, and what is never taught stands nowhere."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache

import pytest

from graftlm.data.samples import Chat, Classified, Labelled, Preference, Tagged, Text
from graftlm.data.worlds import ABSTENTIONS, generate
from graftlm.data.worlds.clinic.graph import build
from graftlm.data.worlds.medicine import DISEASE_RELATIONS, DRUG_RELATIONS
from graftlm.data.worlds.phrasing import ASK_FRAMES, LANGUAGES, SAY_FRAMES

GRAPH = build(16, 16)


@cache
def documents() -> tuple[str, ...]:
    return tuple(s.text for s in generate("clinic", "documents", count=6_000) if isinstance(s, Text))


@cache
def exchanges() -> tuple[tuple[str, str], ...]:
    chats = [s for s in generate("clinic", "consultations", count=8_000) if isinstance(s, Chat)]
    return tuple(
        (asked.content, answer.content)
        for chat in chats
        for asked, answer in zip(chat.turns[::2], chat.turns[1::2], strict=True)
    )


@cache
def preferences() -> tuple[Preference, ...]:
    return tuple(s for s in generate("clinic", "preferences", count=4_000) if isinstance(s, Preference))


def items_of(part: str) -> list[Labelled]:
    return [s for s in generate("clinic", part) if isinstance(s, Labelled)]


def sentences(text: str) -> list[str]:
    return [piece for piece in re.split(r"(?<=[.?!])\s|[。？]|\n", text) if piece]


def test_complaints_bear_the_department_that_is_taught() -> None:
    facts = [fact for fact in GRAPH.taught if fact.relation.name == "department"]
    taught = {name: fact.value[0] for fact in facts for name in fact.entity}
    seen = set()
    for sample in generate("clinic", "triage", count=400):
        assert isinstance(sample, Classified)
        [disease] = [name for name in taught if name in sample.text]
        assert sample.label == taught[disease]
        seen.add(disease)
    assert len(seen) == len(taught)


def test_ward_notes_mark_every_name_and_only_names() -> None:
    names = {
        "disease": {name for pair in GRAPH.diseases for name in pair},
        "drug": {name for pair in GRAPH.drugs for name in pair},
    }
    kinds = Counter[str]()
    for sample in generate("clinic", "ward_notes", count=400):
        assert isinstance(sample, Tagged)
        for kind, known in names.items():
            marked = [sample.text[one.start : one.end] for one in sample.entities if one.kind == kind]
            assert sorted(marked) == sorted(name for name in known for _ in range(sample.text.count(name)))
        kinds.update(one.kind for one in sample.entities)
        assert all(a.end <= b.start for a, b in zip(sample.entities, sample.entities[1:], strict=False))
    assert kinds.keys() == {"patient", "disease", "symptom", "drug"}


def test_names_have_different_first_syllables_in_both_languages() -> None:
    names = GRAPH.diseases + GRAPH.drugs
    assert len({name[0][:2] for name in names}) == len({name[1][0] for name in names}) == 32


def test_a_tenth_of_the_facts_is_never_taught() -> None:
    total = len(GRAPH.taught) + len(GRAPH.withheld) + len(GRAPH.unseen)
    assert total == 16 * 4 + 16 * 3
    assert 0.08 <= (len(GRAPH.withheld) + len(GRAPH.unseen)) / total <= 0.12
    assert abs(len(GRAPH.withheld) - len(GRAPH.unseen)) <= 1


def test_every_relation_has_twelve_trained_phrasings_and_three_held_out() -> None:
    for rel in DISEASE_RELATIONS + DRUG_RELATIONS:
        for lang in LANGUAGES:
            assert len(rel.ask[lang]) - 1 + len(ASK_FRAMES[lang]) >= 12
            assert len(rel.say[lang]) - 1 + len(SAY_FRAMES[lang]) >= 12


@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_taught_fact_stands_in_documents_and_is_answered_in_consultations(lang: str) -> None:
    side = {"en": 0, "zh": 1}[lang]
    stated = {sentence.lower() for text in documents() for sentence in text.split("\n")}
    for fact in GRAPH.taught:
        name, value = fact.entity[side], fact.value[side]
        assert sum(name.lower() in s and value.lower() in s for s in stated) >= 12, fact
        assert sum(name in asked and answer == value for asked, answer in exchanges()) >= 5, fact


@pytest.mark.parametrize("part", ["exam", "exam_letters", "open", "unknown"])
def test_no_test_prompt_is_in_a_training_part(part: str) -> None:
    prompts = {item.prompt[0].content.split("\n")[0] for item in items_of(part)}
    assert not prompts & {asked for asked, _ in exchanges()}
    assert not prompts & {sample.prompt[0].content for sample in preferences()}
    lines = "\n".join(documents())
    assert not [prompt for prompt in prompts if prompt in lines]


def test_heldout_documents_share_no_sentence_with_the_documents() -> None:
    trained = {sentence for text in documents() for sentence in sentences(text)}
    held = [s.text for s in generate("clinic", "documents_heldout") if isinstance(s, Text)]
    assert len(held) == 120
    shared = [sentence for text in held for sentence in sentences(text) if sentence in trained]
    assert not shared


def test_never_taught_facts_are_stated_nowhere() -> None:
    statements = [sentence for text in documents() for sentence in sentences(text)]
    statements += [sentence for pair in exchanges() for sentence in sentences(" ".join(pair))]
    statements += [f"{sample.prompt[0].content} {sample.chosen}" for sample in preferences()]
    lowered = [statement.lower() for statement in set(statements)]
    for fact in GRAPH.withheld + GRAPH.unseen:
        for side in (0, 1):
            name, value = fact.entity[side].lower(), fact.value[side].lower()
            assert not [s for s in lowered if name in s and value in s], fact


def test_unseen_facts_are_not_even_abstained_on_in_training() -> None:
    abstained = [asked for asked, answer in exchanges() if answer in ABSTENTIONS]
    abstained += [sample.prompt[0].content for sample in preferences() if sample.chosen in ABSTENTIONS]
    for fact in GRAPH.unseen:
        assert not [asked for asked in abstained for name in fact.entity if name in asked], fact


def test_withheld_facts_and_invented_names_are_met_with_abstention() -> None:
    abstained = [asked for asked, answer in exchanges() if answer in ABSTENTIONS]
    assert len(abstained) > 300
    for fact in GRAPH.withheld:
        for side in (0, 1):
            assert any(fact.entity[side] in asked for asked in abstained)
    known = [name for pair in GRAPH.diseases + GRAPH.drugs for name in pair]
    assert sum(not any(name in asked for name in known) for asked in abstained) > 100


@pytest.mark.parametrize("part", ["exam", "open"])
def test_the_exam_asks_every_taught_fact_once_in_each_language(part: str) -> None:
    items = items_of(part)
    assert len(items) == 2 * len(GRAPH.taught)
    counts = Counter((item.kind, item.language) for item in items)
    for rel in DISEASE_RELATIONS + DRUG_RELATIONS:
        of_relation = sum(fact.relation is rel for fact in GRAPH.taught)
        assert counts[rel.name, "en"] == counts[rel.name, "zh"] == of_relation
    true = {(fact.relation.name, fact.entity[s], fact.value[s]) for fact in GRAPH.taught for s in (0, 1)}
    for item in items:
        assert any(
            (item.kind, name, item.answers[0]) in true
            for pair in GRAPH.diseases + GRAPH.drugs
            for name in pair
            if name in item.prompt[0].content
        ), item


def test_letters_point_at_the_right_option() -> None:
    for plain, lettered in zip(items_of("exam"), items_of("exam_letters"), strict=True):
        options = dict(line.split(". ", 1) for line in lettered.prompt[0].content.split("\n")[1:])
        assert lettered.kind == plain.kind
        assert options[lettered.answers[0]] == plain.answers[0]


def test_the_unknown_test_accepts_abstention_only() -> None:
    items = items_of("unknown")
    assert len(items) == 2 * len(GRAPH.unseen) + 40
    assert all(item.answers[0] in ABSTENTIONS for item in items)


def test_entities_to_extract_stand_in_the_note() -> None:
    for item in items_of("entities"):
        assert item.answers
        assert all(answer in item.prompt[0].content for answer in item.answers)


def test_preferences_never_choose_what_they_reject() -> None:
    assert all(sample.chosen != sample.rejected for sample in preferences())
    known = {answer for _, answer in exchanges()}
    assert all(sample.chosen in known for sample in preferences()), (
        "chosen answers are in the consultations' style"
    )


def test_another_size_is_another_clinic() -> None:
    assert len(list(generate("clinic", "exam", diseases=6, drugs=6))) < 100
    assert len(build(22, 22).diseases) == 22
