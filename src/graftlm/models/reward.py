"""Reward models: one score for a conversation with its answer (Bradley-Terry; LLaMA 2, arXiv 2307.09288).

A reward model is always a transformers sequence-classification model with one output, so that its files load
anywhere. There are two kinds. *Decoders* begin as a causal language model: a linear head reads the hidden state
of the last token. *Encoders* (OpenAssistant's DeBERTa) read question and answer as two segments; their whole
forward pass is their own. Documents are packed for both.

Shapes: T tokens in the row, N documents, n documents of like length in L columns, D hidden size.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers import PreTrainedTokenizerBase as Tokenizer

from graftlm.core.errors import ModelError
from graftlm.models import llama2c
from graftlm.models.adapters.prefix_files import load_prefix
from graftlm.models.loading import load_config, locate, save_model, unloadable
from graftlm.models.trunk import causal_lm, choose_packing, hidden_states
from graftlm.ops.attention import documents_of_like_length

HEAD = "score.weight"


class Row(Protocol):
    """What is scored: a `PackedBatch` is one."""

    @property
    def tokens(self) -> torch.Tensor:
        """[T] int64."""

    @property
    def boundaries(self) -> torch.Tensor:
        """[N + 1] int32; where each document starts, and T."""

    @property
    def documents(self) -> int:
        """Documents of the row; those behind them only fill it up."""

    @property
    def longest(self) -> int:
        """Tokens of the longest document."""


def load_reward_model(base: str, *, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """A reward model in `dtype` on `device`, weights from safetensors only, in eval mode, ready for packed rows.

    Args:
        base: a causal language model (its trunk is kept, the head is new), a finished reward model, or any encoder
            with a finished classification head; a folder, a hub name, `rootstock` or a llama2.c file.

    A new head is all zeros: every reward is 0 at the start and the first loss exactly ln 2. With transformers'
    normal(0, 0.02) the first rewards of a 7B model spread by more than 1, which training would have to unlearn.

    Raises:
        ModelError: it cannot be loaded, has no sequence-classification class, more than one output, or weights
            other than a decoder's head are missing.
    """
    where = locate(base)
    try:
        model = _from_llama2c(Path(where)) if llama2c.is_checkpoint(where) else _from_folder(base, dtype)
    except Exception as error:
        raise unloadable("reward model", base, error) from error
    model.to(dtype).to(device).eval()  # type: ignore[arg-type]
    model.graft_packs = False  # type: ignore[assignment]
    if not is_encoder(model):
        _check_head(model)
        choose_packing(model)
        load_prefix(model, Path(where))
    return model


def save_reward_model(
    model: torch.nn.Module, tokenizer: Tokenizer, folder: Path, dtype: torch.dtype | None = None
) -> None:
    """Hugging Face layout, see `save_model`. The saved tokenizer pads with the token that the model takes for
    padding: otherwise transformers' batched forward would read the head on a padding position."""
    padding = _padding_token(model)
    if tokenizer.pad_token_id != padding:
        tokenizer = deepcopy(tokenizer)
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(padding)
    save_model(model, tokenizer, folder, dtype)


def is_encoder(model: torch.nn.Module) -> bool:
    """Whether the model reads question and answer as two segments, instead of scoring its last token."""
    inner = causal_lm(model)
    return not hasattr(inner, "score") or bool(inner.config.is_encoder_decoder)


def is_encoder_place(base: str) -> bool:
    """The same, from the configuration alone: no weight is loaded."""
    with torch.device("meta"):
        model: torch.nn.Module = AutoModelForSequenceClassification.from_config(_classifier_config(base))
    return is_encoder(model)


def document_rewards(model: torch.nn.Module, batch: Row) -> torch.Tensor:
    """[N] fp32: the reward of each document (padding document left out), as transformers' own forward gives it."""
    boundaries = batch.boundaries[: batch.documents + 1]
    if is_encoder(model):
        return _encoder_rewards(model, batch.tokens, boundaries)
    states_TD = hidden_states(model, batch.tokens, batch.boundaries, batch.longest)
    last_N = _last_tokens(batch.tokens, boundaries, _padding_token(model))
    with torch.autocast(states_TD.device.type, enabled=False):  # at a reward of 5, bf16 has steps of 0.03
        return F.linear(states_TD[last_N].float(), _head(model).float())[:, 0]


def _head(model: torch.nn.Module) -> torch.Tensor:
    """[1, D] weight of a decoder's head; with an adapter, the copy that is trained."""
    return cast(torch.Tensor, causal_lm(model).get_submodule("score").weight)


def _last_tokens(tokens_T: torch.Tensor, boundaries: torch.Tensor, padding: int) -> torch.Tensor:
    """[N] index of each document's last token that is not the padding token: transformers' rule, also where a
    document ends with that token (a GPT-2 pads with its end token)."""
    starts_N, lengths_N = boundaries[:-1].long(), boundaries.diff().long()
    document_T = torch.repeat_interleave(torch.arange(len(lengths_N), device=tokens_T.device), lengths_N)
    index_T = torch.arange(len(document_T), device=tokens_T.device)
    real_T = tokens_T[: len(document_T)] != padding
    return starts_N.scatter_reduce(0, document_T, index_T.where(real_T, 0), "amax")


