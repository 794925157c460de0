"""Which crowd a process belongs to: who, besides its user, shares one allowance.

Owns: the key. Does not own: the allowances (``attestor.admission``).

* In a container the crowd is the container, whatever users its processes take on and whatever cgroups they make
  below its own: neither must multiply what it may ask for.
* Outside, it is the user within the cgroup: users who share a cgroup must not use up each other's allowance.
"""

from __future__ import annotations

from attestor.collectors.cgroup import container_cgroups, main_path
from attestor.collectors.process import read_cgroup
from attestor.peer import PinnedProcess
from hopseal.errors import HopsealError


def crowd_of(process: PinnedProcess) -> str:
    """The key of the crowd; one short read of kernel memory. What cannot be read is a crowd of its user's."""
    try:
        lines = read_cgroup(process.pid)
        containers = container_cgroups(lines)
    except HopsealError:
        return f"unreadable:{process.uid}"
    return f"container:{containers[0].id}" if containers else f"cgroup:{process.uid}:{main_path(lines)}"
