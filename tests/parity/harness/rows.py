"""Rows that are made up, and a small model with fixed weights: nothing of any published test."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HERE = Path(__file__).parent
POSITIONS = 256
_SENTENCE = "the cat sat on a red mat while seven small birds sang 3 songs to an old man's dog near 12 high trees"
_WORDS = _SENTENCE.split(" ")
_CHINESE = "今天天气很好我们去公园看花和小鸟唱歌跳舞吃饭喝茶"


def write_rows(folder: Path) -> None:
    """The files that the tasks name."""
    draw = random.Random(7)
    _write(folder / "letters_dev.jsonl", [_lettered(draw) for _ in range(6)])
    _write(folder / "letters_test.jsonl", [_lettered(draw) for _ in range(24)])
    _write(folder / "endings.jsonl", [_ending(draw) for _ in range(24)])
    _write(folder / "blanks.jsonl", [_blank(draw) for _ in range(16)])
    _write(folder / "last_words.jsonl", [_last_word(draw) for _ in range(16)])
    _write(folder / "pages.jsonl", [{"page": _text(draw, count)} for count in (1, 40, 300, 700)])
    _write(folder / "sums.jsonl", [_sum(draw) for _ in range(16)])


def model() -> LlamaForCausalLM:
    """Two layers, weights drawn by numpy: the same on every machine and version."""
    config = LlamaConfig(
        vocab_size=len(tokenizer()), hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=POSITIONS, tie_word_embeddings=False, bos_token_id=0,
        eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    made = LlamaForCausalLM(config)
    generator = np.random.RandomState(3)
    with torch.no_grad():
        for _, weights in sorted(made.named_parameters()):
            drawn = torch.from_numpy(generator.standard_normal(tuple(weights.shape)).astype(np.float32))
            weights.copy_(1 + 0.1 * drawn if weights.dim() == 1 else 0.25 * drawn)
    return made.eval()


def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE whose merges join spaces, letters and digits, so that cuts in a text matter."""
    return PreTrainedTokenizerFast(
        tokenizer_file=str(HERE / "tokenizer.json"), bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


def _write(file: Path, rows: list[dict[str, object]]) -> None:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _text(draw: random.Random, words: int) -> str:
    return " ".join(draw.choice(_WORDS) for _ in range(words)) + draw.choice([".", "?", "!", ""])


def _lettered(draw: random.Random) -> dict[str, object]:
    options = [_text(draw, draw.randint(1, 4)) for _ in range(4)]
    return {"question": _text(draw, 8), "options": options, "answer": draw.randrange(4), "topic": "animal_songs"}


def _ending(draw: random.Random) -> dict[str, object]:
    chinese = "".join(draw.choice(_CHINESE) for _ in range(draw.randint(1, 6)))
    endings = [_text(draw, 1), _text(draw, 9), chinese, _text(draw, 3)]
    draw.shuffle(endings)
    length = draw.choice([5, 5, 200, 320])  # the longest do not fit the model
    return {"start": _text(draw, length) + draw.choice(["", " ", "  "]), "endings": endings, "label": draw.randrange(4)}


def _blank(draw: random.Random) -> dict[str, object]:
    return {"sentence": f"{_text(draw, 4)} _ {_text(draw, 5)}", "a": "cat", "b": "old man", "label": draw.randrange(2)}


def _last_word(draw: random.Random) -> dict[str, object]:
    return {"text": _text(draw, 12)}


def _sum(draw: random.Random) -> dict[str, object]:
    left, right = draw.randint(1, 60), draw.randint(1, 40)
    return {"question": f"{left} birds and {right} birds", "answer": draw.choice(["9", "AN", "s."])}
