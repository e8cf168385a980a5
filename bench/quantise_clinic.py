"""What 8 and 4 bits cost the expert that the demo makes: exam, text, agreement, size, speed, by method.

    graft run recipes/clinic.yaml
    python bench/quantise_clinic.py runs/clinic --receipt bench/receipts/quantise_clinic.json

Claims: 8 bits cost at most 0.5 points of the exam, 4 bits at most 2.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from receipt import finish

from graftlm.core.errors import ModelError
from graftlm.core.files import read_json
from graftlm.models.loading import load_tokenizer
from graftlm.recipes.loading import load_recipe
from graftlm.recipes.quantisation import EXAM_POINTS, Job, quantise_folder
from graftlm.recipes.quantisation_data import exam_of, gather_evidence
from graftlm.recipes.stage_settings import QuantizeStage
from graftlm.recipes.stages.context import choose_template
from graftlm.recipes.talking import newest_model

WAYS: dict[str, dict[str, Any]] = {
    "8 bits, rows": {"bits": 8, "method": "absmax"},
    "4 bits, rows": {"method": "absmax", "group": 0},
    "4 bits, groups of 64": {"method": "absmax"},
    "4 bits, GPTQ": {"method": "gptq"},
    "4 bits, AWQ": {"method": "awq"},
    "NF4": {"method": "nf4"},
    "5 bits by layer, GPTQ": {"method": "gptq", "mean_bits": 5},
}
COLUMNS = {"exam": "exam after", "bits per byte": "bits per byte after", "KL": "kl", "same token": "greedy match",
           "MiB": "MiB after", "tokens/s": "tokens/s after"}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="run folder of recipes/clinic.yaml")
    parser.add_argument("--receipt", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = {name: cost(options.run, ways) for name, ways in WAYS.items()}
    first = next(iter(found.values()))
    before = {name: first[figure.replace("after", "before")] for name, figure in COLUMNS.items() if "after" in figure}
    rows = [("", *COLUMNS), ("before", *(f"{before[n]:.4g}" if n in before else "" for n in COLUMNS))]
    rows += [(name, *(f"{one[figure]:.4g}" for figure in COLUMNS.values())) for name, one in found.items()]
    lost = {name: 100 * (one["exam before"] - one["exam after"]) for name, one in found.items()}
    held = all(points <= EXAM_POINTS[WAYS[name].get("bits", 4)] + 1e-9 for name, points in lost.items())
    result = {"bench": "quantise_clinic", "points_lost": lost, "claims_hold": held, "ways": found}
    finish(result, rows, options.receipt)


def cost(run: Path, ways: dict[str, Any]) -> dict[str, Any]:
    """The figures of one way; whether the gate stopped it stands among them."""
    recipe, start = load_recipe(run / "recipe.yaml"), newest_model(str(run))
    settings = QuantizeStage(blocks=[*recipe.stages["sft"].blocks, "clinic-text"], keep_failed=True, **ways)
    tokenizer = load_tokenizer(start)
    template = choose_template(recipe.template, tokenizer)
    blocks = {name: recipe.data[name] for name in settings.blocks}
    evidence = gather_evidence(blocks, exam_of(recipe, None), settings, tokenizer, template, recipe.seed)
    with tempfile.TemporaryDirectory() as folder:
        made, stopped = Path(folder) / "model", ""
        try:
            quantise_folder(Job(start, settings, evidence, tokenizer, template, torch.device("cpu"), "bench"), made)
        except ModelError as error:
            stopped = error.reason
        return read_json(made / "quantisation.json")["figures"] | {"stopped": stopped}


if __name__ == "__main__":
    main()
