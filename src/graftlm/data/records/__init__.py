"""From raw rows to typed samples: the layouts that data sets come in, found out from the row itself."""

from graftlm.data.records.loading import Loaded, load_samples, stream_samples
from graftlm.data.records.schemas import SCHEMAS, Kind, detect, to_sample
from graftlm.data.records.turns import RowError

__all__ = ["SCHEMAS", "Kind", "Loaded", "RowError", "detect", "load_samples", "stream_samples", "to_sample"]
