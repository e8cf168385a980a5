"""GLM-130B's architecture at any size (arXiv 2210.02414; blank infilling: arXiv 2103.10360).

A decoder whose context sees itself both ways and whose continuation is causal. Residuals are post-LN with DeepNorm,
x ← LN(αx + f(x)) with α = (2N)^½ for N layers; the embedding is normed before the first one. Queries and keys are
rotated over the two halves of a head; the feed-forward is GeGLU, 8/3 of the hidden size wide; linear layers have
biases, the head is the embedding. As in THUDM/GLM-130B.

Text is asked with a mark for what is missing, and the answer begins after `sop`:
- the first [MASK] or [sMASK] of the context: all tokens of the answer stand at the mark's position;
- only a [gMASK], or no mark: positions go on behind the context.
Rows without `sop` have no context and are causal throughout, so that nothing is scored that was seen.

Shapes: B rows, L tokens, D hidden size, H heads, K head size, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from graftlm.models.families.glm130b_config import Glm130bConfig
from graftlm.ops.prefix_attention import (
    CONTEXT,
    PrefixLayout,
    lay_out_prefixes,
    prefix_attention,
    visible_from_cache,
    visible_in_rows,
)


class BlankCache(DynamicCache):
    """A cache that remembers where each row's blank is: [B] its position, -1 for positions that go on."""

    blank_B: torch.Tensor

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        super().reorder_cache(beam_idx)  # type: ignore[arg-type]
        self.blank_B = self.blank_B.index_select(0, beam_idx)


class Glm130bAttention(nn.Module):
    def __init__(self, config: Glm130bConfig, layer: int) -> None:
        super().__init__()
        D = config.hidden_size
        self.heads, self.layer = config.num_attention_heads, layer
        self.q_proj, self.k_proj = _linear(D, D), _linear(D, D)
        self.v_proj, self.o_proj = (_linear(D, D, gain=1 / config.residual_scale) for _ in range(2))

    def forward(
        self,
        x_BLD: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor],
        visible: torch.Tensor | PrefixLayout,
        cache: Cache | None,
    ) -> torch.Tensor:
        q, k, v = (
            projection(x_BLD).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, H, L, K]
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = (rotated(x, *rotary).to(v.dtype) for x in (q, k))
        if cache is not None:
            k, v = cache.update(k, v, self.layer)
        return self.o_proj(prefix_attention(q, k, v, visible).transpose(1, 2).flatten(2))


class Glm130bFeedForward(nn.Module):
    def __init__(self, config: Glm130bConfig) -> None:
        super().__init__()
        D, M, gain = config.hidden_size, config.intermediate_size, 1 / config.residual_scale
        self.gate_proj, self.up_proj = _linear(D, M, gain=gain), _linear(D, M, gain=gain)
        self.down_proj = _linear(M, D, gain=gain)

    def forward(self, x_BLD: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.gelu(self.gate_proj(x_BLD)) * self.up_proj(x_BLD))


class Glm130bLayer(GradientCheckpointingLayer):
    def __init__(self, config: Glm130bConfig, layer: int) -> None:
        super().__init__()
        self.alpha = config.residual_scale
        self.attention = Glm130bAttention(config, layer)
        self.attention_norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.mlp = Glm130bFeedForward(config)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(
        self,
        x_BLD: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor],
        visible: torch.Tensor | PrefixLayout,
        cache: Cache | None,
    ) -> torch.Tensor:
        x_BLD = self.attention_norm(self.alpha * x_BLD + self.attention(x_BLD, rotary, visible, cache))
        return self.mlp_norm(self.alpha * x_BLD + self.mlp(x_BLD))


class Glm130bPreTrainedModel(PreTrainedModel):
    config: Glm130bConfig
    config_class = Glm130bConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["Glm130bLayer"]  # noqa: RUF012

    def _init_weights(self, module: nn.Module) -> None:
        """Xavier; the feed-forward, value and output projections are (2N)^-½ of it."""
        if isinstance(module, nn.Linear) and hasattr(module, "gain"):
            nn.init.xavier_normal_(module.weight, gain=module.gain)  # type: ignore[arg-type]
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


