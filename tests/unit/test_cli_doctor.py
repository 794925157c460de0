"""doctor: each finding with its evidence and the remedy that corrects it, and the exit code."""

from __future__ import annotations

import datetime as dt
import json
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

import hopseal
from fake_daemon import fake_daemon
from hopseal.cli.diagnosis import daemons, kernel
from hopseal.cli.diagnosis.documents import check_documents
from hopseal.cli.diagnosis.files import check_files, check_sockets, check_state
from hopseal.cli.diagnosis.finding import Finding, Outcome
from hopseal.cli.diagnosis.services import check_engines, check_grpc_socket, check_spire
from hopseal.cli.diagnosis.settings import DaemonSettings, read_settings
from hopseal.cli.main import cli

SOUND = {"version": hopseal.__version__, "problems": [], "documents": {"sha256": "ab"}}
OK = Finding("x", Outcome.OK, "x")


def settings(**values: Any) -> DaemonSettings:
    return DaemonSettings(OK, values)


def outcomes(findings: Iterator[Finding] | list[Finding]) -> list[tuple[str, str]]:
    return [(each.check, str(each.outcome)) for each in findings]


def bad(findings: Iterator[Finding] | list[Finding]) -> Finding:
    (found,) = [each for each in findings if each.outcome is not Outcome.OK]
    assert found.evidence or found.outcome is Outcome.SKIPPED
    return found


