"""Every stage that learns from preferences, chained in one recipe and run by the real command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForSequenceClassification

TRAINED = {"learning_rate": 1e-4, "row_tokens": 256}
ANSWERING = {**TRAINED, "max_new_tokens": 12, "compare": 6}
PAIRS = {**ANSWERING, "from": "sft", "blocks": ["pairs"], "tokens": 1200}
POLICY = {**ANSWERING, "from": "sft", "iterations": 2, "answers": 8}

STAGES: dict[str, Any] = {
    "sft": {**TRAINED, "blocks": ["chat"], "tokens": 1500},
    "reward": {**TRAINED, "blocks": ["pairs"], "tokens": 2500, "margin": "small"},
    "reward-lora": {**TRAINED, "stage": "reward", "from": "sft", "blocks": ["pairs"], "tokens": 1500, "method": "lora"},
    "ppo": {**POLICY, "blocks": {"questions": 0.5, "chat": 0.5}, "reward": "reward", "kl_target": 3.0},
    "ppo-lora": {**POLICY, "stage": "ppo", "method": "lora", "blocks": ["questions"],
                 "reward": [{"model": "reward-lora", "safety": {"model": "reward", "blocks": ["questions"]}},
                            {"length": 20, "weight": 0.5}]},
    "grpo": {**POLICY, "group": 4, "blocks": ["sums"], "reward": [{"exact": True}, {"function": "my_rewards:short"}]},
    "rloo": {**POLICY, "stage": "grpo", "advantage": "rloo", "group": 4, "blocks": ["sums"], "kl": 0.05,
             "reward": {"regex": "[0-9]"}},
    "dpo": {**PAIRS, "loss": "ipo", "reward": "reward"},
    "kto": PAIRS,
    "orpo": PAIRS,
    "simpo": {**PAIRS, "sft_weight": 0.5},
    "best": {**ANSWERING, "stage": "best_of", "from": "sft", "blocks": ["sums"], "samples": 3, "rounds": 2,
             "prompts": 6, "reward": {"contains": True}},
    "ghost": {**ANSWERING, "stage": "best_of", "from": "sft", "blocks": ["chat"], "samples": 2, "rounds": 1,
              "prompts": 4, "reward": {"length": 5}, "ghost_instructions": ["Answer in one word."]},
}  # fmt: skip

DATA = {
    "chat": {"world": "general", "part": "instructions", "count": 60, "start": 3_000_000, "held_out": 0.2},
    "pairs": {"world": "clinic", "part": "advice_pairs", "count": 60, "held_out": 0.2},
    "questions": {"world": "clinic", "part": "advice_questions", "count": 40, "held_out": 0.2},
    "sums": {"world": "general", "part": "sums", "count": 40, "held_out": 0.2},
}
FUNCTION = "def short(prompts, answers):\n    return [1.0 if len(answer) < 5 else 0.0 for answer in answers]\n"


@pytest.fixture(scope="module")
def run(nursery: Any, small_recipe: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alignment")
    (folder / "my_rewards.py").write_text(FUNCTION)
    recipe = small_recipe(
        folder,
        {"data": DATA, "stages": STAGES, "name": "alignment"},
        leave_out=("evaluation.exam", "evaluation.text"),
    )
    done = nursery.run(folder, "run", recipe)
    assert done.code == 0, done.said
    return folder / "runs" / "alignment"


def receipt(run: Path, stage: str) -> dict[str, Any]:
    number = list(STAGES).index(stage) + 1
    return json.loads((run / f"{number:02d}-{stage}" / "receipt.json").read_text())


@pytest.mark.parametrize("stage", ["reward", "reward-lora", "dpo", "kto", "orpo", "simpo"])
def test_held_out_pairs_are_judged(run: Path, stage: str) -> None:
    found = receipt(run, stage)
    assert found["pairs"]["pairs"] == 12
    accuracy = found["pairs"]["accuracy"]
    assert 0 <= accuracy["low"] <= accuracy["value"] <= accuracy["high"] <= 1
    assert found["diagnosis"]
    counts = found["accounting"]["pairs"]
    assert counts["read"] == 60
    assert counts["samples"] + counts["dropped"] == 48


@pytest.mark.parametrize("stage", ["reward", "reward-lora"])
def test_a_reward_model_opens_in_transformers(run: Path, stage: str) -> None:
    number = list(STAGES).index(stage) + 1
    model = AutoModelForSequenceClassification.from_pretrained(run / f"{number:02d}-{stage}" / "model")
    assert model.config.num_labels == 1
    assert model.score.weight.abs().sum() > 0


@pytest.mark.parametrize("stage", ["ppo", "ppo-lora", "grpo", "rloo"])
def test_policies_log_every_round_and_compare(run: Path, stage: str) -> None:
    found = receipt(run, stage)
    assert [entry["round"] for entry in found["rollouts"]] == [0, 1]
    assert found["rollouts"][0]["kl"] == pytest.approx(0, abs=1e-3), "the first round is the start model's"
    assert found["rollouts"][0]["engine_gap"] < 1e-3
    assert found["stopped"] == "all data seen"
    assert found["comparison"]["prompts"] == 6
    assert found["comparison"]["reward_before"] is not None
    assert len(found["comparison"]["samples"]) == 1


def test_the_first_ppo_minibatch_has_ratio_one(run: Path) -> None:
    first = receipt(run, "ppo")["losses"][0]
    assert first["ratio"] == pytest.approx(1, abs=1e-6)
    assert first["clip_fraction"] == 0


def test_the_lora_reward_shares_the_policys_trunk(run: Path) -> None:
    assert "reward-lora shares the policy's trunk" in (run / "log.txt").read_text()


@pytest.mark.parametrize("stage", ["best", "ghost"])
def test_winners_are_written_down(run: Path, stage: str) -> None:
    number = list(STAGES).index(stage) + 1
    rows = [json.loads(line) for line in (run / f"{number:02d}-{stage}" / "winners.jsonl").read_text().splitlines()]
    assert {row["round"] for row in rows} == set(range(STAGES[stage]["rounds"]))
    found = receipt(run, stage)["rollouts"]
    assert all(entry["best"] >= entry["reward"] for entry in found)
    if stage == "ghost":
        texts = [" ".join(message["content"] for message in row["messages"]) for row in rows]
        assert all(text.count("Answer in one word.") == 1 for text in texts)


def test_stages_start_where_they_say_and_the_report_has_them_all(run: Path) -> None:
    page = (run / "report.html").read_text()
    for stage in STAGES:
        assert stage in page
    summary = json.loads((run / "receipt.json").read_text())
    assert summary["finished"], "a reward model is not missing scores"
    assert summary["absent"] == [] or all("reward" not in text for text in summary["absent"])


def test_a_second_run_trains_nothing(run: Path, nursery: Any) -> None:
    folder = run.parents[1]
    done = nursery.run(folder, "run", folder / "recipe.yaml")
    assert done.code == 0, done.said
    assert done.said.count("done before, skipped") == len(STAGES)
