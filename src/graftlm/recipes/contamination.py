"""Which test items stand in the training data, and what that does to the score: `graft contamination`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError
from rich.table import Table

from graftlm.core.console import progress_bar, say, warn
from graftlm.core.errors import DataError, GraftError
from graftlm.core.files import read_json, write_json
from graftlm.core.offline import offline
from graftlm.data.samples import Labelled, Sample, Text
from graftlm.evaluation.contamination import (
    CLEAN,
    DIRTY,
    CleanScore,
    Contamination,
    Item,
    ItemOverlap,
    TaskOverlap,
    find_contamination,
    score_by_overlap,
)
from graftlm.evaluation.overlap import SHORTEST, N
from graftlm.evaluation.results import EvaluationResult, TaskResult
from graftlm.evaluation.runner import hash_items
from graftlm.evaluation.statistics import Estimate
from graftlm.recipes.loading import load_recipe
from graftlm.recipes.schema import Recipe, Source
from graftlm.recipes.sources import read_source, stream_source
from graftlm.recipes.summary import language_models, read_scores

SHOWN = 3
"""Items of a task that are printed; all are in the file of --output."""


def contamination(
    place: Path | None,
    data: Sequence[Path],
    tests: Sequence[Path],
    *,
    scores: Path | None = None,
    n: int = N,
    output: Path | None = None,
) -> Contamination:
    """Search training data for test items and print what stands there.

    Args:
        place: a recipe file or a run folder: its data and its evaluation; a run's newest scores.
        data: training files instead of the recipe's.
        tests: test files instead of the recipe's; named after the file.
        scores: a result file of `graft eval`, or the scores.json of a stage, to split by clean and dirty.
        n: units in a row that must agree.
        output: JSON file for every item with its evidence.

    Raises:
        GraftError: no data, no tests, or n below `SHORTEST`.
        DataError: a file cannot be read.
    """
    if n < SHORTEST:
        raise GraftError(f"{n} words agree by chance", where="--words", fix=f"{SHORTEST} or more; {N} is GPT-3's")
    recipe = _recipe_of(place)
    with offline(recipe.offline if recipe else False):
        items = _tests(recipe, tests)
        found = find_contamination(items, _counted(_training(recipe, data)), n=n)
    results = _results(place, recipe, scores)
    split = [score_by_overlap(results[task.name], task) for task in found.tasks if _fits(task, items, results)]
    print_contamination(found, n)
    _print_scores(split)
    if output is not None:
        write_json(output, found.model_dump() | {"scores": [one.model_dump() for one in split]})
        say(f"every item with its evidence: {output}")
    return found


def read_items(name: str, source: Source) -> list[Item]:
    """The items of a test.

    Raises:
        DataError: nothing can be read, or its rows are no test items.
    """
    samples = read_source(name, source).samples
    items = [sample for sample in samples if isinstance(sample, Labelled | Text)]
    if len(items) < len(samples):
        raise DataError("its rows are no test items", where=source.path or name, fix="set `kind: labelled`")
    return items


def _recipe_of(place: Path | None) -> Recipe | None:
    if place is None:
        return None
    return load_recipe(place / "recipe.yaml" if place.is_dir() else place, [])


def _training(recipe: Recipe | None, files: Sequence[Path]) -> list[Source]:
    if files:
        return [Source.model_validate({"path": str(file), "split": "paragraph"}) for file in files]
    names = dict.fromkeys(block for stage in recipe.stages.values() for block in stage.blocks) if recipe else {}
    if recipe is None or not names:
        raise GraftError("no training data", where="graft contamination", fix="name a recipe, or give --data FILE")
    return [recipe.data[name] for name in names]


def _tests(recipe: Recipe | None, files: Sequence[Path]) -> dict[str, Sequence[Item]]:
    sources: Mapping[str, Source] = recipe.evaluation if recipe else {}
    if files:
        sources = {file.stem: _test_file(file) for file in files}
    if not sources:
        raise GraftError("no tests", where="graft contamination", fix="name a recipe that has some, or give --tests")
    return {name: read_items(name, source) for name, source in sources.items()}


def _test_file(file: Path) -> Source:
    kind = "text" if file.suffix in (".txt", ".md") else "labelled"
    return Source.model_validate({"path": str(file), "kind": kind, "split": "paragraph"})


def _counted(sources: Sequence[Source]) -> Iterator[Sample]:
    with progress_bar() as bar:
        task = bar.add_task("search", total=None, note="rows")
        for source in sources:
            for sample in stream_source(source):
                bar.advance(task)
                yield sample


def _results(place: Path | None, recipe: Recipe | None, file: Path | None) -> dict[str, TaskResult]:
    """Results by task: of the file, else of the run's last stage that has some."""
    if file is not None:
        return {result.name: result for result in read_results(file)}
    if recipe is None or place is None or not place.is_dir():
        return {}
    scores = read_scores(place, recipe)
    scored = [name for name in language_models(recipe) if name in scores]
    return {result.name: result for result in scores[scored[-1]]} if scored else {}


