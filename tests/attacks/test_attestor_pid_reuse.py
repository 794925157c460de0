"""A pid that changes hands between connecting and being accepted: the newcomer is never taken for the caller."""

from __future__ import annotations

import subprocess
import sys

from attestor_daemon import REPOSITORY

REUSE = """
import os, socket, sys
from pathlib import Path
from attestor.peer import PeerGone, pin_peer, pin_pid

rounds = int(sys.argv[1])
LAST = Path('/proc/sys/kernel/ns_last_pid')
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[2])
listener.listen(1)
listener.settimeout(30)

def start(run, last=None):
    if last is not None:
        LAST.write_text(str(last - 1))
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writer)
        run()
        os.read(reader, 1)
        os._exit(0)
    os.close(reader)
    return pid, writer

def stop(pid, writer):
    os.close(writer)
    os.waitpid(pid, 0)

refused = reused = 0
for _ in range(rounds):
    # The connection outlives its caller: this process holds the same socket.
    with socket.socket(socket.AF_UNIX) as kept:
        caller, writer = start(lambda: kept.connect(sys.argv[2]))
        accepted, _ = listener.accept()
        stop(caller, writer)
        newcomer, writer = start(lambda: None, caller)
        reused += newcomer == caller
        with accepted:
            try:
                pin_peer(accepted).close()
            except PeerGone:
                refused += 1
        with pin_pid(newcomer) as live:
            assert live.alive()
        stop(newcomer, writer)
print(reused, refused)
"""


def test_a_caller_whose_pid_another_process_has_by_now_is_gone_a_thousand_times_out_of_a_thousand(tmp_path) -> None:
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", REUSE, "1000"]
    command.append(str(tmp_path / "s"))
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=110, check=False)
    assert (done.stdout.strip(), done.stderr) == ("1000 1000", "")
