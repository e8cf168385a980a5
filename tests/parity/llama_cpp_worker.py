"""Runs in an environment that has llama-cpp-python: GGUF file and questions in (JSON on stdin), answers out.

Questions: `rows` (token ids → logits of every position), `texts` (→ tokens, special tokens parsed), `greedy` ([prompt,
count] → tokens).
"""

from __future__ import annotations

import json
import sys

from llama_cpp import Llama


def logits(model: Llama, row: list[int]) -> list[list[float]]:
    model.reset()
    model.eval(row)
    return model.scores[: len(row)].tolist()


def greedy(model: Llama, prompt: list[int], count: int) -> list[int]:
    row = list(prompt)
    model.reset()
    model.eval(row)
    for _ in range(count):
        scores = model.scores[len(row) - 1]
        row.append(int(scores.argmax()))
        model.eval(row[-1:])
    return row[len(prompt) :]


def main() -> None:
    asked = json.load(sys.stdin)
    # Cached keys and values in 32 bits (type 0): 16 are the default, and cost 3e-4 of the logits' scale.
    model = Llama(
        asked["file"], n_ctx=512, n_threads=1, logits_all=True, verbose=False, type_k=0, type_v=0, flash_attn=False
    )
    print(
        json.dumps(
            {
                "logits": [logits(model, row) for row in asked.get("rows", [])],
                "tokens": [
                    model.tokenize(text.encode(), add_bos=False, special=True) for text in asked.get("texts", [])
                ],
                "greedy": [greedy(model, prompt, count) for prompt, count in asked.get("greedy", [])],
                "end": model.token_eos(),
            }
        )
    )


main()
