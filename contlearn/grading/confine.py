"""What a student's process gives up before the first line of the student runs: memory, files, the network, signals.

Everything here is for the process that calls it, and cannot be taken back. How much there is to give up depends on the
system: Linux from 6.12 on knows all of it, other systems a part. `confine` says what it could not do.
"""

import ctypes
import os
import sys
from pathlib import Path

LARGEST_FILE = 256 * 2**20  # bytes

_LINUX = sys.platform == "linux"
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 36, 38
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every processor
_WRITES = {1: 0x1FF2, 2: 0x2000, 3: 0x4000}  # what each version of Landlock can keep a process from changing


def confine(folder: Path, memory: int) -> list[str]:
    """Limit this process to `memory` bytes and to writing below `folder`; return what this system cannot limit."""
    missing = []
    if not _limit_memory(memory):
        missing.append("memory")
    version = _landlock(folder)
    if version < 1:
        missing.append("files outside its own folder")
    if version < 4:
        missing.append("the network")
    if version < 6:
        missing.append("signals to other processes")
    return missing


def die_with_parent() -> None:
    """On Linux: be killed when the parent is."""
    if _LINUX:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0)


def adopt_orphans() -> bool:
    """On Linux: descendants whose parents are gone become children of this process. Return whether they do."""
    return _LINUX and ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0


def _limit_memory(memory: int) -> bool:
    try:
        import resource
    except ImportError:  # Windows
        return False
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, LARGEST_FILE))
    if not _LINUX:  # macOS accepts the limit, and does not keep it
        return False
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    return True


def _landlock(folder: Path) -> int:
    """Keep this process from changing files outside `folder`, from TCP and from signals; return Landlock's version."""
    if not _LINUX:
        return 0
    libc = ctypes.CDLL(None, use_errno=True)
    version = int(libc.syscall(_CREATE_RULESET, None, 0, 1))
    if version < 1:
        return 0
    files = sum(rights for since, rights in _WRITES.items() if since <= version)
    ruleset = (ctypes.c_uint64 * 3)(files, 0b11 if version >= 4 else 0, 0b11 if version >= 6 else 0)
    length = 24 if version >= 6 else 16 if version >= 4 else 8
    descriptor = libc.syscall(_CREATE_RULESET, ruleset, length, 0)
    if descriptor < 0:
        return 0
    for place in (folder, Path("/dev/null")):
        beneath = os.open(place, os.O_PATH)
        allowed = files if place == folder else files & 0x4002  # a file can only be written and shortened
        rule = ctypes.create_string_buffer(allowed.to_bytes(8, sys.byteorder) + beneath.to_bytes(4, sys.byteorder), 12)
        added = libc.syscall(_ADD_RULE, descriptor, 1, rule, 0)
        os.close(beneath)
        if added:
            return 0
    done = not libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) and not libc.syscall(_RESTRICT_SELF, descriptor, 0)
    os.close(descriptor)
    return version if done else 0
