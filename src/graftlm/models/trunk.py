"""One way into every decoder (language or reward model): packed documents in, hidden states out.

The model's own code stays untouched. Its attention is switched to an entry registered here, which isolates
packed documents where boundaries come with the call and otherwise behaves as torch's scaled-dot-product
attention does. A model that cannot isolate packed documents (recurrent layers, attention of its own) is found
out by a probe and is fed padded rows instead; callers never know.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from transformers import AttentionInterface, PretrainedConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

from graftlm.core.errors import ModelError
from graftlm.models.slots import SlotCache
from graftlm.ops.attention import Layout, documents_of_like_length, lay_out, packed_attention
from graftlm.ops.choose import Choice, attention_kernel
from graftlm.ops.cross_entropy import Head
from graftlm.ops.learnt_prefix import PrefixStates, attention_behind, packed_attention_behind
from graftlm.ops.slot_attention import filled_slots, several_slot_attention, slot_attention

ATTENTION = "graft"


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention entry: query [1, H, T, D], key and value [1, G, T, D] → [1, T, H, D].

    In decoding: query [S, H, K, D], key and value [S, G, L, D] of a cache of slots → [S, K, H, D].
    """
    if kwargs.get("graft_tree") is not None:
        return kwargs["graft_tree"].attend(module, query, key, value, **kwargs)[None], None
    if kwargs.get("graft_cache") is not None:
        key, value = kwargs["graft_cache"].take_in(module, key, value)
    if getattr(module, "graft_prefix", None) is not None:
        return _attention_with_prefix(module, query, key, value, attention_mask, **kwargs), None
    if kwargs.get("graft_lengths") is not None:
        lengths, scale, window = kwargs["graft_lengths"], kwargs.get("scaling"), kwargs.get("sliding_window")
        if lengths.ndim == 2:
            out_SHKD = several_slot_attention(query, key, value, lengths, scale=scale, window=window)
            return out_SHKD.transpose(1, 2), None
        return slot_attention(query[:, :, 0], key, value, lengths, scale=scale, window=window)[:, None], None
    if kwargs.get("cu_seq_lens_q") is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    if kwargs.get("softcap") is not None or kwargs.get("s_aux") is not None:
        # The probe catches this.
        raise NotImplementedError("packed attention has no score capping and no sinks")
    if "windows_seen" in kwargs:
        kwargs["windows_seen"].add(kwargs.get("sliding_window"))
    query_THD, key_TGD, value_TGD = (x[0].transpose(0, 1) for x in (query, key, value))
    layout = Layout(
        kwargs["cu_seq_lens_q"],
        kwargs["max_length_q"],
        kwargs["graft_kernel"],
        kwargs["graft_blocks"],
        kwargs["graft_backward_blocks"],
        kwargs["graft_mask"],
    )
    out_THD = packed_attention(
        query_THD, key_TGD, value_TGD, layout, scale=kwargs.get("scaling"), window=kwargs.get("sliding_window")
    )
    return out_THD[None], None


def _attention_with_prefix(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> torch.Tensor:
    """The same where the layer has a learnt prefix (`models.adapters.prefix`): it is neither cached nor rotated, so
    positions and masks are those of the tokens alone."""
    if any(kwargs.get(name) is not None for name in ("softcap", "s_aux", "position_bias")):
        raise NotImplementedError("attention with a prefix has no score capping, sinks or biases")
    prefix: PrefixStates = module.graft_prefix.states()  # type: ignore[operator,union-attr]
    scale, window = kwargs.get("scaling"), kwargs.get("sliding_window")
    if kwargs.get("graft_lengths") is not None:
        key, value = key[: len(query)], value[: len(query)]  # of all slots, those that are in use
        lengths_SK = kwargs["graft_lengths"].view(len(query), -1)
        attention_mask = filled_slots(lengths_SK, key.shape[2], window)
    if kwargs.get("cu_seq_lens_q") is None:
        return attention_behind(query, key, value, prefix, attention_mask, scale=scale).transpose(1, 2)
    query_THD, key_TGD, value_TGD = (x[0].transpose(0, 1) for x in (query, key, value))
    boundaries = kwargs["cu_seq_lens_q"]
    return packed_attention_behind(
        query_THD, key_TGD, value_TGD, prefix, boundaries, scale=scale, window=window
    )[None]


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])


