"""A process that has graft imported and forks a child for every command: a new process without the import's seconds.

A program, started by conftest.py. A JSON line in starts a command or asks for a child's end; a JSON line out answers.
The parent computes nothing, so a child is as fresh as one that was started by `python -m graftlm`.
"""

import json
import os
import sys
from typing import Any


def serve() -> None:
    import graftlm.recipes.pipeline
    import graftlm.recipes.talking  # noqa: F401

    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(start(asked) if "args" in asked else ended(asked)), flush=True)


def start(asked: dict[str, Any]) -> int:
    child = os.fork()
    if child:
        return child
    for number, name in enumerate((os.devnull, asked["out"], asked["err"])):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644), number)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
    os.chdir(asked["folder"])
    os.environ.update(asked["env"])
    sys.argv = ["graft", *asked["args"]]
    try:
        from graftlm.cli import main

        main()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def ended(asked: dict[str, Any]) -> int | None:
    """Exit code of a child (minus the signal that ended it), or None while it runs."""
    child, status = os.waitpid(asked["child"], 0 if asked["wait"] else os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if child else None


if __name__ == "__main__":
    serve()
