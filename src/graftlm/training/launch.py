"""Start several processes on this machine, and end all of them with one clear error when one fails."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import NoReturn

import torch
from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from graftlm.core.errors import GraftError, RecipeError
from graftlm.core.files import write_json

LAUNCHED_BY_GRAFT = "GRAFT_LAUNCHED"
PR_SET_PDEATHSIG = 1


def require_gpus(number: int) -> None:
    """Raises RecipeError when this machine has fewer GPUs."""
    found = torch.cuda.device_count()
    if number > found:
        raise RecipeError(
            f"{number} GPUs were asked for, this machine has {found}", where="--gpus", fix=f"--gpus {found}"
        )


def launch(command: list[str], processes: int) -> None:
    """Run a command as so many processes and wait; the environment tells each its rank, as torchrun does.

    Raises:
        GraftError: of the process that failed first.
    """
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    os.environ.setdefault("OMP_NUM_THREADS", threads)  # else each process takes all cores
    os.environ[LAUNCHED_BY_GRAFT] = "1"
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):  # graft says itself what failed
            logging.getLogger(name).setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=f"graft-{os.getpid()}",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="127.0.0.1",  # no name server is asked
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(),
    )
    try:
        elastic_launch(config, command[0])(*command[1:])
    except ChildFailedError as failed:
        raise first_error(failed) from None
    except SignalException:
        raise KeyboardInterrupt from None
    finally:
        del os.environ[LAUNCHED_BY_GRAFT]


def end_with_launcher() -> None:
    """Have the system end this process when graft's launcher is killed: it would train on alone, unseen (Linux)."""
    if os.environ.get(LAUNCHED_BY_GRAFT) and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def first_error(failed: ChildFailedError) -> GraftError:
    """The error that explains the failure: others fail only because that process is gone."""

    def order(rank: int) -> tuple[int, float]:
        failure = failed.failures[rank]
        data = failure.error_file_data
        kind = 0 if data.get("explained") else 1 if failure.exitcode < 0 else 2
        return kind, float(data.get("time", failure.timestamp))

    rank = min(failed.failures, key=order)
    failure = failed.failures[rank]
    where = f"process {rank}"
    if "explained" not in failure.error_file_data:
        ended = f"signal {-failure.exitcode}" if failure.exitcode < 0 else f"exit code {failure.exitcode}"
        fix = "was there enough memory? Run the same command again to go on"
        return GraftError(f"it ended with {ended} and left no word", where=where, fix=fix)
    text = str(failure.error_file_data["message"])
    reason, _, fix = text.partition("\n  fix: ")
    return GraftError(reason, where=where, fix=fix or None)


def end_process(error: BaseException, code: int) -> NoReturn:
    """End one of several processes after an error: leave it for the launcher and go, waiting for nobody.

    A usual exit would wait for threads and groups that wait for the other processes.
    """
    explained = isinstance(error, GraftError)
    text = str(error) if explained else traceback.format_exc().strip()
    if os.environ.get(LAUNCHED_BY_GRAFT) is None:  # torchrun says no more than that a process failed
        print(f"process {os.environ.get('RANK', '?')}: {text}", file=sys.stderr)
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if file:
        now = time.time()
        write_json(Path(file), {"message": text, "explained": explained, "time": now, "timestamp": int(now)})
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
