"""The recipe as a value: defaults, what it refuses, and arithmetic that its settings imply."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from graftlm.recipes.schema import Block, Recipe, Source, TaskSettings
from graftlm.recipes.stage_settings import (
    BestOfStage,
    DpoStage,
    GrpoStage,
    PpoStage,
    PretrainStage,
    RewardSettings,
    RewardStage,
    SafetyReward,
    SftStage,
    reward_models,
    unsafe_blocks,
)


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
        (Source, {"path": "a", "kind": "pairs"}),
        (Block, {"path": "a", "held_out": 1.0}),
        (TaskSettings, {"path": "a", "metric": "bleu", "side": "domain"}),
        (TaskSettings, {"path": "a", "metric": "choice"}),
        (SftStage, {"blocks": []}),
        (SftStage, {"blocks": {"a": 0}}),
        (SftStage, {"blocks": ["a"], "beta": 0.1}),
        (SftStage, {"blocks": ["a"], "lora": {"rank": 0}}),
        (SftStage, {"blocks": ["a"], "lora": {"bits": 2}}),
        (SftStage, {"blocks": ["a"], "moments": "4bit"}),
        (SftStage, {"blocks": ["a"], "method": "lora", "weights": "bf16"}),
        (RewardStage, {"blocks": ["a"], "method": "qlora"}),
        (DpoStage, {"blocks": ["a"], "beta": 0}),
        (DpoStage, {"blocks": ["a"], "reward": []}),
        (PpoStage, {"blocks": ["a"]}),
        (PpoStage, {"blocks": ["a"], "reward": "r", "clip_ratio": 0}),
        (PpoStage, {"blocks": ["a"], "reward": "r", "gae_lambda": 1.1}),
        (GrpoStage, {"blocks": ["a"], "reward": "r", "group": 1}),
        (BestOfStage, {"blocks": ["a"], "reward": "r", "samples": 1}),
        (SafetyReward, {"model": "s", "threshold": 1.5}),
    ],
)
def test_values_out_of_range(kind: Any, values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        kind.model_validate(values)


def test_formats_of_weights() -> None:
    assert [SftStage(blocks=["a"], weights=w).rounding for w in ("fp32", "bf16", "bf16_master")] == [
        "stochastic", "stochastic", "master",
    ]  # fmt: skip
    assert SftStage(blocks=["a"], lora={"bits": 8}).bits is None
    assert SftStage(blocks=["a"], method="qlora", lora={"bits": 8}).bits == 8


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


# --- rewards -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ("scores", [{"model": "scores"}]),
        ({"exact": True}, [{"exact": True}]),
        (["scores", {"length": 50, "weight": 2.0}], [{"model": "scores"}, {"length": 50, "weight": 2.0}]),
    ],
    ids=["name", "mapping", "list"],
)
def test_a_reward_is_a_name_a_mapping_or_a_list(given: Any, made: list[dict[str, Any]]) -> None:
    stage = PpoStage.model_validate({"blocks": ["a"], "reward": given})
    assert stage.reward == [RewardSettings.model_validate(one) for one in made]


@pytest.mark.parametrize(
    ("reward", "words"),
    [
        ({}, "exactly one of .*given: none"),
        ({"weight": 2.0}, "exactly one of .*given: none"),
        ({"exact": True, "contains": True}, "exactly one of .*given: exact, contains"),
        ({"model": "a", "length": 9}, "exactly one of .*given: model, length"),
        ({"exact": True, "safety": {"model": "s"}}, "safety stands beside a reward model"),
        ({"modle": "a"}, "modle"),
    ],
)
def test_a_reward_is_of_one_kind(reward: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        PpoStage.model_validate({"blocks": ["a"], "reward": [reward]})


def test_what_a_stage_asks() -> None:
    safety = {"model": "safe", "blocks": ["b"]}
    rewards = ["good", {"model": "good", "safety": safety}, {"exact": True}]
    stage = PpoStage.model_validate({"blocks": ["a"], "reward": rewards})
    assert reward_models(stage) == ["good", "safe"] and unsafe_blocks(stage) == {"b"}
    assert reward_models(SftStage(blocks=["a"])) == [] and unsafe_blocks(SftStage(blocks=["a"])) == set()


REWARD_STAGES: dict[str, Any] = {
    "sft": {"stage": "sft", "blocks": ["a"]},
    "scores": {"stage": "reward", "blocks": ["b"]},
    "ppo": {"stage": "ppo", "blocks": ["a"], "reward": "scores"},
    "after": {"stage": "sft", "blocks": ["a"]},
}


def test_a_reward_model_is_no_start() -> None:
    made = recipe(stages=REWARD_STAGES)
    assert [made.start_of(name) for name in made.stages] == ["base", "sft", "sft", "ppo"]
    with pytest.raises(ValidationError, match=r"stages\.ppo\.from names `scores`, which makes no language model"):
        recipe(stages=REWARD_STAGES | {"ppo": REWARD_STAGES["ppo"] | {"from": "scores"}})


@pytest.mark.parametrize("name", ["sft", "after", "ppo"])
def test_a_reward_named_like_a_stage_is_an_earlier_reward_stage(name: str) -> None:
    for reward in (name, {"model": "hub/model", "safety": {"model": name}}):
        with pytest.raises(ValidationError, match=rf"stages\.ppo\.reward names `{name}`, which is not an earlier"):
            recipe(stages=REWARD_STAGES | {"ppo": REWARD_STAGES["ppo"] | {"reward": reward}})
    assert recipe(stages=REWARD_STAGES | {"ppo": REWARD_STAGES["ppo"] | {"reward": "hub/model"}})


def test_answers_come_in_whole_groups() -> None:
    with pytest.raises(ValidationError, match=r"answers \(12\) must be a multiple of group \(8\)"):
        GrpoStage(blocks=["a"], reward="r", answers=12)  # type: ignore[arg-type]
    assert GrpoStage(blocks=["a"], reward="r", answers=12, group=4).answers == 12  # type: ignore[arg-type]


@pytest.mark.parametrize(("loss", "fits"), [("sigmoid", True), ("robust", True), ("hinge", False), ("ipo", False)])
def test_label_smoothing_belongs_to_two_losses(loss: str, fits: bool) -> None:
    tree = {"blocks": ["a"], "loss": loss, "label_smoothing": 0.1}
    if fits:
        assert DpoStage.model_validate(tree).label_smoothing == 0.1
        return
    with pytest.raises(ValidationError, match="label_smoothing belongs to"):
        DpoStage.model_validate(tree)
    assert DpoStage.model_validate(tree | {"label_smoothing": 0.0})
