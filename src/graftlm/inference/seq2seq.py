"""Answers of encoder–decoders, by transformers' own generation: their answers are short and their cache is not ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from graftlm.inference.batching import batches_by_length
from graftlm.inference.cached import evaluation_mode, model_device
from graftlm.models.trunk import causal_lm


@torch.inference_mode()
def write_targets(
    model: torch.nn.Module,
    tokenizer: Any,
    sources: Sequence[str],
    *,
    max_new_tokens: int,
    most_source: int = 1024,
    beams: int = 1,
    batch_tokens: int = 16_384,
    on_progress: Callable[[int], None] | None = None,
) -> list[str]:
    """What the model makes of each text, greedily or by beam search, in the order given.

    Args:
        most_source: longer sources are cut at their end.
        on_progress: called with the number of texts that a batch has finished.
    """
    inner: Any = causal_lm(model)
    ids = tokenizer(list(sources), truncation=True, max_length=most_source, verbose=False)["input_ids"]
    ids = [one or [tokenizer.eos_token_id] for one in ids]
    found = [""] * len(ids)
    with evaluation_mode(model):
        for batch in batches_by_length([len(one) for one in ids], batch_tokens=batch_tokens, batch_size=64):
            longest = max(len(ids[place]) for place in batch)
            pad = inner.config.pad_token_id or 0
            padded = [[*ids[place], *[pad] * (longest - len(ids[place]))] for place in batch]
            real = [[1] * len(ids[place]) + [0] * (longest - len(ids[place])) for place in batch]
            device = model_device(model)
            written = inner.generate(
                input_ids=torch.tensor(padded, device=device), attention_mask=torch.tensor(real, device=device),
                max_new_tokens=max_new_tokens, num_beams=beams, do_sample=False,
            )  # fmt: skip
            for place, one in zip(batch, written, strict=True):
                found[place] = tokenizer.decode(one, skip_special_tokens=True).strip()
            if on_progress is not None:
                on_progress(len(batch))
    return found
