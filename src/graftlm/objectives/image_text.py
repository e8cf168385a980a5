"""Images and captions find each other: CLIP's loss (arXiv 2103.00020), the vision tower frozen (arXiv 2111.07991).

The captions of one row are each other's wrong answers, and so are their images. Two captions of one image, or two
images of one caption, are no wrong answers to each other and are left out of the comparison.

Shapes: N pairs, V hidden size of the vision tower.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from graftlm.data.annotated import Notebook, padded_documents
from graftlm.data.packing import PackedBatch
from graftlm.models.image_text import image_vectors, inverse_temperature, text_vectors
from graftlm.models.trunk import causal_lm
from graftlm.training.objective import Loss


def clip_loss(cosine_NN: torch.Tensor, scale: torch.Tensor, same_NN: torch.Tensor | None = None) -> torch.Tensor:
    """Summed over N pairs the mean of two cross-entropies: of a text among the images, of an image among the texts.

    Args:
        cosine_NN: of text i and image j.
        scale: the inverse temperature.
        same_NN: pairs beside the diagonal that are no wrong answers.
    """
    logits_NN = scale * cosine_NN
    if same_NN is not None:
        beside_NN = same_NN & ~torch.eye(len(same_NN), dtype=torch.bool, device=same_NN.device)
        logits_NN = logits_NN.masked_fill(beside_NN, -torch.inf)
    right_N = torch.arange(len(logits_NN), device=logits_NN.device)
    by_text = F.cross_entropy(logits_NN, right_N, reduction="sum")
    by_image = F.cross_entropy(logits_NN.T, right_N, reduction="sum")
    return (by_text + by_image) / 2


@dataclass(frozen=True)
class Pictures:
    """What the frozen tower has seen, once and for all, and which pair has which image and caption.

    Attributes:
        states: [images, V] fp32.
        image: by block, the [documents] number of each document's image.
        caption: by block, the [documents] number of each document's caption.
    """

    states: torch.Tensor
    image: list[torch.Tensor]
    caption: list[torch.Tensor]

    def of(self, documents: list[int], by_block: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack([by_block[number >> 40][number & (1 << 40) - 1] for number in documents])


class ContrastivePairs:
    """One unit a pair."""

    def __init__(self, notebook: Notebook, pictures: Pictures) -> None:
        self.notebook, self.pictures = notebook, pictures

    def units(self, batch: PackedBatch) -> int:
        return batch.documents

    def __call__(self, model: torch.nn.Module, batch: PackedBatch) -> Loss:
        inner = causal_lm(model)
        parts = list(padded_documents(batch, self.notebook.of(batch)))
        texts_ND = torch.cat([text_vectors(inner, part.tokens_nL, part.real_nL) for part in parts])
        documents = [number for part in parts for number in part.document_n.tolist()]
        image_N = self.pictures.of(documents, self.pictures.image)
        caption_N = self.pictures.of(documents, self.pictures.caption)
        images_ND = image_vectors(inner, self.pictures.states[image_N.to(self.pictures.states.device)])
        same_NN = (image_N[:, None] == image_N) | (caption_N[:, None] == caption_N)
        cosine_NN = texts_ND @ images_ND.T
        with torch.autocast(cosine_NN.device.type, enabled=False):
            scale = inverse_temperature(inner)
            total = clip_loss(cosine_NN.float(), scale, same_NN.to(cosine_NN.device))
        found_N = cosine_NN.argmax(1)
        right = same_NN.to(found_N.device)[torch.arange(len(found_N), device=found_N.device), found_N].sum()
        return Loss(total, len(documents), {"accuracy": right.detach(), "scale": scale.detach() * len(documents)})