def _encoder_rewards(model: torch.nn.Module, tokens_T: torch.Tensor, boundaries: torch.Tensor) -> torch.Tensor:
    """[N] fp32; documents of like length form one padded batch."""
    inner, padding = causal_lm(model), _padding_token(model)
    segments = (getattr(inner.config, "type_vocab_size", None) or 0) > 1
    found, places = [], []
    for place_nL, real_nL in documents_of_like_length(boundaries):
        tokens_nL = tokens_T[place_nL].masked_fill(~real_nL, padding)
        types = {"token_type_ids": _segments(tokens_nL, real_nL)} if segments else {}
        logits_n1 = inner(input_ids=tokens_nL, attention_mask=real_nL.long(), **types).logits
        found.append(logits_n1[:, 0].float())
        places.append(place_nL[:, 0])
    return torch.cat(found)[torch.cat(places).argsort()]


def _segments(tokens_nL: torch.Tensor, real_nL: torch.Tensor) -> torch.Tensor:
    """[n, L] 0 up to and including the first separator, then 1; 0 for padding.

    A pair ends with its separator, so the last token tells which one that is (BERT's configuration does not).
    """
    last_n1 = real_nL.sum(dim=1, keepdim=True) - 1
    separator_nL = (tokens_nL == tokens_nL.gather(1, last_n1)).long()
    before_nL = separator_nL.cumsum(dim=1) - separator_nL
    return ((before_nL > 0) & real_nL).long()


def _padding_token(model: torch.nn.Module) -> int:
    return int(causal_lm(model).config.get_text_config().pad_token_id)


def _from_llama2c(path: Path) -> PreTrainedModel:
    causal = llama2c.load_model(path)
    config = _with_one_output(causal.config, finished=False, base=str(path))
    model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config)
    model.model.load_state_dict(causal.model.state_dict())
    return _with_new_head(model)


def _from_folder(base: str, dtype: torch.dtype) -> PreTrainedModel:
    config = _classifier_config(base)
    finished = any(name.endswith("ForSequenceClassification") for name in config.architectures or ())
    config = _with_one_output(config, finished=finished, base=base)
    model, report = AutoModelForSequenceClassification.from_pretrained(
        locate(base), config=config, dtype=dtype, use_safetensors=True, output_loading_info=True
    )
    missing = set(report["missing_keys"])
    unexplained = sorted(missing if finished else missing - {HEAD})
    if unexplained:
        raise ModelError(
            f"it is no finished reward model: {len(unexplained)} weights are missing, {unexplained[0]} among them",
            where=base,
            fix="start from a causal language model, or from an encoder trained as `...ForSequenceClassification`",
        )
    return _with_new_head(model) if missing else model


def _classifier_config(base: str) -> PretrainedConfig:
    config = load_config(base)
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise ModelError(
            f"transformers has no sequence-classification class for `{config.model_type}`",
            where=base,
            fix="make the reward model from another base: llama, qwen, mistral, gemma, gpt2 and most others have one",
        )
    return config


def _with_one_output(config: PretrainedConfig, *, finished: bool, base: str) -> PretrainedConfig:
    """The configuration with one output and a padding token; a finished model's own token stays."""
    if finished and config.num_labels != 1:
        raise ModelError(
            f"it has {config.num_labels} outputs, a reward is one number",
            where=base,
            fix="use a model that was trained with `num_labels=1`",
        )
    config.num_labels = 1
    text = config.get_text_config()
    if not finished or text.pad_token_id is None:
        config.pad_token_id = text.pad_token_id = _choose_padding(text)
    return config


def _choose_padding(config: PretrainedConfig) -> int:
    """A token that ends no answer where there is one: transformers reads the head on the last token that is not
    padding, so with the end token as padding an answer that ended and one that was cut off would look alike."""
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    known = [token for token in (config.pad_token_id, config.bos_token_id, *ends) if token is not None]
    known = [token for token in known if 0 <= token < config.vocab_size]  # old LLaMA files say -1
    return next((token for token in known if token not in ends), known[0] if known else 0)


@torch.no_grad()
def _with_new_head(model: PreTrainedModel) -> PreTrainedModel:
    _head(model).zero_()
    return model


@torch.no_grad()
def _check_head(model: PreTrainedModel) -> None:
    """Refuse a model whose logits are not its head applied to the last token's hidden state.

    A new head is all zeros and would agree with anything, so the check puts other weights in its place.
    """
    weight_1D = _head(model)
    kept_1D = weight_1D.clone()
    padding = _padding_token(model)
    tokens_T = torch.tensor([token for token in range(13) if token != padding], device=model.device)
    boundaries = torch.tensor([0, 5, 7, 12], dtype=torch.int32, device=model.device)
    try:
        weight_1D.copy_(torch.linspace(-1, 1, weight_1D.shape[1]))
        states_TD = hidden_states(model, tokens_T, boundaries)
        found_N = F.linear(states_TD[boundaries[1:].long() - 1], weight_1D)[:, 0].float()
        documents = tokens_T.split(boundaries.diff().tolist())
        logits = [model(input_ids=document[None], use_cache=False).logits[0, 0] for document in documents]
        expected_N = torch.stack(logits).float()
    finally:
        weight_1D.copy_(kept_1D)
    tolerance = 1e-4 if weight_1D.dtype == torch.float32 else 5e-2
    if (found_N - expected_N).abs().max() > tolerance * expected_N.abs().max().clamp(min=1):
        raise ModelError(
            "its rewards are not its head applied to the last token's hidden state",
            where=type(model).__name__,
            fix="this architecture is not supported; use another base",
        )
