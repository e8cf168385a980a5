"""The configuration of GLM-130B's architecture, and the marks of blank infilling."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig

MARKS = {
    "mask_token_id": "[MASK]",
    "smask_token_id": "[sMASK]",
    "gmask_token_id": "[gMASK]",
    "sop_token_id": "<|startofpiece|>",
    "eop_token_id": "<|endofpiece|>",
}
"""Settings of the configuration, and the tokens of a new tokenizer that they name."""


class Glm130bConfig(PretrainedConfig):
    """The defaults are those of the 130B model.

    Args:
        intermediate_size: of the GeGLU; 8/3 of the hidden size when None.
        embedding_gradient: α of the embedding gradient shrink, e·α + stopgrad(e)·(1 − α); 1 leaves it whole.
        initializer_range: standard deviation of a new embedding.
        mask_token_id, smask_token_id, gmask_token_id, sop_token_id, eop_token_id: the marks of blank infilling; a
            model without them is a plain causal one.
    """

    model_type = "glm130b"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012

    def __init__(
        self,
        vocab_size: int = 150_528,
        hidden_size: int = 12_288,
        num_hidden_layers: int = 70,
        num_attention_heads: int = 96,
        intermediate_size: int | None = None,
        max_position_embeddings: int = 2048,
        layer_norm_eps: float = 1e-5,
        rotary_base: float = 10_000.0,
        embedding_gradient: float = 0.1,
        initializer_range: float = 0.02,
        mask_token_id: int | None = None,
        smask_token_id: int | None = None,
        gmask_token_id: int | None = None,
        sop_token_id: int | None = None,
        eop_token_id: int | None = None,
        tie_word_embeddings: bool = True,
        use_cache: bool = True,
        **kwargs: Any,
    ) -> None:
        if hidden_size % (2 * num_attention_heads):
            raise ValueError(f"hidden_size {hidden_size} does not make {num_attention_heads} heads of an even size")
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size or hidden_size * 8 // 3
        self.max_position_embeddings = max_position_embeddings
        self.layer_norm_eps = layer_norm_eps
        self.rotary_base = rotary_base
        self.embedding_gradient = embedding_gradient
        self.initializer_range = initializer_range
        self.mask_token_id = mask_token_id
        self.smask_token_id = smask_token_id
        self.gmask_token_id = gmask_token_id
        self.sop_token_id = sop_token_id
        self.eop_token_id = eop_token_id
        self.use_cache = use_cache
        super().__init__(**kwargs)
        self.tie_word_embeddings = tie_word_embeddings

    @property
    def residual_scale(self) -> float:
        """α of DeepNorm."""
        return float((2 * self.num_hidden_layers) ** 0.5)
