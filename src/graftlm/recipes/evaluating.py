"""`graft eval`: published tests put to a model, and to another one beside it."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from graftlm.core.console import progress_bar, say, warn
from graftlm.core.errors import GraftError
from graftlm.core.files import write_json
from graftlm.core.hashing import hash_folder, hash_value
from graftlm.core.receipts import versions
from graftlm.evaluation.benchmarks.cache import keep_run, kept_run, result_key
from graftlm.evaluation.benchmarks.dummies import dummy
from graftlm.evaluation.benchmarks.items import Source
from graftlm.evaluation.benchmarks.plan import Plan, make_plan
from graftlm.evaluation.benchmarks.pooling import Group, pool_suite
from graftlm.evaluation.benchmarks.questions import Frame
from graftlm.evaluation.benchmarks.run import Sheet, TaskRun, run_sheet
from graftlm.evaluation.results import EvaluationResult
from graftlm.evaluation.text_model import chat_frame, text_model
from graftlm.evaluation.text_subject import CannotSit, TextSubject
from graftlm.models.loading import load_config, load_model, load_tokenizer, locate
from graftlm.models.packed_checkpoint import is_packed
from graftlm.recipes.evaluation_tables import comparison_tables, list_suites, show_results
from graftlm.recipes.stages.context import choose_template
from graftlm.recipes.suite_sheets import data_root, write_sheets
from graftlm.recipes.talking import newest_model

__all__ = ["Conditions", "Source", "data_root", "evaluate_models", "evaluate_one", "list_suites"]

DUMMY = "dummy:"


@dataclass(frozen=True)
class Conditions:
    """What changes scores, from the command line.

    Attributes:
        source: where the data of tasks are.
        limit: items of each sub-task; all when None.
        shots: solved examples for every task; the files' own numbers when None.
        seed: of drawn examples and sampled answers.
        template: chat template that questions are put into ("own" is the tokenizer's); plain text when None.
    """

    source: Source
    limit: int | None = None
    shots: int | None = None
    seed: int = 0
    template: str | None = None

    def settings(self) -> dict[str, str | int | float | bool | None]:
        return {"limit": self.limit, "shots": self.shots, "seed": self.seed, "template": self.template}


@dataclass(frozen=True)
class Seat:
    """Somebody who sits the tests."""

    name: str
    subject: TextSubject
    frame: Frame | None
    hash: str
    parameters: int
    precision: str
    machine: str


@dataclass(frozen=True)
class Evaluated:
    """One model's results, and the suites with their resamples."""

    result: EvaluationResult
    groups: dict[str, Group]


def evaluate_models(
    model: str,
    suites: Sequence[str],
    options: Conditions,
    *,
    against: str | None = None,
    out: Path | None = None,
    trust: bool = False,
) -> None:
    """Put suites to a model, print its scores, and write them as JSON.

    Args:
        model, against: folder, hub name, run folder, `rootstock`, or dummy:random, dummy:oracle, dummy:first. With
            `against`, both are tested and what the first gained over the other and forgot of it is printed.
        out: JSON file; ./results/MODEL--SUITES.json when None. The other model's is written beside it.
        trust: whether Python that stands beside a task file may run.

    Raises:
        GraftError: an unknown suite, a model that cannot be loaded, no data at all.
    """
    if not model or not suites:
        raise GraftError("which model, and which suites?", fix="graft eval MODEL SUITE; --list names the suites")
    plan = make_plan(suites, shots=options.shots, trust=trust)
    names = [model] if against is None else [against, model]
    done = [evaluate_one(name, plan, options) for name in names]
    for name, one in zip(names, done, strict=True):
        show_results(one.result)
        file = out if out is not None and name == model else _result_file(out, name, suites)
        write_json(file, one.result.model_dump(mode="json"))
        say(f"written: {file}\n")
    if against is not None:
        before, after = done
        comparison_tables(before.result, after.result, before.groups, after.groups)


def evaluate_one(model: str, plan: Plan, options: Conditions) -> Evaluated:
    """All tasks of a plan on one model."""
    began, started = time.perf_counter(), time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    seat = _seat(model, options)
    sheets, reasons = write_sheets(
        plan, options.source, limit=options.limit, seed=options.seed, frame=seat.frame
    )
    runs = _run_all(seat, sheets, options, reasons)
    pooled = {suite.name: pool_suite(suite, runs, reasons) for suite in plan.all_suites()}
    groups = {name: group for name, group in pooled.items() if group is not None}
    result = EvaluationResult(
        model=seat.name,
        model_hash=seat.hash,
        parameters=seat.parameters,
        precision=seat.precision,
        started=started,
        seconds=time.perf_counter() - began,
        machine=seat.machine,
        settings=options.settings(),
        versions=versions(),
        tasks=[run.result for run in runs.values()],
        groups=[group.result for group in groups.values()],
    )
    return Evaluated(result, groups)


def _run_all(
    seat: Seat, sheets: list[Sheet], options: Conditions, reasons: dict[str, str]
) -> dict[str, TaskRun]:
    """Every task scored, or read from the cache; those that the model is too small for join the `reasons`."""
    about = {"model": seat.hash, "precision": seat.precision, "machine": seat.machine, **options.settings()}
    keys = {sheet.planned.name: result_key(sheet, about) for sheet in sheets if seat.hash}
    kept = {name: run for name, key in keys.items() if (run := kept_run(key)) is not None}
    if kept:
        say(f"[dim]{seat.name}: {len(kept)} of {len(sheets)} tasks were scored before: read from the cache[/dim]")
    runs = {}
    with progress_bar() as bar:
        todo = [sheet for sheet in sheets if sheet.planned.name not in kept]
        line = bar.add_task(seat.name, total=sum(len(sheet.items) for sheet in todo), note="")
        for sheet in sheets:
            name = sheet.planned.name
            bar.update(line, note=name)
            if name in kept:
                runs[name] = kept[name]
                continue
            try:
                advance = partial(bar.advance, line)
                runs[name] = run_sheet(seat.subject, sheet, seed=options.seed, advance=advance)
            except CannotSit as small:
                reasons[name] = small.reason
                warn(f"{name} is left out: {small.reason}")
                continue
            if name in keys:
                keep_run(keys[name], runs[name])
    if not runs:
        raise GraftError("the model is too small for all of these tests", where=seat.name, fix="choose others")
    return runs


def _seat(model: str, options: Conditions) -> Seat:
    if model.startswith(DUMMY):
        subject = dummy(model.removeprefix(DUMMY), options.seed)
        return Seat(model, subject, None, "", 0, "none", "none")
    where = newest_model(model)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    half = device.type == "cuda" or is_packed(load_config(where))
    tokenizer = load_tokenizer(where)
    network = load_model(where, dtype=torch.bfloat16 if half else torch.float32, device=device)
    template = choose_template(options.template, tokenizer) if options.template is not None else None
    return Seat(
        name=model,
        subject=text_model(network, tokenizer, template),
        frame=chat_frame(template) if template is not None else None,
        hash=_model_hash(where, network),
        parameters=sum(weights.numel() for weights in network.parameters()),
        precision="bf16" if half else "fp32",
        machine=torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads",
    )


def _model_hash(where: str, network: torch.nn.Module) -> str:
    folder = Path(locate(where))
    if folder.is_dir():
        return hash_folder(folder)
    return hash_value([where, getattr(network.config, "_commit_hash", None)])


def _result_file(out: Path | None, model: str, suites: Sequence[str]) -> Path:
    """./results/MODEL--SUITES.json, or beside the file that was asked for."""
    model_name = re.sub(r"[^\w.\-]+", "-", model).strip("-.")[-80:]
    if out is not None:
        return out.with_name(f"{out.stem}--against-{model_name}.json")
    suite_names = "+".join(Path(suite).stem for suite in suites)[:80]
    return Path("results") / f"{model_name}--{suite_names}.json"
