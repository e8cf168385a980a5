"""Results of lm-evaluation-harness: `results_*.json` of version 0.4 and above, of 0.3, and of Open LLM Leaderboard v1.

The harness tells raw scores and standard errors. Public suites are made of them by their own rules (`pooling.py`); the
harness' own means over Open LLM Leaderboard v2 are left out, because they are raw and look like the leaderboard's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeGuard

from graftlm.core.errors import DataError
from graftlm.core.hashing import hash_value
from graftlm.evaluation.leaderboard.entries import Entry, GroupScore, TaskScore, is_share
from graftlm.evaluation.leaderboard.item_scores import ItemScores, read_item_scores
from graftlm.evaluation.leaderboard.pooling import Z95, Measured, suite_groups

HEADLINES = ("acc_norm", "acc", "mc2", "exact_match", "pass@1", "f1", "em", "prompt_level_strict_acc")
"""The first of these that a task has stands for it; else its first metric."""
FILTERS = ("none", "", "strict-match", "get-answer", "flexible-extract", "custom-extract", "create_test")
FALLING = ("perplexity", "bits_per_byte")
"""Where an old file does not tell: of these, lower is better."""
RAW_MEANS = re.compile(r"leaderboard(_|$)")
IFEVAL_PROMPTS = 541
SETTINGS = ("limit", "gen_kwargs", "fewshot_seed", "system_instruction", "chat_template", "fewshot_as_multiturn")


@dataclass(frozen=True)
class Metric:
    """One metric of one task under one filter."""

    name: str
    filter: str
    value: float
    error: float | None

    @property
    def label(self) -> str:
        return self.name if self.filter in ("", "none") else f"{self.name} ({self.filter})"


@dataclass(frozen=True)
class Raw:
    """One task as the file tells it."""

    name: str
    metrics: list[Metric]
    shots: int | None
    n: int
    version: str
    coverage: str = ""

    @property
    def headline(self) -> Metric:
        known = {metric.name: metric for metric in reversed(self.metrics)}
        return next((known[name] for name in HEADLINES if name in known), self.metrics[0])


def read_lm_eval(content: Mapping[str, Any], file: Path, model: str | None = None) -> Entry:
    """One file as an entry; per-item scores come from `samples_*.jsonl` beside it.

    Args:
        content: the file's JSON.
        model: the name to list it under, if not the one in the file.

    Raises:
        DataError: no scores, or no name for the model.
    """
    name = model or _model_name(content)
    if not name:
        raise DataError("the file does not name its model", where=file, fix="give --name")
    tasks = [_raw(task, found, content) for task, found in _task_items(content)]
    tasks = [task for task in tasks if task.metrics]
    if not tasks:
        raise DataError("no task has a score", where=file, fix="give a results_*.json of lm-evaluation-harness")
    config = _config(content)
    items = read_item_scores(file)
    return Entry(
        hash=hash_value([name, _comparable(content)]),
        model=name,
        model_hash=str(config.get("model_sha") or ""),
        parameters=_parameters(config),
        precision=_precision(config),
        started=_started(content),
        seconds=_seconds(content),
        machine="",
        settings={key: _setting(content.get(key, config.get(key))) for key in SETTINGS},
        versions=_versions(content),
        source="lm-eval",
        tasks=tuple(_task_score(task, content, items.get(task.name)) for task in tasks),
        groups=_all_groups(tasks, content),
        notes=tuple(_notes(content, items)),
    )


def _config(content: Mapping[str, Any]) -> dict[str, Any]:
    return dict(content.get("config") or content.get("config_general") or {})


def _model_name(content: Mapping[str, Any]) -> str:
    config = _config(content)
    arguments = config.get("model_args") or ""
    if isinstance(arguments, str):
        arguments = dict(part.split("=", 1) for part in arguments.split(",") if "=" in part)
    return str(content.get("model_name") or config.get("model_name") or arguments.get("pretrained") or "")


def _task_items(content: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The tasks among the results: groups stand there, too."""
    groups = set(content.get("groups") or {})
    groups |= {group for group, members in (content.get("group_subtasks") or {}).items() if members}
    for name, found in content["results"].items():
        if name not in groups and name != "all" and isinstance(found, Mapping):
            yield name, dict(found)


def _raw(name: str, found: Mapping[str, Any], content: Mapping[str, Any]) -> Raw:
    """`harness|arc:challenge|25` names its shots itself."""
    parts = name.split("|")
    own = int(parts[2]) if len(parts) >= 3 and parts[2].isdigit() else None
    shots = own if own is not None else _of_task(content.get("n-shot"), name, _config(content).get("num_fewshot"))
    counts = _of_task(content.get("n-samples"), name, {})
    counts = counts if isinstance(counts, Mapping) else {}
    n, published = int(counts.get("effective") or 0), int(counts.get("original") or 0)
    version = _of_task(content.get("versions"), name, "")
    return Raw(
        name=parts[1] if own is not None else name,
        metrics=_metrics(found),
        shots=shots if isinstance(shots, int) else None,
        n=n or (IFEVAL_PROMPTS if "ifeval" in name else 0),
        coverage=f"{n:,} of {published:,} items" if 0 < n < published else "",
        version="" if version is None else re.sub(r"\.0$", "", str(version)),
    )


def _of_task(table: Any, name: str, otherwise: Any) -> Any:
    return table.get(name, otherwise) if isinstance(table, Mapping) else otherwise


