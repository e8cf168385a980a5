"""From a path to raw rows: every row that can be read, and a Fault for each one that cannot."""

from graftlm.data.readers.files import read_rows
from graftlm.data.readers.rows import Fault, Row, TextSplit

__all__ = ["Fault", "Row", "TextSplit", "read_rows"]
