"""A process that only says which guards this machine lacks."""

from __future__ import annotations

import json

from graftlm.evaluation.graders.sandbox.confine import confine
from graftlm.evaluation.graders.sandbox.settings import told


def main() -> None:
    print(json.dumps(confine(told().bounds)))
