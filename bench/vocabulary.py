"""What more pieces save on Chinese statutes, and whether English and the old logits stay as they were.

    python bench/vocabulary.py --data ../shared/data --receipt bench/receipts/vocabulary.json

Bases: the tokenizers of Llama 2 (SentencePiece) and of minimind (byte-level, 6,400 pieces). New pieces: the 20,000 of a
published Chinese SentencePiece model, or pieces learnt from nine of ten statutes; tokens are counted on the tenth. Of
WikiText-2's lines it counts those whose tokens changed. Logits are those of a small Llama with random weights and as
many rows as the base has; floor: 0 change, which is asked for bit by bit.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from receipt import finish
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers import PreTrainedTokenizerBase as Tokenizer

from graftlm.models.sentencepiece_file import fast_tokenizer, read_sentencepiece
from graftlm.models.vocabulary import Extension, extend_model, extend_tokenizer
from graftlm.recipes.vocabulary_figures import SEEN_OFTEN, count_seen, plain_ids


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with tokenizer/ and pretrain/")
    parser.add_argument("--receipt", type=Path)
    options = parser.parse_args()
    statutes, english = read_texts(options.data)
    chinese = options.data / "tokenizer/chinese_sp_20k/chinese_sp.model"
    llama, minimind = llama_2(options.data), AutoTokenizer.from_pretrained(options.data / "tokenizer/minimind_bpe_6400")
    cases: dict[str, tuple[Tokenizer, dict[str, Any]]] = {
        "Llama 2 + 20k Chinese pieces": (llama, {"source": chinese}),
        "Llama 2 + 8k learnt, spm-bpe": (llama, {"pieces": 8000}),
        "Llama 2 + 8k learnt, spm-unigram": (llama, {"pieces": 8000, "kind": "spm-unigram"}),
        "Llama 2 + 2k learnt, spm-bpe": (llama, {"pieces": 2000}),
        "minimind + 4k learnt, byte-level": (minimind, {"pieces": 4000}),
        "minimind + 20k Chinese pieces": (minimind, {"source": chinese}),
    }
    table = [("new pieces", "number", "seconds", "tokens/character", "after", "saved", "English changed", "logits")]
    found: dict[str, Any] = {}
    for name, (tokenizer, how) in cases.items():
        one = found[name] = measure(tokenizer, how, statutes, english)
        table.append((
            name, f"{one['pieces']:,}", f"{one['seconds']:.1f}", f"{one['before']:.3f}", f"{one['after']:.3f}",
            f"{one['saved']:.1%}", f"{one['english_lines_changed']} of {len(english):,}", f"{one['logit_change']:g}",
        ))  # fmt: skip
    characters = sum(map(len, statutes))
    finish({"bench": "vocabulary", "statute_characters": characters, "cases": found}, table, options.receipt)


def read_texts(data: Path) -> tuple[list[str], list[str]]:
    """(statutes, lines of English)"""
    files = sorted((data / "pretrain/laws_zh").rglob("*.md"))
    english = (data / "pretrain/wikitext2/wikitext2_train_5k.txt").read_text(encoding="utf-8")
    return [file.read_text(encoding="utf-8") for file in files], english.splitlines()


def llama_2(data: Path) -> Tokenizer:
    file = read_sentencepiece(data / "tokenizer/llama2/tokenizer.model")
    return PreTrainedTokenizerFast(tokenizer_object=fast_tokenizer(file), bos_token="<s>", eos_token="</s>")


def measure(tokenizer: Tokenizer, how: dict[str, Any], statutes: list[str], english: list[str]) -> dict[str, Any]:
    held_out = statutes[::10]
    learnt_from = [text for place, text in enumerate(statutes) if place % 10]
    start = time.perf_counter()
    extension = extend_tokenizer(tokenizer, learnt_from, **how)
    seconds = time.perf_counter() - start
    old, new = plain_ids(tokenizer, held_out), plain_ids(extension.tokenizer, held_out)
    before, after = (sum(map(len, ids)) / sum(map(len, held_out)) for ids in (old, new))
    same_text = all(
        tokenizer.decode(one) == extension.tokenizer.decode(other) for one, other in zip(old, new, strict=True)
    )
    pairs = zip(plain_ids(tokenizer, english), plain_ids(extension.tokenizer, english), strict=True)
    seen = count_seen(extension, learnt_from)
    return {
        "pieces": len(extension.parts),
        "bridges": len(extension.taken.bridges) if extension.taken else 0,
        "left_out": len(extension.taken.left_out) if extension.taken else 0,
        "seconds": seconds,
        "before": before,
        "after": after,
        "saved": 1 - after / before,
        "text_comes_back": same_text,
        "english_lines_changed": sum(one != other for one, other in pairs),
        "logit_change": logit_change(tokenizer, extension, (english[3] + held_out[1])[:400]),
        f"seen_{SEEN_OFTEN}_times": sum(count >= SEEN_OFTEN for count in seen) / len(seen),
    }


@torch.no_grad()
def logit_change(tokenizer: Tokenizer, extension: Extension, text: str) -> float:
    """Largest change of an old piece's logit."""
    torch.manual_seed(0)
    rows = extension.rules.first_new
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=rows, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
            initializer_range=0.3, tie_word_embeddings=False,
        )
    ).eval()  # fmt: skip
    tokens = torch.tensor(plain_ids(tokenizer, [text]))
    before = model(tokens).logits
    extend_model(model, extension, multiple=64)
    return (model(tokens).logits[..., :rows] - before).abs().max().item()


if __name__ == "__main__":
    main()
