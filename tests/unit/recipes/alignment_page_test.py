"""The report's part on preferences and rewards: every kind of stage, drawn from receipts made by hand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pydantic import TypeAdapter

from graftlm.core.files import read_json, write_json
from graftlm.core.receipts import ComparedAnswer, Comparison, Interval, Receipt
from graftlm.evaluation.pairs import pair_quality
from graftlm.evaluation.results import TaskResult
from graftlm.evaluation.statistics import Scores, estimate
from graftlm.recipes.alignment_page import reward_name
from graftlm.recipes.report import write_report
from graftlm.recipes.stage_settings import RewardSettings, Stage
from graftlm.recipes.summary import RunReceipt

MALICE = "</td><script>alert('病人')</script>"
ITEMS = 100
RECIPE: dict[str, Any] = {
    "name": "wards",
    "base": "rootstock",
    "data": {name: {"path": f"/data/{name}.jsonl"} for name in ("chats", "pairs", "thumbs", "questions")},
    "stages": {
        "sft": {"stage": "sft", "blocks": ["chats"]},
        "reward": {"stage": "reward", "blocks": ["pairs"]},
        "ppo": {
            "stage": "ppo",
            "blocks": ["questions"],
            "reward": [{"model": "reward", "safety": {"model": "/models/safe"}}, {"length": 60, "weight": 0.5}],
            "max_kl": 20.0,
            "kl_target": 6.0,
        },
        "dpo": {"stage": "dpo", "from": "sft", "blocks": ["pairs"], "reward": "reward"},
        "kto": {"stage": "kto", "from": "sft", "blocks": ["thumbs"]},
        "simpo": {"stage": "simpo", "from": "sft", "blocks": ["pairs"]},
        "sums": {"stage": "grpo", "from": "sft", "blocks": ["questions"], "reward": {"exact": True}},
        "best": {"stage": "best_of", "from": "sums", "blocks": ["questions"], "reward": {"exact": True}},
    },
    "evaluation": {
        "exam": {"path": "/data/exam.jsonl", "metric": "choice", "side": "domain"},
        "probe": {"path": "/data/probe.jsonl", "metric": "choice", "side": "general"},
    },
}
RIGHT = {"base": 30, "sft": 70, "ppo": 74, "dpo": 76, "kto": 72, "simpo": 60, "sums": 71, "best": 73}
SETTINGS: TypeAdapter[Any] = TypeAdapter(Stage)
STOPPED = "the divergence from the start model blew up: 21.4 nats an answer in round 29, more than max_kl 20"


def result(name: str, side: Any, right: int) -> TaskResult:
    scores = Scores.of([float(place < right) for place in range(ITEMS)])
    found = estimate(scores, resamples=200)
    return TaskResult(
        name=name, side=side, metric="accuracy", higher_is_better=True, value=found.value, low=found.low,
        high=found.high, n=ITEMS, metrics={"accuracy": found}, kinds={}, scores=scores.numerators.tolist(),
        weights=scores.denominators.tolist(), samples=[], items_hash="same", seconds=1.0,
    )  # fmt: skip


def steps(count: int, **series: Any) -> list[dict[str, float]]:
    return [{"step": float(s), **{name: float(make(s / count)) for name, make in series.items()}} for s in range(count)]


def preference_log(kind: str, count: int = 80) -> list[dict[str, float]]:
    common = {"loss": lambda t: 0.69 - 0.4 * t, "accuracy": lambda t: 0.9 if t else 0.0}
    if kind == "kto":
        return steps(count, **common, signed_reward=lambda t: 2 * t, z0=lambda t: 3 * t, desirable_share=lambda t: 0.5)
    common["margin"] = lambda t: 3 * t
    if kind == "simpo":
        return steps(count, **common, chosen_log_p=lambda t: -2 + t, rejected_log_p=lambda t: -2 - t)
    if kind == "dpo":
        return steps(count, **common, chosen_drift=lambda t: -2 * t, rejected_drift=lambda t: -9 * t)
    return steps(count, **common)


def rounds(kind: str, count: int = 30) -> list[dict[str, float]]:
    if kind == "best_of":
        return [{"round": i, "reward": 0.4 + i / 10, "best": 0.8 + i / 20, "answered": 0.97} for i in range(2)]
    own = {"value_explains": 0.4, "kl_price": 0.05} if kind == "ppo" else {"groups_kept": 0.6}
    return [
        {"round": i, "reward": -1 + i / 20, "reward_spread": 0.8, "kl": i * 0.735, "tokens": 8 + i / 4,
         "finished": 0.97, "engine_gap": 1e-5, **own} for i in range(count)
    ]  # fmt: skip


def comparison(kind: str) -> Comparison:
    scored = kind not in ("kto", "simpo")
    answers = [
        ComparedAnswer(prompt=f"How is it taken? {i} {MALICE}", before="40 mg", after="" if i == 1 else "40 mg, daily.",
                       before_score=-0.5 if scored else None, after_score=1.25 if scored else None) for i in range(5)
    ]  # fmt: skip
    return Comparison(
        prompts=100,
        kl=Interval(value=5.214, low=4.5, high=6.0),
        reward_before=Interval(value=-0.5, low=-0.62, high=-0.4) if scored else None,
        reward_after=Interval(value=1.25, low=1.1, high=1.4) if scored else None,
        reward_spread=0.7 if scored else None,
        tokens_before=6.25,
        tokens_after=13.5,
        finished_before=1.0,
        finished_after=0.96,
        samples=answers,
    )


def receipt(name: str) -> Receipt:
    settings = RECIPE["stages"][name]
    kind = settings["stage"]
    random = np.random.default_rng(0)
    better, worse = random.normal(1.5, 1, 300), random.normal(0, 1, 300)
    quality = pair_quality(better, worse, [9] * 300, [*range(1, 301)], margin_before=None if kind == "reward" else 0.0)
    own = {} if kind in ("reward", "sft") else {"comparison": comparison(kind)}
    if kind in ("reward", "dpo", "kto", "simpo"):
        own |= {"pairs": quality, "losses": preference_log(kind), "held_out": preference_log(kind, 10)}
    if kind in ("ppo", "grpo", "best_of"):
        own |= {"rollouts": rounds(kind)}
    if kind in ("ppo", "grpo"):
        own["losses"] = steps(240, loss=lambda t: 0.1, entropy=lambda t: 1 - t / 2, clip_fraction=lambda t: 0.1 * t)
    return Receipt(
        stage=name, kind=kind, key=f"key-{name}", seed=0, seconds=100.0, started="2026-11-24T00:09:00+00:00",
        versions={"graft": "0.1.0"}, settings=SETTINGS.validate_python(settings).model_dump(mode="json", by_alias=True),
        stopped=STOPPED if kind == "ppo" else "all data seen", diagnosis=f"what {name} did", **own,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE, allow_unicode=True, sort_keys=False))
    for number, name in enumerate(["base", *RECIPE["stages"]]):
        place = folder / f"{number:02d}-{name}"
        if name in RIGHT:
            both = [result("exam", "domain", RIGHT[name]), result("probe", "general", 90 - number)]
            write_json(place / "scores.json", {"key": "k", "results": [one.model_dump() for one in both]})
        if number:
            write_json(place / "receipt.json", receipt(name).model_dump())
    return folder


@pytest.fixture(scope="module")
def html(run: Path) -> str:
    return write_report(run).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def summary(run: Path, html: str) -> RunReceipt:
    return RunReceipt.model_validate(read_json(run / "receipt.json"))


def part(html: str, stage: str) -> str:
    """The page's part on one stage."""
    start = html.index(f"<h3>{stage}", html.index("Learning from preferences and rewards</h2>"))
    ends = [end for end in (html.find("<h3>", start + 4), html.find("</section>", start)) if end > 0]
    return html[start : min(ends)]


