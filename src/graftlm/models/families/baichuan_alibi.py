"""Baichuan 13B, 1 and 2 (baichuan-inc; arXiv 2309.10305), which transformers lacks: a Llama with ALiBi for rotation.

Names of weights are the original's, `W_pack` (query, key and value in one matrix) among them: adapters trained on the
original fit, and those trained here fit the original. Attention bears a bias of its own, so packed documents are fed
as padded rows.

Baichuan 2's head (`norm_head`) is normalised in every call. The original replaces the parameter at its first call in
eval mode, and an optimizer that holds it then trains nothing; here the parameter stays, and gradients go through.

Shapes: B rows, L new positions, S positions with those in the cache, H heads, K head size, D hidden size, V vocabulary.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from graftlm.ops.cross_entropy import IGNORE


class BaichuanAlibiConfig(PretrainedConfig):
    """Baichuan 13B's shape.

    Args:
        norm_head: the head's rows are taken at length 1 (Baichuan 2).
        z_loss_weight: of the max-z loss that is added where labels are given; 2e-4 in Baichuan 2's pre-training.
        model_max_length: positions that it was trained on; ALiBi sets no limit.
    """

    model_type = "baichuan_alibi"
    keys_to_ignore_at_inference = ("past_key_values",)

    def __init__(
        self,
        vocab_size: int = 125_696,
        hidden_size: int = 5120,
        intermediate_size: int = 13_696,
        num_hidden_layers: int = 40,
        num_attention_heads: int = 40,
        rms_norm_eps: float = 1e-6,
        norm_head: bool = True,
        z_loss_weight: float = 0.0,
        model_max_length: int = 4096,
        initializer_range: float = 0.02,
        use_cache: bool = True,
        **others: Any,  # transformers' own, such as dtype and architectures
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.rms_norm_eps = rms_norm_eps
        self.norm_head = norm_head
        self.z_loss_weight = z_loss_weight
        self.model_max_length = model_max_length
        self.initializer_range = initializer_range
        self.use_cache = use_cache
        own = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False}
        super().__init__(**(own | others))


def alibi_slopes(heads: int) -> torch.Tensor:
    """[H] fp32 slopes 2^(-8i/H), i from 1; where H is no power of two, the next lower power's, filled up with every
    second one of twice that power (arXiv 2108.12409, as its authors' code does it)."""
    power = 2 ** math.floor(math.log2(heads))
    exact = [2 ** (-8 * i / power) for i in range(1, power + 1)]
    between = [2 ** (-4 * i / power) for i in range(1, 2 * (heads - power), 2)]
    return torch.tensor(exact + between, dtype=torch.float32)


def alibi_bias(mask_BS: torch.Tensor, new: int, heads: int, dtype: torch.dtype) -> torch.Tensor:
    """[B, H, L, S] what is added to the scores: -slope · distance, and -inf for what comes later or is padding.

    Only distances count, so padding on the left changes nothing. Rows of padding see themselves, lest they be NaN.

    Args:
        mask_BS: 1 for real positions, those in the cache first.
        new: L, the last positions.
    """
    S, device = mask_BS.shape[1], mask_BS.device
    key_S = torch.arange(S, device=device)
    distance_LS = key_S - key_S[-new:, None]
    hidden_BLS = (distance_LS > 0) | ((mask_BS == 0)[:, None] & (distance_LS != 0))
    bias_HLS = alibi_slopes(heads).to(device)[:, None, None] * distance_LS
    return bias_HLS.masked_fill(hidden_BLS[:, None], float("-inf")).to(dtype)


def max_z_loss(logits_TV: torch.Tensor, targets_T: torch.Tensor, weight: float) -> torch.Tensor:
    """weight · mean of the squared largest logit, over positions that bear a target (arXiv 2309.10305, section 2)."""
    largest_T = logits_TV.float().max(dim=-1).values
    bearing_T = targets_T != IGNORE
    return weight * (largest_T.square() * bearing_T).sum() / bearing_T.sum().clamp(min=1)


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.variance_epsilon = eps

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        exact = hidden.float()
        exact = exact * torch.rsqrt(exact.square().mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * exact.to(hidden.dtype)


class NormHead(nn.Module):
    """logits = h · W, each row of W at length 1."""

    def __init__(self, size: int, vocabulary: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocabulary, size))

    @property
    def effective_weight(self) -> torch.Tensor:
        """[V, D] rows of length 1; gradients go through to the parameter."""
        return F.normalize(self.weight)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return F.linear(hidden, self.effective_weight)


class BaichuanAttention(nn.Module):
    def __init__(self, config: BaichuanAlibiConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.heads = layer, config.num_attention_heads
        self.W_pack = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, hidden_BLD: torch.Tensor, bias_BHLS: torch.Tensor, cache: Cache | None) -> torch.Tensor:
        B, L, D = hidden_BLD.shape
        packed_BLD = self.W_pack(hidden_BLD).chunk(3, dim=-1)
        query, key, value = (x.view(B, L, self.heads, D // self.heads).transpose(1, 2) for x in packed_BLD)
        if cache is not None:
            key, value = cache.update(key, value, self.layer)
        out_BHLK = F.scaled_dot_product_attention(query, key, value, attn_mask=bias_BHLS)
        return self.o_proj(out_BHLK.transpose(1, 2).reshape(B, L, D))


class BaichuanMLP(nn.Module):
    def __init__(self, config: BaichuanAlibiConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.silu(self.gate_proj(hidden)) * self.up_proj(hidden))


class BaichuanLayer(GradientCheckpointingLayer):
    def __init__(self, config: BaichuanAlibiConfig, layer: int) -> None:
        super().__init__()
        self.self_attn = BaichuanAttention(config, layer)
        self.mlp = BaichuanMLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, hidden: torch.Tensor, bias: torch.Tensor, cache: Cache | None) -> torch.Tensor:
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), bias, cache)
        return hidden + self.mlp(self.post_attention_layernorm(hidden))