def read_results(file: Path) -> list[TaskResult]:
    """The tasks of a result file of `graft eval`, or of a stage's scores.json.

    Raises:
        DataError: it is neither.
    """
    found = read_json(file)
    try:
        if "tasks" in found:
            return EvaluationResult.model_validate(found).tasks
        return [TaskResult.model_validate(result) for result in found["results"]]
    except (ValidationError, KeyError, TypeError):
        fix = "give a file that `graft eval` wrote, or RUN/NN-STAGE/scores.json"
        raise DataError("no result of an evaluation", where=file, fix=fix) from None


def _fits(task: TaskOverlap, items: Mapping[str, Sequence[Item]], results: Mapping[str, TaskResult]) -> bool:
    """Whether a score of this task is there; one of other items is refused aloud."""
    result = results.get(task.name)
    if result is None:
        return False
    if result.items_hash != hash_items(items[task.name]):
        warn(f"{task.name}: its score is of other items and is left out")
        return False
    return True


def print_contamination(found: Contamination, n: int = N) -> None:
    """A table of the tasks, the worst items with their evidence, and what was not counted."""
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    columns = ("task", "items", "judged", f"any {n}", f"≥ {CLEAN:.0%}", f"≥ {DIRTY:.0%}", "in one text", "with answer")
    for column in columns:
        table.add_column(column, justify="left" if column == "task" else "right", no_wrap=True)
    for task in found.tasks:
        counts = (task.touched, len(task.places(CLEAN)), len(task.places(DIRTY)), task.whole, task.answered)
        table.add_row(task.name, f"{len(task.items):,}", f"{task.judged:,}", *(f"{count:,}" for count in counts))
    say(f"{found.texts:,} training texts searched")
    say(table)
    for task in found.tasks:
        for item in sorted((item for item in task.items if item.evidence), key=_strength)[:SHOWN]:
            _print_item(task.name, item)
    short = sum(len(task.items) - task.judged for task in found.tasks)
    if short:
        say(f"not judged: {short:,} items of fewer than {SHORTEST} words")
    if found.phrases:
        first = found.phrases[0]
        say(
            f"not counted: {len(found.phrases):,} turns of phrase, as “{first.words}” "
            f"(in {first.passages} questions or answers and {first.texts} texts)"
        )


def _strength(item: ItemOverlap) -> tuple[float, float, int]:
    return -item.in_one, -(item.share or 0.0), item.place


def _print_item(task: str, item: ItemOverlap) -> None:
    plural = "s" if item.texts > 1 else ""
    answer = ", its answer too" if (item.answer_share or 0.0) >= DIRTY else ""
    say(f"{task}: {item.origin}: {item.share or 0.0:.0%} stands in {item.texts} training text{plural}{answer}")
    for evidence in item.evidence[:1]:
        say(f"  {evidence.train}: “{evidence.words}”")


def _print_scores(scores: Sequence[CleanScore]) -> None:
    if not scores:
        return
    subsets = list(dict.fromkeys(name for score in scores for name in score.subsets))
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    for column in ("task", "metric", *subsets, "not clean − clean"):
        table.add_column(column, no_wrap=True)
    for score in scores:
        cells = [_cell(score.subsets[name]) if name in score.subsets else "–" for name in subsets]
        change = score.change
        told = f"{change.value:+.3f} ({change.low:+.3f} to {change.high:+.3f})" if change else "–"
        table.add_row(score.name, score.metric, *cells, told)
    say(table)


def _cell(found: Estimate) -> str:
    return f"{found.value:.3f} ({found.low:.3f}–{found.high:.3f}, n {found.n:,})"
