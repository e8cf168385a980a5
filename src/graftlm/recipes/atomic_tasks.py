"""Annotated rows as instruction tasks: the recipe's key `tasks`, and what `graft tasks` calls."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from graftlm.core.console import say, warn
from graftlm.core.errors import DataError, RecipeError
from graftlm.core.files import write_text
from graftlm.data.atomic_tasks import Built, TaskPlan, build_tasks
from graftlm.data.records import load_samples
from graftlm.data.samples import Sample
from graftlm.recipes.method_settings import Part

Words = tuple[str, str]


class AtomicTaskSettings(Part):
    """Instruction tasks made of annotated rows. The defaults are those of `TaskPlan`."""

    kinds: tuple[str, ...] = Field((), description="tasks to make; empty: all that a row allows")
    prompts: int = Field(3, gt=0, description="different tasks made of a row")
    chain: bool = Field(False, description="every task of a row, in order, in place of drawn ones")
    options: int = Field(8, gt=0, description="labels shown at most; the row's own always")
    language: Literal["auto", "en", "zh"] = Field("auto", description="of the instructions; auto: each row's own")
    subject: Words = Field(("text", "文章"), description="what a text is, in English and Chinese")
    second: Words = Field(("second text", "第二个文章"), description="what the second text of a pair is")
    noun: Words = Field(("type", "类型"), description="what a label is")
    names: dict[Literal["en", "zh"], dict[str, str]] = Field(
        default_factory=dict, description="wording of labels by language"
    )
    level: str = Field(" > ", description="stands between the levels of a class; empty: there are none")
    match: str = Field("", description="class of the pairs that belong together")
    wording: Literal["usual", "other"] = Field("usual", description="other: instructions that `usual` never uses")
    seed: int = Field(0, description="of everything that is drawn")

    @model_validator(mode="after")
    def _possible(self) -> AtomicTaskSettings:
        try:
            self.plan()
        except DataError as error:
            raise ValueError(f"{error.reason} ({error.fix})" if error.fix else error.reason) from None
        return self

    def plan(self) -> TaskPlan:
        """Raises DataError: a kind that does not exist, or two labels with one name."""
        return TaskPlan(
            self.kinds, self.prompts, self.chain, self.options, self.language, self.subject, self.second, self.noun,
            self.names, self.level, self.match, self.wording, self.seed,
        )  # fmt: skip


def tasks_of(samples: Sequence[Sample], settings: AtomicTaskSettings, metric: str | None) -> tuple[list[Sample], Built]:
    """The tasks as chats, or as test items where a metric says how they are judged; and what was built.

    choice: tasks with options. extract: the members of lists and lines, one by one.
    """
    built = build_tasks(samples, settings.plan())
    if metric is None:
        return [task.chat(origin) for task, origin in built.tasks], built
    kept = [(task, origin) for task, origin in built.tasks if metric != "choice" or task.choices]
    return [task.item(origin, split=metric == "extract") for task, origin in kept], built


def write_tasks(file: Path, out: Path, kind: Literal["tagged", "classified"], changes: Sequence[str]) -> None:
    """The tasks of an annotated file as JSON lines of messages, which every stage reads.

    Args:
        changes: settings as `prompts=2`, with the recipe's names.

    Raises:
        RecipeError: a setting that does not exist. DataError: a file that cannot be read, or holds no valid row.
    """
    settings = _settings(changes)
    loaded = load_samples(file, kind=kind)
    _, built = tasks_of(loaded.samples, settings, None)
    lines = [
        json.dumps(
            {
                "messages": [{"role": "user", "content": task.prompt}, {"role": "assistant", "content": task.output}],
                "task": task.kind,
                "row": str(origin),
            },
            ensure_ascii=False,
        )
        for task, origin in built.tasks
    ]
    write_text(out, "".join(f"{line}\n" for line in lines))
    for fault in [*loaded.faults, *built.faults]:
        warn(f"left out: {fault}")
    for name, count in sorted(Counter(task.kind for task, _ in built.tasks).items()):
        say(f"  {name:<24} {count:>7,}")
    say(f"{len(lines):,} tasks of {loaded.read:,} rows: {out}")


def _settings(changes: Sequence[str]) -> AtomicTaskSettings:
    given = {}
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals or key not in AtomicTaskSettings.model_fields:
            known = ", ".join(AtomicTaskSettings.model_fields)
            raise RecipeError(f"`{change}` sets nothing", where="command line", fix=f"write key=value; keys: {known}")
        given[key] = yaml.safe_load(value)
    try:
        return AtomicTaskSettings.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        raise RecipeError(
            f"{'.'.join(map(str, first['loc']))}: {first['msg']}", where="command line",
            fix="docs/shop.md lists the keys and values",
        ) from None  # fmt: skip
