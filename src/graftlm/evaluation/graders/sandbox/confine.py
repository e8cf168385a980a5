"""What a process of the sandbox gives up before it reads anything that a model wrote."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
import sys
from typing import NamedTuple

from graftlm.evaluation.graders.sandbox.landlock import DEVICE, LIST, READ, WORK, restrict_files
from graftlm.evaluation.graders.sandbox.seccomp import restrict_calls

_OPEN_FILES = 32
_DIE_WITH_PARENT, _SET_DUMPABLE, _NO_NEW_PRIVILEGES = 1, 4, 38
_CAPABILITIES_3 = 0x20080522
_SYSTEM_FILES = ("/etc/ld.so.cache", "/etc/localtime", "/usr/share/zoneinfo", "/dev/urandom")


class Bounds(NamedTuple):
    """What a process may use: seconds of processor time, bytes of memory and of one file; its folder, if it has one."""

    seconds: int
    memory: int
    file: int
    folder: str | None


def confine(bounds: Bounds) -> list[str]:
    """Confine this process for good.

    Returns:
        The guards that this machine lacks; none where the sandbox is whole.
    """
    readable = _readable() if sys.platform == "linux" else []
    _limit(bounds)
    if sys.platform != "linux":
        return [f"Landlock and seccomp ({sys.platform} has neither)"]
    library = ctypes.CDLL(None, use_errno=True)
    library.prctl(_DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
    library.prctl(_SET_DUMPABLE, 0, 0, 0, 0)
    library.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    rights = [*readable, ("/dev/null", DEVICE)]
    if bounds.folder is not None:
        rights.append((bounds.folder, WORK))
    missing = [] if restrict_files(rights) else ["Landlock (keeps files: Linux 5.13 or later, enabled)"]
    _drop_capabilities(library)
    return missing if restrict_calls() else [*missing, "seccomp (keeps network and processes: Linux on x86_64 or aarch64)"]


def _limit(bounds: Bounds) -> None:
    for what, most in (
        (resource.RLIMIT_AS, bounds.memory),
        (resource.RLIMIT_FSIZE, bounds.file),
        (resource.RLIMIT_CPU, bounds.seconds),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
        try:
            resource.setrlimit(what, (bound, bound))
        except (OSError, ValueError):
            if sys.platform == "linux":
                raise  # elsewhere not all of them exist, and the missing guards are reported anyway


def _drop_capabilities(library: ctypes.CDLL) -> None:
    """Leave root without its powers: limits and file rights hold for it, too."""
    if library.capset(struct.pack("=Ii", _CAPABILITIES_3, 0), bytes(24)) != 0:
        raise OSError(ctypes.get_errno(), "capabilities cannot be dropped")


def _readable() -> list[tuple[str, int]]:
    """Python's standard library, without what is installed in it, and the libraries that it loads.

    Installed packages may hold a benchmark's answers.
    """
    library = os.path.dirname(os.__file__)
    parts = [entry.path for entry in os.scandir(library) if entry.name not in ("site-packages", "dist-packages")]
    shared = [path for folder in _library_folders() for path in _shared_libraries(folder, library)]
    return [(library, LIST), *((path, READ) for path in (*parts, *shared, *_SYSTEM_FILES))]


def _library_folders() -> set[str]:
    """Where the libraries of this process lie: others that an extension may load lie beside them."""
    with open("/proc/self/maps", encoding="utf-8") as maps:
        paths = [line.split(maxsplit=5)[5].strip() for line in maps if ".so" in line]
    return {os.path.dirname(path) for path in paths if path.startswith("/")} | {f"{sys.base_prefix}/lib"}


def _shared_libraries(folder: str, standard_library: str) -> list[str]:
    """The folder itself; one by one the libraries in it where Python's packages lie in it as well."""
    if not standard_library.startswith(f"{os.path.realpath(folder)}/"):
        return [folder]
    return [entry.path for entry in os.scandir(folder) if ".so" in entry.name]
