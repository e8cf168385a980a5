"""Evaluation of one model of a run, on domain and general tasks."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.table import Table

from graftlm.core.console import progress_bar, say
from graftlm.core.files import read_json, write_json
from graftlm.core.hashing import hash_value
from graftlm.evaluation.benchmarks.run import run_sheet
from graftlm.evaluation.language_model import language_model
from graftlm.evaluation.results import TaskResult
from graftlm.evaluation.runner import run_tasks
from graftlm.evaluation.tasks import Task
from graftlm.evaluation.text_model import text_model
from graftlm.models.loading import load_model, load_tokenizer
from graftlm.recipes.schema import Recipe
from graftlm.recipes.sources import read_source, source_key
from graftlm.recipes.stages.context import choose_bf16, choose_template
from graftlm.recipes.suite_sheets import recipe_sheets


def evaluate(recipe: Recipe, model: str, model_key: str, folder: Path, device: torch.device) -> list[TaskResult]:
    """Scores of a model on every task of the recipe; kept in `folder`, and read from there when nothing changed."""
    settings = {name: [task.model_dump(mode="json"), source_key(task)] for name, task in recipe.evaluation.items()}
    bf16 = choose_bf16(recipe, device)
    sheets = recipe_sheets(recipe)
    suites = [[sheet.items_hash, len(sheet.items)] for sheet in sheets]
    key = hash_value([settings, suites, model_key, recipe.template, bf16, recipe.samples_in_report])
    file = folder / "scores.json"
    if file.is_file() and (kept := read_json(file))["key"] == key:
        return [TaskResult.model_validate(result) for result in kept["results"]]
    if not recipe.evaluation and not sheets:
        return []
    network = load_model(model, dtype=torch.bfloat16 if bf16 else torch.float32, device=device)
    tokenizer = load_tokenizer(model)
    subject = language_model(network, tokenizer, choose_template(recipe.template, tokenizer))
    tasks = load_tasks(recipe)
    total = sum(len(task.items) for task in tasks) + sum(len(sheet.items) for sheet in sheets)
    with progress_bar() as bar:
        task = bar.add_task("evaluate", total=total, note="")
        finished: dict[str, int] = {}

        def show(name: str, done: int, total: int) -> None:
            finished[name] = done
            bar.update(task, completed=sum(finished.values()), note=name)

        results = run_tasks(subject, tasks, progress=show, samples=recipe.samples_in_report)
        reader = text_model(network, tokenizer)
        for sheet in sheets:
            bar.update(task, note=sheet.planned.name)
            run = run_sheet(
                reader, sheet, seed=recipe.seed, samples=recipe.samples_in_report,
                advance=lambda count: bar.advance(task, count),
            )  # fmt: skip
            results.append(run.result)
    write_json(file, {"key": key, "results": [result.model_dump() for result in results]})
    return results


def load_tasks(recipe: Recipe) -> list[Task]:
    return [
        Task(
            name=name,
            side=task.side,
            kind=task.metric,
            items=list(read_source(name, task).samples),  # type: ignore[arg-type]
            style=task.style,
            max_new_tokens=task.max_new_tokens,
        )
        for name, task in recipe.evaluation.items()
    ]


def print_scores(before: list[TaskResult], after: list[TaskResult], stage: str) -> None:
    """A table of the base's scores and this stage's."""
    if not after:
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for column in ("task", "side", "metric", "base", stage, "95 % interval"):
        table.add_column(column, no_wrap=True)
    first = {result.name: result for result in before}
    for result in after:
        base = first[result.name]
        table.add_row(
            result.name,
            result.side,
            result.metric,
            _number(base.metric, base.value),
            _number(result.metric, result.value),
            f"{_number(result.metric, result.low)} – {_number(result.metric, result.high)}",
        )
    say(table)


def _number(metric: str, value: float) -> str:
    return f"{value:.3f}" if metric == "bits_per_byte" else f"{value:.1%}"