def causal_lm(model: torch.nn.Module) -> PreTrainedModel:
    """The transformers model inside a peft wrapper, or the model itself; a causal LM or a reward model."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator,return-value]


def attention_modules(model: torch.nn.Module) -> dict[int, torch.nn.Module]:
    """The attention of each layer, by its number."""
    found: dict[int, torch.nn.Module] = {}
    for module in causal_lm(model).modules():
        number = getattr(module, "layer_idx", None)
        if isinstance(number, int) and "Attention" in type(module).__name__:
            found[number] = module
    return dict(sorted(found.items()))


def prepare_trunk(model: torch.nn.Module) -> bool:
    """Ready a causal language model for packed rows; True when it isolates documents in place.

    Raises:
        ModelError: the model's logits are not what `output_head` makes of its hidden states.
    """
    training = model.training
    model.eval()
    try:
        _check_head(model)
    finally:
        model.train(training)
    return choose_packing(model)


def choose_packing(model: torch.nn.Module) -> bool:
    """Choose how a decoder, whatever its head, takes packed rows, by measurement; True when it isolates
    documents in place."""
    inner = causal_lm(model)
    inner.graft_packs = False  # type: ignore[assignment]
    inner.graft_kernel = kernel_choice(inner).chosen  # type: ignore[assignment]
    training = model.training
    model.eval()
    try:
        if inner._supports_attention_backend:
            own = inner.config._attn_implementation
            inner.set_attn_implementation(ATTENTION)
            inner.graft_packs = _isolates(model)  # type: ignore[assignment]
            if not inner.graft_packs:
                inner.set_attn_implementation(own)
    finally:
        model.train(training)
    return bool(inner.graft_packs)


def kernel_choice(model: PreTrainedModel) -> Choice:
    """Which attention serves packed rows of this model here, and how it was chosen."""
    config = model.config.get_text_config()
    H = getattr(config, "num_attention_heads", None) or 1
    G = getattr(config, "num_key_value_heads", None) or H
    D = getattr(config, "head_dim", None) or config.hidden_size // H
    return attention_kernel(next(model.parameters()).device, H, G, D, attention_window(model))


def attention_window(model: torch.nn.Module) -> int | None:
    """The narrowest of the model's attention windows, in tokens; None where every token sees all before it."""
    windows = _windows(causal_lm(model).config.get_text_config())
    return min((width for width in windows if width), default=None)