class Glm130bModel(Glm130bPreTrainedModel):
    """The decoder: tokens in, hidden states out."""

    def __init__(self, config: Glm130bConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embedding_norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.layers = nn.ModuleList(Glm130bLayer(config, i) for i in range(config.num_hidden_layers))
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        layout: PrefixLayout | None = None,
        embedding_gradient: float | None = None,
    ) -> BaseModelOutputWithPast:
        """
        Args:
            input_ids: [B, L].
            attention_mask: [B, past + L]; 0 for padding, on either side.
            position_ids: [B, L] places in the row, for the marks to be read against; with a `layout` the positions
                themselves.
            past_key_values: what was returned for the tokens before; these are continuations only.
            layout: of one packed row (B = 1), in place of the mask.
            embedding_gradient: α of the embedding gradient shrink; the configuration's by default.
        """
        if use_cache and past_key_values is None:
            past_key_values = BlankCache()
        cache = past_key_values if use_cache else None
        visible: torch.Tensor | PrefixLayout
        if layout is None:
            visible, position_ids = self._read(input_ids, attention_mask, position_ids, cache)
        else:
            assert position_ids is not None
            visible = layout
        e_BLD = self.embed_tokens(input_ids)
        share = self.config.embedding_gradient if embedding_gradient is None else embedding_gradient
        if share != 1:
            e_BLD = torch.lerp(e_BLD.detach(), e_BLD, share)  # exactly e; its gradient exactly times α
        x_BLD, rotary = self.embedding_norm(e_BLD), self._rotary(position_ids)
        for layer in self.layers:
            x_BLD = layer(x_BLD, rotary, visible, cache)
        return BaseModelOutputWithPast(last_hidden_state=x_BLD, past_key_values=cache)

    def _read(
        self,
        tokens_BL: torch.Tensor,
        mask_BK: torch.Tensor | None,
        places_BL: torch.Tensor | None,
        cache: Cache | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What each token sees and its position, by the marks among the tokens."""
        L, past = tokens_BL.shape[1], 0 if cache is None else cache.get_seq_length()
        if mask_BK is None:
            mask_BK = tokens_BL.new_ones(len(tokens_BL), past + L)
        if places_BL is None:
            places_BL = (mask_BK.long().cumsum(-1) - 1).clamp(min=0)[:, past:]
        if past:
            blank_B1 = cache.blank_B[:, None]  # type: ignore[union-attr]
            return visible_from_cache(mask_BK, L), torch.where(blank_B1 >= 0, blank_B1, places_BL)
        branch_BL, blank_B = self._branches(tokens_BL, places_BL)
        if cache is not None:
            cache.blank_B = blank_B  # type: ignore[attr-defined]
        at_blank_BL = (blank_B[:, None] >= 0) & (branch_BL != CONTEXT)
        return visible_in_rows(branch_BL, mask_BK.bool()), torch.where(at_blank_BL, blank_B[:, None], places_BL)

    def _branches(self, tokens_BL: torch.Tensor, places_BL: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[B, L] 0 before the first sop and 1 from there on; [B] the position of the first blank before it, or -1."""
        config = self.config
        after_BL = _is(tokens_BL, config.sop_token_id).cumsum(-1) > 0
        asked_B1 = after_BL[:, -1:]
        blank_BL = _is(tokens_BL, config.mask_token_id) | _is(tokens_BL, config.smask_token_id)
        blank_BL &= asked_B1 & ~after_BL
        first_B1 = blank_BL.int().argmax(-1, keepdim=True)
        position_B = places_BL.expand_as(tokens_BL).gather(1, first_B1)[:, 0]
        return (after_BL | ~asked_B1).long(), torch.where(blank_BL.any(-1), position_B, -1)

    def _rotary(self, positions_BL: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosine and sine [B, 1, L, K/2] in fp32."""
        K = self.config.hidden_size // self.config.num_attention_heads
        exponent = torch.arange(0, K, 2, device=positions_BL.device, dtype=torch.float32) / K
        angle_BLK = positions_BL[..., None].float() * self.config.rotary_base**-exponent
        return angle_BLK.cos()[:, None], angle_BLK.sin()[:, None]


class Glm130bForCausalLM(Glm130bPreTrainedModel, GenerationMixin):
    """The decoder with its head."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: Glm130bConfig) -> None:
        super().__init__(config)
        self.model = Glm130bModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        return_dict: bool = True,
    ) -> CausalLMOutputWithPast:
        """Logits [B, L, V], or of the last `logits_to_keep` tokens; the arguments are those of the decoder."""
        found = self.model(input_ids, attention_mask, position_ids, past_key_values, use_cache)
        logits_BLV = self.lm_head(found.last_hidden_state[:, -logits_to_keep:])
        return CausalLMOutputWithPast(logits=logits_BLV, past_key_values=found.past_key_values)


def infilling_states(
    model: Glm130bForCausalLM,
    tokens_T: torch.Tensor,
    positions_T: torch.Tensor,
    boundaries: torch.Tensor,
    branch_T: torch.Tensor,
    embedding_gradient: float | None = None,
) -> torch.Tensor:
    """Hidden states [T, D] of packed samples whose positions and branches are known.

    Args:
        boundaries: [N + 1] int32 starts of the samples; the last entry is T.
        branch_T: 0 for context, 1 for what is to be filled in (2, 3 … for alternatives to it).
        embedding_gradient: α of the embedding gradient shrink; the configuration's by default.
    """
    return model.model(
        tokens_T[None],
        position_ids=positions_T[None],
        layout=lay_out_prefixes(boundaries, branch_T),
        embedding_gradient=embedding_gradient,
    ).last_hidden_state[0]


def rotated(x_BHLK: torch.Tensor, cos_B1LK: torch.Tensor, sin_B1LK: torch.Tensor) -> torch.Tensor:
    """Turn the pairs (i, i + K/2) of each head, in fp32."""
    one, other = x_BHLK.float().chunk(2, dim=-1)
    return torch.cat([one * cos_B1LK - other * sin_B1LK, other * cos_B1LK + one * sin_B1LK], dim=-1)


def _linear(inputs: int, outputs: int, *, gain: float = 1.0) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    layer.gain = gain  # type: ignore[assignment]
    return layer


def _is(tokens_BL: torch.Tensor, token: int | None) -> torch.Tensor:
    return tokens_BL == (-1 if token is None else token)


AutoConfig.register(Glm130bConfig.model_type, Glm130bConfig)
AutoModel.register(Glm130bConfig, Glm130bModel)
AutoModelForCausalLM.register(Glm130bConfig, Glm130bForCausalLM)
