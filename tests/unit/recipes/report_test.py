"""The report renders whatever a run left behind, says what is absent, and writes its numbers right."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from graftlm.core.files import read_json, write_json
from graftlm.core.receipts import BlockShare, Memory, Receipt, Speed
from graftlm.evaluation.results import SampleAnswer, TaskResult
from graftlm.evaluation.statistics import Estimate, Scores, estimate
from graftlm.recipes import charts
from graftlm.recipes.charts import running_mean
from graftlm.recipes.formatting import duration, rounded
from graftlm.recipes.report import write_report
from graftlm.recipes.summary import RunReceipt

MALICE = "</script><script>alert('用户')</script> $x$ https://evil.example/x.js"
ITEMS = 200

RECIPE: dict[str, Any] = {
    "name": "clinic",
    "base": "rootstock",
    "seed": 7,
    "data": {
        "诊所文本": {"path": "/data/text.jsonl"},
        "general-chat": {"path": "/data/chat.jsonl"},
        "pairs": {"path": "/data/pairs.jsonl"},
    },
    "stages": {
        "pretrain": {"stage": "pretrain", "blocks": {"诊所文本": 0.7, "general-chat": 0.3}},
        "sft": {"stage": "sft", "blocks": ["general-chat"]},
        "dpo": {"stage": "dpo", "blocks": ["pairs"]},
    },
    "evaluation": {
        "clinic-exam": {"path": "/data/exam.jsonl", "metric": "choice", "side": "domain"},
        "clinic-unknown": {"path": "/data/unknown.jsonl", "metric": "abstain", "side": "domain"},
        "general-probe": {"path": "/data/probe.jsonl", "metric": "generate", "side": "general"},
        "general-text": {"path": "/data/text.txt", "metric": "bits_per_byte", "side": "general"},
    },
}
RIGHT = {  # of each task, how many of the items are right after base, pretrain, sft, dpo
    "clinic-exam": (48, 178, 192, 194),
    "clinic-unknown": (10, 4, 150, 176),
    "general-probe": (180, 166, 176, 174),
}
HEADLINE = {"clinic-exam": "accuracy", "clinic-unknown": "abstention_rate", "general-probe": "exact_match"}


def share_result(name: str, model: int) -> TaskResult:
    right = RIGHT[name][model]
    scores = Scores.of([float(place < right) for place in range(ITEMS)])
    found = estimate(scores, resamples=200)
    metrics = {HEADLINE[name]: found}
    if name == "clinic-unknown":
        metrics["hallucination_rate"] = estimate(Scores.of((1 - scores.numerators).tolist()), resamples=200)
    answer = SampleAnswer(prompt=f"user: {MALICE}", reference="肝科", answer="<i>liver</i>", right=model > 0)
    return TaskResult(
        name=name,
        side="general" if name.startswith("general") else "domain",
        metric=HEADLINE[name],
        higher_is_better=True,
        value=found.value,
        low=found.low,
        high=found.high,
        n=ITEMS,
        metrics=metrics,
        kinds={"dose": found, "科室": Estimate(value=0.5, low=0.4, high=0.6, n=ITEMS)},
        scores=scores.numerators.tolist(),
        weights=scores.denominators.tolist(),
        samples=[answer],
        items_hash="same",
        seconds=1.5,
    )


def bits_result(model: int) -> TaskResult:
    bits = np.linspace(90, 110, 40) + 4 * model
    found = estimate(Scores.of(bits.tolist(), [50.0] * 40), resamples=200)
    return TaskResult(
        name="general-text",
        side="general",
        metric="bits_per_byte",
        higher_is_better=False,
        value=found.value,
        low=found.low,
        high=found.high,
        n=40,
        metrics={"bits_per_byte": found},
        kinds={},
        scores=bits.tolist(),
        weights=[50.0] * 40,
        samples=[],
        items_hash="same",
        seconds=0.5,
    )


def results(model: int) -> list[TaskResult]:
    return [*(share_result(name, model) for name in RIGHT), bits_result(model)]


def stage_receipt(name: str, blocks: list[str]) -> Receipt:
    steps = range(1, 61)
    losses = [{"step": float(s), "loss": 3.0 / s**0.5, "learning_rate": 1e-4} for s in steps]
    if name == "dpo":
        for entry in losses:
            drift = entry["step"] / 10
            entry |= {"accuracy": 0.9, "margin": drift, "chosen_drift": -drift, "rejected_drift": -2 * drift}
    counts = {"read": 4000, "refused": 3, "samples": 3917, "cut": 12, "dropped": 0, "tokens_cut": 1234}
    share = BlockShare(requested=0.5, realised=0.496, samples=9, tokens=99, epochs=1.5)
    return Receipt(
        stage=name,
        kind=name,
        key=f"key-{name}",
        seed=7,
        seconds=3725.0 if name == "pretrain" else 61.0,
        started="2026-11-23T21:11:33+00:00",
        versions={"graft": "0.1.0", "machine": "x86_64"},
        inputs={"model": "abc123"},
        settings={"method": "full"},
        steps=60,
        tokens=200_033,
        targets=100_001,
        stopped="all data seen",
        speed=Speed(all=3529.49, non_padding=3300.2, target=12.0, mfu=0.412, mfu_formula="6 · N ÷ peak"),
        memory=Memory(predicted_gib=0.7316, measured_gib=0.6566, what="resident memory of the process"),
        shares=dict.fromkeys(blocks, share),
        losses=losses,
        held_out=[{"step": 0.0, "loss": 3.1}, {"step": 60.0, "loss": 0.5}],
        accounting=dict.fromkeys(blocks, counts),
        parameters={"all": 3_803_392, "trained": 3_803_392},
        notes=["epochs: 3.0 by the rule of thumb"],
    )


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE, allow_unicode=True, sort_keys=False))
    warning = {"where": "data.诊所文本", "text": f"229 rows, as “{MALICE}”", "fix": "remove them"}
    blocks = {"诊所文本": {"kept back": 80}}
    example = [["<|user|>hello", False], ["hi<|end|>", True]]
    write_json(
        folder / "check.json", {"errors": [], "warnings": [warning] * 2, "blocks": blocks, "example": example}
    )
    for number, name in enumerate(["base", *RECIPE["stages"]]):
        place = folder / f"{number:02d}-{name}"
        dumped = [result.model_dump() for result in results(number)]
        write_json(place / "scores.json", {"key": "k", "results": dumped})
        if number:
            receipt = stage_receipt(name, list(RECIPE["stages"][name]["blocks"]))
            write_json(place / "receipt.json", receipt.model_dump())
    return folder


@pytest.fixture(scope="module")
def html(whole_run: Path) -> str:
    """The page of the whole run."""
    return page(whole_run)


@pytest.fixture
def run(whole_run: Path, tmp_path: Path) -> Path:
    """A copy of the run to break."""
    return Path(shutil.copytree(whole_run, tmp_path / "run"))


def page(folder: Path) -> str:
    return write_report(folder).read_text(encoding="utf-8")


def receipt_of(folder: Path) -> RunReceipt:
    return RunReceipt.model_validate(read_json(folder / "receipt.json"))


def test_numbers_are_told_as_people_write_them(html: str) -> None:
    assert "clinic-exam 24% → 97%; general-probe kept 97% of before." in html
    assert "learnt the domain, forgot some of the rest" in html
    assert "worse than before: general-probe 90% → 87%, general-text 2.00 → 2.24 bits per byte." in html
    for text in (
        "97.0%",  # a score
        "+73.0 points",  # a paired difference
        "1 h 02 min",  # a stage's time
        "3,803,392",
        "3,529",  # tokens a second
        "41.2%",  # utilisation
        "0.73 → 0.66 GiB",
        "2026-11-23 21:11",
        "229 rows",
        "CPU (x86_64)",
    ):
        assert text in html, text
    visible = re.sub(r"<(svg|style)\b.*?</\1>|<[^>]*>", " ", html, flags=re.DOTALL)
    assert not re.findall(r"\d\.\d{5,}", visible)  # no raw floats


def test_worse_and_better_are_marked_by_arrow_and_word(html: str) -> None:
    bits = html[html.index("<tr><td>general-text<small>") :]
    assert "<b>worse</b>" in bits[: bits.index("</tr>")] and "▲" in bits[: bits.index("</tr>")]
    exam = html[html.index("<tr><td>clinic-exam<small>") :]
    assert "<b>better</b>" in exam[: exam.index("</tr>")]


def test_every_chart_is_drawn(html: str) -> None:
    assert html.count("<svg ") == 2 + 1 + 1 + 4  # map, bits; a loss a stage, and three more for preferences
    assert "learnt all, forgot nothing" in html
    assert "Drift from the start (nats)" in html
    used = re.findall(r'(?:href="#|url\(#)([^")]+)', html)
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert set(used) <= set(ids) and len(ids) == len(set(ids))
    assert not re.findall(r"#0[0-9a]0[0-9a]0\d", html[html.index("<svg") :])  # each colour is the page's own


def test_the_page_is_one_safe_file(html: str) -> None:
    assert "<script" not in html and "<i>liver" not in html
    assert "&lt;script&gt;alert(&#39;用户&#39;)" in html
    assert not re.search(r"""(?:src|href|url)\s*[=(]\s*["']?(?!#)[^\s"')#]""", html)
    tags = "".join(re.findall(r"<[^>]*>", html))
    assert set(re.findall(r"https?://[^\s\"']+", tags)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert "<!DOCTYPE svg" not in html
    assert "http" not in "".join(re.findall(r"<style>.*?</style>", html, re.DOTALL))
    assert len(html.encode()) < 1_500_000


def test_receipt_comes_back_equal_and_holds_the_numbers(whole_run: Path, html: str) -> None:
    receipt = receipt_of(whole_run)
    assert receipt.model_dump(mode="json") == read_json(whole_run / "receipt.json")
    assert receipt.finished and receipt.absent == []
    assert list(receipt.retention) == ["pretrain", "sft", "dpo"]
    exam = next(row for row in receipt.scores if row.name == "clinic-exam")
    assert [exam.models[model].value for model in ("base", "dpo")] == [0.24, 0.97]
    assert exam.models["dpo"].low < 0.97 < exam.models["dpo"].high
    assert receipt.training_seconds == 3725 + 61 + 61
    assert receipt.evaluation_seconds == 4 * 5.0


def test_same_run_same_bytes(html: str, whole_run: Path, run: Path) -> None:
    assert page(run) == html
    assert (run / "receipt.json").read_bytes() == (whole_run / "receipt.json").read_bytes()


def drop(*places: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        for place in places:
            path = folder / place
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return spoil


def keep_side(side: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
        recipe["evaluation"] = {n: t for n, t in recipe["evaluation"].items() if t["side"] == side}
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, allow_unicode=True, sort_keys=False))
        for file in folder.glob("*/scores.json"):
            kept = [result for result in read_json(file)["results"] if result["side"] == side]
            write_json(file, {"key": "k", "results": kept})

    return spoil


def one_stage(folder: Path) -> None:
    recipe = RECIPE | {"stages": {"pretrain": RECIPE["stages"]["pretrain"]}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, allow_unicode=True, sort_keys=False))
    drop("02-sft", "03-dpo")(folder)


def no_evaluation(folder: Path) -> None:
    recipe = RECIPE | {"evaluation": {}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, allow_unicode=True, sort_keys=False))
    for file in folder.glob("*/scores.json"):
        file.unlink()


def other_items(folder: Path) -> None:
    file = folder / "03-dpo" / "scores.json"
    kept = read_json(file)
    kept["results"][0]["items_hash"] = "other"
    write_json(file, kept)


def base_knows_nothing(folder: Path) -> None:
    file = folder / "00-base" / "scores.json"
    kept = read_json(file)
    for result in kept["results"]:
        if result["metric"] != "bits_per_byte":
            result |= {"value": 0.0, "low": 0.0, "high": 0.0, "scores": [0.0] * ITEMS}
    write_json(file, kept)


def changed_recipe(folder: Path) -> None:
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe["stages"]["sft"]["method"] = "lora"
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, allow_unicode=True, sort_keys=False))


