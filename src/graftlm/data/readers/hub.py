"""Data sets of the `datasets` library: by hub name, or from a folder that the library saved."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from graftlm.core.errors import DataError
from graftlm.data.readers.rows import Fault, Row
from graftlm.data.samples import Origin

NEWLINE = "\n"


def is_saved_dataset(folder: Path) -> bool:
    """Whether `datasets` wrote this folder (`save_to_disk`)."""
    return (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()


def read_hub(name: str, config: str | None = None) -> Iterator[Row | Fault]:
    """Rows of `owner/name[:split]` or `folder[:split]`; the split defaults to "train", `config` to the set's own."""
    source, split = _source_and_split(name)
    dataset = _load(source, split, config)
    # Images and audio stay undecoded: no schema reads them, and decoding needs further packages.
    for number, values in enumerate(dataset, start=1):
        yield Row(Origin(f"hub:{source}" + (f":{split}" if split else ""), number), dict(values))


def _source_and_split(name: str) -> tuple[str, str | None]:
    source, colon, split = name.rpartition(":")
    # "C:\data" is a folder with a drive, not a split named "\data".
    if not colon or "/" in split or "\\" in split or Path(name).is_dir():
        return name, None
    return source, split


def _load(source: str, split: str | None, config: str | None) -> Any:
    if importlib.util.find_spec("datasets") is None:
        fix = "pip install 'graftlm[hub]'"
        raise DataError("reading this needs the 'datasets' library", where=f"hub:{source}", fix=fix)
    import datasets

    try:
        if is_saved_dataset(Path(source)):
            loaded = datasets.load_from_disk(source)
        else:
            loaded = datasets.load_dataset(source, config, split=split or "train")
    except Exception as error:  # the library raises its own, requests' and the file system's errors
        reason = f"cannot be loaded: {type(error).__name__}: {str(error).split(NEWLINE)[0]}"
        fix = "check the name, the split and the connection, or save the set to a folder and read that"
        raise DataError(reason, where=f"hub:{source}", fix=fix) from error
    if not isinstance(loaded, datasets.DatasetDict):
        return loaded
    wanted = split or "train"
    if wanted not in loaded:
        fix = f"write hub:{source}:SPLIT with one of: {', '.join(map(str, loaded))}"
        raise DataError(f"there is no split {wanted!r}", where=f"hub:{source}", fix=fix)
    return loaded[wanted]
