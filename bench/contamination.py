"""Test items in training data: rows a second and memory on a million rows; what is found of what was planted.

    python bench/contamination.py --receipt bench/receipts/contamination.json

Speed: a jsonl file of rows of 20 to 100 words, drawn by Zipf's law from 50,000 English words and 5,000 Chinese
characters, against 14,000 items of the same kind; one process, seconds of processor time. Floor: splitting the same
rows into words and nothing else. Memory: of the whole process, at its highest. Recall and precision, with n of 13 and
8: real test items (MMLU, CMMLU) hidden in real texts, in four forms. Items that were not hidden are found only where
they share a passage with one that was; with nothing hidden none should be. False positives: paragraphs of one text as
items, the text's other half as training data; laws do repeat themselves. Real texts are read from --shared and left out
where it is absent.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from receipt import finish

from graftlm.data.samples import Labelled, Origin, Text
from graftlm.evaluation.contamination import find_contamination
from graftlm.evaluation.metrics import split_words
from graftlm.evaluation.overlap import SHORTEST
from graftlm.recipes.schema import Source
from graftlm.recipes.sources import read_source, stream_source

WIDE = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=14_000)
    parser.add_argument("--shared", type=Path, default=Path(__file__).parents[1] / "../shared/data")
    parser.add_argument("--receipt", type=Path)
    options = parser.parse_args()
    speed = measure_speed(options.rows, options.items)
    table = [("", "rows/s", "seconds")]
    table += [(name, f"{options.rows / seconds:,.0f}", f"{seconds:.1f}") for name, seconds in speed["seconds"].items()]
    result: dict[str, Any] = {"bench": "contamination", "rows": options.rows, "items": options.items} | speed
    table.append((f"memory {speed['MiB']:,.0f} MiB, of the floor {speed['MiB of the floor']:,.0f}", "", ""))
    if options.shared.is_dir():
        for n in (13, 8):
            found = planted(options.shared, n) | false_positives(options.shared, n)
            result[f"n {n}"] = found
            table.append((f"n = {n}", "found", "of"))
            table += [(name, str(one["found"]), str(one["of"])) for name, one in found.items()]
    finish(result, table, options.receipt)


def measure_speed(rows: int, items: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        drawn = texts(0)
        with file.open("w", encoding="utf-8") as stream:
            stream.writelines(json.dumps({"text": next(drawn)}, ensure_ascii=False) + "\n" for _ in range(rows))
        questions = texts(1)
        tasks = {"suite": [Text(next(questions), Origin("suite", line)) for line in range(items)]}
        start = time.process_time()
        units = sum(len(split_words(sample.text)) for sample in stream_source(Source(path=str(file))))  # type: ignore[union-attr]
        floor, before = time.process_time() - start, peak()
        start = time.process_time()
        found = find_contamination(tasks, stream_source(Source(path=str(file))))
        seconds = time.process_time() - start
    assert found.texts == rows
    return {
        "seconds": {"floor: read and split into words": floor, "search": seconds},
        "words": units,
        "MiB": peak(),
        "MiB of the floor": before,
        "items found by chance": found.tasks[0].touched,
    }


def peak() -> float:
    """MiB of this process at its highest."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def texts(seed: int) -> Iterator[str]:
    drawn = random.Random(seed)
    english = [f"{'bcdfghklmnprstvz'[n % 16]}{'aeiou'[n // 16 % 5]}{n // 80:x}" for n in range(50_000)]
    chinese = [chr(0x4E00 + n) for n in range(5_000)]
    while True:
        words, joint = ((english, " ") if drawn.random() < 0.5 else (chinese, ""))
        count = drawn.randint(20, 100)
        yield joint.join(words[min(len(words) - 1, int(drawn.paretovariate(0.6)) - 1)] for _ in range(count))


def planted(shared: Path, n: int) -> dict[str, dict[str, int]]:
    """Items of each form that were found, of those that were hidden; the last row is of those that were not."""
    tests = [*sorted((shared / "eval/mmlu").rglob("*_test.csv")), *sorted((shared / "eval/cmmlu/test").glob("*.csv"))]
    read = [sample for file in tests for sample in read_source("test", Source(path=str(file), kind="labelled")).samples]
    items = [item for item in read if isinstance(item, Labelled) and len(split_words(question(item))) >= SHORTEST]
    drawn = random.Random(0)
    drawn.shuffle(items)
    carriers = [
        sample
        for folder in ("wikitext2", "laws_zh/民法典")
        for sample in stream_source(Source(path=str(shared / "pretrain" / folder), split="paragraph"))
        if isinstance(sample, Text)
    ]
    forms = {"exact": str, "case, width, spacing": disguised, "first 60 %": partial, "one word in seven changed": worn}
    hidden = {name: items[place * 300 : place * 300 + 300] for place, name in enumerate(forms)}
    rows = list(carriers)
    for name, some in hidden.items():
        for item in some:
            before, behind = drawn.sample(carriers, 2)
            rows.append(Text(f"{before.text}\n{forms[name](question(item))}\n{behind.text}", item.origin))
    drawn.shuffle(rows)
    clean = find_contamination({"clean": items}, carriers, n=n).tasks[0]
    found = find_contamination(hidden | {"not hidden": items[1200:]}, rows, n=n)  # type: ignore[arg-type]
    result = {task.name: {"found": len(task.places(0.2)), "of": len(task.items)} for task in found.tasks}
    return result | {"all items, nothing hidden": {"found": len(clean.places(0.2)), "of": len(items)}}


def question(item: Labelled) -> str:
    return item.prompt[-1].content


def disguised(text: str) -> str:
    return "  ".join(text.upper().translate(WIDE).split(" "))


def partial(text: str) -> str:
    return text[: round(len(text) * 0.6)]


def worn(text: str) -> str:
    """Every seventh word is another one: no 13 agree in a row."""
    words = split_words(text)
    return " ".join("qqq" if place % 7 == 3 else word for place, word in enumerate(words))


def false_positives(shared: Path, n: int) -> dict[str, dict[str, int]]:
    found = {}
    for name in ("wikitext2", "laws_zh", "tcm_ancient_books"):
        read = stream_source(Source(path=str(shared / "pretrain" / name), split="paragraph"))
        rows = [row for row in read if isinstance(row, Text) and len(split_words(row.text)) >= 20]
        half = len(rows) // 2
        task = find_contamination({name: rows[half:][:3000]}, rows[:half], n=n).tasks[0]
        found[f"halves of {name}"] = {"found": len(task.places(0.2)), "of": len(task.items), "in one text": task.whole}
    return found


if __name__ == "__main__":
    main()
