"""What a process of the sandbox gives up before it reads anything that a model wrote."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
import sys
from pathlib import Path

from graftlm.evaluation.graders.sandbox.landlock import DEVICE, LIST, READ, WORK, restrict_files
from graftlm.evaluation.graders.sandbox.seccomp import restrict_calls
from graftlm.evaluation.graders.sandbox.settings import Bounds, Settings, told

_OPEN_FILES = 32
_DIE_WITH_PARENT, _SET_DUMPABLE, _NO_NEW_PRIVILEGES = 1, 4, 38
_CAPABILITIES_3 = 0x20080522
_SYSTEM_FILES = ("/etc/ld.so.cache", "/etc/localtime", "/usr/share/zoneinfo", "/dev/urandom")


def begin() -> Settings:
    """The settings of this process, which from here on is confined.

    Raises:
        SystemExit: the process must be confined and cannot be, or its caller is gone.
    """
    settings = told()
    sys.set_int_max_str_digits(0)  # a large answer is not an error
    missing = confine(settings.bounds)
    if missing and settings.strict:
        sys.exit("; ".join(missing))
    if os.getppid() != settings.parent:
        sys.exit("the caller died before this process asked to die with it")
    return settings


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
    if not restrict_calls():
        missing.append("seccomp (keeps network and processes: Linux on x86_64 or aarch64)")
    return missing


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
    library = Path(os.__file__).parent
    parts = [path for path in library.iterdir() if path.name not in ("site-packages", "dist-packages")]
    shared = [path for folder in _library_folders() for path in _shared_libraries(folder, library)]
    return [(str(library), LIST), *((str(path), READ) for path in (*parts, *shared, *_SYSTEM_FILES))]


def _library_folders() -> set[Path]:
    """Where the libraries of this process lie: others that an extension may load lie beside them."""
    lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    paths = [line.split(maxsplit=5)[5] for line in lines if ".so" in line]
    return {Path(path).parent for path in paths if path.startswith("/")} | {Path(sys.base_prefix, "lib")}


def _shared_libraries(folder: Path, standard_library: Path) -> list[Path]:
    """The folder itself; one by one the libraries in it where Python's packages lie in it as well."""
    if not standard_library.resolve().is_relative_to(folder.resolve()):
        return [folder]
    return list(folder.glob("*.so*"))
