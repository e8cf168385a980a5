"""lm-evaluation-harness' `hf` backend on the requests of bench/scorer.py.

    python lm_eval.py FOLDER REQUESTS.json DEVICE DTYPE THREADS

Needs lm-eval; run by bench/scorer.py in an interpreter of its own. FOLDER has the model and its tokenizer; the requests
are [[context, continuation], ...], made into `Instance`s and encoded by its own code before the clock runs. For each
line "BATCH STRIDE" of the input (BATCH: a number or auto; every STRIDE-th context counts) prints a line of JSON:
seconds, processor seconds, the numbers of the requests, log p and greedy of each. The first line has all tokens.
"""

from __future__ import annotations

import json
import sys
import time
from importlib import metadata
from pathlib import Path

sys.path.remove(str(Path(__file__).parent))  # this file has the name of the package

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM


def main() -> None:
    folder, requests, device, dtype, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    model = HFLM(pretrained=folder, tokenizer=folder, device=device, dtype=dtype, batch_size=1)
    pairs = json.loads(Path(requests).read_text(encoding="utf-8"))
    instances = [
        Instance(request_type="loglikelihood", doc={}, arguments=(context, option), idx=number)
        for number, (context, option) in enumerate(pairs)
    ]
    encoded = [(one.args, *model._encode_pair(*one.args)) for one in instances]
    contexts = {context: number for number, context in enumerate(dict.fromkeys(context for context, _ in pairs))}
    version = metadata.version("lm_eval")
    print(json.dumps({"version": version, "tokens": [[before, after] for _, before, after in encoded]}), flush=True)
    for line in sys.stdin:
        batch, stride = line.split()
        numbers = [n for n, (context, _) in enumerate(pairs) if contexts[context] % int(stride) == 0]
        model.batch_size_per_gpu = batch if batch == "auto" else int(batch)
        began, spent = time.perf_counter(), time.process_time()
        found = model._loglikelihood_tokens([encoded[number] for number in numbers], disable_tqdm=True)
        seconds, processor = time.perf_counter() - began, time.process_time() - spent
        print(json.dumps({"seconds": seconds, "processor": processor, "numbers": numbers, "found": found}), flush=True)


if __name__ == "__main__":
    main()
