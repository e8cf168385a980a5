"""What holds for every part of every world: determinism, well-formed items, a small language."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from graftlm.core.errors import DataError
from graftlm.data.samples import Chat, Classified, Labelled, Preference, Sample, Tagged, Text
from graftlm.data.worlds import ABSTENTIONS, generate, parts

ALL_PARTS = [(world, part) for world in ("general", "clinic", "shop") for part in parts(world)]
MAX_HAN = 700


def strings(sample: Sample) -> list[str]:
    match sample:
        case Text():
            return [sample.text]
        case Chat():
            return [turn.content for turn in sample.turns]
        case Preference():
            return [*(turn.content for turn in sample.prompt), sample.chosen, sample.rejected]
        case Labelled():
            return [*(turn.content for turn in sample.prompt), *sample.answers, *sample.choices]
        case Classified():
            return [sample.text, sample.label, *filter(None, [sample.text_b])]
        case Tagged():
            return [sample.text, *(sample.text[one.start : one.end] for one in sample.entities)]
    raise AssertionError(sample)


def some(world: str, part: str, count: int) -> Iterator[Sample]:
    return generate(world, part, count=count)


@pytest.mark.parametrize(("world", "part"), ALL_PARTS)
def test_sample_i_does_not_depend_on_where_generation_starts(world: str, part: str) -> None:
    whole = list(generate(world, part, count=30))
    assert len(whole) == 30
    assert list(generate(world, part, start=5, count=10)) == whole[5:15]
    assert list(generate(world, part, count=30)) == whole
    assert [sample.origin.line for sample in whole] == list(range(1, 31))
    assert whole[0].origin.path == f"world:{world}/{part}"


@pytest.mark.parametrize(("world", "part"), ALL_PARTS)
def test_another_seed_gives_other_samples(world: str, part: str) -> None:
    ours, theirs = ([strings(s) for s in generate(world, part, count=20, seed=seed)] for seed in (0, 1))
    assert ours != theirs


@pytest.mark.parametrize(("world", "part"), ALL_PARTS)
def test_no_empty_string_no_open_slot_no_stray_space(world: str, part: str) -> None:
    for sample in some(world, part, 1000):
        for text in strings(sample):
            assert text and text == text.strip()
            assert "{" not in text and "}" not in text and "  " not in text


@pytest.mark.parametrize(("world", "part"), ALL_PARTS)
def test_samples_are_short(world: str, part: str) -> None:
    for sample in some(world, part, 1000):
        longest = 700 if isinstance(sample, Text | Chat) else 420
        assert sum(map(len, strings(sample))) <= longest, sample


@pytest.mark.parametrize(("world", "part"), ALL_PARTS)
def test_exactly_one_choice_is_right(world: str, part: str) -> None:
    for sample in some(world, part, 1000):
        if isinstance(sample, Labelled) and sample.choices:
            assert len(set(sample.choices)) == (4 if world != "shop" or part == "exam" else len(sample.choices))
            assert len(set(sample.choices) & set(sample.answers)) == 1, sample


def test_chats_alternate_and_end_with_the_assistant() -> None:
    for world, part in (("general", "instructions"), ("clinic", "consultations"), ("shop", "chats"), ("shop", "tasks")):
        for sample in some(world, part, 2000):
            assert isinstance(sample, Chat)
            roles = [turn.role for turn in sample.turns]
            assert roles == ["user", "assistant"] * (len(roles) // 2) and roles


def test_the_closed_vocabulary_is_small(capsys: pytest.CaptureFixture[str]) -> None:
    han: set[str] = set()
    for world, part in ALL_PARTS:
        for sample in some(world, part, 4000):
            for text in strings(sample):
                han.update(char for char in text if "\u4e00" <= char <= "\u9fff")
    with capsys.disabled():
        print(f"\nworlds: {len(han)} distinct Han characters")
    assert len(han) <= MAX_HAN


def test_speed_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    for world, part in (("general", "text"), ("general", "instructions"), ("clinic", "documents")):
        start = time.process_time()
        sum(1 for _ in generate(world, part, count=3000))
        with capsys.disabled():
            print(f"\nworlds: {world}/{part} {3000 / (time.process_time() - start):,.0f} samples/s")


@pytest.mark.parametrize(
    ("world", "part", "size", "hint"),
    [
        ("clinc", "documents", {}, "'clinic'"),
        ("clinic", "document", {}, "'documents'"),
        ("general", "instruction", {}, "'instructions'"),
        ("clinic", "documents", {"drug": 3}, "'drugs'"),
        ("clinic", "documents", {"drugs": 2}, "at least 4"),
        ("clinic", "documents", {"drugs": 99}, "at most"),
        ("shop", "documents", {"products": 3}, "at least 8"),
        ("shop", "titel", {}, "'titles'"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(
    world: str, part: str, size: dict[str, int], hint: str
) -> None:
    with pytest.raises(DataError) as caught:
        generate(world, part, count=1, **size)
    assert caught.value.fix is not None and hint in caught.value.fix


def test_a_stream_needs_a_count_and_a_test_does_not() -> None:
    with pytest.raises(DataError, match="no end"):
        generate("general", "text")
    assert len(list(generate("general", "probe"))) == 300
    assert len(list(generate("clinic", "entities"))) == 60


def test_abstentions_are_in_both_languages() -> None:
    assert ABSTENTIONS == ("I don't know.", "我不知道。")