def row(html: str, stage: str) -> str:
    start = html.index(f"<tr><td><b>{stage}</b>")
    return html[start : html.index("</tr>", start)]


def test_a_reward_model_is_not_missed_among_the_scores(summary: RunReceipt) -> None:
    assert summary.finished and summary.absent == []
    assert "reward" not in summary.retention and summary.judged == "best"
    assert all("reward" not in task.models for task in summary.scores)


def test_every_branch_is_told(html: str, summary: RunReceipt) -> None:
    ends = [path[-1] for path in summary.branches]
    assert ends == ["ppo", "dpo", "kto", "simpo", "best"]
    assert summary.branches[-1] == ["base", "sft", "sums", "best"]
    head = html[: html.index("</header>")]
    assert "The recipe branches." in head and "about <b>best</b>" in head
    assert "<h1>best: exam 30% → 73%" in head
    assert "exam 30% → 76%" in head  # dpo's
    assert head.count("<small>the headline's</small>") == 1


def test_one_table_compares_all_such_stages(html: str) -> None:
    assert "<tr><td><b>sft</b>" not in html
    ppo = row(html, "ppo")
    assert "from sft<br>reward: reward with /models/safe for safety + 0.5 × length" in ppo
    assert "−0.500 → 1.25" in ppo and "+2.50 sd" in ppo and "5.21" in ppo and "6.2 → 13.5" in ppo
    assert "+4.0" in row(html, "ppo")  # 70 → 74 right of its start's
    assert "97.8%" in ppo  # probe 89 → 87
    assert "from sums<br>reward: exact" in row(html, "best")
    assert "from sft<br>thumbs" in row(html, "kto")
    assert "(grpo)" in row(html, "sums")
    reward = row(html, "reward")
    assert "pairs" in reward and reward.count("absent") == 6
    assert "These stages answered different prompts" in html


