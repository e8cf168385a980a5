"""Two towers, for images and for texts, whose outputs meet in one space (CLIP: Radford et al., arXiv 2103.00020).

A new pair is a frozen vision tower and a text tower that is trained to it (LiT: Zhai et al., arXiv 2111.07991), as
Taiyi's Chinese CLIP is. It is transformers' `VisionTextDualEncoderModel`; a finished one, a CLIP or a Chinese CLIP can
be trained on.

Shapes: N texts or images, D projected size, V hidden size of the vision tower.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import (
    AutoImageProcessor,
    AutoModel,
    CLIPModel,
    CLIPVisionModel,
    PreTrainedModel,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
)
from transformers import PreTrainedTokenizerBase as Tokenizer

from graftlm.core.errors import ModelError
from graftlm.models.encoder import POOLER, is_encoder_config
from graftlm.models.loading import load_config, locate, save_model, unloadable

FINISHED = ("vision-text-dual-encoder", "chinese_clip", "clip")
WHOLE_CLIP = ("clip", "chinese_clip")
LARGEST_SCALE = math.log(100)
"""CLIP's bound on the logarithm of the inverse temperature."""


def load_dual_encoder(
    text: str, vision: str | None, *, projection: int, dtype: torch.dtype, device: torch.device
) -> PreTrainedModel:
    """Both towers in eval mode, with their projections and temperature, weights from safetensors only.

    Args:
        text: an encoder, or without `vision` a finished pair.
        vision: a vision tower, or a CLIP whose tower and projection are taken.
        projection: size of the common space; a CLIP brings its own.

    Raises:
        ModelError: a tower cannot be loaded, has no pooled output, or is of the wrong kind.
    """
    try:
        model = _finished(text, dtype) if vision is None else _joined(text, vision, projection, dtype)
    except Exception as error:
        raise unloadable("pair of towers", text if vision is None else f"{vision} and {text}", error) from error
    model.to(device).eval()  # type: ignore[arg-type]
    model.graft_packs = False  # type: ignore[assignment]
    return model


def freeze_vision(model: PreTrainedModel) -> None:
    """The vision tower learns nothing; its projection does."""
    model.vision_model.requires_grad_(False)


def _finished(place: str, dtype: torch.dtype) -> PreTrainedModel:
    kind = load_config(place).model_type
    if kind not in FINISHED:
        raise ModelError(
            f"`{kind}` has no vision tower",
            where=place,
            fix="name one: vision: openai/clip-vit-base-patch32 (or a folder)",
        )
    model: PreTrainedModel = AutoModel.from_pretrained(locate(place), dtype=dtype, use_safetensors=True)
    return model


def _joined(text: str, vision: str, projection: int, dtype: torch.dtype) -> PreTrainedModel:
    text_config, vision_config = load_config(text), load_config(vision)
    if not is_encoder_config(text_config):
        raise ModelError(
            f"`{text_config.model_type}` is no text encoder", where=text, fix="use bert, roberta or their kin"
        )
    writer, report = AutoModel.from_pretrained(
        locate(text), dtype=dtype, use_safetensors=True, output_loading_info=True
    )
    if missing := [name for name in report["missing_keys"] if POOLER not in f".{name}"]:
        raise ModelError(f"{len(missing)} weights are missing, {missing[0]} among them", where=text, fix="use another")
    if getattr(writer, "pooler", None) is None:
        raise ModelError(f"`{text_config.model_type}` has no pooled output", where=text, fix="use bert or roberta")
    seen, projected = _vision_tower(vision, vision_config.model_type, dtype)
    size = projection if projected is None else len(projected)
    config = VisionTextDualEncoderConfig.from_vision_text_configs(seen.config, writer.config, projection_dim=size)
    model = VisionTextDualEncoderModel(config, seen, writer)
    model.to(dtype)  # type: ignore[arg-type]
    if projected is not None:
        with torch.no_grad():
            model.visual_projection.weight.copy_(projected)
    return model


def _vision_tower(place: str, kind: str, dtype: torch.dtype) -> tuple[PreTrainedModel, torch.Tensor | None]:
    """A vision tower, and the [D, V] projection that it was trained with, if it has one."""
    if kind == "clip_vision_model":
        return CLIPVisionModel.from_pretrained(locate(place), dtype=dtype, use_safetensors=True), None
    model = AutoModel.from_pretrained(locate(place), dtype=dtype, use_safetensors=True)
    if kind in WHOLE_CLIP:
        tower = model.vision_model
        if isinstance(model, CLIPModel):
            alone = CLIPVisionModel(model.config.vision_config)  # type: ignore[arg-type]
            _copy_tower(alone, tower)
            tower = alone
        return tower, model.visual_projection.weight
    if not hasattr(model.config, "image_size"):
        raise ModelError(f"`{kind}` looks at no images", where=place, fix="use a CLIP or a ViT")
    return model, None


def _copy_tower(alone: PreTrainedModel, tower: torch.nn.Module) -> None:
    """The weights of a CLIP's tower in a tower by itself, whatever name it keeps them under."""
    inner = getattr(alone, "vision_model", alone)
    inner.load_state_dict(tower.state_dict())


def load_image_processor(place: str) -> Any:
    """What turns images into the pixels of a vision tower."""
    try:
        return AutoImageProcessor.from_pretrained(locate(place))
    except Exception as error:
        raise unloadable("image processor (preprocessor_config.json)", place, error) from error


def save_dual_encoder(
    model: torch.nn.Module, tokenizer: Tokenizer, processor: Any, folder: Path, dtype: torch.dtype | None = None
) -> None:
    """Hugging Face layout: model, tokenizer and image processor."""
    save_model(model, tokenizer, folder, dtype)
    processor.save_pretrained(folder)


def text_vectors(model: Any, tokens_NL: torch.Tensor, real_NL: torch.Tensor) -> torch.Tensor:
    """[N, D] unit vectors of texts."""
    tokens_NL = tokens_NL.masked_fill(~real_NL, model.config.text_config.pad_token_id or 0)
    found = model.get_text_features(input_ids=tokens_NL, attention_mask=real_NL.long())
    return _unit(found if isinstance(found, torch.Tensor) else found.pooler_output)  # older versions give the tensor


def image_states(model: Any, pixels_NCHW: torch.Tensor) -> torch.Tensor:
    """[N, V] what the frozen tower sees, before the projection."""
    states: torch.Tensor = model.vision_model(pixel_values=pixels_NCHW).pooler_output
    return states


def image_vectors(model: Any, states_NV: torch.Tensor) -> torch.Tensor:
    """[N, D] unit vectors of images."""
    return _unit(model.visual_projection(states_NV))


def inverse_temperature(model: Any) -> torch.Tensor:
    """What cosines are multiplied by, at most 100."""
    return model.logit_scale.float().clamp(max=LARGEST_SCALE).exp()


def _unit(vectors_ND: torch.Tensor) -> torch.Tensor:
    return F.normalize(vectors_ND.float(), dim=-1)
