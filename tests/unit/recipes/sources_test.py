"""From sources to token stores: nothing is lost, nothing is read twice, other content is another key."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graftlm.core.errors import DataError
from graftlm.data.encode import Encoded, encode_texts
from graftlm.data.samples import Labelled, Text
from graftlm.data.templates import tokenizer_template
from graftlm.data.worlds import generate
from graftlm.models.loading import load_tokenizer
from graftlm.recipes import tokenise as tokenising
from graftlm.recipes.schema import Block, Source
from graftlm.recipes.sources import (
    HELD_OUT_LIMIT,
    Generated,
    held_out_places,
    read_prompts,
    read_source,
    source_key,
)
from graftlm.recipes.stage_settings import (
    BestOfStage,
    DpoStage,
    GradientStage,
    GrpoStage,
    KtoStage,
    OrpoStage,
    PpoStage,
    PretrainStage,
    RewardStage,
    SftStage,
    SimpoStage,
)
from graftlm.recipes.tokenise import Form, TokenisedBlock, form_of, token_share, tokenise


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer("rootstock")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))


def write_rows(file: Path, rows: list[Any]) -> Block:
    file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return Block(path=str(file))


def texts(count: int) -> list[dict[str, str]]:
    return [{"text": f"Text number {n} of these."} for n in range(count)]


def store(block: Block, tokenizer: Any, longest: int = 64, form: Form = "language") -> TokenisedBlock:
    return tokenise("a", block, tokenizer, tokenizer_template(tokenizer), "words", longest, form)


@pytest.mark.parametrize(
    ("samples", "share", "count"),
    [(0, 0.5, 0), (19, 0.5, 0), (20, 0.02, 0), (20, 0.05, 1), (100, 0.02, 2), (100, 0.0, 0), (100_000, 0.5, 200)],
)
def test_held_out_places(samples: int, share: float, count: int) -> None:
    places = sorted(held_out_places(samples, share))
    assert len(places) == count <= HELD_OUT_LIMIT
    assert all(0 <= place < samples for place in places)
    if count > 1:  # evenly spread
        gaps = np.diff(places)
        assert gaps.max() - gaps.min() <= 1 and gaps.min() > 0


def test_a_generated_sequence_is_the_stream() -> None:
    source = Source(world="clinic", part="consultations", count=20, start=7, size={"diseases": 8, "drugs": 8})
    made = read_source("a", source).samples
    wanted = list(generate("clinic", "consultations", count=20, start=7, diseases=8, drugs=8))
    assert isinstance(made, Generated) and len(made) == 20
    assert list(made) == wanted == made[:] == [made[place] for place in range(20)]
    assert made[3:9] == wanted[3:9] and made[18:40] == wanted[18:] and made[9:3] == []
    for place in (20, -1):
        with pytest.raises(IndexError):
            made[place]


def test_a_finite_part_is_not_counted_for_more_than_it_has() -> None:
    whole = read_source("a", Source(world="clinic", part="exam"))
    more = read_source("a", Source(world="clinic", part="exam", count=1_000_000))
    assert whole.read == more.read == len(more.samples) == len(list(more.samples))
    assert whole.kind == "labelled" and isinstance(more.samples[-1], Labelled)
    with pytest.raises(DataError, match="no sample 1000000"):
        read_source("a", Source(world="clinic", part="exam", start=1_000_000, count=5))


def test_a_limit_holds_for_worlds_too() -> None:
    assert read_source("a", Source(world="clinic", part="documents", count=50, limit=8)).read == 8
    assert read_source("a", Source(world="clinic", part="exam", limit=8)).read == 8


def test_faults_are_kept_and_counted(tmp_path: Path) -> None:
    rows = read_source("a", write_rows(tmp_path / "a.jsonl", [*texts(3), "{", {"text": ""}]))
    assert (rows.read, len(rows.samples), rows.kind) == (5, 3, "text")
    assert [fault.origin.line for fault in rows.faults] == [4, 5]


def test_sources_that_cannot_be_used(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(DataError, match=r"data\.a: no valid row among 1.*a\.jsonl:1: "):
        read_source("a", write_rows(tmp_path / "a.jsonl", ["{"]))
    chat = {"instruction": "Why?", "output": "So."}
    with pytest.raises(DataError, match="rows of several kinds: chat, text"):
        read_source("a", write_rows(tmp_path / "b.jsonl", [*texts(1), chat]))
    with pytest.raises(DataError, match=r"data\.a: it holds labelled rows"):
        store(Block(world="clinic", part="exam"), tokenizer)


def test_every_sample_is_trained_on_or_kept_back(tmp_path: Path, tokenizer: Any) -> None:
    block = write_rows(tmp_path / "a.jsonl", [*texts(50), "{"]).model_copy(update={"held_out": 0.1})
    made = store(block, tokenizer)
    read = [tokenizer.decode(made.train.documents(n)[0][0].tolist()) for n in range(made.train.samples)]
    spare = [tokenizer.decode(made.held_out.documents(n)[0][0].tolist()) for n in range(made.held_out.samples)]
    assert (len(read), len(spare)) == (45, 5) and not set(read) & set(spare)
    assert {f"number {n} " in " ".join(read + spare) for n in range(50)} == {True}
    counts = made.train.accounting
    assert counts["read"] == counts["refused"] + counts["samples"] + made.held_out.samples == 51


@pytest.mark.parametrize("longest", [2, 3, 7, 64, 10_000])
def test_a_long_text_loses_no_target(longest: int, tokenizer: Any) -> None:
    document = encode_texts(tokenizer, ["one two three four five " * 40])[0]
    parts = list(tokenising._continued(document, longest))
    assert all(2 <= len(part.tokens) <= longest for part in parts)
    # What is learnt: every token but the first of a part, which is there to be read.
    learnt = np.concatenate([part.tokens[1:][part.targets[1:]] for part in parts])
    assert learnt.tolist() == document.tokens[document.targets].tolist()
    for before, after in pairwise(parts):
        assert before.tokens[-1] == after.tokens[0]


def test_a_text_of_one_token_stays() -> None:
    one = Encoded(np.array([5], np.uint32), np.array([False]))
    assert [part.tokens.tolist() for part in tokenising._continued(one, 4)] == [[5]]


def test_chats_and_pairs_are_cut_and_counted(tmp_path: Path, tokenizer: Any) -> None:
    chats = [{"instruction": "Say it", "output": "word " * size} for size in (2, 50)]
    chats.append({"instruction": "why " * 80, "output": "So."})
    made = store(write_rows(tmp_path / "chat.jsonl", chats), tokenizer, 32)
    counts = made.train.accounting
    assert made.train.samples == 2 and made.train.sample_lengths.max() == 32
    assert (counts["samples"], counts["cut"], counts["dropped"]) == (3, 1, 1) and counts["tokens_cut"] > 0
    pairs = [{"prompt": "Say it", "chosen": "word " * 50, "rejected": "No."}]
    made = store(write_rows(tmp_path / "pair.jsonl", pairs), tokenizer, 32, "pairs")
    assert made.train.group == 2 and made.train.samples == 1
    assert made.train.sample_lengths[0] <= 32  # both answers stand in one row


def test_what_is_tokenised_is_not_read_again(tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    block = write_rows(tmp_path / "a.jsonl", texts(30))
    first = store(block, tokenizer)
    monkeypatch.setattr(tokenising, "read_source", lambda *_: pytest.fail("the source is read again"))
    again = store(block, tokenizer)
    assert again.train.path == first.train.path
    assert (first.train.path.name, first.held_out.path) == ("train", first.train.path.parent / "held_out")
    assert again.train.tokens.tolist() == first.train.tokens.tolist()
    moved = tmp_path / "elsewhere.jsonl"
    moved.write_bytes((tmp_path / "a.jsonl").read_bytes())
    assert store(Block(path=str(moved)), tokenizer).train.path == first.train.path  # content counts, not place


def test_other_content_is_another_key(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    block = write_rows(file, texts(3))
    keys = [source_key(block)]
    for change in ({"limit": 2}, {"held_out": 0.5}, {"split": "line"}, {"kind": "text"}, {"columns": {"text": "t"}}):
        keys.append(source_key(block.model_copy(update=change)))
    file.rename(tmp_path / "a.txt")  # another reader
    keys.append(source_key(Block(path=str(tmp_path / "a.txt"))))
    write_rows(file, texts(4))
    keys.append(source_key(block))
    for update in (
        {},
        {"count": 6},
        {"start": 1},
        {"world_seed": 1},
        {"size": {"diseases": 9}},
        {"part": "preferences"},
    ):
        keys.append(source_key(Block(world="clinic", part="documents", count=5).model_copy(update=update)))
    assert len(set(keys)) == len(keys)


def test_names_with_pattern_marks_and_folders_have_their_own_keys(tmp_path: Path) -> None:
    """Two files with brackets in their names, and folders that a pattern finds, must not share a key."""
    found = []
    for name in ("rows[1].jsonl", "rows[2].jsonl"):
        block = write_rows(tmp_path / name, texts(len(found) + 1))
        assert read_source("a", block).read == len(found) + 1
        found.append(source_key(block))
    (tmp_path / "part-1").mkdir()
    pattern = Block(path=str(tmp_path / "part-*"))
    for count in (1, 2):
        write_rows(tmp_path / "part-1/a.jsonl", texts(count))
        assert read_source("a", pattern).read == count
        found.append(source_key(pattern))
    assert len(set(found)) == 4


def test_shares(tmp_path: Path, tokenizer: Any) -> None:
    stores = {
        name: store(write_rows(tmp_path / f"{name}.jsonl", texts(count)), tokenizer).train
        for name, count in (("few", 3), ("many", 9))
    }
    assert token_share({"few": 1, "many": 3}, stores) == {"few": 0.25, "many": 0.75}
    sizes = {name: int(kept.offsets[-1]) for name, kept in stores.items()}
    assert token_share(["few", "many"], stores) == {n: pytest.approx(s / sum(sizes.values())) for n, s in sizes.items()}


def test_a_large_set_is_encoded_alike_by_workers(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    block = Block(world="clinic", part="documents", count=20, held_out=0)
    alone = store(block, tokenizer, 32).train.tokens.tolist()
    monkeypatch.setattr(tokenising, "CHUNK", 2)
    monkeypatch.setattr(tokenising.os, "sched_getaffinity", lambda _: {0, 1})
    shared = store(block, tokenizer, 33)
    monkeypatch.setattr(tokenising, "CHUNK", 4096)
    assert (
        shared.train.tokens.tolist()
        == store(block.model_copy(update={"held_out": 0.01}), tokenizer, 33).train.tokens.tolist()
    )
    assert len(alone) >= len(shared.train.tokens) and isinstance(read_source("a", block).samples[0], Text)


# --- forms -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        (PretrainStage, "language"),
        (SftStage, "language"),
        (DpoStage, "pairs"),
        (OrpoStage, "pairs"),
        (SimpoStage, "pairs"),
        (KtoStage, "thumbs"),
        (RewardStage, "pairs"),
        (PpoStage, None),
        (GrpoStage, None),
        (BestOfStage, None),
    ],
)
def test_the_form_of_a_stage(kind: type[GradientStage], form: Form | None) -> None:
    reward = {"reward": "scores"} if form is None else {}
    assert form_of(kind.model_validate({"blocks": ["a"]} | reward), "rootstock") == form


def test_an_encoder_reads_questions_and_answers(tmp_path: Path) -> None:
    config = {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert form_of(RewardStage(blocks=["a"]), str(tmp_path)) == "question_answer_pairs"
    assert form_of(DpoStage(blocks=["a"]), str(tmp_path)) == "pairs"


def test_a_form_has_its_own_store(tmp_path: Path, tokenizer: Any) -> None:
    """The same pairs as pairs and as thumbs: one sample a pair, or one a thumb."""
    rows = [{"prompt": f"Say {n}", "chosen": f"It is {n}.", "rejected": "No."} for n in range(30)]
    block = write_rows(tmp_path / "a.jsonl", rows).model_copy(update={"held_out": 0.1})
    pairs, thumbs = (store(block, tokenizer, form=form) for form in ("pairs", "thumbs"))
    assert (pairs.train.samples, thumbs.train.samples) == (27, 54)
    assert (pairs.held_out.samples, thumbs.held_out.samples) == (3, 6)
    assert set(thumbs.train.values[0::2].tolist()) == {1.0, -1.0}
    with pytest.raises(DataError, match="it holds preference rows"):
        store(block, tokenizer)


# --- prompts -----------------------------------------------------------------------------------------------


def test_prompts_that_are_kept_back_are_never_asked_in_training(tmp_path: Path) -> None:
    """Not even another row with the same prompt: every prompt stands here twice."""
    rows = [{"instruction": f"Say {n % 50}", "output": f"{n}"} for n in range(100)]
    block = write_rows(tmp_path / "a.jsonl", rows).model_copy(update={"held_out": 0.1})
    found = read_prompts("a", block)
    train, held_out = ({prompt.prompt for prompt in part} for part in (found.train, found.held_out))
    assert len(held_out) == len(found.held_out) > 0 and not train & held_out
    assert len(found.train) == 100 - 2 * len(held_out)
    assert found.accounting == {
        "read": 100, "refused": 0, "samples": len(found.train), "kept_back": 2 * len(held_out),
    }  # fmt: skip


def test_a_conversation_is_asked_up_to_its_last_answer(tmp_path: Path) -> None:
    turns = [("user", "One?"), ("assistant", "1"), ("user", "Two?"), ("assistant", "2")]
    row = {"messages": [{"role": role, "content": content} for role, content in turns]}
    [prompt] = read_prompts("a", write_rows(tmp_path / "a.jsonl", [row])).train
    assert [turn.content for turn in prompt.prompt] == ["One?", "1", "Two?"]
    assert prompt.answers == ("2",) and prompt.origin.line == 1 and not prompt.unsafe


def test_pairs_and_test_items_are_asked_too(tmp_path: Path) -> None:
    pair = {"prompt": "Say it", "chosen": "It.", "rejected": "No."}
    [prompt] = read_prompts("a", write_rows(tmp_path / "a.jsonl", [pair]), unsafe=True).train
    assert (prompt.prompt[-1].content, prompt.answers, prompt.unsafe) == ("Say it", (), True)
    exam = Block(world="clinic", part="exam", count=5, held_out=0)
    items = read_source("a", exam).samples
    asked = read_prompts("a", exam).train
    assert [(one.prompt, one.answers) for one in asked] == [(item.prompt, item.answers) for item in items]  # type: ignore[union-attr]


def test_texts_and_nothing_cannot_be_asked(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.a: plain text has no prompts"):
        read_prompts("a", write_rows(tmp_path / "a.jsonl", texts(3)))
    alike = write_rows(tmp_path / "b.jsonl", [{"instruction": "Why?", "output": f"{n}"} for n in range(50)])
    with pytest.raises(DataError, match="no prompt is left to train on"):
        read_prompts("a", alike)
