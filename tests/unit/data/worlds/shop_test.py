"""The shop world: annotations are right, tests stay out of training, and what is never taught stands nowhere."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache

import pytest

from graftlm.data.samples import Chat, Classified, Labelled, Tagged, Text
from graftlm.data.worlds import ABSTENTIONS, generate, parts
from graftlm.data.worlds.names import BRAND_ENDINGS, MIDDLES, OPENERS, TEST_BRANDS, TRAINED_BRANDS
from graftlm.data.worlds.phrasing import LANGUAGES
from graftlm.data.worlds.shop import reviews
from graftlm.data.worlds.shop.catalogue import build
from graftlm.data.worlds.shop.goods import COLOURS, FINE, MATERIALS, PRICES, RELATIONS, SEASONS, SIZES, USERS, WEIGHTS
from graftlm.data.worlds.shop.tasks import DATA, HELDOUT, REWORDED, TESTS, TRAINED

CATALOGUE = build(16)
_PARTS = (OPENERS, MIDDLES, BRAND_ENDINGS)
BRAND = re.compile(
    "".join(f"({'|'.join(english for english, _ in part)})" for part in _PARTS)
    + r"\b|"
    + "".join(f"([{''.join(chinese for _, chinese in part)}])" for part in _PARTS)
)
VALUES = {"colour": COLOURS, "material": MATERIALS, "size": SIZES, "weight": WEIGHTS, "price": PRICES, "user": USERS,
          "season": SEASONS, "product": tuple(fine for _, fine in FINE)}  # fmt: skip


def brand_classes(text: str) -> set[int]:
    """The classes of the brands that a text names."""
    openers = {name: at for at, pair in enumerate(OPENERS) for name in pair}
    middles = {name: at for at, pair in enumerate(MIDDLES) for name in pair}
    found = [match.groups() for match in BRAND.finditer(text)]
    return {(openers[a or c] + middles[b or d]) % 5 for a, b, _, c, d, _ in found}


@cache
def chats(part: str, count: int) -> tuple[Chat, ...]:
    return tuple(s for s in generate("shop", part, count=count) if isinstance(s, Chat))


@cache
def documents() -> tuple[str, ...]:
    return tuple(s.text for s in generate("shop", "documents", count=5_000) if isinstance(s, Text))


def exchanges() -> list[tuple[str, str]]:
    return [
        (asked.content, answer.content)
        for chat in chats("chats", 4_000)
        for asked, answer in zip(chat.turns[::2], chat.turns[1::2], strict=True)
    ]


def items_of(part: str) -> list[Labelled]:
    return [s for s in generate("shop", part) if isinstance(s, Labelled)]


@pytest.mark.parametrize("part", ["titles", "descriptions"])
def test_marked_values_are_values_of_their_kind(part: str) -> None:
    seen: Counter[str] = Counter()
    for sample in generate("shop", part, count=400):
        assert isinstance(sample, Tagged)
        for one in sample.entities:
            value = sample.text[one.start : one.end]
            seen[one.kind] += 1
            if one.kind in VALUES:
                assert value in {name for pair in VALUES[one.kind] for name in pair}, (one.kind, value)
            if one.kind == "brand":
                assert brand_classes(value) <= TRAINED_BRANDS and brand_classes(value)
    assert set(seen) == set(DATA[part].labels)
    assert min(seen.values()) > 50


def test_a_title_bears_the_class_of_its_product() -> None:
    known = {name: f"{coarse[0]} > {fine[0]}" for coarse, fine in FINE for name in fine}
    for sample in generate("shop", "categories", count=200):
        assert isinstance(sample, Classified)
        assert sample.label in DATA["categories"].labels
        named = max((name for name in known if name in sample.text and known[name] == sample.label), default="")
        assert named, sample


def test_reviews_and_their_opinions_agree() -> None:
    tones = {
        said: (aspect, tone)
        for aspect, both in reviews._OPINIONS.items()
        for lang in LANGUAGES
        for tone, some in enumerate(both[lang].split("/"))
        for said in some.split("|")
    }
    labels = set()
    for sample in generate("shop", "reviews", count=300):
        assert isinstance(sample, Classified)
        found = {tone for said, (_, tone) in tones.items() if said in sample.text}
        assert sample.label == ("mixed" if len(found) == 2 else ("positive", "negative")[found.pop()])
        labels.add(sample.label)
    assert labels == {"positive", "negative", "mixed"}
    for sample in generate("shop", "opinions", count=300):
        assert isinstance(sample, Tagged)
        assert all(tones[sample.text[one.start : one.end]][0] == one.kind for one in sample.entities)
    names = {name: pair[0] for pair in reviews.ASPECTS for name in pair}
    for sample in generate("shop", "aspects", count=300):
        assert isinstance(sample, Classified)
        asked = names[sample.text_b]
        said_of = [tone for said, (aspect, tone) in tones.items() if said in sample.text and aspect == asked]
        assert sample.label == (("positive", "negative")[said_of[0]] if said_of else "not said")


def test_a_query_matches_a_title_of_its_brand_and_kind() -> None:
    answers: Counter[str] = Counter()
    for sample in generate("shop", "queries", count=300):
        assert isinstance(sample, Classified)
        brand, other = (BRAND.search(text) for text in (sample.text, sample.text_b))
        assert brand and other
        kinds = [{pair for _, pair in FINE if set(pair) & set(split(text))} for text in (sample.text, sample.text_b)]
        same_kind = bool(kinds[0] & kinds[1])
        assert sample.label == ("match" if brand.group() == other.group() and same_kind else "mismatch"), sample
        answers[sample.label] += 1
    assert min(answers.values()) > 100


def split(text: str) -> list[str]:
    """The names of products in a text."""
    names = sorted((name for _, pair in FINE for name in pair), key=len, reverse=True)
    return re.findall("|".join(names), text)


def test_there_are_enough_kinds_of_tasks_and_held_out_ones_are_trained_nowhere() -> None:
    assert len(TRAINED) >= 16 and len(HELDOUT) == 12 and set(REWORDED) < set(HELDOUT)
    assert len({kind.split("/")[1] for kind in TRAINED + HELDOUT}) >= 16
    assert not set(TRAINED) & set(HELDOUT)
    new = {kind.split("/")[0] for kind in HELDOUT} - {kind.split("/")[0] for kind in TRAINED}
    assert new == {"opinions", "aspects", "wants"}


def test_task_tests_use_brands_and_instructions_of_their_own() -> None:
    trained = {turn.content for chat in chats("tasks", 4_000) for turn in chat.turns[:1]}
    assert {kind for text in trained for kind in brand_classes(text)} == TRAINED_BRANDS
    first_lines = {prompt.split("\n")[0] for prompt in trained}
    for part, kinds in TESTS.items():
        items = items_of(part)
        assert {item.kind for item in items} == set(kinds)
        assert {lang for item in items for lang in (item.language,)} == {"en", "zh"}
        for item in items:
            prompt = item.prompt[0].content
            assert brand_classes(prompt) <= TEST_BRANDS
            if part != "tasks_test":
                assert prompt.split("\n")[0] not in first_lines, prompt


def test_reworded_tests_name_no_label_as_training_does() -> None:
    usual = {name for data in ("titles", "descriptions") for pair in DATA[data].trained.names.values() for name in pair}
    for item in items_of("tasks_reworded"):
        if item.language == "en" and item.kind.endswith("value_choice"):
            assert not re.search(rf"gives the ({'|'.join(usual)})\?", item.prompt[0].content)


@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_taught_fact_stands_in_documents_and_is_answered_in_chats(lang: str) -> None:
    side = {"en": 0, "zh": 1}[lang]
    stated = {line.lower() for text in documents() for line in text.split("\n")}
    asked = exchanges()
    for fact in CATALOGUE.taught:
        name, value = fact.entity[side], fact.value[side]
        assert sum(name.lower() in s and value.lower() in s for s in stated) >= 12, fact
        assert sum(name in question and answer == value for question, answer in asked) >= 5, fact


def test_never_taught_facts_are_stated_nowhere() -> None:
    said = [line.lower() for text in documents() for line in re.split(r"(?<=[.?!])\s|[。？]|\n", text)]
    said += [f"{question} {answer}".lower() for question, answer in exchanges()]
    for fact in CATALOGUE.withheld + CATALOGUE.unseen:
        for name, value in zip(fact.entity, fact.value, strict=True):
            assert not [s for s in said if name.lower() in s and re.search(rf"\b{value.lower()}\b", s)], fact
    declined = [question for question, answer in exchanges() if answer in ABSTENTIONS]
    for fact in CATALOGUE.withheld:
        assert any(name in question for question in declined for name in fact.entity)
    for fact in CATALOGUE.unseen:
        assert not [q for q in declined for name in fact.entity if name in q], fact


@pytest.mark.parametrize("part", ["exam", "open", "unknown"])
def test_no_test_prompt_is_in_a_training_part(part: str) -> None:
    prompts = {item.prompt[0].content for item in items_of(part)}
    assert len(prompts) > 40
    assert not prompts & {question for question, _ in exchanges()}
    lines = "\n".join(documents())
    assert not [prompt for prompt in prompts if prompt in lines]


def test_exams_ask_every_taught_fact_once_in_each_language() -> None:
    counts = Counter((item.kind, item.language) for item in items_of("exam"))
    for rel in RELATIONS:
        of_relation = sum(fact.relation is rel for fact in CATALOGUE.taught)
        assert counts[rel.name, "en"] == counts[rel.name, "zh"] == of_relation
    assert all(item.answers[0] in ABSTENTIONS for item in items_of("unknown"))


def test_no_brand_of_the_shop_is_in_another_world() -> None:
    for world in ("general", "clinic"):
        for part in parts(world):
            for sample in generate(world, part, count=300):
                assert not BRAND.search(repr(sample)), sample


def test_another_size_is_another_catalogue() -> None:
    assert len(build(8).products) == 8
    assert set(build(8).products) != set(CATALOGUE.products[:8])
