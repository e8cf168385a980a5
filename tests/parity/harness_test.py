"""Benchmarks against lm-evaluation-harness 0.4.13: the same task files, rows and weights give the same numbers.

Its own numbers are kept in harness/golden.json; where it is installed, it also runs beside.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from graftlm.evaluation.benchmarks.items import Source
from graftlm.evaluation.benchmarks.plan import make_plan
from graftlm.evaluation.benchmarks.pooling import pool_suite
from graftlm.evaluation.benchmarks.run import TaskRun, prepare, run_sheet
from graftlm.evaluation.subject import Advance
from graftlm.evaluation.text_model import TextModel, text_model
from graftlm.evaluation.text_subject import Likelihood, Open, Options, Passage, Writing
from graftlm.models.loading import load_model, load_tokenizer
from graftlm.models.trunk import prepare_trunk
from tests.parity.harness.record import TASKS, harness_results, slim
from tests.parity.harness.rows import HERE, model, tokenizer, write_rows

SHARED = Path(__file__).parents[3] / "shared" / "data"
LOG_P = 1e-4  # nats, fp32


class Recorder:
    """A subject that keeps what it was asked and what it said, in the harness' form."""

    def __init__(self, subject: TextModel) -> None:
        self._subject = subject
        self.asked: list[Any] = []
        self.got: list[Any] = []

    @property
    def truncated(self) -> int:
        return self._subject.truncated

    def continuation_likelihoods(self, questions: Sequence[Options], advance: Advance) -> list[list[Likelihood]]:
        found = self._subject.continuation_likelihoods(questions, advance)
        self.asked = [[list(p) for p in zip(q.contexts, q.continuations, strict=True)] for q in questions]
        self.got = [[[one.log_p, one.greedy] for one in row] for row in found]
        return found

    def text_likelihoods(self, passages: Sequence[Passage], advance: Advance) -> list[float]:
        found = self._subject.text_likelihoods(passages, advance)
        self.asked = [[[passage.text]] for passage in passages]
        self.got = [[one] for one in found]
        return found

    def completions(self, prompts: Sequence[Open], writing: Writing, advance: Advance) -> list[list[str]]:
        found = self._subject.completions(prompts, writing, advance)
        self.asked = [[[prompt.prompt]] for prompt in prompts]
        self.got = found
        return found


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    write_rows(folder)
    return folder


@pytest.fixture(scope="module")
def subject() -> TextModel:
    network = model()
    prepare_trunk(network)
    return text_model(network, tokenizer())


def graft(subject: TextModel, task: Path, root: Path, limit: int | None = None) -> tuple[TaskRun, Recorder]:
    [planned] = make_plan([str(task)]).tasks
    recorder = Recorder(subject)
    return run_sheet(recorder, prepare(planned, Source(root), limit=limit)), recorder


def check(run: TaskRun, recorder: Recorder, expected: dict[str, Any]) -> None:
    """Every response, and every metric."""
    assert len(recorder.got) == len(expected["got"])
    for ours, theirs in zip(recorder.got, expected["got"], strict=True):
        for one, other in zip(ours, theirs, strict=True):
            if isinstance(other, list):
                assert one[0] == pytest.approx(other[0], abs=LOG_P)
                assert one[1] is other[1]
            else:
                assert one == (other if isinstance(other, str) else pytest.approx(other, abs=LOG_P * 100))
    for name, value in expected["metrics"].items():
        metric = name.removesuffix(",none")
        if metric == "sample_len":
            assert run.result.n == value
            continue
        assert run.result.metrics[metric].value == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("name", TASKS)
def test_what_the_harness_said(name: str, rows: Path, subject: TextModel) -> None:
    golden = json.loads((HERE / "golden.json").read_text(encoding="utf-8"))[name]
    run, recorder = graft(subject, HERE / "tasks" / f"{name}.yaml", rows)
    check(run, recorder, golden)


def test_the_rows_ask_what_they_should() -> None:
    """The golden numbers bite: cut prompts, both outcomes of every filter, and lengths that change the choice."""
    golden = json.loads((HERE / "golden.json").read_text(encoding="utf-8"))
    assert golden["endings"]["metrics"]["acc,none"] != golden["endings"]["metrics"]["acc_norm,none"]
    assert all(0 < golden["sums"]["metrics"][f"exact_match,{name}"] < 1 for name in ("strict", "last"))
    assert len(golden["pages"]["got"]) == 4


def test_long_prompts_are_cut_and_said(rows: Path, subject: TextModel) -> None:
    run, _ = graft(subject, HERE / "tasks" / "endings.yaml", rows)
    assert run.result.notes
    assert run.result.version == "1.0"


def test_a_group_weighs_by_items(rows: Path, subject: TextModel) -> None:
    plan = make_plan([str(HERE / "tasks" / "all.yaml")])
    runs = {task.name: run_sheet(subject, prepare(task, Source(rows))) for task in plan.tasks}
    group = pool_suite(plan.suites[0], runs, {})
    assert group is not None
    both = [runs[name].metrics["acc"].numerators.sum() for name in ("letters", "endings")]
    assert group.result.value == pytest.approx(100 * sum(both) / 48)


def test_beside_the_harness(rows: Path, subject: TextModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the strings that are asked."""
    pytest.importorskip("lm_eval")
    monkeypatch.chdir(rows)
    found = harness_results(model(), tokenizer(), list(TASKS), HERE / "tasks")
    for name in TASKS:
        run, recorder = graft(subject, HERE / "tasks" / f"{name}.yaml", rows)
        check(run, recorder, slim(found)[name])
        asked = [document["asked"] for document in found[name]["documents"]]
        assert recorder.asked == [[request[: len(ours)] for request, ours in zip(theirs, mine, strict=True)]
                                  for theirs, mine in zip(asked, recorder.asked, strict=True)]  # fmt: skip


MMLU = """
task: mmlu_{subject}
dataset_path: csv
dataset_kwargs: {{data_files: {{dev: {dev}, test: {test}}}}}
test_split: test
fewshot_split: dev
fewshot_config: {{sampler: first_n}}
num_fewshot: 5
output_type: multiple_choice
description: "The following are multiple choice questions (with answers) about {subject}.\\n\\n"
doc_to_text: "{{{{question}}}} A {{{{choice0}}}} B {{{{choice1}}}} C {{{{choice2}}}} D {{{{choice3}}}}\\nAnswer:"
doc_to_choice: ["A", "B", "C", "D"]
doc_to_target: answer
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


def test_a_part_of_mmlu_beside_the_harness(tmp_path: Path) -> None:
    """Five shots, the packaged model and its tokenizer, rows as they are published."""
    pytest.importorskip("lm_eval")
    mmlu = SHARED / "eval" / "mmlu"
    if not mmlu.is_dir():
        pytest.skip(f"no {mmlu}")
    subject_name = sorted((mmlu / "test").glob("*_test.csv"))[0].name.removesuffix("_test.csv")
    files = {part: mmlu / part / f"{subject_name}_{part}.csv" for part in ("dev", "test")}
    task = tmp_path / "mmlu.yaml"
    task.write_text(MMLU.format(subject=subject_name, **files), encoding="utf-8")
    network = load_model("rootstock", dtype=torch.float32, device=torch.device("cpu"))
    words = load_tokenizer("rootstock")
    found = slim(harness_results(network, words, [f"mmlu_{subject_name}"], tmp_path, limit=12))
    run, recorder = graft(text_model(network, words), task, tmp_path, limit=12)
    check(run, recorder, found[f"mmlu_{subject_name}"])


