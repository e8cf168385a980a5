"""The recipe as a value: defaults, what it refuses, and arithmetic that its settings imply."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from graftlm.recipes.schema import Block, DpoStage, PretrainStage, Recipe, SftStage, Source, TaskSettings


def recipe(**changes: Any) -> Recipe:
    tree: dict[str, Any] = {
        "name": "a",
        "base": "rootstock",
        "data": {"a": {"path": "a.jsonl"}, "b": {"path": "b.jsonl"}},
        "stages": {
            "pretrain": {"stage": "pretrain", "blocks": ["a"]},
            "sft": {"stage": "sft", "blocks": ["a", "b"]},
            "again": {"stage": "sft", "blocks": ["b"], "from": "pretrain"},
        },
    }
    return Recipe.model_validate(tree | changes)


@pytest.mark.parametrize(
    "source", [{}, {"path": "a", "hub": "b/c"}, {"path": "a", "world": "clinic", "part": "exam"}, {"world": "clinic"}]
)
def test_a_source_is_one_place(source: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match=r"exactly one of|needs a part"):
        Source.model_validate(source)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (Source, {"path": "a", "limit": 0}),
        (Source, {"path": "a", "split": "page"}),
        (Source, {"path": "a", "kind": "unpaired"}),
        (Block, {"path": "a", "held_out": 1.0}),
        (TaskSettings, {"path": "a", "metric": "bleu", "side": "domain"}),
        (TaskSettings, {"path": "a", "metric": "choice"}),
        (SftStage, {"blocks": []}),
        (SftStage, {"blocks": {"a": 0}}),
        (SftStage, {"blocks": ["a"], "beta": 0.1}),
        (SftStage, {"blocks": ["a"], "lora": {"rank": 0}}),
        (DpoStage, {"blocks": ["a"], "beta": 0}),
    ],
)
def test_values_out_of_range(kind: Any, values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        kind.model_validate(values)


def test_the_rate_depends_on_the_method() -> None:
    assert SftStage(blocks=["a"]).peak_rate == 2e-5
    assert SftStage(blocks=["a"], method="lora").peak_rate == 2e-4
    assert SftStage(blocks=["a"], method="lora", learning_rate=1e-3).peak_rate == 1e-3


@pytest.mark.parametrize(
    ("row", "step", "longest", "rows", "limit"),
    [(1024, None, None, 1, 1024), (1024, 4096, 512, 4, 512), (1024, 100, 9999, 1, 1024), (1024, 2500, None, 2, 1024)],
)
def test_rows_and_steps(row: int, step: int | None, longest: int | None, rows: int, limit: int) -> None:
    stage = PretrainStage(blocks=["a"], row_tokens=row, step_tokens=step, max_tokens=longest)
    assert (stage.rows_per_step, stage.longest) == (rows, limit)


def test_stages_follow_each_other() -> None:
    made = recipe()
    assert [made.start_of(name) for name in made.stages] == ["base", "pretrain", "pretrain"]
    assert DpoStage(blocks=["a"]).epochs == 1.0


@pytest.mark.parametrize("start", ["again", "later", "a"])
def test_a_stage_starts_from_an_earlier_one(start: str) -> None:
    with pytest.raises(ValidationError, match="not an earlier stage"):
        recipe(stages={"again": {"stage": "sft", "blocks": ["a"], "from": start}})


def test_blocks_must_exist() -> None:
    with pytest.raises(ValidationError, match=r"stages\.sft\.blocks names `c`.*it has: a, b"):
        recipe(stages={"sft": {"stage": "sft", "blocks": {"c": 1.0}}})


@pytest.mark.parametrize("name", ["", "a b", "../a", "a/b"])
def test_a_name_can_be_a_folder(name: str) -> None:
    with pytest.raises(ValidationError):
        recipe(name=name)


def test_a_recipe_survives_its_own_json() -> None:
    made = recipe()
    assert Recipe.model_validate(made.model_dump(by_alias=True, mode="json")) == made