@contextmanager
def answering(path: Path, answer: bytes | None, *, speaks: bool = True) -> Iterator[None]:
    """A socket that answers every connection alike; with None it hangs up, without ``speaks`` it never answers."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        done = threading.Event()

        def serve() -> None:
            peer, _ = server.accept()
            with peer:
                if answer:
                    peer.recv(4096)
                    peer.sendall(answer)
                if not speaks:
                    done.wait(10)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join(10)


def test_this_kernel_has_what_the_daemons_need() -> None:
    assert {each.outcome for each in kernel.check_kernel()} <= {Outcome.OK, Outcome.WARNING}
    assert all(each.evidence for each in kernel.check_kernel())


@pytest.mark.parametrize(
    ("name", "value", "check", "outcome"),
    [
        ("SO_PEERPIDFD", 9999, "kernel.peer_pidfd", Outcome.WARNING),
        ("_SYS_OPENAT2", 9999, "kernel.openat2", Outcome.FAILED),
        ("_AT_EMPTY_PATH", 0, "kernel.pidfd_handles", Outcome.WARNING),
        ("MIN_WATCHES", 1 << 40, "kernel.inotify", Outcome.WARNING),
        ("_WATCHES", Path("/nonexistent"), "kernel.inotify", Outcome.FAILED),
        ("_inode_of", lambda _: 7, "kernel.pidfd_inode", Outcome.FAILED),
    ],
)
def test_what_a_kernel_lacks_is_named_with_the_version_that_has_it(
    monkeypatch: pytest.MonkeyPatch, name: str, value: object, check: str, outcome: Outcome
) -> None:
    monkeypatch.setattr(kernel, name, value)
    found = next(each for each in kernel.check_kernel() if each.check == check)
    assert found.outcome is outcome
    assert found.evidence
    assert found.remedy


def test_a_cgroup_mount_that_says_version_2_is_version_2(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu memory\n")
    monkeypatch.setattr(kernel, "_CGROUP", tmp_path)
    found = next(each for each in kernel.check_kernel() if each.check == "kernel.cgroup")
    assert (found.message, found.evidence) == ("cgroup version 2", "controllers cpu memory")


@pytest.mark.parametrize(("status", "outcome"), [(0x2001, Outcome.OK), (0x0041, Outcome.WARNING)])
def test_a_clock_that_nobody_keeps_is_a_warning(monkeypatch: pytest.MonkeyPatch, status: int, outcome: Outcome) -> None:
    class Libc:
        def adjtimex(self, buffer: Any) -> int:
            struct.pack_into("=i", buffer, 40, status)
            struct.pack_into("=q", buffer, 24, 1500)
            return 0

    monkeypatch.setattr(kernel, "_libc", Libc())
    (found,) = kernel.check_clock()
    assert (found.outcome, "0.002 s" in found.evidence) == (outcome, True)


@pytest.mark.parametrize(("mode", "outcome"), [(0o644, "ok"), (0o600, "ok"), (0o664, "failed"), (0o646, "failed")])
def test_what_decides_must_not_be_writable_by_others(tmp_path: Path, mode: int, outcome: str) -> None:
    documents = tmp_path / "agents"
    documents.mkdir(mode=0o755)
    for path in (tmp_path / "attestor.yaml", documents / "a.yaml"):
        path.write_text("")
        path.chmod(mode)
    (documents / "notes.txt").write_text("")
    (documents / "notes.txt").chmod(0o666)
    findings = list(check_files((tmp_path / "attestor.yaml", tmp_path / "absent.yaml"), documents))
    assert outcomes(findings) == [("files.config", outcome), ("files.documents", "ok"), ("files.documents", outcome)]
    if outcome == "failed":
        assert findings[0].remedy == f"chmod 0644 {tmp_path}/attestor.yaml"
        assert f"mode {mode:04o}" in findings[0].evidence


def test_state_and_keys_that_others_can_read_are_failures(tmp_path: Path) -> None:
    for name, mode in (("a", 0o700), ("b", 0o750)):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(mode)
    (tmp_path / "a" / "ca.key").write_text("")
    (tmp_path / "a" / "ca.key").chmod(0o640)
    found = list(check_state(settings(state_dir=str(tmp_path / "a")), settings(state_dir=str(tmp_path / "b"))))
    assert outcomes(found) == [
        ("files.attestor_state", "ok"),
        ("files.attestor_state", "failed"),
        ("files.broker_state", "failed"),
    ]
    assert found[1].remedy == f"chmod 0600 {tmp_path}/a/ca.key"
    assert found[2].remedy == f"chmod 0700 {tmp_path}/b"


def test_a_symlink_and_a_missing_folder_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    link, missing = (
        bad(check_state(settings(state_dir=str(tmp_path / name)), settings())) for name in ("link", "missing")
    )
    assert (link.outcome, link.message) == (Outcome.FAILED, f"{tmp_path}/link is a symlink")
    assert (missing.outcome, missing.message) == (Outcome.SKIPPED, f"{tmp_path}/missing does not exist yet")


@pytest.mark.parametrize(
    ("folder", "public", "private", "wrong"),
    [
        (0o755, 0o777, 0o660, None),
        (0o755, 0o666, 0o600, None),
        (0o755, 0o660, 0o660, "chmod 0777 {}/public"),
        (0o755, 0o777, 0o666, "chmod 0660 {}/private"),
    ],
)
def test_sockets_let_in_whom_they_should(
    tmp_path: Path, folder: int, public: int, private: int, wrong: str | None
) -> None:
    tmp_path.chmod(folder)
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as two:
        one.bind(str(tmp_path / "public"))
        two.bind(str(tmp_path / "private"))
        (tmp_path / "public").chmod(public)
        (tmp_path / "private").chmod(private)
        paths = ((tmp_path / "public", tmp_path / "absent"), (tmp_path / "private",))
        remedies = [each.remedy for each in check_sockets(*paths) if each.outcome is Outcome.FAILED]
    assert remedies == ([wrong.format(tmp_path)] if wrong else [])


@pytest.mark.parametrize(
    ("mode", "message"), [(0o775, "is open to others"), (0o750, "does not let every component in")]
)
def test_the_folder_of_a_public_socket_is_open_to_all_and_writable_by_none(
    tmp_path: Path, mode: int, message: str
) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        (tmp_path / "s").chmod(0o777)
        tmp_path.chmod(mode)
        found = bad(check_sockets((tmp_path / "s",), ()))
    assert (found.check, message in found.message) == ("sockets.folder", True)
    assert found.remedy == f"chmod 0755 {tmp_path}"


SETTINGS_FRAME = b"\0\0\0\x04\0\0\0\0\0"


def test_a_grpc_server_is_known_by_its_settings_frame(tmp_path: Path) -> None:
    with answering(tmp_path / "s", SETTINGS_FRAME):
        assert check_grpc_socket("x", tmp_path / "s", "it", "start it").outcome is Outcome.OK
    for number, answer in enumerate((b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0\0")):
        with answering(tmp_path / f"s{number}", answer):
            found = check_grpc_socket("x", tmp_path / f"s{number}", "it", "start it")
        assert (found.outcome, "does not speak gRPC" in found.message) == (Outcome.FAILED, True)


def test_spire_that_is_absent_or_hangs_is_named_by_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hopseal.cli.diagnosis.services.TIMEOUT_S", 0.1)
    upstream = {"workload_socket": str(tmp_path / "w"), "admin_socket": str(tmp_path / "a")}
    with answering(tmp_path / "w", None, speaks=False):
        hung, absent = check_spire(settings(upstream=upstream))
    assert (hung.check, hung.outcome, hung.remedy) == (
        "spire.workload_socket",
        Outcome.FAILED,
        "systemctl restart spire-agent",
    )
    assert (absent.check, absent.remedy) == ("spire.admin_socket", "systemctl start spire-agent")
    assert "No such file" in absent.evidence
    assert list(check_spire(settings(upstream={"state_dir": "/x"}))) == []


def test_an_engine_is_asked_and_its_version_shown(tmp_path: Path) -> None:
    good = b"HTTP/1.1 200 OK\r\nApi-Version: 1.51\r\nContent-Length: 2\r\n\r\nOK"
    with answering(tmp_path / "d", good):
        (found,) = check_engines(settings(docker=[str(tmp_path / "d")], podman=[]))
    assert (found.check, found.outcome, "API 1.51" in found.evidence) == ("engine.docker", Outcome.OK, True)


@pytest.mark.parametrize(
    ("answer", "evidence", "remedy"),
    [
        (b"HTTP/1.1 500 No\r\nContent-Length: 4\r\n\r\nsick", "500 'sick'", "systemctl restart podman"),
        (b"nonsense\r\n\r\n", "nonsense", "correct engines in attestor.yaml"),
    ],
)
def test_an_engine_that_is_not_well_is_a_failure(tmp_path: Path, answer: bytes, evidence: str, remedy: str) -> None:
    with answering(tmp_path / "p", answer):
        (found,) = check_engines(settings(docker=[], podman=[str(tmp_path / "p")]))
    assert (found.outcome, evidence in found.evidence, found.remedy) == (Outcome.FAILED, True, remedy)


def test_no_engine_and_an_absent_one_are_told_apart(tmp_path: Path) -> None:
    assert outcomes(check_engines(settings(docker=[], podman=[]))) == [("engine.none", "skipped")]
    found = bad(check_engines(settings(docker=[str(tmp_path / "no")])))
    assert (found.outcome, found.remedy) == (Outcome.FAILED, "systemctl start docker.socket")
    assert list(check_engines(DaemonSettings(OK, None))) == []


def test_every_mistake_of_the_documents_is_a_finding_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("apiVersion: hopseal.dev/v1alpha1\nkind: Agnet\nmetadata: {name: A}\n")
    found = list(check_documents(tmp_path, "example.org"))
    assert {each.evidence for each in found} >= {f"{tmp_path}/a.yaml:2", f"{tmp_path}/a.yaml:3"}
    assert all(each.outcome is Outcome.FAILED and each.remedy for each in found)
    (tmp_path / "a.yaml").unlink()
    assert bad(check_documents(tmp_path, "example.org")).outcome is Outcome.WARNING
    assert bad(check_documents(tmp_path / "absent", "example.org")).outcome is Outcome.FAILED
    assert bad(check_documents(tmp_path, "not a domain")).outcome is Outcome.FAILED


def test_a_configuration_is_read_as_the_daemon_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "attestor.yaml"
    file.write_text("trust_domain: example.org\nnode: n1\nupstream: {kind: embedded}\n")
    read = read_settings("attestor", file)
    assert read.finding.outcome is Outcome.OK
    assert read.path("upstream", "state_dir") == Path("/var/lib/hopseal/attestor/authority")
    assert read.path("sockets", "nothing") is None
    file.write_text("trust_domain: example.org\nnode: N1\nupstream: {kind: embeded}\n")
    broken = read_settings("attestor", file)
    assert (broken.finding.outcome, broken.values) == (Outcome.FAILED, None)
    assert "attestor.yaml:2" in broken.finding.message + broken.finding.evidence
    assert read_settings("attestor", tmp_path / "absent").finding.outcome is Outcome.WARNING


def ask(tmp_path: Path, answer: dict[str, Any], status: int = 200) -> list[Finding]:
    with fake_daemon(tmp_path / "s", {"GET /v1/status": (status, answer)}):
        return daemons.ask_daemon("attestor", tmp_path / "s")[0]


def test_each_problem_of_a_daemon_is_a_finding(tmp_path: Path) -> None:
    assert outcomes(ask(tmp_path, SOUND)) == [("attestor.reachable", "ok")]
    found = ask(tmp_path, {**SOUND, "problems": ["one", "two"], "version": "0.0.1"})
    assert [(each.check, each.message) for each in found[1:3]] == [
        ("attestor.health", "one"),
        ("attestor.health", "two"),
    ]
    assert found[3].check == "attestor.version"
    assert found[3].evidence == f"0.0.1 and {hopseal.__version__}"


def test_a_daemon_that_does_not_answer_is_to_be_started(tmp_path: Path) -> None:
    (found,), status = daemons.ask_daemon("broker", tmp_path / "absent")
    assert (found.check, found.outcome, status) == ("broker.reachable", Outcome.FAILED, None)
    assert found.remedy.startswith("systemctl start hopseal-broker")
    assert outcomes(ask(tmp_path, {"code": "x", "message": "not you"}, 403)) == [("attestor.reachable", "skipped")]


def test_daemons_that_read_different_documents_are_a_failure() -> None:
    other = {**SOUND, "documents": {"sha256": None}}
    assert outcomes(daemons.check_agreement(SOUND, SOUND)) == [("documents.agreement", "ok")]
    assert outcomes(daemons.check_agreement(SOUND, other)) == [("documents.agreement", "failed")]
    assert list(daemons.check_agreement(SOUND, None)) == []


def component(state: str, expires_at: float | None) -> dict[str, Any]:
    instance = {"state": state, "svid_expires_at": expires_at}
    return {"component": "crm/a", "state": state, "code": "c", "message": "m", "instances": [instance]}


@pytest.mark.parametrize(
    ("expires_at", "outcome", "evidence"),
    [
        (1630, "ok", "1 in use, the first expires in 10m"),
        (1029, "warning", "expires in 29s"),
        (1000, "failed", "expired 0s ago"),
        (940, "failed", "expired 1m ago"),
    ],
)
def test_an_svid_that_is_not_renewed_is_seen_before_and_after_its_end(
    expires_at: float, outcome: str, evidence: str
) -> None:
    status = {"components": [component("attested", expires_at), component("gone", 1)]}
    (found,) = daemons.check_expiries(status, None, now=1000)
    assert (found.outcome, found.evidence) == (outcome, evidence)


def test_the_brokers_svids_count_and_nobodys_is_no_finding() -> None:
    broker = {
        "identities": [{"component": "crm/b", "svid_expires_at": 900}, {"component": None, "svid_expires_at": 1}],
        "attestor": {"svid_expires_at": 5000},
    }
    found = bad(daemons.check_expiries(None, broker, now=1000))
    assert found.message == "the SVID of crm/b is not renewed"
    assert list(daemons.check_expiries({"components": []}, {"identities": [], "attestor": {}}, now=1)) == []


def test_components_in_trouble_are_named_with_the_command_that_explains_them() -> None:
    states = ("attested", "gone", "drifted", "refused", "unreadable", "suspended")
    found = list(daemons.check_components({"components": [component(each, None) for each in states]}))
    assert [each.message for each in found] == [f"crm/a is {state}" for state in ("drifted", "refused", "unreadable")]
    assert {each.remedy for each in found} == {"hopseal explain crm/a"}


@pytest.mark.parametrize(
    ("age_s", "outcome"), [(60, "ok"), (-3600, "failed"), (470, "warning"), (430, "ok"), (601, "failed")]
)
def test_the_age_of_the_attestors_certificate_is_judged(
    monkeypatch: pytest.MonkeyPatch, certificate: Callable[[dt.datetime], bytes], age_s: int, outcome: str
) -> None:
    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    monkeypatch.setattr(daemons, "_shown_certificate", lambda _: certificate(now))
    found = daemons.check_certificate(Path("/s"), now=now + dt.timedelta(seconds=age_s))
    assert found.outcome == outcome
    assert "lives 10m" in found.evidence


@pytest.fixture
def certificate() -> Callable[[dt.datetime], bytes]:
    """One that begins at the moment given and lives for ten minutes."""

    def make(begins: dt.datetime) -> bytes:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(x509.Name([]))
        builder = builder.public_key(key.public_key()).serial_number(1)
        builder = builder.not_valid_before(begins).not_valid_after(begins + dt.timedelta(minutes=10))
        return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)

    return make


def test_no_certificate_is_a_failure_that_names_the_log(tmp_path: Path) -> None:
    found = daemons.check_certificate(tmp_path / "absent")
    assert (found.outcome, "journalctl" in found.remedy) == (Outcome.FAILED, True)


def run(tmp_path: Path, *arguments: str) -> Any:
    paths = [
        ("--attestor-config", "attestor.yaml"), ("--broker-config", "broker.yaml"), ("--documents", "agents"),
        ("--attestor-socket", "a.sock"), ("--broker-socket", "b.sock"),
    ]  # fmt: skip
    named = [part for option, name in paths for part in (option, str(tmp_path / name))]
    return CliRunner().invoke(cli, ["doctor", *named, *arguments], catch_exceptions=False)


def test_a_node_that_is_not_there_exits_1_with_what_to_do_first(tmp_path: Path) -> None:
    result = run(tmp_path)
    assert result.exit_code == 1
    assert "systemctl start hopseal-attestor" in result.stdout
    assert " ok " not in result.stdout
    data = json.loads(run(tmp_path, "--json").stdout)
    assert data["sound"] is False
    assert all(each.keys() == {"check", "outcome", "message", "evidence", "remedy"} for each in data["findings"])
    assert all(each["remedy"] for each in data["findings"] if each["outcome"] in {"failed", "warning"})


def test_warnings_do_not_fail_and_what_is_in_order_is_shown_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(_place: object) -> Iterator[Finding]:
        yield Finding("a.one", Outcome.OK, "good", "seen")
        yield Finding("a.two", Outcome.WARNING, "careful", "seen", "do it")

    monkeypatch.setattr("hopseal.cli.doctor._look", look)
    brief, full = run(tmp_path), run(tmp_path, "--all")
    assert (brief.exit_code, full.exit_code) == (0, 0)
    assert ("a.one" in brief.stdout, "a.two" in brief.stdout, "a.one" in full.stdout) == (False, True, True)
    assert "2 checks: 0 failed, 1 warning, 0 skipped" in brief.stdout


def test_somebody_who_is_not_root_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "sudo hopseal doctor" in run(tmp_path).stdout