def bare_receipts(folder: Path) -> None:
    for file in folder.glob("0[123]-*/receipt.json"):
        needed = {"stage", "kind", "key", "seed", "seconds", "started", "versions"}
        write_json(file, {name: value for name, value in read_json(file).items() if name in needed})


PARTIAL = {
    "nothing but the recipe": (
        drop("check.json", "00-base", "01-pretrain", "02-sft", "03-dpo"),
        ["No scores to compare yet", "Stage pretrain has not finished.", "check.json is absent"],
    ),
    "killed in the second stage": (
        drop("02-sft/receipt.json", "02-sft/scores.json", "03-dpo"),
        ["Stage sft has not finished.", "Stage dpo has not finished.", "clinic-exam 24% → 89%"],
    ),
    "killed before the last evaluation": (
        drop("03-dpo/scores.json"),
        ["Stage dpo was not evaluated.", "clinic-exam 24% → 96%"],
    ),
    "base not evaluated": (drop("00-base"), ["The base model was not evaluated", "97.0%"]),
    "no evaluation": (no_evaluation, ["The recipe has no evaluation", "No model was evaluated."]),
    "no general task": (
        keep_side("domain"),
        ["no general task: forgetting was not measured", "clinic-exam 24% → 97%; forgetting not measured"],
    ),
    "no domain task": (
        keep_side("general"),
        ["no domain task: gain was not measured", "domain gain not measured; general-probe kept 97%"],
    ),
    "one stage": (one_stage, ["clinic-exam 24% → 89%", "learnt all, forgot nothing"]),
    "other items": (other_items, ["Stage dpo and the base were not tested alike on: clinic-exam."]),
    "base knows nothing": (base_knows_nothing, ["clinic-exam 0% → 97%", "No map of gain and forgetting"]),
    "changed recipe": (changed_recipe, ["Stage sft was run with other settings than the recipe has now"]),
    "bare receipts": (bare_receipts, ["No losses were written.", "not known"]),
}


