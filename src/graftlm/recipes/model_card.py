"""The card of an exported model: what it is, what it can, what it is made of; from the receipts of its run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import graftlm
from graftlm.core.files import read_json
from graftlm.core.receipts import Interval
from graftlm.recipes.loading import load_recipe
from graftlm.recipes.summary import RunReceipt, ScoreRow, gather, read_scores

UNKNOWN_LICENCE = "unknown"


@dataclass(frozen=True)
class Origin:
    """The stage of a run that a model folder came from."""

    run: Path
    stage: str


def origin_of(model: str) -> Origin | None:
    """The run of a model folder `<run>/<number>-<stage>/model`; None for any other model."""
    stage = Path(model).parent
    if not (stage.parent / "recipe.yaml").is_file() or not (stage / "receipt.json").is_file():
        return None
    return Origin(stage.parent, str(read_json(stage / "receipt.json")["stage"]))


def model_card(model: str, title: str, licence: str | None) -> str:
    """Markdown with a head that the Hugging Face hub reads.

    Args:
        model: the model's folder; what is known of its run is told.
        licence: its identifier, as apache-2.0.
    """
    origin = origin_of(model)
    run = None
    if origin is not None:
        recipe = load_recipe(origin.run / "recipe.yaml")
        run = gather(origin.run, recipe, read_scores(origin.run, recipe))
    parts = [_head(run, licence), f"# {title}\n"]
    if origin is None or run is None:
        parts.append(f"A model, exported by graft {graftlm.__version__}. Of its training there is no receipt.\n")
    else:
        parts += [_story(run, origin), _scores(run, origin), _data(run, origin), _settings(origin)]
    parts += [_use(title), _licence(licence)]
    return "\n".join(part for part in parts if part)


def _head(run: RunReceipt | None, licence: str | None) -> str:
    head: dict[str, Any] = {
        "license": licence or UNKNOWN_LICENCE,
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["graft"],
    }
    if run is not None and isinstance(run.base, str) and run.base.count("/") == 1:
        head["base_model"] = run.base
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n"


def _story(run: RunReceipt, origin: Origin) -> str:
    base = f"`{run.base}`" if isinstance(run.base, str) else "a new model"
    rows = ["| Stage | Kind | From | Steps | Tokens |", "|---|---|---|---|---|"]
    for record in run.stages:
        if record.receipt is not None:
            done = record.receipt
            rows.append(f"| {done.stage} | {done.kind} | {record.started_from} | {done.steps:,} | {done.tokens:,} |")
        if record.name == origin.stage:
            break
    intro = f"Made from {base} by the recipe `{run.name}` with graft {graftlm.__version__}; this is the model of "
    return f"{intro}its stage `{origin.stage}` (seed {run.seed}).\n\n" + "\n".join(rows) + "\n"


def _scores(run: RunReceipt, origin: Origin) -> str:
    tested = [row for row in run.scores if origin.stage in row.models]
    if not tested:
        return "## Scores\n\nThis model was not evaluated.\n"
    rows = ["| Test | Side | Metric | Items | Base | This model |", "|---|---|---|---|---|---|"]
    for row in tested:
        before = _shown(row, row.models["base"]) if "base" in row.models else "–"
        now = _shown(row, row.models[origin.stage])
        rows.append(f"| {row.name} | {row.side} | {row.metric} | {row.n:,} | {before} | {now} |")
    told = "Value and 95 % interval. Domain tests measure what was gained, general tests what was forgotten."
    found = run.retention.get(origin.stage)
    verdict = f"\n{found.verdict}\n" if found else ""
    return f"## Scores\n\n{told}\n\n" + "\n".join(rows) + "\n" + verdict


def _shown(row: ScoreRow, found: Interval) -> str:
    number = "{:.3f}" if row.metric == "bits_per_byte" else "{:.1%}"
    value, low, high = (number.format(one) for one in (found.value, found.low, found.high))
    return f"{value} ({low} – {high})"


def _data(run: RunReceipt, origin: Origin) -> str:
    rows = ["| Stage | Input | SHA-256, first 16 digits |", "|---|---|---|"]
    for record in run.stages:
        if record.receipt is not None:
            rows += [f"| {record.name} | {name} | `{key}` |" for name, key in record.receipt.inputs.items()]
        if record.name == origin.stage:
            break
    told = "Hashes of everything that went in: the same hashes mean the same bytes."
    return f"## Data\n\n{told}\n\n" + "\n".join(rows) + "\n"


def _settings(origin: Origin) -> str:
    recipe = (origin.run / "recipe.yaml").read_text(encoding="utf-8")
    return f"## Recipe\n\n```yaml\n{recipe.rstrip()}\n```\n"


def _use(title: str) -> str:
    return f"""## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{title}")
model = AutoModelForCausalLM.from_pretrained("{title}")
turns = [{{"role": "user", "content": "…"}}]
prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
print(tokenizer.decode(model.generate(**prompt, max_new_tokens=64)[0]))
```

Or `graft chat {title}`.
"""


def _licence(licence: str | None) -> str:
    if licence:
        return f"## Licence\n\n{licence}\n"
    return "## Licence\n\nNot stated. A model is under the terms of its base and of the data that it was trained on.\n"
