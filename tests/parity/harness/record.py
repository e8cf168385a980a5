"""What lm-evaluation-harness makes of the tasks here: `python -m tests.parity.harness.record` writes golden.json."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from tests.parity.harness.rows import HERE, model, tokenizer, write_rows

TASKS = ("letters", "endings", "endings_joined", "bare", "blanks", "last_words", "pages", "sums")


def harness_results(
    network: Any, words: Any, names: list[str], include: Path, limit: int | None = None
) -> dict[str, Any]:
    """By task: metrics, and by document the requests and the responses to them."""
    os.environ["HF_DATASETS_OFFLINE"] = os.environ["HF_HUB_OFFLINE"] = "1"
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    subject = HFLM(pretrained=network, tokenizer=words, batch_size=4, dtype="float32", device="cpu")
    manager = TaskManager(include_path=str(include), include_defaults=False)
    found = simple_evaluate(
        model=subject, tasks=names, task_manager=manager, limit=limit, bootstrap_iters=0, log_samples=True
    )
    assert found is not None
    return {name: _one(found["results"][name], found["samples"][name]) for name in names}


def _one(metrics: dict[str, Any], samples: list[dict[str, Any]]) -> dict[str, Any]:
    by_document: dict[int, dict[str, Any]] = {}
    for sample in samples:  # one a document and filter
        asked = [list(arguments) for arguments in sample["arguments"]]
        by_document[sample["doc_id"]] = {"asked": asked, "got": [one[0] for one in sample["resps"]]}
    values = {key: value for key, value in metrics.items() if isinstance(value, float | int) and "stderr" not in key}
    return {"metrics": values, "documents": [by_document[number] for number in sorted(by_document)]}


def slim(found: dict[str, Any]) -> dict[str, Any]:
    """Without the prompts, which golden.json need not hold: what is asked follows from the rows."""
    return {
        name: {"metrics": one["metrics"], "got": [document["got"] for document in one["documents"]]}
        for name, one in found.items()
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        write_rows(Path(folder))
        results = harness_results(model(), tokenizer(), list(TASKS), HERE / "tasks")
    (HERE / "golden.json").write_text(json.dumps(slim(results), ensure_ascii=False), encoding="utf-8")
