"""Do more kinds of training tasks help with kinds never trained on, at equal tokens? (EcomGPT, arXiv 2308.06966)

    python bench/shop_diversity.py --receipt bench/receipts/shop_diversity.json

From the small model that comes with graft, one stage of instruction tuning on 1, 4 or 16 kinds of the shop world's
tasks, the same number of tokens each, for several seeds. A seed draws its own kinds; the 4 hold the 1, the 16 the 4.
All are tested on the 12 kinds that no run trains on, on brands that no training part has, in instructions of their
own; and on five of these kinds with other names of the labels. Runs that were finished are read, not run again. The
last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from receipt import finish

from graftlm.core.console import silence
from graftlm.core.files import read_json, write_json
from graftlm.data import worlds
from graftlm.data.samples import Labelled, Origin
from graftlm.data.worlds.shop.tasks import HELDOUT, TESTS, TRAINED, trained_task
from graftlm.evaluation.language_model import language_model
from graftlm.evaluation.runner import run_tasks
from graftlm.evaluation.tasks import Task
from graftlm.models.loading import load_model, load_tokenizer
from graftlm.recipes.pipeline import run_recipe
from graftlm.recipes.schema import Recipe
from graftlm.recipes.stages.context import choose_template

SIZES = (1, 4, 16)
METRICS = ("bits", "accuracy", "reworded", "rouge_l")
"""bits: of the gold answer, per character (lower is better). accuracy: the likeliest option is right; reworded: the
same with other names of the labels. rouge_l: of greedy answers. Each is the mean over kinds of the mean over items."""
RESAMPLES = 2_000
Runs = list[dict[str, list[float]]]
"""Of each run the scores of the items by kind."""
SAMPLES = 6_000
"""Training samples that are written for a run; more than its tokens need, so no run sees one twice."""


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    silence()
    found: dict[str, list[dict[str, Any]]] = {"0": [scored("rootstock", options, options.output / "base.json")]}
    print(line("0", 0, found["0"][0]), flush=True)
    for seed in options.seeds:
        for size in options.sizes:
            kinds = kinds_of(seed)[:size]
            model = trained(kinds, seed, options)
            one = scored(str(model), options, model.parent / "heldout.json") | {"kinds": kinds, "seed": seed}
            found.setdefault(str(size), []).append(one)
            print(line(str(size), seed, one), flush=True)
    report(found, options)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="kinds of training tasks")
    parser.add_argument("--tokens", type=int, default=80_000, help="of each training")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--row", type=int, default=256, help="tokens of a step")
    parser.add_argument("--items", type=int, default=16, help="test items of each held-out kind")
    parser.add_argument("--output", type=Path, default=Path("runs/shop-diversity"))
    parser.add_argument("--receipt", type=Path, help="write the JSON here, too")
    return parser.parse_args()


def kinds_of(seed: int) -> list[str]:
    """The 16 kinds of a seed; its first four and its first one are the smaller runs'."""
    return Random(f"diversity:{seed}").sample(TRAINED, max(SIZES))


def trained(kinds: Sequence[str], seed: int, options: argparse.Namespace) -> Path:
    """The model that one stage on these kinds makes; all kinds equally often."""
    folder = options.output / f"{len(kinds)}-{seed}-{options.tokens}-{options.rate:g}"
    file = folder.with_suffix(".jsonl")
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8") as out:
        for index in range(SAMPLES):
            rng = Random(f"{seed}:{index}")
            chat = trained_task(rng, kinds[index % len(kinds)], 2 * index, Origin("", index + 1))  # even: English
            turns = [{"role": turn.role, "content": turn.content} for turn in chat.turns]
            out.write(json.dumps({"messages": turns}, ensure_ascii=False) + "\n")
    recipe = Recipe.model_validate({
        "name": folder.name, "output": str(folder), "base": "rootstock", "seed": seed, "offline": True, "device": "cpu",
        "data": {"tasks": {"path": str(file.absolute())}},
        "stages": {"sft": {"stage": "sft", "blocks": ["tasks"], "tokens": options.tokens, "warmup": 0.05,
                           "learning_rate": options.rate, "row_tokens": options.row}},
    })  # fmt: skip
    return run_recipe(recipe) / "01-sft" / "model"