def _metrics(found: Mapping[str, Any]) -> list[Metric]:
    """`acc,none` and `acc_stderr,none` (0.4), or `acc` and `acc_stderr` (0.3); what is no finite number is left out."""
    metrics = []
    for key, value in found.items():
        name, _, how = key.partition(",")
        if name.endswith("_stderr") or not _is_number(value) or name in ("alias", "sample_len"):
            continue
        error = found.get(f"{name}_stderr,{how}" if "," in key else f"{name}_stderr")
        metrics.append(Metric(name, how, float(value), float(error) if _is_number(error) else None))
    order = {how: place for place, how in enumerate(FILTERS)}
    return sorted(metrics, key=lambda metric: order.get(metric.filter, len(order)))


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _task_score(task: Raw, content: Mapping[str, Any], items: ItemScores | None) -> TaskScore:
    head = task.headline
    direction = _of_task(_of_task(content.get("higher_is_better"), task.name, {}), head.name, None)
    higher = bool(direction) if direction is not None else not any(name in head.name for name in FALLING)
    error = _error(head, task.n)
    scores = items.of(head.name, head.filter) if items else None
    return TaskScore(
        name=task.name,
        metric=head.label,
        higher_is_better=higher,
        value=head.value,
        low=None if error is None else _bounded(head.value - Z95 * error, head.value),
        high=None if error is None else _bounded(head.value + Z95 * error, head.value),
        n=len(scores) if scores is not None else task.n,
        shots=task.shots,
        version=task.version,
        coverage=task.coverage,
        items_hash=items.hash if items and scores is not None else "",
        metrics={metric.label: metric.value for metric in task.metrics if metric is not head},
        scores=scores,
    )


def _error(metric: Metric, n: int) -> float | None:
    """The harness' standard error; else the greatest that a mean of n scores between 0 and 1 can have."""
    if metric.error is not None:
        return metric.error
    if n == 0 or not is_share(metric.name, metric.value):
        return None
    return math.sqrt(metric.value * (1 - metric.value) / n)


def _bounded(bound: float, value: float) -> float:
    """Shares end at 0 and 1."""
    return min(1.0, max(0.0, bound)) if 0 <= value <= 1 else bound


def _table(tasks: list[Raw]) -> dict[tuple[str, str], Measured]:
    """Raw scores by task and metric; of several filters the first of FILTERS."""
    return {
        (task.name, metric.name): Measured(metric.value, _error(metric, task.n), task.shots)
        for task in tasks
        for metric in reversed(task.metrics)
    }


def _all_groups(tasks: list[Raw], content: Mapping[str, Any]) -> tuple[GroupScore, ...]:
    """Public suites, then the harness' own groups."""
    suites = suite_groups(_table(tasks))
    names = {group.name for group in suites}
    return (*suites, *(group for group in _groups(content) if group.name not in names))


def _groups(content: Mapping[str, Any]) -> Iterator[GroupScore]:
    """The harness' own means, but those that would pass for the leaderboard's."""
    for name, found in (content.get("groups") or {}).items():
        metrics = _metrics(found) if isinstance(found, Mapping) else []
        if not metrics or RAW_MEANS.match(name):
            continue
        head = Raw(name, metrics, None, 0, "").headline
        if not 0 <= head.value <= 1:
            continue
        half = None if head.error is None else Z95 * head.error
        yield GroupScore(
            name=name,
            value=100 * head.value,
            low=None if half is None else 100 * _bounded(head.value - half, head.value),
            high=None if half is None else 100 * _bounded(head.value + half, head.value),
            how=f"lm-eval's mean of {head.label}",
            members=tuple((content.get("group_subtasks") or {}).get(name) or ()),
        )


def _notes(content: Mapping[str, Any], items: Mapping[str, ItemScores]) -> Iterator[str]:
    raw = [name for name in content.get("groups") or {} if RAW_MEANS.match(name)]
    if raw:
        yield (
            f"The harness' raw means ({', '.join(raw)}) are left out: the leaderboard's scores are normalised; "
            "open-llm-v2 holds them."
        )
    if items:
        yield f"Scores by item of {len(items)} tasks."


def _parameters(config: Mapping[str, Any]) -> int | None:
    count = config.get("model_num_parameters")
    return int(count) if _is_number(count) and count > 0 else None


def _precision(config: Mapping[str, Any]) -> str:
    name = str(config.get("model_dtype") or "").removeprefix("torch.")
    return {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}.get(name, name)


def _started(content: Mapping[str, Any]) -> str:
    """0.4 writes seconds since 1970; without any date the file is older than every dated one."""
    date = content.get("date") or _config(content).get("start_time")
    if not _is_number(date):
        return ""
    return datetime.fromtimestamp(float(date), UTC).isoformat(timespec="seconds")


def _seconds(content: Mapping[str, Any]) -> float | None:
    told = content.get("total_evaluation_time_seconds") or _config(content).get("total_evaluation_time_secondes")
    try:
        return float(told) if told is not None else None
    except (TypeError, ValueError):
        return None


def _versions(content: Mapping[str, Any]) -> dict[str, str]:
    told = {"lm-eval": content.get("lm_eval_version") or content.get("git_hash")}
    told["transformers"] = content.get("transformers_version")
    return {name: str(version) for name, version in told.items() if version}


def _setting(value: Any) -> str | int | float | bool | None:
    """A chat template is a page of text: its hash tells as much."""
    if value is None or isinstance(value, bool | int | float):
        return value
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:24]}… ({hash_value(text)[:8]})"


def _comparable(content: Mapping[str, Any]) -> list[Any]:
    """What makes two files the same result: not NaN, which differs from itself, and not the run's surroundings."""
    return [str(sorted(map(str, content["results"].items()))), _started(content)]
