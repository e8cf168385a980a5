"""Chats from a file to packed rows: how many a second, beside TRL's preparation and the Rust tokenizer alone.

    python bench/tokenise.py --peer-python PYTHON_WITH_TRL --receipt bench/receipts/tokenise.json

Floor: one batch call of the Rust tokenizer over the rendered texts, on all cores. Peer: TRL's SFTTrainer
(bench/peers/trl_prepare.py): read, template, tokenise, assistant mask, pack. Ours: the same from the file to the
packing plan, into an empty cache; and again, from the cache. All on the same rows, cores, tokenizer and template, by
turns; medians; seconds and, for busy machines, processor seconds. Rows: 1,000 medical chats of $GRAFT_DATA, over and
over with a number behind each turn, or generated ones.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from receipt import finish

from graftlm.data import worlds
from graftlm.data.mixing import mix
from graftlm.data.packing import pack
from graftlm.data.records import load_samples
from graftlm.data.samples import Chat
from graftlm.data.templates import ChatTemplate, named_template, tokenizer_template
from graftlm.models.loading import ROOTSTOCK, load_tokenizer
from graftlm.recipes.schema import Block
from graftlm.recipes.tokenise import tokenise

ROW_TOKENS = 2048
MARKED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""ChatML with the marks that TRL needs to find the answers."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("GRAFT_DATA", "../shared/data")))
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="of the peer; its best one counts")
    parser.add_argument("--peer-python", default=os.environ.get("GRAFT_PEER_PYTHON"), help="an interpreter with trl")
    parser.add_argument("--receipt", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        measure(options, Path(scratch))


def measure(options: argparse.Namespace, scratch: Path) -> None:
    file = scratch / "rows.jsonl"
    what = write_rows(options.data, options.rows, file)
    known = options.data / "tokenizer/minimind_bpe_6400"
    plain, tokenizer = (load_tokenizer(str(known) if known.is_dir() else ROOTSTOCK) for _ in range(2))
    tokenizer.chat_template = MARKED
    tokenizer.save_pretrained(str(scratch / "tokenizer"))
    marked = tokenizer_template(tokenizer)
    forms: dict[str, ChatTemplate] = {
        "ours": marked,
        "ours, the tokenizer's own template": tokenizer_template(plain),
        "ours, template chatml": named_template("chatml"),
    }
    texts = [marked.render(chat.turns).text for chat in load_samples(file).samples if isinstance(chat, Chat)]

    seconds: dict[str, list[float]] = {}
    spent: dict[str, list[float]] = {}
    found: dict[str, dict[str, Any]] = {}
    for _ in range(options.repeats):
        for kept, value in zip((seconds, spent), floor(tokenizer, texts), strict=True):
            kept.setdefault("floor", []).append(value)
        for name, template in forms.items():
            times, found[name] = ours(file, tokenizer, template, scratch)
            for which, (taken, processor) in zip((name, f"{name}, again"), times, strict=True):
                seconds.setdefault(which, []).append(taken)
                spent.setdefault(which, []).append(processor)
        for processes in options.processes if options.peer_python else ():
            name = f"peer, {processes} process{'es' if processes > 1 else ''}"
            found[name] = peer(options.peer_python, file, scratch / "tokenizer", processes)
            seconds.setdefault(name, []).append(found[name]["seconds"])
            spent.setdefault(name, []).append(found[name]["processor"])
    if not options.peer_python:
        print("no peer: give --peer-python, an interpreter that has trl")
    report(options, what, seconds, spent, found)


def report(
    options: argparse.Namespace,
    what: str,
    seconds: dict[str, list[float]],
    spent: dict[str, list[float]],
    found: dict[str, dict[str, Any]],
) -> None:
    median = {name: statistics.median(times) for name, times in seconds.items()}
    processor = {name: statistics.median(times) for name, times in spent.items()}
    peers = [name for name in median if name.startswith("peer")]
    best = min((median[name] for name in peers), default=None)
    least = min((processor[name] for name in peers), default=None)
    table = [(f"{options.rows:,} {what}", "seconds", "rows/s", "of the floor", "of the peer", "CPU s", "of the peer's")]
    for name, time_taken in median.items():
        share, ratio = median["floor"] / time_taken, best / time_taken if best else None
        speed = f"{options.rows / time_taken:,.0f}"
        work = f"{least / processor[name]:.2f}×" if least else "–"
        cells = (f"{time_taken:.3f}", speed, f"{share:.2f}", "–" if ratio is None else f"{ratio:.2f}×")
        table.append((name, *cells, f"{processor[name]:.2f}", work))
    result = {
        "bench": "tokenise",
        "rows": options.rows,
        "what": what,
        "row_tokens": ROW_TOKENS,
        "seconds": seconds,
        "processor": spent,
        "found": found,
        "floor": options.rows / median["floor"],
        "peer": options.rows / best if best else None,
        "ours": options.rows / median["ours"],
        "ratio": best / median["ours"] if best else None,
        "processor_ratio": least / processor["ours"] if least else None,
        "again_seconds": median["ours, again"],
    }
    finish(result, table, options.receipt)


def write_rows(data: Path, rows: int, file: Path) -> str:
    """Chats as {"messages": [...]} lines, no two alike."""
    source = data / "sft/medicalgpt/sft/medical_sft_1K_format.jsonl"
    what = "medical chats" if source.is_file() else "generated chats"
    if source.is_file():
        chats = [chat.turns for chat in load_samples(source).samples if isinstance(chat, Chat)]
    else:
        made = worlds.generate("clinic", "consultations", count=1000, start=0, seed=0)
        chats = [chat.turns for chat in made if isinstance(chat, Chat)]
    with file.open("w", encoding="utf-8") as lines:
        for number in range(rows):
            mark = f"（{number}）" if number >= len(chats) else ""
            turns = [{"role": turn.role, "content": turn.content + mark} for turn in chats[number % len(chats)]]
            lines.write(json.dumps({"messages": turns}, ensure_ascii=False) + "\n")
    return what


def processor_seconds() -> float:
    """Of this process and its finished children: what a busy machine does not blur."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def floor(tokenizer: Any, texts: list[str]) -> tuple[float, float]:
    start, spent = time.perf_counter(), processor_seconds()
    tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
    return time.perf_counter() - start, processor_seconds() - spent


def ours(
    file: Path, tokenizer: Any, template: ChatTemplate, scratch: Path
) -> tuple[list[tuple[float, float]], dict[str, Any]]:
    """(seconds, processor seconds) into an empty cache and from the full one, and what came out."""
    times = []
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        os.environ["GRAFT_CACHE"] = folder
        for _ in range(2):
            start, spent = time.perf_counter(), processor_seconds()
            block = tokenise("rows", Block(path=str(file), held_out=0), tokenizer, template, "bench", ROW_TOKENS)
            mixture = mix({"rows": block.train}, {"rows": 1.0}, int(block.train.offsets[-1]), "hybrid", 0)
            plan = pack(mixture, row_tokens=ROW_TOKENS)
            times.append((time.perf_counter() - start, processor_seconds() - spent))
        counts = {"tokens": int(block.train.offsets[-1]), "targets": block.train.target_count, "rows": plan.rows}
    return times, counts


def peer(python: str, file: Path, tokenizer: Path, processes: int) -> dict[str, Any]:
    script = Path(__file__).parent / "peers/trl_prepare.py"
    command = [python, str(script), str(file), str(tokenizer), str(ROW_TOKENS), str(processes)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise SystemExit(f"the peer failed; is trl installed in {python}?\n{ran.stderr[-2000:]}")
    return json.loads(ran.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