def scored(model: str, options: argparse.Namespace, file: Path) -> dict[str, Any]:
    """ROUGE-L of greedy answers, and whether the likeliest option is right, of each item by kind."""
    if file.is_file() and (kept := read_json(file))["items"] == options.items:
        return kept
    network, tokenizer = load_model(model, dtype=torch.float32, device=torch.device("cpu")), load_tokenizer(model)
    subject = language_model(network, tokenizer, choose_template("own", tokenizer))
    items, reworded = test_items("tasks_heldout", options.items), test_items("tasks_reworded", options.items)
    with_options = [item for item in items if item.choices]
    gold = subject.option_log_probabilities([i.prompt for i in items], [i.answers for i in items], lambda _: None)
    answers, choices, others = run_tasks(subject, [
        Task("answers", "domain", "generate", items, headline="rouge_l", max_new_tokens=48),
        Task("choices", "domain", "choice", with_options),
        Task("reworded", "domain", "choice", reworded),
    ], samples=24)  # fmt: skip
    kept = {
        "items": options.items,
        "bits": by_kind(items, [-p / math.log(2) / len(i.answers[0]) for i, [p] in zip(items, gold, strict=True)]),
        "accuracy": by_kind(with_options, choices.scores),
        "reworded": by_kind(reworded, others.scores),
        "rouge_l": by_kind(items, answers.scores),
        "exact": answers.metrics["exact_match"].value,
        "stopped": answers.metrics["stop_rate"].value,
        "samples": [sample.model_dump() for sample in answers.samples],
    }
    write_json(file, kept)
    return kept


def test_items(part: str, count: int) -> list[Labelled]:
    """`count` English items of each kind of the part."""
    items = worlds.generate("shop", part, count=2 * count * len(TESTS[part]))
    return [item for item in items if isinstance(item, Labelled) and item.language == "en"]


def by_kind(items: Sequence[Labelled], scores: Sequence[float]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for item, score in zip(items, scores, strict=True):
        found.setdefault(item.kind, []).append(score)
    return found


def mean_of(one: dict[str, list[float]]) -> float:
    """The mean over kinds of the mean over items."""
    return float(np.mean([np.mean(scores) for scores in one.values()]))


def interval(runs: Runs, other: Runs | None = None) -> list[float]:
    """95 % of resamples of seeds, and of items within kinds; with `other`, of the difference on the same draws."""
    rng, values = np.random.default_rng(0), []
    for _ in range(RESAMPLES):
        seeds = rng.integers(0, len(runs), len(runs))
        items = {kind: rng.integers(0, len(scores), len(scores)) for kind, scores in runs[0].items()}
        values.append(resampled(runs, seeds, items) - (resampled(other, seeds, items) if other else 0.0))
    low, high = np.quantile(values, [0.025, 0.975])
    return [float(low), float(high)]


def resampled(runs: Runs, seeds: Any, items: dict[str, Any]) -> float:
    return float(np.mean([[np.mean(np.asarray(runs[seed][kind])[at]) for kind, at in items.items()] for seed in seeds]))


def line(size: str, seed: int, one: dict[str, Any]) -> str:
    scores = ", ".join(f"{metric} {mean_of(one[metric]):.3f}" for metric in METRICS)
    return f"{size:>2} kinds, seed {seed}: {scores}, exact {one['exact']:.1%}, stopped {one['stopped']:.1%}"


def report(found: dict[str, list[dict[str, Any]]], options: argparse.Namespace) -> None:
    rows: list[tuple[str, ...]] = [("kinds", *(name for metric in METRICS for name in (metric, "95 %")), "exact")]
    table: dict[str, Any] = {}
    for size, runs in found.items():
        table[size] = {"exact": float(np.mean([run["exact"] for run in runs]))}
        table[size] |= {metric: summary([run[metric] for run in runs]) for metric in METRICS}
        cells = [(f"{table[size][m]['value']:.3f}", span(table[size][m]["interval"])) for m in METRICS]
        rows.append((size, *(cell for pair in cells for cell in pair), format(table[size]["exact"], ".3f")))
    gains = {
        f"{more} over {fewer}": {m: gain(found[more], found[fewer], m) for m in METRICS}
        for fewer, more in combinations(map(str, sorted(options.sizes)), 2)
    }
    settings = {key: vars(options)[key] for key in ("tokens", "rate", "row", "items", "seeds")}
    kinds = {str(seed): kinds_of(seed) for seed in options.seeds}
    result = {"bench": "shop_diversity", **settings, "held_out_kinds": HELDOUT, "trained_kinds": kinds}
    finish(result | {"scores": table, "gains": gains}, rows, options.receipt)


def gain(more: list[dict[str, Any]], fewer: list[dict[str, Any]], metric: str) -> dict[str, Any]:
    ours, theirs = ([run[metric] for run in runs] for runs in (more, fewer))
    value = float(np.mean([mean_of(run) for run in ours]) - np.mean([mean_of(run) for run in theirs]))
    return {"value": value, "interval": interval(ours, theirs)}


def summary(runs: Runs) -> dict[str, Any]:
    return {
        "value": float(np.mean([mean_of(one) for one in runs])),
        "interval": interval(runs),
        "by_seed": [mean_of(one) for one in runs],
        "by_kind": {kind: float(np.mean([np.mean(one[kind]) for one in runs])) for kind in runs[0]},
    }


def span(interval: list[float]) -> str:
    return f"{interval[0]:.3f}–{interval[1]:.3f}"


if __name__ == "__main__":
    main()