@pytest.mark.parametrize("case", PARTIAL)
def test_a_partial_run_is_reported_with_what_is_absent(
    case: str, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for drawing in ("curves", "interval_lines"):  # slow, and drawn above
        monkeypatch.setattr(charts, drawing, lambda *_, **__: "")
    spoil, wanted = PARTIAL[case]
    spoil(run)
    html = page(run)
    for text in wanted:
        assert text in html, text
    assert receipt_of(run).format == 1
    json.loads((run / "receipt.json").read_text())


def test_durations_and_percents() -> None:
    assert [duration(s) for s in (0.04, 9.96, 59.6, 61, 3599.7, 7260)] == [
        "0.0 s", "10 s", "1 min 00 s", "1 min 01 s", "1 h 00 min", "2 h 01 min",
    ]  # fmt: skip
    shares = {0: "0%", 0.004: "0.4%", 0.24: "24%", 0.996: "99.6%", 1: "100%"}
    assert {share: rounded(share) for share in shares} == shares


def test_running_mean_smooths_and_keeps_the_length() -> None:
    line = np.arange(30.0)
    assert np.allclose(running_mean(line, 7)[3:-3], line[3:-3])
    assert running_mean(np.array([0.0, 3.0, 0.0]), 3).tolist() == [1.5, 1.0, 1.5]
