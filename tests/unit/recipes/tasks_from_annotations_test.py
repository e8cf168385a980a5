"""The recipe's key `tasks`, and `graft tasks`: annotated rows become conversations and test items."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from graftlm.core.errors import DataError, RecipeError
from graftlm.data.records import load_samples
from graftlm.data.samples import Chat, Labelled
from graftlm.recipes.atomic_tasks import write_tasks
from graftlm.recipes.loading import load_recipe
from graftlm.recipes.schema import Block, TaskSettings
from graftlm.recipes.sources import read_source, source_key

ROWS = (
    {"text": "Tavovik red hat", "entities": [[0, 7, "brand"], [8, 11, "colour"], [12, 15, "product"]]},
    {"text": "塔伏维红色帽子", "entities": [[0, 3, "brand"], [3, 5, "colour"], [5, 7, "product"]]},
    {"text": "too short", "entities": [[0, 90, "brand"]]},
)


@pytest.fixture
def titles(tmp_path: Path) -> Path:
    file = tmp_path / "titles.jsonl"
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS), encoding="utf-8")
    return file


def block(file: Path, **tasks: object) -> Block:
    return Block.model_validate({"path": str(file), "kind": "tagged", "tasks": tasks})


def test_a_block_with_tasks_gives_conversations_of_its_rows(titles: Path) -> None:
    rows = read_source("titles", block(titles, prompts=2, names={"zh": {"brand": "品牌"}}, subject=["title", "标题"]))
    assert (len(rows.samples), rows.read, rows.kind) == (4, 3, "chat")
    assert [fault.origin.line for fault in rows.faults] == [3]
    for sample, row in zip(rows.samples, (1, 1, 2, 2), strict=True):
        assert isinstance(sample, Chat)
        assert sample.origin.line == row
        assert ("Title: Tavovik red hat" if row == 1 else "标题：塔伏维红色帽子") in sample.turns[0].content


@pytest.mark.parametrize(("metric", "choices", "answers"), [("choice", 3, 1), ("generate", 0, 1), ("extract", 0, 3)])
def test_a_test_with_tasks_gives_items_for_its_metric(titles: Path, metric: str, choices: int, answers: int) -> None:
    kinds = ["span_type"] if metric == "choice" else ["span_detection"]
    task = TaskSettings.model_validate(
        {"path": str(titles), "kind": "tagged", "metric": metric, "side": "domain", "tasks": {"kinds": kinds}}
    )
    rows = read_source("titles", task)
    assert len(rows.samples) == 2
    for item in rows.samples:
        assert isinstance(item, Labelled)
        assert len(item.answers) == answers
        assert choices == 0 or 2 <= len(item.choices) <= choices
        assert item.kind == kinds[0]


def test_other_tasks_are_another_source(titles: Path) -> None:
    plain = Block.model_validate({"path": str(titles), "kind": "tagged"})
    keys = {source_key(plain), source_key(block(titles)), source_key(block(titles, seed=1))}
    assert len(keys) == 3


def test_tasks_need_rows_that_are_known_to_be_annotated(titles: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"name: x\nbase: rootstock\ndata:\n  a: {{path: {titles}, tasks: {{}}}}\nstages:\n  sft: {{blocks: [a]}}\n",
        encoding="utf-8",
    )
    with pytest.raises(RecipeError, match="kind: tagged"):
        load_recipe(recipe)
    with pytest.raises(RecipeError, match="promts"):
        load_recipe(recipe, ["data.a.kind=tagged", "data.a.tasks.promts=2"])
    assert load_recipe(recipe, ["data.a.kind=tagged", "data.a.tasks.prompts=2"]).data["a"].tasks is not None


def test_rows_that_give_none_of_the_tasks_are_an_error(titles: Path) -> None:
    with pytest.raises(DataError, match="none of these tasks"):
        read_source("titles", block(titles, kinds=["classification"]))
    with pytest.raises(ValueError, match="did you mean 'span_typing'"):
        block(titles, kinds=["span_typng"])


def test_the_command_writes_what_stages_read(titles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "tasks.jsonl"
    write_tasks(titles, out, "tagged", ["chain=true", "noun=[label, 标签]"])
    loaded = load_samples(out)
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert loaded.read == len(loaded.samples) == len(lines) == 14
    assert all(isinstance(sample, Chat) for sample in loaded.samples)
    assert [line["task"] for line in lines[:3]] == ["span_detection", "span_typing", "type_detection"]
    assert lines[0]["row"] == f"{titles}:1"
    printed = capsys.readouterr()
    assert "14 tasks of 3 rows" in printed.out and "titles.jsonl:3" in printed.err


def test_a_world_s_annotations_become_tasks() -> None:
    source = Block.model_validate({"world": "clinic", "part": "ward_notes", "count": 5, "tasks": {"prompts": 1}})
    assert len(read_source("notes", source).samples) == 5


def test_a_setting_that_does_not_exist_is_named(titles: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="promts=2"):
        write_tasks(titles, tmp_path / "out.jsonl", "tagged", ["promts=2"])
    with pytest.raises(RecipeError, match="prompts"):
        write_tasks(titles, tmp_path / "out.jsonl", "tagged", ["prompts=many"])
