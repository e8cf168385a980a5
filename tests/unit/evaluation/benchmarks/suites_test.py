"""Plans and pooled scores, seen with subjects whose score is known beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from graftlm.core.errors import DataError
from graftlm.evaluation.benchmarks.dummies import always_first, dummy, oracle, uniform
from graftlm.evaluation.benchmarks.items import Source
from graftlm.evaluation.benchmarks.plan import make_plan
from graftlm.evaluation.benchmarks.pooling import Group, pool_suite
from graftlm.evaluation.benchmarks.run import TaskRun, prepare, run_sheet
from graftlm.evaluation.results import TaskResult
from graftlm.evaluation.statistics import mean_difference
from graftlm.evaluation.text_subject import Options, TextSubject
from tests.unit.evaluation.benchmarks.conftest import BASIC, exam_rows, write_rows


def write(folder: Path, **tree: Any) -> str:
    file = folder / f"{tree['name']}.yaml"
    file.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    return str(file)


@pytest.fixture
def suite(tmp_path: Path) -> str:
    """Three tasks with 2, 4 and 8 options; the last with sub-tasks of other sizes. `both` holds `small` twice over."""
    for options, count in ((2, 150), (4, 600)):
        write_rows(tmp_path / f"of{options}.jsonl", exam_rows(count, options))
        write(tmp_path, **BASIC | {"name": f"of{options}", "data": {"files": f"of{options}.jsonl"}})
    for name, count in (("a", 100), ("b", 700)):
        write_rows(tmp_path / "of8" / f"{name}.jsonl", exam_rows(count, 8))
    data = {"files": "of8/*.jsonl", "subject": "{{ file }}", "published": {"items": 1000, "subjects": 3}}
    write(tmp_path, **BASIC | {"name": "of8", "data": data, "fewshot": {"shots": 2}})
    write(tmp_path, name="small", members=["of2", "of4"], pool="items")
    return write(tmp_path, name="all", members=["of2", "of4", "of8"], pool="normalised", absent={"of9": "never built"})


def run(names: Sequence[str], subject: TextSubject, root: Path) -> tuple[dict[str, TaskRun], dict[str, Group]]:
    plan = make_plan(names)
    runs = {task.name: run_sheet(subject, prepare(task, Source(root))) for task in plan.tasks}
    groups = {one.name: pool_suite(one, runs, {}) for one in plan.all_suites()}
    return runs, {name: group for name, group in groups.items() if group is not None}


def test_a_guesser_scores_nothing_and_an_oracle_all(suite: str, tmp_path: Path) -> None:
    """Over several guessers the unclipped score is 0 within three standard errors; clipping lifts it above."""
    free, clipped, covered = [], [], 0
    for seed in range(5):
        _, groups = run([suite], uniform(seed), tmp_path)
        found = groups["all"].result
        assert found.unclipped is not None
        free.append(found.unclipped.value)
        clipped.append(found.value)
        covered += found.unclipped.low <= 0 <= found.unclipped.high
    assert abs(np.mean(free)) < 3 * np.std(free, ddof=1) / np.sqrt(len(free))
    assert min(clipped) >= 0
    assert np.mean(clipped) > np.mean(free)
    assert covered >= 4
    _, groups = run([suite], oracle(), tmp_path)
    assert groups["all"].result.value == pytest.approx(100)


def test_normalised_scores_by_hand(suite: str, tmp_path: Path) -> None:
    """(x - 1/options) / (1 - 1/options), sub-tasks first, then tasks."""
    runs, groups = run([suite], always_first(), tmp_path)
    share = {name: one.result.value for name, one in runs.items()}
    parts = [one.value for one in runs["of8"].result.kinds.values()]
    assert len(parts) == 2
    eight = [(part - 1 / 8) / (7 / 8) for part in parts]
    wanted = [(share["of2"] - 0.5) / 0.5, (share["of4"] - 0.25) / 0.75]
    found = groups["all"].result
    assert found.unclipped is not None
    assert found.unclipped.value == pytest.approx(100 * np.mean([*wanted, np.mean(eight)]))
    raised = [max(0, one) for one in wanted]
    assert found.value == pytest.approx(100 * np.mean([*raised, np.mean([max(0, one) for one in eight])]))


def test_items_weigh_alike_or_tasks_do(suite: str, tmp_path: Path) -> None:
    plain = write(tmp_path, name="plain", members=["of2", {"suite": "small"}, "of4"])
    runs, groups = run([plain], always_first(), tmp_path)
    right = {name: float(np.sum(one.result.scores)) for name, one in runs.items()}
    small = (right["of2"] + right["of4"]) / 750
    assert groups["small"].result.value == pytest.approx(100 * small)
    assert groups["plain"].result.value == pytest.approx(100 * (right["of2"] / 150 + small + right["of4"] / 600) / 3)
    assert groups["plain"].result.low < groups["plain"].result.value < groups["plain"].result.high


def test_results_say_shots_and_coverage(suite: str, tmp_path: Path) -> None:
    runs, groups = run([suite], oracle(), tmp_path)
    assert (runs["of8"].result.shots, runs["of2"].result.shots) == (2, 0)
    assert runs["of8"].result.coverage == "2 of 3 sub-tasks, 800 of 1,000 items"
    assert runs["of4"].result.coverage == ""
    assert groups["all"].result.missing == {"of9": "never built"}
    assert TaskResult.model_validate_json(runs["of8"].result.model_dump_json()) == runs["of8"].result


def test_a_member_without_data_is_said(suite: str, tmp_path: Path) -> None:
    plan = make_plan([suite])
    runs = {task.name: run_sheet(oracle(), prepare(task, Source(tmp_path))) for task in plan.tasks[:1]}
    group = pool_suite(plan.suites[0], runs, {"of4": "no file"})
    assert group is not None
    assert group.result.missing == {"of9": "never built", "of4": "no file", "of8": "it was not run"}
    assert pool_suite(plan.suites[0], {}, {}) is None


def test_one_task_with_two_numbers_of_shots_runs_twice(suite: str, tmp_path: Path) -> None:
    twice = write(tmp_path, name="twice", members=["of8", {"task": "of8", "shots": 1}, {"task": "of8", "shots": 2}])
    plan = make_plan([twice])
    assert [task.name for task in plan.tasks] == ["of8_2shot", "of8_1shot"]
    assert [member.what.name for member in plan.suites[0].members] == ["of8_2shot", "of8_1shot", "of8_2shot"]
    assert [task.shots for task in make_plan([twice], shots=0).tasks] == [0]
    parts = ["of8", {"task": "of8", "subjects": ["a"]}, {"task": "of8", "subjects": ["b"]}]
    plan = make_plan([write(tmp_path, name="parts", members=parts)])
    assert [task.name for task in plan.tasks] == ["of8", "of8_part", "of8_part_2"]
    runs = {task.name: run_sheet(oracle(), prepare(task, Source(tmp_path))) for task in plan.tasks}
    assert [one.result.n for one in runs.values()] == [800, 100, 700]


def test_the_mean_of_sub_tasks(suite: str, tmp_path: Path) -> None:
    tree = yaml.safe_load((tmp_path / "of8.yaml").read_text())
    runs, _ = run([write(tmp_path, **tree | {"name": "even", "pool": "subjects"})], always_first(), tmp_path)
    found = runs["even"].result
    assert found.value == pytest.approx(np.mean([one.value for one in found.kinds.values()]))


def test_plans_refuse_what_cannot_be(suite: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds itself"):
        make_plan([write(tmp_path, name="loop", members=[{"suite": "loop"}])])
    with pytest.raises(DataError, match="no metric `acc_norm`"):
        make_plan([write(tmp_path, name="wrong", members=[{"task": "of2", "metric": "acc_norm"}])])
    with pytest.raises(DataError, match="no task or suite `al`"):
        make_plan([write(tmp_path, name="near", members=["al"])])


def test_two_models_are_compared_on_the_same_draws(suite: str, tmp_path: Path) -> None:
    """The same answers differ by nothing, in every resample."""
    groups = [run([suite], uniform(1), tmp_path)[1]["all"] for _ in range(2)]
    moved = mean_difference(groups[0].share, groups[1].share, groups[0].n)
    assert (moved.value, moved.low, moved.high, moved.p) == (0, 0, 0, 1)
    other = run([suite], oracle(), tmp_path)[1]["all"]
    assert mean_difference(groups[0].share, other.share, other.n).is_clear


def test_dummies_by_name(tmp_path: Path) -> None:
    question = Options(("?",) * 3, ("a", "bb", "ccc"), ("a", "bb", "ccc"), (2,))
    for name, place in (("oracle", 2), ("first", 0)):
        [row] = dummy(name).continuation_likelihoods([question], lambda _: None)
        assert [one.greedy for one in row].index(True) == place
    with pytest.raises(DataError, match="no dummy 'best'"):
        dummy("best")
