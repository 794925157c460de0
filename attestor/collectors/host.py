"""What the host itself looks like: its namespaces and mounts, to compare a container with.

Owns: finding them. They are those of pid 1 where that may be looked at, else the
attestor's own, but only if the attestor is in the host's initial namespaces; and
otherwise the answer is an error, because comparing with the wrong host would
call a shared namespace private.

Source: linux/nsfs.h, include/linux/proc_ns.h for the inodes of the initial namespaces.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from attestor.collectors.process import read_namespaces
from attestor.proc_text import ProcTextInvalid

_FIRST_PID: Final = 1
_INITIAL: Final = {"ipc": 0xEFFFFFFF, "uts": 0xEFFFFFFE, "user": 0xEFFFFFFD, "pid": 0xEFFFFFFC}


def host_pid() -> int:
    """A process of the host whose namespaces and mounts may be read.

    Raises:
        ProcTextInvalid: none can be told.
        OSError: ``/proc`` cannot be read.
    """
    try:
        namespaces = read_namespaces(_FIRST_PID)
        own = _FIRST_PID
    except PermissionError:  # pid 1 may hold capabilities that the attestor lacks
        own = os.getpid()
        namespaces = read_namespaces(own)
    if not is_initial(namespaces):
        raise ProcTextInvalid("the attestor does not see the host's namespaces; run it in the host's pid namespace")
    return own


def is_initial(namespaces: Mapping[str, int]) -> bool:
    """Whether these are the namespaces that the kernel made at boot, as far as their inodes are fixed."""
    return all(namespaces.get(name) == inode for name, inode in _INITIAL.items())
