"""Rows for encoders: their layouts, and tags that follow the characters of every token."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from transformers import BertTokenizerFast

from graftlm.data.encode_annotated import encode_classified, encode_tagged
from graftlm.data.readers import Row
from graftlm.data.records import RowError, load_samples, to_sample
from graftlm.data.records.annotations import unclassified, untagged
from graftlm.data.samples import Classified, Entity, Origin, Tagged
from graftlm.data.tags import entities_of_tokens, tag_names, tags_of_tokens
from graftlm.models.scratch import train_tokenizer
from graftlm.models.scratch_encoder import train_wordpiece

SHARED = Path(__file__).parents[4] / "shared" / "data"
VOCABULARY = SHARED / "tokenizer/bert_vocab/erlangshen-bert-base/pretrain/vocab.txt"
O = Origin("rows.jsonl", 3)
PER, LOC = "PER", "LOC"


def test_a_text_with_a_class() -> None:
    def read(row: dict[str, Any]) -> Any:
        return to_sample(Row(O, row), "classified")

    assert read({"text": "a", "label": "x"}) == Classified("a", "x", O)
    assert read({"text": "a", "label": 3}) == Classified("a", "3", O)
    assert read({"text": "a", "label": True}) == Classified("a", "true", O)
    assert read({"text": "a", "label": 0}) == Classified("a", "0", O)
    assert read({"sentence1": "a", "sentence2": "b", "label": "1"}) == Classified("a", "1", O, "b")
    assert read({"sentence": "a", "label": 102, "label_desc": "news"}) == Classified("a", "102", O)
    mapped = to_sample(Row(O, {"s": "a", "d": "news"}), "classified", {"text": "s", "label": "d"})
    assert mapped == Classified("a", "news", O)
    assert unclassified({"text": "a", "label": None}, O) == Classified("a", "", O)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"text": " ", "label": "x"}, "text is empty"),
        ({"text": None, "label": "x"}, "text is empty"),
        ({"text": "a", "label": None}, "label is empty"),
        ({"text": "a", "label": ""}, "label is empty"),
        ({"text": "a", "text_b": "", "label": "x"}, "text_b is empty"),
        ({"text": "a"}, "cannot become classified"),
    ],
)
def test_a_row_without_text_or_class_is_refused(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(RowError, match=reason):
        to_sample(Row(O, row), "classified")


WANTED = Tagged("王明住在北京", (Entity(0, 2, PER), Entity(4, 6, LOC)), O)


@pytest.mark.parametrize(
    "row",
    [
        {
            "text": "王明住在北京",
            "entities": [{"start": 0, "end": 2, "type": PER}, {"start": 4, "end": 6, "label": LOC}],
        },
        {"text": "王明住在北京", "entities": [[4, 6, LOC], [0, 2, PER]]},
        {"text": "王明住在北京", "label": {PER: {"王明": [[0, 1]]}, LOC: {"北京": [[4, 5]]}}},
        {"tokens": ["王明", "住", "在", "北", "京"], "tags": ["B-PER", "O", "O", "B-LOC", "I-LOC"]},
        {"tokens": ["王明", "住", "在", "北", "京"], "entities": [[0, 1, PER], [3, 5, LOC]]},
    ],
)
def test_layouts_of_entities(row: dict[str, Any]) -> None:
    assert to_sample(Row(O, row), "tagged") == WANTED
    assert untagged(row, O) == Tagged("王明住在北京", (), O)


def test_words_are_joined_by_spaces_and_an_i_may_begin() -> None:
    row = {"tokens": ["Anna", "Smith", "met", "王明", "."], "ner_tags": ["I-PER", "I-PER", "O", "B-PER", "O"]}
    assert to_sample(Row(O, row), "tagged") == Tagged(
        "Anna Smith met王明.", (Entity(0, 10, PER), Entity(14, 16, PER)), O
    )


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"text": "abc", "entities": [[1, 5, PER]]}, "does not stand in a text of 3"),
        ({"text": "abc", "entities": [[1, 1, PER]]}, "does not stand"),
        ({"text": "abc", "entities": [[0, 2, PER], [1, 3, LOC]]}, "overlap"),
        ({"text": "abc", "entities": [[0, "2", PER]]}, "not whole numbers"),
        ({"text": "abc", "entities": [[0, 2, ""]]}, "type of entity 1 is empty"),
        ({"text": "abc", "entities": "x"}, "not a list"),
        ({"tokens": ["a", "b"], "tags": ["O"]}, "list of 2"),
        ({"tokens": ["a", "b"], "tags": ["O", 3]}, "none of O, B-type, I-type"),
        ({"text": "王明", "label": {PER: {"李明": [[0, 1]]}}}, "are not '李明'"),
    ],
)
def test_entities_that_are_none_are_refused(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(RowError, match=reason):
        to_sample(Row(O, row), "tagged")


# --- alignment


def oracle(text: str, offsets: Any, entities: tuple[Entity, ...]) -> list[str]:
    """Tags by characters: each character knows its entity; a token takes that of its first character in one, B where
    no token before it has that entity."""
    owner: dict[int, int] = {at: n for n, one in enumerate(entities) for at in range(one.start, one.end)}
    tags, begun = [], set()
    for start, end in offsets:
        owners = [owner[at] for at in range(start, end) if at in owner]
        if not owners:
            tags.append("O")
            continue
        tags.append(f"{'I' if owners[0] in begun else 'B'}-{entities[owners[0]].kind}")
        begun.add(owners[0])
    return tags


def random_text(rng: random.Random) -> tuple[str, tuple[Entity, ...]]:
    words = ["王小明", "北京市", "Anna", "unbelievable", "3.5", "，", " ", "的", "New York", "é", "😀"]
    text, entities = "", []
    for _ in range(rng.randint(1, 12)):
        word = rng.choice(words)
        if word.strip() and rng.random() < 0.4:
            entities.append(Entity(len(text), len(text) + len(word), rng.choice((PER, LOC))))
        text += word + rng.choice(("", " "))
    return text, tuple(entities)


@pytest.fixture(scope="module")
def wordpiece() -> Any:
    rng = random.Random(1)
    return train_wordpiece([random_text(rng)[0] for _ in range(200)] + ["un believ able"], 330, max_tokens=128)


@pytest.fixture(scope="module")
def byte_level() -> Any:
    rng = random.Random(1)
    return train_tokenizer((random_text(rng)[0] for _ in range(200)), 400, max_tokens=128)


@pytest.mark.parametrize("kind", ["wordpiece", "byte_level"])
def test_tags_follow_the_characters(kind: str, request: pytest.FixtureRequest) -> None:
    tokenizer, rng = request.getfixturevalue(kind), random.Random(7)
    names = tag_names([PER, LOC])
    assert names == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    whole = 0
    for _ in range(200):
        text, entities = random_text(rng)
        [(document, offsets)] = encode_tagged(tokenizer, [Tagged(text, entities, O)], names, longest=200)
        tags = tags_of_tokens(offsets, entities)
        assert tags == oracle(text, offsets, entities)
        assert [names[n] if n >= 0 else "O" for n in document.notes[:, 0]] == tags
        # Back again: what stands in whole tokens is found again to the character.
        ends = {at for span in offsets for at in span}
        kept = [one for one in entities if {one.start, one.end} <= ends]
        whole += len(kept)
        assert set(kept) <= set(entities_of_tokens(tags, offsets, text))
    assert whole > 300


def test_an_entity_inside_a_token_takes_the_token() -> None:
    text, offsets = "unhappy man", [(0, 0), (0, 7), (8, 11), (0, 0)]
    tags = tags_of_tokens(offsets, [Entity(2, 7, PER)])
    assert tags == ["O", "B-PER", "O", "O"]
    assert entities_of_tokens(tags, offsets, text) == (Entity(0, 7, PER),)


def test_space_that_a_token_carries_is_no_part_of_a_name() -> None:
    assert entities_of_tokens(["O", "B-PER"], [(0, 3), (3, 8)], "met Anna") == (Entity(4, 8, PER),)


def test_a_text_that_is_too_long_loses_its_end(wordpiece: Any) -> None:
    text = "王小明的" * 10
    [(document, _)] = encode_tagged(wordpiece, [Tagged(text, (Entity(0, 3, PER),), O)], tag_names([PER]), longest=12)
    assert len(document.tokens) == 12 and document.cut == 42 - 12
    [pair] = encode_classified(wordpiece, [Classified(text, "x", O, "北京")], ["x"], longest=12)
    assert len(pair.tokens) == 12 and pair.cut == 45 - 12
    assert wordpiece.convert_ids_to_tokens(pair.tokens.tolist())[-3:] == ["北", "京", "[SEP]"]


@pytest.mark.skipif(not VOCABULARY.exists(), reason="shared data are absent")
def test_erlangshens_tokenizer_and_fewclue() -> None:
    tokenizer = BertTokenizerFast(str(VOCABULARY))
    names = tag_names([PER, LOC])
    [(document, offsets)] = encode_tagged(tokenizer, [WANTED], names, longest=64)
    pieces = tokenizer.convert_ids_to_tokens(document.tokens.tolist())
    assert pieces == ["[CLS]", "王", "明", "住", "在", "北", "京", "[SEP]"]
    assert entities_of_tokens([names[max(n, 0)] for n in document.notes[:, 0]], offsets, WANTED.text) == WANTED.entities
    pairs = load_samples(SHARED / "eval/fewclue/bustm/train_0.json", kind="classified")
    assert not pairs.faults and {one.label for one in pairs.samples} == {"0", "1"}  # type: ignore[union-attr]
    assert all(one.text_b for one in pairs.samples)  # type: ignore[union-attr]
    news = load_samples(
        SHARED / "eval/fewclue/tnews/train_0.json",
        kind="classified",
        columns={"text": "sentence", "label": "label_desc"},
    )
    assert not news.faults and len({one.label for one in news.samples}) == 15  # type: ignore[union-attr]
