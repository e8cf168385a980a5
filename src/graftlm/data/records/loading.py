"""From a path to samples and faults, with nothing unaccounted for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from graftlm.data.readers import Fault, Row, TextSplit, read_rows
from graftlm.data.records.conversations import INPUT_JOIN
from graftlm.data.records.schemas import Kind, check_names, to_sample
from graftlm.data.records.turns import RowError
from graftlm.data.samples import Sample


@dataclass(slots=True)
class Loaded:
    """What a path held. `read == len(samples) + len(faults)`, always.

    Attributes:
        samples: the valid rows, in the order of the files.
        faults: the rows (or files) that were not kept, each with file, line and reason.
        read: rows looked at.
    """

    samples: list[Sample] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    read: int = 0


def load_samples(
    path: str | Path,
    *,
    kind: Kind | None = None,
    columns: Mapping[str, str] | None = None,
    schema: str | None = None,
    split: TextSplit = "file",
    limit: int | None = None,
    encoding: str | None = None,
    input_join: str = INPUT_JOIN,
) -> Loaded:
    """Read a path and keep every valid row as a sample.

    Args:
        path, split, encoding: see `read_rows`.
        kind, columns, schema, input_join: see `to_sample`.
        limit: stop after this many samples; rows behind that are not read.

    Raises:
        DataError: the path cannot be read at all.
        RecipeError: `kind` or `schema` is no known name.
    """
    loaded = Loaded()
    stream = stream_samples(
        path, kind=kind, columns=columns, schema=schema, split=split, encoding=encoding, input_join=input_join
    )
    for result in stream if limit is None or limit > 0 else ():
        loaded.read += 1
        if isinstance(result, Fault):
            loaded.faults.append(result)
            continue
        loaded.samples.append(result)
        if len(loaded.samples) == limit:
            break
    return loaded


def stream_samples(
    path: str | Path,
    *,
    kind: Kind | None = None,
    columns: Mapping[str, str] | None = None,
    schema: str | None = None,
    split: TextSplit = "file",
    encoding: str | None = None,
    input_join: str = INPUT_JOIN,
) -> Iterator[Sample | Fault]:
    """The rows of a path one after another, each as a sample or as the reason why it is none; see `load_samples`."""
    check_names(kind, schema)
    for row in read_rows(path, split=split, encoding=encoding):
        yield row if isinstance(row, Fault) else _sample_or_fault(row, kind, columns, schema, input_join)


def _sample_or_fault(
    row: Row, kind: Kind | None, columns: Mapping[str, str] | None, schema: str | None, input_join: str
) -> Sample | Fault:
    try:
        return to_sample(row, kind, columns, schema, input_join=input_join)
    except RowError as error:
        return Fault(row.origin, str(error))
    except (TypeError, KeyError, AttributeError, ValueError, IndexError) as error:
        # A row can be malformed in more ways than the layouts foresee. It must still not end the run.
        return Fault(row.origin, f"malformed row ({type(error).__name__}: {error})")
