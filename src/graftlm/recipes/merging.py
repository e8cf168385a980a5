"""Merging models, and adapters into their base: what `graft merge` and `stage: merge` call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase as Tokenizer

from graftlm.core.console import say
from graftlm.core.errors import GraftError, ModelError
from graftlm.core.files import atomic_folder
from graftlm.inference.decoding import Decoding
from graftlm.inference.generation import generate
from graftlm.models.agreement import Bounds, agreement, logits_of
from graftlm.models.loading import load_model, load_tokenizer, save_model
from graftlm.models.merge_gate import base_of, is_adapter, merge_checked, put_on
from graftlm.models.merging import Merging, merge_models
from graftlm.models.saved_weights import WeightFiles

Figures = dict[str, float | str]

PRECISIONS: Mapping[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ANSWER_TOKENS = 32
TEXT_TOKENS = 256
TEXTS = (
    "What should a doctor ask first when a patient has had a fever for three days?",
    "The contract ends on 31 March. Who has to pay for the repair of the roof?",
    "Translate into Chinese: The train leaves at nine in the morning.",
    "12 + 7 = 19, 19 + 7 = 26, 26 + 7 =",
    "医生，我最近总是头痛，晚上睡不着，应该怎么办？",
    "请用一句话解释什么是通货膨胀。",
    "def area(width, height):\n    return",
    "Once upon a time there was a small bird that could not fly.",
)
"""What two forms of a model are compared on where nothing else is given."""


def merge_to(
    out: Path,
    models: Mapping[str, float],
    *,
    base: str | None,
    how: Merging,
    precision: str | None = None,
    texts: Sequence[str] = TEXTS,
    bounds: Bounds | None = None,
) -> Figures:
    """Merge models, or one adapter into its base, into a new folder, and say what came of it.

    Args:
        models: place → weight. One adapter's folder alone: it is merged into `base` (by default the one it names).
        base: what the models were trained from, for the methods that need it.
        precision: of the merged weights; the base's (or the first model's) by default.
        texts: what models are compared on.
        bounds: of the gate that a merged adapter has to pass.

    Returns:
        What was measured, by name.

    Raises:
        ModelError: the models do not fit, the adapter's gate is shut, or the merged model gives no finite numbers.
        GraftError: there is something at `out` already, or no such format.
    """
    if out.exists() and (out.is_file() or any(out.iterdir())):
        raise GraftError("there is something already", where=out, fix="name a new folder, or delete this one")
    adapters = [place for place in models if is_adapter(place)]
    if adapters and len(models) > 1:
        raise ModelError("an adapter is merged alone, into its base", where=adapters[0], fix="merge it first")
    if precision is not None and precision not in PRECISIONS:
        raise GraftError(f"no format `{precision}`", where="--dtype", fix=f"one of: {', '.join(PRECISIONS)}")
    with atomic_folder(out) as folder:
        if adapters:
            figures = _merge_adapter(folder, adapters[0], base, precision, texts, bounds or Bounds())
        else:
            figures = _merge_models(folder, models, base, how, precision, texts)
    _tell(out, models, figures)
    return figures


def _merge_adapter(
    folder: Path, adapter: str, base: str | None, precision: str | None, texts: Sequence[str], bounds: Bounds
) -> Figures:
    base = base or base_of(adapter)
    if base is None:
        raise ModelError("the adapter does not say what it was trained on", where=adapter, fix="give --base")
    dtype = PRECISIONS[precision] if precision else _stored_dtype(base)
    tokenizer = load_tokenizer(base)
    model = put_on(load_model(base, dtype=torch.float32, device=_device()), adapter)
    prompts = _with_answers(model, _encode(tokenizer, texts))
    merged = merge_checked(model, prompts, dtype, bounds, where=adapter)
    save_model(merged.model, tokenizer, folder, dtype)
    found = merged.agreement
    return {
        "merged": f"adapter {adapter} into {base}",
        "precision": _name(dtype),
        "mean KL": found.mean_kl,
        "greatest KL": found.max_kl,
        "same likeliest token": found.greedy,
        "positions": found.positions,
        "lost to rounding": merged.lost,
    }


def _merge_models(
    folder: Path,
    models: Mapping[str, float],
    base: str | None,
    how: Merging,
    precision: str | None,
    texts: Sequence[str],
) -> Figures:
    tensors = merge_models(
        folder, list(models), how, base=base, dtype=PRECISIONS[precision] if precision else None
    )
    first = base or next(iter(models))
    tokenizer = load_tokenizer(first)
    prompts = _encode(tokenizer, texts)
    merged = list(logits_of(load_model(str(folder), dtype=torch.float32, device=_device()), prompts))
    if not all(bool(logits.isfinite().all()) for logits in merged):
        raise ModelError("the merged model's logits are not finite", where=str(folder), fix="try smaller weights")
    count = f"{len(models)} model{'' if len(models) == 1 else 's'}"
    figures: Figures = {"merged": f"{count} by {how.method}", "tensors": tensors}
    for place in dict.fromkeys([*([base] if base else []), *models]):
        found = agreement(logits_of(load_model(place, dtype=torch.float32, device=_device()), prompts), merged)
        figures[f"mean KL from {place}"] = found.mean_kl
        figures[f"same likeliest token as {place}"] = found.greedy
    return figures


def _tell(out: Path, models: Mapping[str, float], figures: Figures) -> None:
    say(f"merged: {figures['merged']}")
    if "lost to rounding" in figures:
        say(
            f"  into {figures['precision']}: KL {figures['mean KL']:.2g} nats a token on average, "
            f"{figures['greatest KL']:.2g} at most; same likeliest token at {figures['same likeliest token']:.2%} of "
            f"{figures['positions']} positions; {figures['lost to rounding']:.2%} of the change lost to rounding"
        )
    for name, value in figures.items():
        place = name.removeprefix("mean KL from ")
        if place != name:
            weight = f"weight {models[place]:g}" if place in models else "base"
            same = figures[f"same likeliest token as {place}"]
            say(f"  {place} ({weight}): {value:.3g} nats away, same likeliest token at {same:.1%}")
    say(f"  {out}")


def _encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    encoded = [start + tokenizer(text, add_special_tokens=False)["input_ids"][:TEXT_TOKENS] for text in texts]
    return [tokens for tokens in encoded if tokens]


def _with_answers(model: torch.nn.Module, prompts: list[list[int]]) -> list[list[int]]:
    """Each prompt with the model's own continuation: an adapter shows most in what it answers."""
    decoding = Decoding(greedy=True, max_new_tokens=ANSWER_TOKENS)
    answers = generate(model, prompts, decoding, stop_ids=(), pad_id=0)
    return [[*prompt, *answer.tokens] for prompt, answer in zip(prompts, answers, strict=True)]