def test_reward_model(html: str) -> None:
    told = part(html, "reward")
    for text in ("what reward did", "Held-out pairs", "Calibration error", "Correlation with length"):
        assert text in told, text
    assert told.count("<svg ") == 4 and "Held-out answers (%)" in told and "Calibration (numbers: pairs)" in told


@pytest.mark.parametrize(
    ("stage", "title"),
    [
        ("dpo", "Drift from the start (nats)"),
        ("kto", "Drift of unrelated answers (nats)"),
        ("simpo", "Log-probability (nats a token)"),
    ],
)
def test_preferences(html: str, stage: str, title: str) -> None:
    told = part(html, stage)
    assert told.count("<svg ") == 4 and title in told
    assert "0.000 → 1." in told  # held-out margin
    assert ("one wanted, one unwanted answer" in told) == (stage == "kto")
    assert ("reward −0.500" in told) == (stage == "dpo")
    assert "Calibration error" not in told


def test_policies(html: str) -> None:
    ppo, sums = part(html, "ppo"), part(html, "sums")
    assert ppo.count("<svg ") == 3 + 4 and sums.count("<svg ") == 3 + 4
    assert f"Stopped early:</b> {STOPPED}." in ppo and "Stopped early" not in sums
    assert "max_kl 20" in ppo and "kl_target 6" in ppo and "kl_target" not in sums
    assert "Groups with a lesson" in sums and "Groups with a lesson" not in ppo
    assert "Price of a nat" in ppo and "Price of a nat" not in sums
    assert "−1.00 → 0.450" in ppo


def test_best_of(html: str) -> None:
    told = part(html, "best")
    assert told.count("<svg ") == 1 and "best of each prompt" in told
    assert "0.400 → 0.500" in told and "97.0%" in told


def test_samples_are_shown_and_safe(html: str) -> None:
    ppo = part(html, "ppo")
    assert "<script" not in html and ppo.count("&lt;script&gt;") == 5
    assert "<i>no answer</i>" in ppo and "reward 1.25" in ppo and "2 more" in ppo


def test_stages_that_learn_from_texts_keep_their_losses_apart(html: str) -> None:
    losses = html[html.index("<h2>Loss curves</h2>") :]
    losses = losses[: losses.index("</section>")]
    assert re.findall("<h3>(.*?)</h3>", losses) == ["sft"]


def test_svg_ids_are_unique(html: str) -> None:
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))


def test_bare_receipts_are_shown_without_what_they_lack(run: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text((run / "recipe.yaml").read_text())
    for number, name in enumerate(RECIPE["stages"], 1):
        kept = read_json(run / f"{number:02d}-{name}" / "receipt.json")
        needed = {"stage", "kind", "key", "seed", "seconds", "started", "versions"}
        bare = {name: value for name, value in kept.items() if name in needed}
        write_json(tmp_path / f"{number:02d}-{name}" / "receipt.json", bare)
    told = write_report(tmp_path).read_text(encoding="utf-8")
    assert told.count("No losses were written.") == 8
    assert "not evaluated yet" in told


def test_a_recipe_without_branches_says_nothing_of_them(run: Path, tmp_path: Path) -> None:
    one_way = RECIPE | {"stages": {name: RECIPE["stages"][name] for name in ("sft", "reward", "ppo")}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(one_way, sort_keys=False))
    told = write_report(tmp_path).read_text(encoding="utf-8")
    assert "The recipe branches" not in told and "Learning from preferences" not in told
    assert "Stage reward has not finished." in told


def test_rewards_are_named_briefly() -> None:
    assert reward_name(RewardSettings(regex=r"\d", weight=2)) == "2 × regex"
    assert reward_name(RewardSettings(function="my.rewards:polite")) == "my.rewards:polite"
