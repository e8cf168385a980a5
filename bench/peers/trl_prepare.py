"""TRL's own preparation of a chat data set, as SFTTrainer does it: template, tokenise, assistant mask, pack.

    python trl_prepare.py ROWS.jsonl TOKENIZER_FOLDER ROW_TOKENS PROCESSES

Needs trl, datasets and torch; run by bench/tokenise.py in an interpreter of its own. Prints JSON: seconds from the file
to the packed data set (imports, the tiny model and the trainer's own set-up, measured on eight rows, left out), and
what came out.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

import datasets
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from trl import SFTConfig, SFTTrainer


def prepare(
    file: Path, tokenizer_folder: str, row_tokens: int, processes: int, scratch: str
) -> tuple[float, float, datasets.Dataset]:
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1
    )
    model = LlamaForCausalLM(config)
    settings = SFTConfig(
        f"{scratch}/run", assistant_only_loss=True, packing=True, max_length=row_tokens, report_to=[], use_cpu=True,
        bf16=False, dataset_num_proc=processes if processes > 1 else None,
    )  # fmt: skip
    start, spent = time.perf_counter(), processor_seconds()
    rows = datasets.load_dataset("json", data_files=str(file), split="train", cache_dir=tempfile.mkdtemp(dir=scratch))
    trainer = SFTTrainer(model=model, args=settings, train_dataset=rows, processing_class=tokenizer)
    return time.perf_counter() - start, processor_seconds() - spent, trainer.train_dataset


def processor_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def main() -> None:
    file, tokenizer_folder, row_tokens, processes = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    datasets.disable_caching()
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as scratch:
        few = Path(scratch) / "few.jsonl"
        with file.open(encoding="utf-8") as lines:
            few.write_text("".join(line for line, _ in zip(lines, range(8), strict=False)), encoding="utf-8")
        set_up, spent_on_it = min(prepare(few, tokenizer_folder, row_tokens, 1, scratch)[:2] for _ in range(2))
        seconds, spent, packed = prepare(file, tokenizer_folder, row_tokens, processes, scratch)
        tokens = sum(map(len, packed["input_ids"]))
        targets = sum(label != -100 for row in packed["labels"] for label in row)
    result = {
        "seconds": seconds - set_up,
        "processor": spent - spent_on_it,
        "set_up": set_up,
        "rows": len(packed),
        "tokens": tokens,
        "targets": targets,
    }
    versions = {name: metadata.version(name) for name in ("trl", "datasets", "transformers", "tokenizers")}
    print(json.dumps(result | {"versions": versions}))


if __name__ == "__main__":
    main()
