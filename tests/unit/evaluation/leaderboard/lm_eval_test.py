"""Result files of lm-evaluation-harness, in the layouts that its versions write."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from graftlm.core.errors import GraftError
from graftlm.evaluation.leaderboard.entries import Entry, TaskScore
from graftlm.evaluation.leaderboard.reading import read_result, result_files

V04: dict[str, Any] = {
    "results": {
        "mmlu": {"acc,none": 0.4, "acc_stderr,none": 0.02, "alias": "mmlu"},
        "mmlu_anatomy": {"alias": " - anatomy", "acc,none": 0.4, "acc_stderr,none": 0.04},
        "gsm8k": {
            "alias": "gsm8k", "exact_match,flexible-extract": 0.31, "exact_match_stderr,flexible-extract": 0.013,
            "exact_match,strict-match": 0.25, "exact_match_stderr,strict-match": 0.012,
        },
        "wikitext": {"word_perplexity,none": 12.5, "word_perplexity_stderr,none": "N/A", "bits_per_byte,none": 0.7},
        "hellaswag": {"acc,none": 0.5, "acc_stderr,none": 0.005, "acc_norm,none": 0.65, "acc_norm_stderr,none": 0.0048},
        "leaderboard_mmlu_pro": {"acc,none": 0.19, "acc_stderr,none": 0.0036},
        "leaderboard_bbh": {"acc_norm,none": 0.35, "acc_norm_stderr,none": 0.006, "alias": " - leaderboard_bbh"},
        "broken": {"acc,none": float("nan"), "alias": "broken"},
    },
    "groups": {
        "mmlu": {"acc,none": 0.4, "acc_stderr,none": 0.02, "alias": "mmlu"},
        "leaderboard_bbh": {"acc_norm,none": 0.35, "acc_norm_stderr,none": 0.006},
    },
    "group_subtasks": {"mmlu": ["mmlu_anatomy"], "leaderboard_bbh": ["leaderboard_bbh_navigate"], "hellaswag": []},
    "versions": {"mmlu_anatomy": 1.0, "gsm8k": 3.0, "hellaswag": 1},
    "n-shot": {"mmlu_anatomy": 5, "gsm8k": 5, "wikitext": 0, "hellaswag": 10, "leaderboard_mmlu_pro": 5},
    "higher_is_better": {"wikitext": {"word_perplexity": False}, "hellaswag": {"acc_norm": True}},
    "n-samples": {"hellaswag": {"original": 10042, "effective": 500}, "gsm8k": {"original": 1319, "effective": 1319}},
    "config": {
        "model": "hf", "model_args": "pretrained=meta/llama-7b,dtype=bfloat16", "model_num_parameters": 6738415616,
        "model_dtype": "torch.bfloat16", "model_sha": "abc123", "limit": 500.0, "device": "cuda:0",
    },
    "date": 1718558512.5, "total_evaluation_time_seconds": "812.25", "transformers_version": "5.17.0",
    "chat_template": "{% for message in messages %}" * 9,
}  # fmt: skip
V03: dict[str, Any] = {
    "results": {
        "arc_challenge": {"acc": 0.48, "acc_stderr": 0.0146, "acc_norm": 0.53, "acc_norm_stderr": 0.0145},
        "truthfulqa_mc": {"mc1": 0.25, "mc1_stderr": 0.015, "mc2": 0.39, "mc2_stderr": 0.0136},
    },
    "versions": {"arc_challenge": 0, "truthfulqa_mc": 1},
    "config": {"model": "hf-causal", "model_args": "pretrained=old/model,use_accelerate=True", "num_fewshot": 25},
}
# huggingface.co/datasets/open-llm-leaderboard/details_HenryJJ__Instruct_Mistral-7B-v0.1_Dolly15K, of 2024-01-04
BOARD_V1: dict[str, Any] = {
    "config_general": {"model_name": "HenryJJ/Instruct_Mistral-7B-v0.1_Dolly15K", "model_dtype": "torch.float16"},
    "results": {
        "all": {"acc": 0.6241143484289186, "mc2": 0.435601924823795},
        "harness|arc:challenge|25": {"acc": 0.5571672354948806, "acc_norm": 0.5938566552901023},
        "harness|hellaswag|10": {"acc": 0.6253734315873332, "acc_norm": 0.826229834694284},
        "harness|truthfulqa:mc|0": {"mc1": 0.2802937576499388, "mc2": 0.435601924823795},
        "harness|winogrande|5": {"acc": 0.7932123125493291, "acc_stderr": 0.011382566829235805},
        "harness|gsm8k|5": {"acc": 0.3510235026535254, "acc_stderr": 0.01314694594139722},
    },
}


def read(folder: Path, content: Any, name: str = "results_2025-01-01.json", **more: Any) -> Entry:
    file = folder / name
    file.write_text(json.dumps(content), encoding="utf-8")
    return read_result(file, **more)


def tasks(entry: Entry) -> dict[str, TaskScore]:
    return {task.name: task for task in entry.tasks}


def test_the_layout_of_today(tmp_path: Path) -> None:
    entry = read(tmp_path, V04)
    assert (entry.model, entry.model_hash, entry.parameters) == ("meta/llama-7b", "abc123", 6738415616)
    assert (entry.precision, entry.seconds, entry.source) == ("bf16", 812.25, "lm-eval")
    assert entry.started == "2024-06-16T17:21:52+00:00"
    found = tasks(entry)
    assert set(found) == {"mmlu_anatomy", "gsm8k", "wikitext", "hellaswag", "leaderboard_mmlu_pro"}
    swag = found["hellaswag"]
    assert (swag.metric, swag.value, swag.shots, swag.n) == ("acc_norm", 0.65, 10, 500)
    assert swag.low == pytest.approx(0.65 - 1.96 * 0.0048, abs=1e-6)
    assert swag.high == pytest.approx(0.65 + 1.96 * 0.0048, abs=1e-6)
    assert swag.metrics == {"acc": 0.5}
    assert swag.coverage == "500 of 10,042 items"
    assert found["gsm8k"].coverage == ""


def test_the_strict_filter_stands_for_the_task(tmp_path: Path) -> None:
    found = tasks(read(tmp_path, V04))["gsm8k"]
    assert (found.metric, found.value) == ("exact_match (strict-match)", 0.25)
    assert found.metrics == {"exact_match (flexible-extract)": 0.31}


def test_perplexity_falls_and_is_no_share(tmp_path: Path) -> None:
    found = tasks(read(tmp_path, V04))["wikitext"]
    assert (found.metric, found.higher_is_better, found.is_share) == ("word_perplexity", False, False)
    assert (found.low, found.high) == (None, None)  # "N/A"


def test_raw_means_of_v2_do_not_pass_for_the_leaderboards(tmp_path: Path) -> None:
    """The harness prints 35 for BBH and 19 for MMLU-PRO; the leaderboard's MMLU-PRO is (0.19 - 0.1) / 0.9."""
    entry = read(tmp_path, V04)
    found = {group.name: group for group in entry.groups}
    assert "leaderboard_bbh" not in found
    assert any("leaderboard_bbh" in note and "normalised" in note for note in entry.notes)
    assert found["MMLU-PRO"].value == pytest.approx(10)
    assert found["MMLU-PRO"].how == "normalised"
    assert set(found["open-llm-v2"].missing) == {"IFEval", "BBH", "MATH Lvl 5", "GPQA", "MuSR"}


