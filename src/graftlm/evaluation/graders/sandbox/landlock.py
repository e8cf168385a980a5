"""Which files a confined process may touch, and that it reaches no network and signals nobody (Landlock, Linux 5.13).

https://docs.kernel.org/userspace-api/landlock.html: unprivileged, kept by the kernel, inherited, never lifted.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable
from pathlib import Path

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # the same numbers on every processor
_PATH_BENEATH, _ASK_VERSION = 1, 1

_WRITE, _READ, LIST, _REMOVE, _CREATE_FILE, _TRUNCATE = 1 << 1, 1 << 2, 1 << 3, 1 << 5, 1 << 8, 1 << 14
READ = _READ | LIST
WORK = READ | _WRITE | _REMOVE | _CREATE_FILE | _TRUNCATE
"""In the program's folder: files, but neither folders nor links, so that its size is soon counted."""

DEVICE = _READ | _WRITE
_OF_FILES = _READ | _WRITE | _TRUNCATE

_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}  # how many the version knows; 16 from 5 on
_TCP = 0b11  # bind, connect: from 4 on
_SCOPES = 0b11  # abstract sockets, signals: from 6 on


def landlock_version() -> int:
    """The kernel's version of Landlock; 0 without it."""
    return max(0, _call(_CREATE, None, 0, _ASK_VERSION))


def restrict_files(rights: Iterable[tuple[str, int]]) -> bool:
    """Leave this process only the given rights beneath the given paths; False where the kernel has no Landlock.

    Paths that do not exist are passed over. `no_new_privs` must be set.

    Raises:
        OSError: the kernel has Landlock and refuses the rules.
    """
    version = landlock_version()
    if version < 1:
        return False
    handled = (1 << _FILE_RIGHTS.get(version, 16)) - 1
    # A version takes the structure as far as it knows it.
    attributes = struct.pack("=Q", handled)
    attributes += struct.pack("=Q", _TCP) if version >= 4 else b""
    attributes += struct.pack("=Q", _SCOPES) if version >= 6 else b""
    rules = _checked(_call(_CREATE, attributes, len(attributes), 0))
    for path, allowed in rights:
        _allow(rules, path, allowed & handled)
    _checked(_call(_RESTRICT, rules, 0))
    os.close(rules)
    return True


def _allow(rules: int, path: str, allowed: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    if not Path(path).is_dir():
        allowed &= _OF_FILES
    _checked(_call(_ADD, rules, _PATH_BENEATH, struct.pack("=Qi", allowed, place), 0))
    os.close(place)


def _call(number: int, *arguments: bytes | int | None) -> int:
    library = ctypes.CDLL(None, use_errno=True)
    # syscall() is variadic: every argument goes as a whole register.
    words = [ctypes.c_char_p(a) if isinstance(a, bytes) else ctypes.c_long(a or 0) for a in arguments]
    return int(library.syscall(ctypes.c_long(number), *words))


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"Landlock: {os.strerror(ctypes.get_errno())}")
    return result
