"""TRL's best-fit-decreasing packing of samples of given lengths.

    python trl_pack.py LENGTHS.npy ROW_TOKENS...

Needs trl and datasets; run by bench/pack.py in an interpreter of its own. Prints JSON: for each row length the seconds
of `pack_dataset(strategy="bfd")` in one batch of all samples, and of its default batches of 1,000, with the fill. The
samples hold one byte a token, so that next to nothing but the packing is timed.
"""

from __future__ import annotations

import json
import sys
import time
from importlib import metadata

import datasets
import numpy as np
import pyarrow as pa
from trl import pack_dataset


def main() -> None:
    lengths = np.load(sys.argv[1])
    datasets.disable_caching()
    datasets.disable_progress_bars()
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int64())
    samples = pa.LargeListArray.from_arrays(offsets, pa.array(np.zeros(int(lengths.sum()), np.int8)))
    rows = datasets.Dataset(pa.table({"input_ids": samples}))
    found = {}
    for row_tokens in map(int, sys.argv[2:]):
        for name, batch in (("in one batch", len(lengths)), ("in batches of 1,000", 1000)):
            start = time.perf_counter()
            packed = pack_dataset(rows, row_tokens, "bfd", {"batch_size": batch})
            seconds = time.perf_counter() - start
            fill = float(lengths.sum() / (len(packed) * row_tokens))
            found[f"{row_tokens} {name}"] = {"seconds": seconds, "fill": fill}
    print(json.dumps({"found": found, "versions": {name: metadata.version(name) for name in ("trl", "datasets")}}))


if __name__ == "__main__":
    main()
