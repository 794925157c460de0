"""The demo as `make demo` runs it: everything observed, and nothing left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
OBSERVED = (
    "components as plain processes",
    "reasoner is attested",
    "book a review with the account's executives",
    "verified",
    "reasoner → crm-assistant/crm-connector  tools/call crm.lookup  hop 2",
    "orchestrator → crm-assistant/crm-connector  tools/call crm.update  hop 1",
    "task.evidence: 1 chain, 16 statements, ",
    "verified: 1 chain, 16 statements, proven to be in custody.demo.example.org/local",
    "reasoner is drifted: its identity was withdrawn after",
    '{"peer":"reasoner","code":"callee_unavailable"}',
    "config_mismatch",
    "Done: everything above was observed",
)


def start(temporary: Path) -> subprocess.Popen[str]:
    # No engine is asked for: the containers have a test of their own on a private engine.
    code = (
        "import demo.__main__ as main, hopseal.cli.engines as engines\n"
        "main.find_engines = lambda: engines.Engines((), ())\n"
        "raise SystemExit(main.main())"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def processes_that_mention(text: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in command:
            found.append(command)
    return found


def short_folder() -> Path:
    """Sockets have short names: pytest's own temporary folders are too long."""
    folder = Path(tempfile.mkdtemp(prefix="hd-"))
    folder.chmod(0o755)
    return folder


def test_the_demo_observes_everything_and_leaves_nothing() -> None:
    temporary = short_folder()
    process = start(temporary)
    shown, _ = process.communicate(timeout=110)
    assert process.returncode == 0, shown
    for text in OBSERVED:
        assert text in shown, text
    assert list(temporary.iterdir()) == []
    assert processes_that_mention(str(temporary)) == []
    temporary.rmdir()


def test_an_interrupted_demo_leaves_nothing_either() -> None:
    temporary = short_folder()
    process = start(temporary)
    assert process.stdout is not None
    for line in process.stdout:
        if re.search("broker is ready", line):
            break
    os.killpg(process.pid, signal.SIGINT)
    shown, _ = process.communicate(timeout=60)
    assert process.returncode == 1, shown
    wait_until(lambda: not processes_that_mention(str(temporary)), timeout_s=20, what="every process ended")
    assert list(temporary.iterdir()) == []
    temporary.rmdir()