def _probe(model: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """(tokens, boundaries) of three short documents."""
    device = next(model.parameters()).device
    tokens_T = torch.arange(24, device=device) % min(23, causal_lm(model).config.get_text_config().vocab_size)
    return tokens_T, torch.tensor([0, 9, 11, 24], dtype=torch.int32, device=device)


def agree(one: torch.Tensor, other: torch.Tensor, *, rough: bool = False) -> bool:
    """Whether two ways to compute hidden states or logits give the same, to rounding."""
    tolerance = 1e-4 if one.dtype == torch.float32 and not rough else 5e-2
    return bool((one - other).abs().max() <= tolerance * other.abs().max().clamp(min=1))


@torch.no_grad()
def _check_head(model: torch.nn.Module) -> None:
    """Losses and scores are computed from hidden states; refuse a model whose logits are not."""
    tokens_T, _ = _probe(model)
    tokens_L = tokens_T[:9]
    states_LD = _padded_states(model, tokens_L, tokens_L.new_tensor([0, len(tokens_L)]))
    logits_LV = causal_lm(model)(input_ids=tokens_L[None], use_cache=False).logits[0]
    if not agree(output_head(model).logits(states_LD).to(logits_LV.dtype), logits_LV):
        raise ModelError(
            "its logits are not its head applied to its last hidden states",
            where=type(causal_lm(model)).__name__,
            fix="this architecture is not supported; use another base",
        )


@torch.no_grad()
def _isolates(model: torch.nn.Module) -> bool:
    """Whether three documents give the same hidden states packed in one row as they do in padded rows.

    The probe is shorter than any attention window, so windows are checked by name: each must reach our entry.
    """
    tokens_T, boundaries = _probe(model)
    windows: set[int | None] = set()
    try:
        packed = _packed_states(model, tokens_T, boundaries, windows_seen=windows)
        padded = _padded_states(model, tokens_T, boundaries)
    except torch.OutOfMemoryError:
        raise  # says nothing about the model
    except (NotImplementedError, TypeError, ValueError, RuntimeError):
        return False
    # In 8 bits which columns are outliers depends on the other tokens of the call.
    rough = getattr(causal_lm(model), "is_quantized", False)
    return agree(packed, padded, rough=rough) and _windows(causal_lm(model).config.get_text_config()) <= windows


def _windows(config: PretrainedConfig) -> set[int]:
    """The attention windows that a configuration asks for; chunks, which our entry cannot do, as window 0.

    `layer_types` is not asked: Qwen2-MoE's says "full" while its mask has the window.
    """
    wanted: set[int] = {0} if "chunked_attention" in (getattr(config, "layer_types", None) or ()) else set()
    window = getattr(config, "sliding_window", None)
    longest = getattr(config, "max_position_embeddings", None)
    if window is not None and (longest is None or window < longest):
        wanted.add(window)
    return wanted


def hidden_states(
    model: torch.nn.Module, tokens_T: torch.Tensor, boundaries: torch.Tensor, longest: int | None = None
) -> torch.Tensor:
    """Final hidden states [T, D] of packed documents, each seen alone and from position 0.

    Args:
        model: a causal language model that `prepare_trunk` has seen, or another decoder that `choose_packing`
            has (peft-wrapped or not).
        tokens_T: [T] token ids, documents end to end.
        boundaries: [N + 1] int32 document starts; the last entry is T.
        longest: tokens of the longest document; without it the host waits for the device to be told.
    """
    states = _packed_states if causal_lm(model).graft_packs else _padded_states
    return states(model, tokens_T, boundaries, longest)


def prompt_states(
    model: torch.nn.Module, tokens_T: torch.Tensor, boundaries: torch.Tensor, cache: SlotCache
) -> torch.Tensor:
    """`hidden_states` of packed prompts, whose keys and values go into `cache` on the way; it is on the model."""
    return _packed_states(model, tokens_T, boundaries, cache=cache)


def next_states(
    model: torch.nn.Module, tokens_S: torch.Tensor, positions_S: torch.Tensor, lengths_S: torch.Tensor, cache: SlotCache
) -> torch.Tensor:
    """Final hidden states [S, D] of one more token in each slot of a cache, which takes it in.

    Args:
        positions_S: the token's position in its sequence.
        lengths_S: positions of each slot that are seen, the new one included.
        cache: expects the tokens at these positions, and is on the model.
    """
    return _slot_states(model, tokens_S[:, None], positions_S[:, None], lengths_S, cache)[:, 0]


def several_next_states(
    model: torch.nn.Module,
    tokens_SK: torch.Tensor,
    positions_SK: torch.Tensor,
    lengths_SK: torch.Tensor,
    cache: SlotCache,
) -> torch.Tensor:
    """`next_states` of K more tokens in each slot, each of which sees those before it: [S, K, D]."""
    return _slot_states(model, tokens_SK, positions_SK, lengths_SK, cache)


def _slot_states(
    model: torch.nn.Module, tokens_SK: torch.Tensor, positions_SK: torch.Tensor, lengths: torch.Tensor, cache: SlotCache
) -> torch.Tensor:
    return decoder_of(model)(
        input_ids=tokens_SK,
        position_ids=positions_SK,
        attention_mask=torch.empty(1, 1, 0, 0, dtype=torch.bool, device=tokens_SK.device),  # as in packed rows
        past_key_values=cache,
        use_cache=True,
        graft_cache=cache,
        graft_lengths=lengths,
    ).last_hidden_state


def output_head(model: torch.nn.Module) -> Head:
    """The head that turns hidden states into logits, with the scaling of the families that scale."""
    inner = causal_lm(model)
    config = inner.config.get_text_config()
    layer = inner.get_output_embeddings()
    scale = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1)
    softcap = getattr(config, "final_logit_softcapping", None)
    weight = getattr(layer, "effective_weight", layer.weight)  # of a normalised head, the rows as they are used
    return Head(weight, getattr(layer, "bias", None), scale, softcap)


