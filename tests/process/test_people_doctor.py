"""doctor on a real attestor: sound when it is, and each thing that is then broken is found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from attestor_daemon import Daemon

DOCUMENT = """\
apiVersion: hopseal.dev/v1alpha1
kind: Agent
metadata: {name: crm}
spec:
  owner: someone@example.org
  components:
    - {name: orchestrator, role: orchestrator, attest: {uid: 24399, unsafeUidOnly: true}}
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Daemon:
    made = Daemon(tmp_path)
    made.write(DOCUMENT)
    return made


async def diagnose(daemon: Daemon) -> dict[str, dict[str, Any]]:
    """The findings about the attestor; the newest of each check that is not in order, else one that is."""
    nowhere = str(daemon.folder / "no-broker.yaml")
    result = await daemon.command(
        "doctor", "--json", "--attestor-config", str(daemon.config_file), "--broker-config", nowhere
    )
    found: dict[str, dict[str, Any]] = {}
    for each in json.loads(result.stdout)["findings"]:
        if each["outcome"] != "ok" or each["check"] not in found:
            found[each["check"]] = each
    return found


def failures(found: dict[str, dict[str, Any]]) -> set[str]:
    return {name for name, each in found.items() if each["outcome"] == "failed"}


async def test_a_sound_attestor_has_no_failure_but_the_absent_broker(daemon: Daemon) -> None:
    async with daemon.running():
        found = await diagnose(daemon)
        health = (await daemon.ask("/healthz"))[1]
    assert health["healthy"]
    assert failures(found) == {"broker.reachable"}
    assert found["certificates.attestor"]["outcome"] == "ok"
    assert found["sockets.workload_api"]["outcome"] == "ok"
    assert found["files.authority"]["outcome"] == "ok"
    assert "1 agent, 1 active" in found["documents.valid"]["evidence"]


async def test_what_is_broken_is_found_with_the_command_that_mends_it(daemon: Daemon) -> None:
    async with daemon.running():
        (daemon.folder / "state").chmod(0o755)
        daemon.documents.chmod(0o777)
        daemon.workload.chmod(0o700)
        daemon.admin.parent.chmod(0o777)
        daemon.write(DOCUMENT.replace("orchestrator, role", "orchestrator, rule"))
        found = await diagnose(daemon)
    assert failures(found) >= {
        "files.attestor_state",
        "files.documents",
        "sockets.public",
        "sockets.folder",
        "documents.valid",
    }
    assert found["files.attestor_state"]["remedy"] == f"chmod 0700 {daemon.folder}/state"
    assert found["sockets.public"]["remedy"] == f"chmod 0777 {daemon.workload}"
    assert found["documents.valid"]["evidence"].endswith("crm.yaml:7")


async def test_without_an_attestor_its_own_checks_are_left_out(daemon: Daemon) -> None:
    found = await diagnose(daemon)
    assert "attestor.reachable" in failures(found)
    assert "certificates.attestor" not in found
