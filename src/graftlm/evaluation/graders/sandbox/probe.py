"""A process that only says which guards this machine lacks."""

from __future__ import annotations

import json
import sys

from graftlm.evaluation.graders.sandbox.confine import Bounds, confine


def main() -> None:
    bounds, *_ = json.loads(sys.argv.pop())
    print(json.dumps(confine(Bounds(*bounds))))
