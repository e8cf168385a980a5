"""Encoder–decoders: T5, mT5, BART, Pegasus and all that transformers makes a text of a text with.

Loaded through transformers' Auto class, so that the saved folder loads anywhere. Losses are computed from the decoder's
hidden states, so that no table of logits over mT5's 250,000 pieces is ever made.

Shapes: n documents, L tokens of a source, M of a target, D hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from graftlm.core.errors import ModelError
from graftlm.models.loading import load_config, locate, unloadable
from graftlm.models.scratch import random_weights
from graftlm.models.trunk import causal_lm
from graftlm.ops.cross_entropy import Head


def is_seq2seq_config(config: PretrainedConfig) -> bool:
    return bool(getattr(config, "is_encoder_decoder", False))


def is_seq2seq_place(place: str) -> bool:
    """Whether a folder or hub name holds an encoder–decoder; no where nothing can be read."""
    try:
        return is_seq2seq_config(load_config(place))
    except ModelError:
        return False


def is_seq2seq_architecture(architecture: dict[str, Any]) -> bool:
    """The same of a `model_type` for a new model; no for one that transformers does not know."""
    try:
        return is_seq2seq_config(AutoConfig.for_model(str(architecture.get("model_type"))))
    except ValueError:
        return False


def load_seq2seq(base: str, *, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """The model in `dtype` on `device`, weights from safetensors only, in eval mode.

    Raises:
        ModelError: it cannot be loaded, is no encoder–decoder, or its logits are not its head's.
    """
    config = load_config(base)
    if not is_seq2seq_config(config):
        raise ModelError(
            f"`{config.model_type}` is no encoder–decoder",
            where=base,
            fix="start from t5, mt5, bart, pegasus or their kin",
        )
    try:
        model = AutoModelForSeq2SeqLM.from_pretrained(locate(base), dtype=dtype, use_safetensors=True)
    except Exception as error:
        raise unloadable("model", base, error) from error
    return ready(model.to(device), base)


def new_seq2seq(architecture: dict[str, Any], tokenizer: PreTrainedTokenizerFast, seed: int) -> PreTrainedModel:
    """A model of transformers' `model_type` with random weights; the decoder starts from the padding token.

    Raises:
        ModelError: one of the sizes does not fit.
    """
    def make(config: PretrainedConfig) -> PreTrainedModel:
        config.decoder_start_token_id, config.forced_eos_token_id = config.pad_token_id, None
        return ready(AutoModelForSeq2SeqLM.from_config(config, dtype=torch.float32), "base.architecture")

    return random_weights(make, architecture, tokenizer, seed)


def ready(model: PreTrainedModel, where: str) -> PreTrainedModel:
    """In eval mode, its head checked."""
    model.eval()
    model.graft_packs = False  # type: ignore[assignment]  # padded rows
    _check_head(model, where)
    return model


def decoder_states(
    model: torch.nn.Module, source_nL: torch.Tensor, real_nL: torch.Tensor, inputs_nM: torch.Tensor
) -> torch.Tensor:
    """The decoder's last hidden states [n, M, D].

    Args:
        real_nL: False for padding of the source. Targets are padded on the right, where causality hides it.
        inputs_nM: the target moved one to the right, behind the start token (`shifted`).
    """
    return target_states(model, encoded_source(model, source_nL, real_nL), real_nL, inputs_nM)


def encoded_source(model: torch.nn.Module, source_nL: torch.Tensor, real_nL: torch.Tensor) -> torch.Tensor:
    """The encoder's last hidden states [n, L, D]; `real_nL` is False for padding."""
    inner: Any = causal_lm(model)
    source_nL = source_nL.masked_fill(~real_nL, inner.config.pad_token_id or 0)
    states: torch.Tensor = inner.get_encoder()(input_ids=source_nL, attention_mask=real_nL.long()).last_hidden_state
    return states


def target_states(
    model: torch.nn.Module, encoded_nLD: torch.Tensor, real_nL: torch.Tensor, inputs_nM: torch.Tensor
) -> torch.Tensor:
    """`decoder_states` of sources that are encoded."""
    inner: Any = causal_lm(model)
    decoded = inner.get_decoder()(
        input_ids=inputs_nM, encoder_hidden_states=encoded_nLD, encoder_attention_mask=real_nL.long(), use_cache=False
    )
    states: torch.Tensor = decoded.last_hidden_state
    return states


def shifted(model: torch.nn.Module, target_nM: torch.Tensor) -> torch.Tensor:
    """What the decoder reads to say the target: its start token, and the target without its last token."""
    start = causal_lm(model).config.decoder_start_token_id
    return torch.cat([torch.full_like(target_nM[:, :1], start), target_nM[:, :-1]], dim=1)


def seq2seq_head(model: torch.nn.Module) -> Head:
    """The head. T5 with a tied embedding multiplies its states by D^-0.5 first; BART and Pegasus add a bias."""
    inner: Any = causal_lm(model)
    layer, config = inner.get_output_embeddings(), inner.config
    scaled = getattr(config, "scale_decoder_outputs", config.model_type == "t5" and config.tie_word_embeddings)
    bias_1V = getattr(inner, "final_logits_bias", None)
    bias_V = getattr(layer, "bias", None) if bias_1V is None else bias_1V[0]
    return Head(layer.weight, bias_V, config.d_model**-0.5 if scaled else 1.0)


@torch.no_grad()
def _check_head(model: PreTrainedModel, where: str) -> None:
    """Losses are computed from hidden states; refuse a model whose logits are not its head's of them."""
    device = next(model.parameters()).device
    source_1L = torch.arange(3, 12, device=device)[None] % model.config.vocab_size
    target_1M = source_1L.flip(1)[:, :5]
    real_1L, inputs_1M = torch.ones_like(source_1L, dtype=torch.bool), shifted(model, target_1M)
    logits = model(
        input_ids=source_1L, attention_mask=real_1L.long(), decoder_input_ids=inputs_1M, use_cache=False
    ).logits
    found = seq2seq_head(model).logits(decoder_states(model, source_1L, real_1L, inputs_1M)[0])
    bound = (1e-4 if logits.dtype == torch.float32 else 5e-2) * logits.abs().max().clamp(min=1)
    if not (found - logits[0].float()).abs().max() <= bound:
        raise ModelError(
            "its logits are not its head applied to its decoder's last states",
            where=where,
            fix="this architecture is not supported; use t5, mt5, bart or pegasus",
        )