def positions_of(boundaries: torch.Tensor, tokens: int) -> torch.Tensor:
    """[T] position of each of the row's T = `tokens` inside its document."""
    starts_T = torch.repeat_interleave(boundaries[:-1].long(), boundaries.diff().long(), output_size=tokens)
    return torch.arange(tokens, device=boundaries.device) - starts_T


def decoder_of(model: torch.nn.Module) -> torch.nn.Module:
    inner = causal_lm(model)
    return getattr(inner, inner.base_model_prefix, None) or inner.model


def _packed_states(
    model: torch.nn.Module,
    tokens_T: torch.Tensor,
    boundaries: torch.Tensor,
    longest: int | None = None,
    cache: SlotCache | None = None,
    **probe: set[int | None],
) -> torch.Tensor:
    longest = int(boundaries.diff().max()) if longest is None else longest
    layout = lay_out(boundaries, len(tokens_T), longest, causal_lm(model).graft_kernel)  # type: ignore[arg-type]
    return decoder_of(model)(
        input_ids=tokens_T[None],
        position_ids=positions_of(boundaries, len(tokens_T))[None],
        # A mask of four dimensions is passed on as it is: no [T, T] mask is built, our entry needs none.
        attention_mask=torch.empty(1, 1, 0, 0, dtype=torch.bool, device=tokens_T.device),
        past_key_values=cache,
        use_cache=cache is not None,
        graft_cache=cache,
        cu_seq_lens_q=layout.boundaries,
        cu_seq_lens_k=layout.boundaries,
        max_length_q=layout.longest,
        max_length_k=layout.longest,
        graft_kernel=layout.kernel,
        graft_blocks=layout.blocks,
        graft_backward_blocks=layout.backward_blocks,
        graft_mask=layout.mask,
        **probe,
    ).last_hidden_state[0]


def _padded_states(
    model: torch.nn.Module, tokens_T: torch.Tensor, boundaries: torch.Tensor, longest: int | None = None
) -> torch.Tensor:
    """Documents of like length form one padded batch, so that at most half of what is computed is padding."""
    decoder = decoder_of(model)
    takes_positions = "position_ids" in inspect.signature(decoder.forward).parameters
    found, places = [], []
    for place_NL, real_NL in documents_of_like_length(boundaries):
        tokens_NL = tokens_T[place_NL].masked_fill(~real_NL, 0)
        offset_L = torch.arange(real_NL.shape[1], device=tokens_T.device)
        positions = {"position_ids": offset_L.expand(real_NL.shape)} if takes_positions else {}
        outputs = decoder(input_ids=tokens_NL, attention_mask=real_NL.long(), use_cache=False, **positions)
        found.append(outputs.last_hidden_state[real_NL])
        places.append(place_NL[real_NL])
    return torch.cat(found)[torch.cat(places).argsort()]
