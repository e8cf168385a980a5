"""Encoders: BERT, MegatronBert, RoBERTa, DeBERTa-v2, RoFormer, Longformer and all that transformers masks words with.

One loader for every task, through transformers' Auto classes, so that the saved folder loads anywhere; and one way to
call them.

Shapes: n documents of like length in L columns.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Literal

import torch
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PretrainedConfig,
    PreTrainedModel,
)

from graftlm.core.errors import ModelError
from graftlm.models.loading import load_config, locate, unloadable
from graftlm.models.trunk import causal_lm

Task = Literal["classify", "match", "tag", "choice", "mlm"]

AUTO: dict[Task, Any] = {
    "classify": AutoModelForSequenceClassification,
    "match": AutoModelForSequenceClassification,
    "tag": AutoModelForTokenClassification,
    "choice": AutoModelForMaskedLM,
    "mlm": AutoModelForMaskedLM,
}
HEADLESS = ("classify", "match", "tag")
"""Tasks whose head may be new. That of a masked language model is part of what pre-training has learnt."""

POOLER = ".pooler."
"""A masked language model has none; a classifier's is new, as its head."""


def is_encoder_config(config: PretrainedConfig) -> bool:
    """Whether transformers masks words with this architecture, and it is no encoder-decoder."""
    return type(config) in MODEL_FOR_MASKED_LM_MAPPING and not config.is_encoder_decoder


def load_encoder(
    base: str, task: Task, labels: Sequence[str] = (), *, dtype: torch.dtype, device: torch.device
) -> PreTrainedModel:
    """An encoder with the head of a task, in `dtype` on `device`, weights from safetensors only, in eval mode.

    Args:
        labels: names of the classes or tags, in the order of the outputs; a finished head with just these stays, any
            other is new.

    Raises:
        ModelError: it cannot be loaded, is no encoder, weights of its trunk or of its masked-language head are
            missing, or (choice) its positions cannot be shared.
    """
    config = load_config(base)
    if not is_encoder_config(config):
        raise ModelError(
            f"`{config.model_type}` is no encoder",
            where=base,
            fix="start from bert, megatron-bert, roberta, deberta-v2, roformer, longformer or their kin",
        )
    if task in HEADLESS:
        config = _with_labels(config, labels)
    try:
        model, report = AUTO[task].from_pretrained(
            locate(base),
            config=config,
            dtype=dtype,
            use_safetensors=True,
            ignore_mismatched_sizes=task in HEADLESS,
            output_loading_info=True,
        )
    except Exception as error:
        raise unloadable("encoder", base, error) from error
    _refuse_missing(model, task, set(report["missing_keys"]), base)
    return ready(model, task, device, base)


def ready(model: PreTrainedModel, task: Task, device: torch.device, base: str) -> PreTrainedModel:
    """The model on its device, in eval mode; for option choice only if its positions can be shared."""
    model.to(device).eval()  # type: ignore[arg-type]
    model.graft_packs = False  # type: ignore[assignment]
    if task == "choice" and not keeps_options_apart(model):
        raise ModelError(
            f"`{model.config.model_type}` cannot give several options the same positions: the answer would hang on"
            " their order",
            where=base,
            fix="choose with bert, megatron-bert or roberta, or train it with `task: match` on pairs of question and"
            " option",
        )
    return model


def _with_labels(config: PretrainedConfig, labels: Sequence[str]) -> PretrainedConfig:
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: place for place, label in enumerate(labels)}
    return config


def finished_labels(base: str, task: Task) -> list[str] | None:
    """The classes or tags of a head that was trained for this task; None where there is none."""
    config = load_config(base)
    suffix = AUTO[task].__name__.removeprefix("AutoModel")
    if not any(name.endswith(suffix) for name in config.architectures or ()):
        return None
    return [str(name) for _, name in sorted((config.id2label or {}).items())]


def _refuse_missing(model: PreTrainedModel, task: Task, missing: set[str], base: str) -> None:
    trunk = f"{model.base_model_prefix}."
    if task in HEADLESS:
        missing = {name for name in missing if name.startswith(trunk) and POOLER not in name}
    if missing:
        what = "its trunk" if task in HEADLESS else "the trunk or the head that predicts masked words"
        raise ModelError(
            f"{len(missing)} weights of {what} are missing, {min(missing)} among them",
            where=base,
            fix="start from a checkpoint that was trained by masking",
        )