def _stored_dtype(model: str) -> torch.dtype:
    """The format that most of a model's numbers are stored in."""
    files = WeightFiles(model)
    forms = [files.form(name) for name in files.names]
    sizes: dict[torch.dtype, int] = {}
    for form in forms:
        sizes[form.dtype] = sizes.get(form.dtype, 0) + torch.Size(form.shape).numel()
    return max(sizes, key=lambda dtype: sizes[dtype])


def _name(dtype: torch.dtype) -> str:
    return next((name for name, known in PRECISIONS.items() if known == dtype), str(dtype))


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def weighted(models: Sequence[str]) -> dict[str, float]:
    """`place` or `place:weight`, as a command line gives them.

    Raises:
        GraftError: one is given twice.
    """
    found: dict[str, float] = {}
    for given in models:
        place, _, weight = given.rpartition(":")
        name, number = (place, _number(weight)) if place and _number(weight) is not None else (given, 1.0)
        if name in found:
            raise GraftError("it is given twice", where=name, fix="give it once, with its weight: MODEL:0.6")
        found[name] = number if number is not None else 1.0
    return found


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def read_texts(file: Path) -> list[str]:
    """A text a line.

    Raises:
        GraftError: the file is absent or has no text.
    """
    try:
        texts = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise GraftError(f"it cannot be read: {error.strerror}", where=file, fix="check the path") from None
    except UnicodeDecodeError:
        raise GraftError("it is not UTF-8 text", where=file, fix="save it as UTF-8") from None
    if not texts:
        raise GraftError("there is no text in it", where=file, fix="write a text a line")
    return texts
