"""Images of a folder that a text describes: `graft retrieve-images`."""

from __future__ import annotations

from pathlib import Path

import torch

from graftlm.core.console import console, say
from graftlm.core.errors import DataError, ModelError
from graftlm.data.images import image_files
from graftlm.models.image_text import image_vectors, load_dual_encoder, load_image_processor, text_vectors
from graftlm.models.loading import load_tokenizer
from graftlm.recipes.image_rows import see_images


def retrieve_images(place: str, folder: Path, query: str, top: int) -> None:
    """Print the images nearest to a text, with the cosine of each.

    Raises:
        ModelError: it is no pair of towers.
        DataError: the folder holds no image, or the text is empty.
    """
    paths = image_files(folder) if folder.is_dir() else []
    if not paths:
        raise DataError("no image is there", where=folder, fix="give a folder with png, jpg, webp … files")
    if not query.strip():
        raise DataError(
            "the text is empty", where="graft retrieve-images", fix='graft retrieve-images MODEL FOLDER "…"'
        )
    found = rank_images(place, paths, query)[:top]
    for path, cosine in found:
        console.out(f"{cosine:.4f}  {path}", highlight=False)
    say(f"[dim]{len(found)} of {len(paths)} images[/dim]")


def rank_images(place: str, paths: list[Path], query: str) -> list[tuple[str, float]]:
    """(path, cosine with the text), the nearest first."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_dual_encoder(place, None, projection=0, dtype=torch.float32, device=device)
    tokenizer = load_tokenizer(place)
    seen = see_images(model, load_image_processor(place), [str(path) for path in paths], device)
    limit = tokenizer.model_max_length
    tokens = tokenizer(query, truncation=True, max_length=min(limit, 512), return_tensors="pt")["input_ids"].to(device)
    if tokens.numel() == 0:
        raise ModelError("the tokenizer makes nothing of the text", where=place, fix="give another text")
    with torch.no_grad():
        text_1D = text_vectors(model, tokens, torch.ones_like(tokens, dtype=torch.bool))
        cosine_I = (image_vectors(model, seen.states) @ text_1D[0]).cpu()
    order = cosine_I.argsort(descending=True).tolist()
    names = list(seen.place)
    return [(names[number], float(cosine_I[number])) for number in order]