def test_groups_of_the_harness_keep_their_members(tmp_path: Path) -> None:
    [mmlu] = [group for group in read(tmp_path, V04).groups if group.name == "mmlu"]
    assert (mmlu.value, mmlu.members, mmlu.how) == (40, ("mmlu_anatomy",), "lm-eval's mean of acc")
    assert mmlu.high == pytest.approx(40 + 196 * 0.02, abs=1e-3)


def test_settings_that_change_scores_are_kept(tmp_path: Path) -> None:
    entry = read(tmp_path, V04)
    assert entry.settings["limit"] == 500
    template = entry.settings["chat_template"]
    assert isinstance(template, str) and len(template) < 60
    other = read(tmp_path, V04 | {"chat_template": V04["chat_template"] + "x"})
    assert other.settings["chat_template"] != template


def test_the_layout_of_0_3(tmp_path: Path) -> None:
    entry = read(tmp_path, V03)
    assert entry.model == "old/model"
    found = tasks(entry)
    assert (found["arc_challenge"].metric, found["arc_challenge"].shots) == ("acc_norm", 25)
    assert (found["truthfulqa_mc"].metric, found["truthfulqa_mc"].value) == ("mc2", 0.39)
    assert (entry.started, entry.seconds, entry.precision) == ("", None, "")


