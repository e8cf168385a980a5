"""What learning from preferences reaches on the generated worlds, seed by seed, on this machine's CPU.

    python bench/alignment.py --seeds 0 1 2 --output runs/alignment

Runs recipes/clinic-rlhf.yaml with KTO, ORPO and SimPO beside it, and recipes/sums-grpo.yaml; prints each figure with
the bound it is to reach. A run that was broken off goes on where it stood. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from graftlm.core.files import read_json
from graftlm.recipes.loading import load_recipe
from graftlm.recipes.pipeline import run_recipe
from graftlm.recipes.schema import Recipe

RECIPES = Path(__file__).parents[1] / "recipes"
PAIRS = {"from": "sft", "reward": "reward", "blocks": ["clinic-pairs", "general-pairs"], "tokens": 160_000}
FAMILY: dict[str, dict[str, Any]] = {
    "kto": PAIRS | {"stage": "kto", "learning_rate": 1e-4, "sft_weight": 0.5, "row_tokens": 1024, "max_new_tokens": 32},
    "orpo": PAIRS | {"stage": "orpo", "learning_rate": 1e-4, "row_tokens": 1024, "max_new_tokens": 32},
    "simpo": PAIRS | {"stage": "simpo", "learning_rate": 1e-4, "sft_weight": 0.5, "row_tokens": 1024,
                      "max_new_tokens": 32},
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("runs/alignment"))
    parser.add_argument("--only", choices=("clinic", "sums"), help="one of the two recipes")
    options = parser.parse_args()
    found = []
    for seed in options.seeds:
        rows: list[tuple[str, float, float]] = []
        if options.only != "sums":
            rows += clinic(seed, options.output / f"clinic-{seed}")
        if options.only != "clinic":
            rows += sums(seed, options.output / f"sums-{seed}")
        for name, value, bound in rows:
            print(f"seed {seed}  {name:42} {value:8.3f}  bound {bound:6.2f}  {'ok' if value >= bound else 'MISSED'}")
        found.append({"seed": seed, **{name: value for name, value, _ in rows}})
    print(json.dumps(found))


def clinic(seed: int, output: Path) -> list[tuple[str, float, float]]:
    """(figure, value, least value) of the reward model, PPO and the preference family."""
    whole = load_recipe(RECIPES / "clinic-rlhf.yaml", [f"seed={seed}", f"output={output}"])
    tree = whole.model_dump(mode="json", by_alias=True)
    tree["stages"] |= FAMILY
    run_recipe(Recipe.model_validate(tree))
    stages = list(tree["stages"])
    receipt = {name: read_json(folder(output, stages, name) / "receipt.json") for name in stages}
    before = score(output, stages, "sft", "general-probe")
    ppo = receipt["ppo"]["comparison"]
    gain = (ppo["reward_after"]["value"] - ppo["reward_before"]["value"]) / ppo["reward_spread"]
    rows = [
        ("reward model, held-out pair accuracy", receipt["reward"]["pairs"]["accuracy"]["value"], 0.9),
        ("ppo, held-out reward in standard deviations", gain, 2.0),
        ("ppo, nats below max_kl", receipt["ppo"]["settings"]["max_kl"] - ppo["kl"]["value"], 0.0),
        ("ppo, general probe of before", score(output, stages, "ppo", "general-probe") / before, 0.95),
        ("dpo, held-out pair accuracy", receipt["dpo"]["pairs"]["accuracy"]["value"], 0.9),
    ]
    for name in ("dpo", *FAMILY):
        pairs = receipt[name]["pairs"]
        rows.append((f"{name}, rise of the held-out margin", pairs["margin"] - pairs["margin_before"], 0.0))
        rows.append((f"{name}, general probe of before", score(output, stages, name, "general-probe") / before, 0.0))
    return rows


def sums(seed: int, output: Path) -> list[tuple[str, float, float]]:
    recipe = load_recipe(RECIPES / "sums-grpo.yaml", [f"seed={seed}", f"output={output}"])
    run_recipe(recipe)
    stages = list(recipe.stages)
    before, after = (score(output, stages, stage, "sums") for stage in stages)
    kept = score(output, stages, "grpo", "general-probe") / score(output, stages, "sft", "general-probe")
    return [("grpo, rise of exact sums in points", 100 * (after - before), 20.0), ("grpo, general probe", kept, 0.0)]


def folder(output: Path, stages: list[str], name: str) -> Path:
    return output / f"{stages.index(name) + 1:02d}-{name}"


def score(output: Path, stages: list[str], stage: str, task: str) -> float:
    results = read_json(folder(output, stages, stage) / "scores.json")["results"]
    return float(next(result["value"] for result in results if result["name"] == task))


if __name__ == "__main__":
    main()