class BaichuanAlibiPreTrainedModel(PreTrainedModel):
    config_class = BaichuanAlibiConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["BaichuanLayer"]  # noqa: RUF012
    _supports_sdpa = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding | NormHead):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        elif isinstance(module, RMSNorm):
            nn.init.ones_(module.weight)


class BaichuanAlibiModel(BaichuanAlibiPreTrainedModel):
    def __init__(self, config: BaichuanAlibiConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(BaichuanLayer(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **others: Any,  # what transformers' generate passes to every model
    ) -> BaseModelOutputWithPast:
        """Last hidden states [B, L, D].

        Args:
            input_ids: [B, L]; or inputs_embeds [B, L, D].
            attention_mask: [B, S], 0 for padding.
        """
        hidden = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        wants_cache = self.config.use_cache if use_cache is None else use_cache
        if wants_cache and past_key_values is None:
            past_key_values = DynamicCache()
        cache = past_key_values if wants_cache else None
        B, L = hidden.shape[:2]
        if attention_mask is None:
            before = cache.get_seq_length() if cache is not None else 0
            attention_mask = torch.ones(B, before + L, dtype=torch.long, device=hidden.device)
        bias = alibi_bias(attention_mask, L, self.config.num_attention_heads, hidden.dtype)
        for layer in self.layers:
            hidden = layer(hidden, bias, cache)
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden), past_key_values=cache)


class BaichuanAlibiForCausalLM(BaichuanAlibiPreTrainedModel, GenerationMixin):
    def __init__(self, config: BaichuanAlibiConfig) -> None:
        super().__init__(config)
        self.model = BaichuanAlibiModel(config)
        D, V = config.hidden_size, config.vocab_size
        self.lm_head = NormHead(D, V) if config.norm_head else nn.Linear(D, V, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        **others: Any,  # what transformers' generate passes to every model
    ) -> CausalLMOutputWithPast:
        """Logits [B, L, V], and with labels [B, L] the mean cross-entropy of the next token, the max-z loss added.

        Args:
            logits_to_keep: only the last so many positions' logits; 0: all.
        """
        outputs = self.model(input_ids, attention_mask, past_key_values, inputs_embeds, use_cache)
        logits = self.lm_head(outputs.last_hidden_state[:, -logits_to_keep:])
        loss = None
        if labels is not None:
            flat_TV, targets_T = logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten()
            loss = F.cross_entropy(flat_TV, targets_T, ignore_index=IGNORE)
            if self.config.z_loss_weight:
                loss = loss + max_z_loss(flat_TV, targets_T, self.config.z_loss_weight)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=outputs.past_key_values)


AutoConfig.register(BaichuanAlibiConfig.model_type, BaichuanAlibiConfig)
AutoModel.register(BaichuanAlibiConfig, BaichuanAlibiModel)
AutoModelForCausalLM.register(BaichuanAlibiConfig, BaichuanAlibiForCausalLM)