def test_the_layout_of_the_leaderboards_first_version(tmp_path: Path) -> None:
    entry = read(tmp_path, BOARD_V1)
    assert (entry.model, entry.precision) == ("HenryJJ/Instruct_Mistral-7B-v0.1_Dolly15K", "fp16")
    found = tasks(entry)
    assert found["arc:challenge"].shots == 25 and found["truthfulqa:mc"].shots == 0
    [suite] = [group for group in entry.groups if group.name == "open-llm-v1"]
    five = (0.5938566552901023, 0.826229834694284, 0.435601924823795, 0.7932123125493291, 0.3510235026535254)
    assert suite.value == pytest.approx(100 * sum(five) / 5)
    assert suite.missing == {"mmlu": "not run"}


def test_without_a_stderr_the_widest_possible_one(tmp_path: Path) -> None:
    """IFEval's score by instruction has none; of 541 prompts no mean of shares can vary more than p (1 - p) / 541."""
    content = V04 | {"results": {"leaderboard_ifeval": {
        "prompt_level_strict_acc,none": 0.4, "prompt_level_strict_acc_stderr,none": 0.0211,
        "inst_level_strict_acc,none": 0.5, "inst_level_strict_acc_stderr,none": "N/A",
    }}, "groups": {}}  # fmt: skip
    entry = read(tmp_path, content)
    [ifeval] = [group for group in entry.groups if group.name == "IFEval"]
    assert ifeval.value == pytest.approx(45)
    assert ifeval.high == pytest.approx(45 + 1.96 * 100 * (0.0211 + math.sqrt(0.25 / 541)) / 2, abs=1e-3)


def test_scores_by_item_beside_the_file(tmp_path: Path) -> None:
    rows = [
        {"doc_id": number, "doc_hash": f"d{number}", "target_hash": "t", "filter": how, "exact_match": float(right)}
        for how, rights in (("strict-match", (1, 0, 1, 0)), ("flexible-extract", (1, 1, 1, 0)))
        for number, right in reversed(list(enumerate(rights)))
    ]
    samples = tmp_path / "samples_gsm8k_2025-01-01.jsonl"
    samples.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    found = tasks(read(tmp_path, V04))
    scores = found["gsm8k"].scores
    assert scores is not None and scores.numerators.tolist() == [1, 0, 1, 0]
    assert found["gsm8k"].items_hash and found["gsm8k"].n == 4
    assert found["hellaswag"].scores is None and found["hellaswag"].items_hash == ""
    first = found["gsm8k"].items_hash
    samples.write_text(samples.read_text().replace('"d2"', '"d9"'), encoding="utf-8")
    assert tasks(read(tmp_path, V04))["gsm8k"].items_hash != first
    samples.write_text('{"doc_id": 0}\n{broken\n', encoding="utf-8")
    with pytest.raises(GraftError, match="jsonl:2"):
        read(tmp_path, V04)


def test_the_same_result_has_the_same_hash(tmp_path: Path) -> None:
    one = read(tmp_path, V04)
    assert one.hash == read(tmp_path, dict(reversed(V04.items())), "results_copy.json").hash
    assert one.hash != read(tmp_path, V04 | {"date": 1.0}).hash
    assert one.hash != read(tmp_path, V04, model="another name").hash


@pytest.mark.parametrize(("content", "reason"), [
    ({"results": {}}, "does not name its model"),
    (V03 | {"results": {"arc_challenge": {"acc": "N/A"}}}, "no task has a score"),
    ({"tasks": [{"name": "x"}], "groups": []}, "model: Field required"),
    ({"tasks": [], "groups": []}, "holds no task"),
    ({"something": "else"}, "no result of an evaluation"),
    ([1, 2], "no result of an evaluation"),
])  # fmt: skip
def test_files_that_are_no_results(tmp_path: Path, content: Any, reason: str) -> None:
    with pytest.raises(GraftError, match=reason) as caught:
        read(tmp_path, content)
    assert caught.value.fix and "results_2025" in str(caught.value.where)


def test_a_file_that_is_not_json_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "half.json").write_text('{"results": {', encoding="utf-8")
    with pytest.raises(GraftError, match=r"half\.json:1"):
        read_result(tmp_path / "half.json")
    with pytest.raises(GraftError, match="does not exist"):
        read_result(tmp_path / "none.json")


def test_files_of_a_folder(tmp_path: Path) -> None:
    with pytest.raises(GraftError, match="no result"):
        result_files(tmp_path)
    (tmp_path / "mine.json").touch()
    assert [file.name for file in result_files(tmp_path)] == ["mine.json"]
    (tmp_path / "llama").mkdir()
    (tmp_path / "llama" / "results_1.json").touch()
    assert [file.name for file in result_files(tmp_path)] == ["results_1.json"]