def encoder_logits(
    model: torch.nn.Module,
    tokens_nL: torch.Tensor,
    real_nL: torch.Tensor,
    segments_nL: torch.Tensor,
    *,
    positions_nL: torch.Tensor | None = None,
    groups_nL: torch.Tensor | None = None,
) -> torch.Tensor:
    """[n, C] (classes) or [n, L, C] (tags, vocabulary), as the model's head gives them.

    Args:
        positions_nL: position ids from 0, where they are not in order.
        groups_nL: options; tokens of different ones (above 0) do not see each other.
    """
    inner = causal_lm(model)
    tokens_nL = tokens_nL.masked_fill(~real_nL, inner.config.pad_token_id or 0)
    more = {}
    if (getattr(inner.config, "type_vocab_size", None) or 0) > 1:
        more["token_type_ids"] = segments_nL
    if positions_nL is not None:
        more["position_ids"] = positions_nL + _first_position(inner)
    seen = real_nL.long() if groups_nL is None else _apart(real_nL, groups_nL, inner.dtype)
    logits: torch.Tensor = inner(input_ids=tokens_nL, attention_mask=seen, **more).logits
    return logits


def _apart(real_nL: torch.Tensor, groups_nL: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """[n, 1, L, L] what is added to the attention scores: 0, or the least number where nothing is to be seen."""
    mine_nL1, other_n1L = groups_nL[:, :, None], groups_nL[:, None, :]
    sees_nLL = real_nL[:, None, :] & ((mine_nL1 == 0) | (other_n1L == 0) | (mine_nL1 == other_n1L))
    return torch.zeros_like(sees_nLL, dtype=dtype).masked_fill(~sees_nLL, torch.finfo(dtype).min)[:, None]


def _first_position(model: PreTrainedModel) -> int:
    """RoBERTa and its kin count positions from behind their padding token's id."""
    embedding = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    padding = getattr(embedding, "padding_idx", None)
    return 0 if padding is None else int(padding) + 1


def position_limit(base: str) -> int | None:
    """The longest document that an encoder has positions for; None where it states no limit. No weight is loaded."""
    config = load_config(base)
    limit = getattr(config, "max_position_embeddings", None)
    if not limit or limit < 0:
        return None
    with torch.device("meta"):
        return int(limit) - _first_position(AutoModel.from_config(config))


@torch.no_grad()
def keeps_options_apart(model: PreTrainedModel) -> bool:
    """Whether the scores of three options are those of the same options in another order.

    Found out by trying: the model has to take position ids and a mask of its own for every pair of tokens, and nothing
    else may tell it which token stands before which (relative positions do).
    """
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return False
    options = [[5, 6, 7], [5, 8], [5, 9, 10, 11]]
    try:
        found = [_option_states(model, options, order) for order in ((0, 1, 2), (2, 0, 1))]
    except (RuntimeError, ValueError, TypeError, IndexError):
        return False
    difference = (found[0] - found[1]).abs().max()
    return bool(difference <= 1e-4 * found[0].abs().max().clamp(min=1e-6))


def _option_states(model: PreTrainedModel, options: list[list[int]], order: Sequence[int]) -> torch.Tensor:
    """[3, V] logits at the first token of each option, by option; computed in fp32."""
    tokens, positions, groups, first = [1], [0], [0], {}
    for place in order:
        first[place] = len(tokens)
        tokens += options[place]
        positions += range(1, 1 + len(options[place]))
        groups += [place + 1] * len(options[place])
    start = 1 + max(map(len, options))
    tokens, groups = [*tokens, 2, 3, 4], [*groups, 0, 0, 0]
    positions += range(start, start + 3)
    row_1L = [torch.tensor([values], device=model.device) for values in (tokens, positions, groups)]
    logits_1LV = encoder_logits(
        model,
        row_1L[0],
        torch.ones_like(row_1L[0], dtype=torch.bool),
        torch.zeros_like(row_1L[0]),
        positions_nL=row_1L[1],
        groups_nL=row_1L[2],
    )
    return logits_1LV[0, [first[place] for place in range(3)]].float()
