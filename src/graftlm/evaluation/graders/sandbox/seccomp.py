"""Which system calls a confined process may make (seccomp-bpf, Linux 3.5): a list of the allowed, all else is refused.

Computing, and files by way of Landlock. Left out: processes and threads, signals to others, sockets (a datagram socket
pair reaches named sockets, too), namespaces and mounts, limits, shared memory, and what Landlock does not hold: rights,
owners and times of files, `truncate` by name.
"""

from __future__ import annotations

import ctypes
import os
import struct

_CALLS = {  # name: number on x86_64, on aarch64; -1 is "does not exist"
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67),
    "pwrite64": (18, 68), "preadv": (295, 69), "pwritev": (296, 70), "lseek": (8, 62), "close": (3, 57),
    "close_range": (436, 436), "dup": (32, 23), "dup2": (33, -1), "dup3": (292, 24), "pipe": (22, -1),
    "pipe2": (293, 59), "stat": (4, -1), "fstat": (5, 80), "lstat": (6, -1), "newfstatat": (262, 79),
    "statx": (332, 291), "access": (21, -1), "faccessat": (269, 48), "faccessat2": (439, 439), "readlink": (89, -1),
    "readlinkat": (267, 78), "getdents": (78, -1), "getdents64": (217, 61), "getcwd": (79, 17), "chdir": (80, 49),
    "fchdir": (81, 50), "rename": (82, -1), "renameat": (264, 38), "renameat2": (316, 276), "unlink": (87, -1),
    "unlinkat": (263, 35), "ftruncate": (77, 46), "fsync": (74, 82), "fdatasync": (75, 83), "fallocate": (285, 47),
    "flock": (73, 32), "fadvise64": (221, 223), "sendfile": (40, 71), "copy_file_range": (326, 285),
    "umask": (95, 166), "statfs": (137, 43), "fstatfs": (138, 44), "ioctl": (16, 29), "poll": (7, -1),
    "ppoll": (271, 73), "select": (23, -1), "pselect6": (270, 72), "epoll_create1": (291, 20),
    "epoll_ctl": (233, 21), "epoll_wait": (232, -1), "epoll_pwait": (281, 22), "eventfd2": (290, 19),
    "mmap": (9, 222), "munmap": (11, 215), "mprotect": (10, 226), "mremap": (25, 216), "madvise": (28, 233),
    "brk": (12, 214), "msync": (26, 227), "mincore": (27, 232), "futex": (202, 98), "set_robust_list": (273, 99),
    "get_robust_list": (274, 100), "rseq": (334, 293), "set_tid_address": (218, 96), "membarrier": (324, 283),
    "sched_yield": (24, 124), "sched_getaffinity": (204, 123), "getcpu": (309, 168), "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "rt_sigpending": (127, 136),
    "rt_sigtimedwait": (128, 137), "rt_sigsuspend": (130, 133), "sigaltstack": (131, 132),
    "restart_syscall": (219, 128), "pause": (34, -1), "alarm": (37, -1), "setitimer": (38, 103),
    "getitimer": (36, 102), "getpid": (39, 172), "getppid": (110, 173), "gettid": (186, 178), "getuid": (102, 174),
    "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177), "getgroups": (115, 158),
    "getpgid": (121, 155), "getpgrp": (111, -1), "getsid": (124, 156), "uname": (63, 160), "sysinfo": (99, 179),
    "getrusage": (98, 165), "getrlimit": (97, 163), "times": (100, 153), "clock_gettime": (228, 113),
    "clock_getres": (229, 114), "clock_nanosleep": (230, 115), "nanosleep": (35, 101), "gettimeofday": (96, 169),
    "time": (201, -1), "getrandom": (318, 278), "exit": (60, 93), "exit_group": (231, 94), "arch_prctl": (158, -1),
    "wait4": (61, 260),
}

_FCNTL_REFUSED = (8, 10, 15)
"""F_SETOWN, F_SETSIG, F_SETOWN_EX: they let the kernel signal another process when a pipe can be read."""

_READ_ONLY_TRUNCATE, _TRUNCATE_MASK = 0x200, 0x203
"""O_TRUNC with O_RDONLY empties a file without a right to write (Landlock before ABI 3)."""

_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_X32_BIT = 0x40000000

_LOAD, _AND, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050000 | 1, 0x80000000  # refused calls fail with EPERM
_SET_SECCOMP, _FILTER = 22, 2

_Instruction = tuple[int, int, int, int]


def restrict_calls() -> bool:
    """Let this process make only the allowed calls, for good; False where the kernel or processor has no such filter.

    `no_new_privs` must be set.
    """
    if os.uname().machine not in _ARCHITECTURES:
        return False
    place, architecture = _ARCHITECTURES[os.uname().machine]
    filled = b"".join(struct.pack("=HBBI", *line) for line in _program(place, architecture))
    lines = ctypes.create_string_buffer(filled)
    header = struct.pack("@HP", len(filled) // 8, ctypes.addressof(lines))
    return ctypes.CDLL(None).prctl(_SET_SECCOMP, _FILTER, ctypes.create_string_buffer(header), 0, 0) == 0


def _program(place: int, architecture: int) -> list[_Instruction]:
    lines = [(_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, architecture), _returned(_KILL), (_LOAD, 0, 0, _NUMBER)]
    if place == 0:
        lines += [(_AT_LEAST, 0, 1, _X32_BIT), _returned(_REFUSE)]
    for numbers in _CALLS.values():
        if numbers[place] >= 0:
            lines += [(_EQUAL, 0, 1, numbers[place]), _returned(_ALLOW)]
    open_, openat, fcntl = ((2, -1), (257, 56), (72, 25))
    lines += _unless(fcntl[place], 1, 0xFFFFFFFF, _FCNTL_REFUSED)
    lines += _unless(openat[place], 2, _TRUNCATE_MASK, (_READ_ONLY_TRUNCATE,))
    if open_[place] >= 0:
        lines += _unless(open_[place], 1, _TRUNCATE_MASK, (_READ_ONLY_TRUNCATE,))
    return [*lines, _returned(_REFUSE)]


def _unless(number: int, argument: int, mask: int, refused: tuple[int, ...]) -> list[_Instruction]:
    """Allow a call unless an argument, masked, has one of the values."""
    checks = [line for value in refused for line in ((_EQUAL, 0, 1, value), _returned(_REFUSE))]
    load = (_LOAD, 0, 0, _FIRST_ARGUMENT + 8 * argument)  # the low half: both processors are little-endian
    body = [load, (_AND, 0, 0, mask), *checks, _returned(_ALLOW)]
    return [(_EQUAL, 0, len(body), number), *body]


def _returned(verdict: int) -> _Instruction:
    return (_RETURN, 0, 0, verdict)
