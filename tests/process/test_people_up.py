"""hopseal up as a person uses it: a whole node, asked by the other commands, that leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from cryptography import x509

from hopseal.cli.document_draft import file_digest
from hopseal.log.note import parse_vkey
from waiting import wait_until
from witness_process import WitnessProcess

DOCUMENT = """\
apiVersion: hopseal.dev/v1alpha1
kind: Agent
metadata: {{name: tryout}}
spec:
  owner: someone@example.org
  components:
    - name: shell
      role: environment
      mayStart: true
      svid: both
      attest: {{uid: {uid}, exe: ["{exe}"]}}
      calls: [{{to: echo}}]
    - name: echo
      role: connector
      attest: {{uid: 61999, unsafeUidOnly: true}}
      listen: unix://{folder}/echo.sock
"""


@dataclass
class Node:
    """A running ``hopseal up``."""

    process: subprocess.Popen[str]
    folder: Path
    documents: Path
    output: list[str]
    environment: dict[str, str]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "hopseal.cli.main", *arguments]
        return subprocess.run(
            command, env={**os.environ, **self.environment}, capture_output=True, text=True, check=False
        )

    def children(self) -> list[int]:
        found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(pid) for pid in found]


def start(folder: Path, *more: str) -> Node:
    documents = folder / "agents"
    documents.mkdir(exist_ok=True)
    own = file_digest(Path("/proc/self/exe"))
    (documents / "tryout.yaml").write_text(DOCUMENT.format(uid=os.geteuid(), exe=own, folder=folder))
    command = [sys.executable, "-u", "-m", "hopseal.cli.main", "up", "--documents", documents, *more]
    process = subprocess.Popen(
        [*command, "--state", folder / "node"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    output: list[str] = []
    assert process.stdout is not None
    for line in process.stdout:
        output.append(line)
        if "Ctrl-C" in line:
            break
    else:
        raise AssertionError("".join(output))
    return Node(process, folder, documents, output, sourced_environment(output))


def sourced_environment(output: list[str]) -> dict[str, str]:
    """What a shell has after the command that `up` printed."""
    command = next(line.strip() for line in output if line.lstrip().startswith("source "))
    done = subprocess.run(
        ["bash", "-c", f"{command} && env -0"],
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(each.split("=", 1) for each in done.stdout.split("\0") if each)


def stop(node: Node, number: signal.Signals) -> str:
    node.process.send_signal(number)
    assert node.process.stdout is not None
    return node.process.communicate(timeout=30)[0]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    running = start(tmp_path_factory.mktemp("up"))
    try:
        yield running
    finally:
        stop(running, signal.SIGTERM)


def test_both_daemons_become_ready_and_the_node_is_healthy(node: Node) -> None:
    shown = "".join(node.output)
    assert "attestor is ready after" in shown
    assert "broker is ready after" in shown
    status = node.run("status", "--json")
    assert status.returncode == 0, status.stdout
    assert json.loads(status.stdout)["healthy"] is True


def test_a_shell_that_a_document_describes_fetches_its_svid_into_files(node: Node, tmp_path: Path) -> None:
    fetched = node.run("svid", "fetch", "--write", str(tmp_path / "svid"), "--json")
    assert fetched.returncode == 0, fetched.stderr
    (svid,) = json.loads(fetched.stdout)["svids"]
    assert svid["spiffe_id"] == "spiffe://example.org/agents/tryout/shell"
    files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "svid").iterdir()}
    assert files == {"svid.0.key": 0o600, "svid.0.pem": 0o644, "bundle.0.pem": 0o644}
    leaf = x509.load_pem_x509_certificates((tmp_path / "svid" / "svid.0.pem").read_bytes())[0]
    assert int(leaf.not_valid_after_utc.timestamp()) == svid["expires_at"]
    assert "PRIVATE" not in fetched.stdout


def test_a_jwt_svid_is_for_the_asked_audience(node: Node) -> None:
    fetched = node.run("svid", "fetch", "--audience", "reports")
    assert fetched.returncode == 0, fetched.stderr
    assert fetched.stdout.count(".") == 2


def test_a_call_to_a_component_without_identity_is_refused_with_advice(node: Node) -> None:
    called = node.run("call", "http://echo.tryout/x")
    assert called.returncode in {1, 3}
    assert json.loads(called.stdout)["code"] in {"callee_unavailable", "peer_unreachable"}
    assert "→" in called.stderr


def test_a_call_to_nobody_is_refused(node: Node) -> None:
    called = node.run("call", "http://nobody.tryout/x", "--json")
    assert called.returncode == 1
    assert json.loads(json.loads(called.stdout)["body"])["code"] == "unknown_peer"


def test_a_running_process_is_measured_into_a_document_that_parses(node: Node, tmp_path: Path) -> None:
    target = tmp_path / "settings.json"
    target.write_text("{}")
    drafted = node.run(
        "agents", "init", "fresh", "--pid", f"one={os.getpid()}", "--file", f"one={target}", "--owner", "me@example.org"
    )
    assert drafted.returncode == 0, drafted.stderr
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "fresh.yaml").write_text(drafted.stdout)
    assert node.run("agents", "check", str(tmp_path / "agents")).returncode == 0
    attest = yaml.safe_load(drafted.stdout)["spec"]["components"][0]["attest"]
    assert attest["uid"] == os.geteuid()
    assert attest["config"]["files"] == [str(target)]


def test_a_document_with_another_digest_is_refused_and_approving_what_runs_mends_it(node: Node) -> None:
    path = node.documents / "tryout.yaml"
    good = path.read_text()
    try:
        path.write_text(good.replace(file_digest(Path("/proc/self/exe")), "sha256:" + "0" * 64))
        wait_until(lambda: node.run("svid", "fetch", "--timeout", "2").returncode == 1, timeout_s=30)
        approved = node.run("agents", "approve", "tryout", "--pid", f"shell={os.getpid()}", "--json")
        assert approved.returncode == 0, approved.stderr
        (change,) = json.loads(approved.stdout)["changes"]
        assert (change["component"], change["item"]) == ("shell", "exe")
        wait_until(lambda: node.run("svid", "fetch", "--timeout", "2").returncode == 0, timeout_s=30)
    finally:
        path.write_text(good)


def test_a_suspended_agent_gets_no_identity_until_it_is_resumed(node: Node) -> None:
    assert node.run("agents", "suspend", "tryout").returncode == 0
    refused = node.run("svid", "fetch")
    assert refused.returncode == 1
    assert "no identity here" in refused.stderr
    assert node.run("agents", "resume", "tryout").returncode == 0
    wait_until(lambda: node.run("svid", "fetch").returncode == 0, timeout_s=20)


def test_the_effective_configuration_of_both_daemons_is_shown(node: Node) -> None:
    for daemon in ("attestor", "broker"):
        shown = node.run("config", "show", daemon, "--config", str(node.folder / "node" / f"{daemon}.yaml"), "--json")
        assert shown.returncode == 0, shown.stderr
        assert json.loads(shown.stdout)["node"] == "local"


def test_the_custody_log_is_where_the_exports_say(node: Node) -> None:
    listed = node.run("logs", "-n", "1000", "--json")
    assert listed.returncode == 0, listed.stderr
    assert json.loads(listed.stdout.splitlines()[0])["type"] == "start"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_stops_both_daemons_and_exits_0(tmp_path: Path, number: signal.Signals) -> None:
    running = start(tmp_path)
    children = running.children()
    assert len(children) == 2
    assert "Stopped." in stop(running, number)
    assert running.process.returncode == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)


def test_killing_it_ends_the_daemons_too(tmp_path: Path) -> None:
    running = start(tmp_path)
    children = running.children()
    stop(running, signal.SIGKILL)
    wait_until(lambda: not any(_is_alive(pid) for pid in children), timeout_s=20)


def test_a_daemon_that_dies_is_reported_with_its_log(tmp_path: Path) -> None:
    running = start(tmp_path)
    broker = running.children()[1]
    os.kill(broker, signal.SIGKILL)
    shown, _ = running.process.communicate(timeout=30)
    assert running.process.returncode == 3
    assert "ended with code -9" in shown
    assert "broker.log" in shown


def test_a_folder_that_is_not_there_is_refused_with_how_to_make_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hopseal.cli.main", "up", "--documents", tmp_path / "agents"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"mkdir {tmp_path}/agents" in done.stderr


def test_a_second_node_in_the_folder_is_refused_and_leaves_the_first_alone(node: Node) -> None:
    before = (node.folder / "node" / "attestor.yaml").read_bytes()
    done = node.run("up", "--documents", str(node.documents), "--state", str(node.folder / "node"))
    assert done.returncode == 3
    assert "--state" in done.stderr
    assert "ready" not in done.stdout
    assert (node.folder / "node" / "attestor.yaml").read_bytes() == before
    assert node.run("status").returncode == 0


def test_what_it_prints_puts_the_command_on_the_path(node: Node) -> None:
    found = subprocess.run(
        ["bash", "-c", "command -v hopseal"], env=node.environment, capture_output=True, text=True, check=False
    )
    assert found.stdout.strip() == str(Path(sys.executable).absolute().parent / "hopseal")


def test_a_node_that_ran_before_goes_on_under_a_witness_that_was_given_its_key(tmp_path: Path) -> None:
    first = start(tmp_path)
    vkey = first.run("audit", "key").stdout.strip()
    stop(first, signal.SIGINT)
    with WitnessProcess(tmp_path / "witness", (parse_vkey(vkey),)) as witness:
        second = start(tmp_path, "--witness", witness.url, str(witness.keys[0]))
        try:
            wait_until(lambda: "1 of 1 witness cosign" in second.run("status").stdout, timeout_s=20)
            assert second.run("audit", "key").stdout.strip() == vkey
        finally:
            stop(second, signal.SIGINT)


def test_a_witness_key_that_is_none_is_refused_before_anything_starts(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hopseal.cli.main", "up", "--documents", tmp_path, "--state", tmp_path / "node"]
    done = subprocess.run(
        [*command, "--witness", "http://127.0.0.1:1", "w+00000000+AAAA"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, "no verifier key" in done.stderr) == (2, True)
    assert not (tmp_path / "node").exists()


def test_bad_documents_are_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("kind: [")
    command = [sys.executable, "-m", "hopseal.cli.main", "up", "--documents", tmp_path, "--state", tmp_path / "node"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "x.yaml:1: not YAML" in done.stderr
    assert not (tmp_path / "node").exists()


def _is_alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
