"""Every way of adapting a model, on the same data: what it trains, takes, gains and forgets.

    python bench/methods.py --output runs/methods
    python bench/methods.py --only full lora ptuning --tokens 60000
    python bench/methods.py --only lora --rate 1e-3 --seed 1

Each method trains one stage from the base on the mix of recipes/clinic.yaml (documents, consultations, general text and
instructions), in a process and a run folder of its own, so several calls with other `--only` can run at once. A row is
printed as soon as it is known; a method that fails has its reason in its row. Runs that were finished are read, not run
again. The last line is JSON.
"""

from __future__ import annotations

import argparse
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from receipt import finish

from graftlm.core.console import silence
from graftlm.core.files import read_json
from graftlm.recipes.loading import load_recipe
from graftlm.recipes.pipeline import run_recipe
from graftlm.recipes.schema import Recipe

CLINIC = Path(__file__).parents[1] / "recipes" / "clinic.yaml"
MIX = {"general-text": 0.15, "general-chat": 0.35, "clinic-text": 0.25, "clinic-chat": 0.25}
TOKENS = 580_000
"""As many as the recipe's pretrain and sft stages together."""

RANK = {"rank": 16, "alpha": 32}
METHODS: dict[str, dict[str, Any]] = {
    "full": {"learning_rate": 3.5e-4},
    "freeze": {"method": "freeze", "freeze": {"last": 2}, "learning_rate": 1e-3},
    "lora": {"method": "lora", "lora": RANK, "learning_rate": 3e-3},
    "lora+": {"method": "lora", "lora": RANK | {"plus": 16}, "learning_rate": 1e-3},
    "rslora": {"method": "lora", "lora": RANK | {"kind": "rslora"}, "learning_rate": 2e-3},
    "dora": {"method": "lora", "lora": RANK | {"kind": "dora"}, "learning_rate": 3e-3},
    "pissa": {"method": "lora", "lora": RANK | {"kind": "pissa"}, "learning_rate": 1e-3},
    "qlora": {"method": "qlora", "lora": RANK, "learning_rate": 3e-3},
    "ptuning": {"method": "ptuning", "ptuning": {"tokens": 64}, "learning_rate": 3e-2},
    "ptuning-int4": {"method": "ptuning", "ptuning": {"tokens": 64, "bits": 4}, "learning_rate": 3e-2},
    "heads": {"method": "heads", "heads": {"share": 0.5}, "learning_rate": 3e-3},
    "expand": {"method": "expand", "expand": {"blocks": 2}, "learning_rate": 3e-3},
}  # fmt: skip
HEADER = ("method", "rate", "trained", "of all", "peak GiB", "planned", "tokens/s", "exam", "open", "general kept")


def main() -> None:
    options = arguments()
    rows: list[tuple[str, ...]] = [HEADER]
    print("  ".join(HEADER), flush=True)
    found = []
    for name in options.only:
        result = measured(name, options)
        found.append(result)
        rows.append(as_row(result))
        print("  ".join(rows[-1]), flush=True)
    finish({"bench": "methods", "tokens": options.tokens, "seed": options.seed, "rows": found}, rows, options.receipt)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=METHODS, default=list(METHODS), help="these methods")
    parser.add_argument("--base", default="rootstock", help="a folder, or a hub name")
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--steps", type=int, help="in place of --tokens: so many steps of one row")
    parser.add_argument("--row-tokens", type=int, default=1024)
    parser.add_argument("--rate", type=float, help="learning rate in place of each method's own")
    parser.add_argument("--items", type=int, help="items of each test set, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--output", type=Path, default=Path("runs/methods"))
    parser.add_argument("--verbose", action="store_true", help="show what each run says")
    parser.add_argument("--receipt", type=Path, help="write the JSON here, too")
    options = parser.parse_args()
    if Path(options.base).exists():  # in a recipe, a relative path would start at the recipe's folder
        options.base = str(Path(options.base).absolute())
    if options.steps:
        options.tokens = options.steps * options.row_tokens
    return options


def measured(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """A method's figures, found in a process of its own, so that its peak of memory is its own."""
    try:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(run, name, options).result()
    except Exception as error:
        return {"method": name, "failed": (str(error).strip() or type(error).__name__).splitlines()[0][:200]}


def run(name: str, options: argparse.Namespace) -> dict[str, Any]:
    if not options.verbose:
        silence()  # each run's own story is in its log.txt
    recipe = recipe_of(name, options)
    folder = run_recipe(recipe)
    whole, receipt = read_json(folder / "receipt.json"), read_json(folder / "01-tune" / "receipt.json")
    scores = {score["name"]: score["models"] for score in whole["scores"]}
    change = whole["retention"]["tune"]
    return {
        "method": name,
        "learning_rate": recipe.stages["tune"].model_dump()["learning_rate"],
        "trained": receipt["parameters"]["trained"],
        "all": receipt["parameters"]["all"],
        "peak_gib": receipt["memory"]["measured_gib"],
        "planned_gib": receipt["memory"]["predicted_gib"],
        "memory": receipt["memory"]["what"],
        "tokens_per_second": receipt["speed"]["non_padding"],
        "exam": scores["clinic-exam"]["tune"],
        "exam_before": scores["clinic-exam"]["base"],
        "open": scores["clinic-open"]["tune"],
        "general_retained": change["general"]["retained"],
        "held_out_loss": receipt["held_out"][-1]["loss"],
        "seconds": receipt["seconds"],
    }


def recipe_of(name: str, options: argparse.Namespace) -> Recipe:
    """recipes/clinic.yaml with one stage in place of its three."""
    output = options.output / f"{name}-{options.tokens}-{options.seed}"
    if options.rate:
        output = output.with_name(f"{output.name}-{options.rate:g}")
    given = [f"seed={options.seed}", f"output={output}", f"device={options.device}", f"base={options.base}"]
    tree = load_recipe(CLINIC, given).model_dump(mode="json", by_alias=True)
    stage = {"stage": "pretrain", "blocks": MIX, "tokens": options.tokens, "row_tokens": options.row_tokens}
    stage |= {"warmup": 0.05} | METHODS[name]
    if options.rate:
        stage["learning_rate"] = options.rate
    tree["stages"] = {"tune": stage}
    if options.items:
        for task in tree["evaluation"].values():
            task["limit"] = options.items
    return Recipe.model_validate(tree)


def as_row(result: dict[str, Any]) -> tuple[str, ...]:
    if "failed" in result:
        return (result["method"], "failed", *[""] * (len(HEADER) - 3), result["failed"])
    kept = result["general_retained"]
    return (
        result["method"],
        f"{result['learning_rate']:g}",
        f"{result['trained']:,}",
        f"{result['trained'] / result['all']:.1%}",
        f"{result['peak_gib']:.2f}",
        f"{result['planned_gib']:.2f}",
        f"{result['tokens_per_second']:,.0f}",
        interval(result["exam"]),
        interval(result["open"]),
        interval(kept) if kept else "–",
    )


def interval(estimate: dict[str, float]) -> str:
    return f"{estimate['value']:.1%} ({estimate['low']:.1%}–{estimate['high']:.1%})"


if __name__ == "__main__":
    main()
