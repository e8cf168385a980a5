"""Image files, opened one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from graftlm.core.errors import DataError, GraftError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


def open_image(path: str | Path) -> Any:
    """A PIL image in RGB, turned as its camera says.

    Raises:
        DataError: the file is no image, or broken.
        GraftError: pillow is not installed.
    """
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError:
        raise GraftError("images need pillow", where=path, fix='pip install "graftlm[images]"') from None
    try:
        with Image.open(path) as file:
            return ImageOps.exif_transpose(file).convert("RGB")
    except UnidentifiedImageError:
        raise DataError("it is no image", where=path, fix="remove it, or save it as png or jpg") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"the image is broken: {error}", where=path, fix="save it anew") from None


def image_files(folder: Path) -> list[Path]:
    """All images below a folder, by name."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
