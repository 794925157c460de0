"""Parts below the commands: who can reach what, engines by their sockets, Workload API answers, files with keys."""

from __future__ import annotations

import json
import os
import socket
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from broker.config import load_config
from hopseal.cli import engines as engines_module
from hopseal.cli.engines import find_engines
from hopseal.cli.node_plan import NodePlan, is_reachable_by_others, lay_out_node
from hopseal.cli.output import format_age, format_since, format_until, print_json
from hopseal.cli.svid_files import replace_file
from hopseal.cli.workload import _parse_snapshot, _socket_path, _split_der
from hopseal.errors import DeniedError, InvalidError
from hopseal.wire.gen.spiffe.workload.workload_pb2 import X509SVID, X509SVIDResponse
from tlog_parts import W1
from vectors import pki


@pytest.mark.parametrize(
    ("folder_mode", "file_mode", "reachable"), [(0o755, 0o644, True), (0o700, 0o644, False), (0o755, 0o600, False)]
)
def test_others_reach_a_file_by_every_folder_above_it(
    monkeypatch: pytest.MonkeyPatch, folder_mode: int, file_mode: int, reachable: bool
) -> None:
    folder = Path("/tmp") / f"hopseal-reach-{os.getpid()}-{folder_mode:o}-{file_mode:o}"
    folder.mkdir()
    try:
        (folder / "x").write_text("")
        (folder / "x").chmod(file_mode)
        folder.chmod(folder_mode)
        assert is_reachable_by_others(folder / "x") is reachable
    finally:
        (folder / "x").unlink()
        folder.rmdir()


def test_a_link_counts_with_the_folders_of_what_it_names() -> None:
    folder = Path("/tmp") / f"hopseal-link-{os.getpid()}"
    (folder / "private").mkdir(parents=True)
    try:
        (folder / "private" / "x").write_text("")
        (folder / "link").symlink_to(folder / "private" / "x")
        assert is_reachable_by_others(folder / "link")
        (folder / "private").chmod(0o700)
        assert not is_reachable_by_others(folder / "link")
    finally:
        (folder / "link").unlink()
        (folder / "private" / "x").unlink()
        (folder / "private").rmdir()
        folder.rmdir()


def test_what_does_not_exist_hinders_nobody() -> None:
    assert is_reachable_by_others(Path("/nowhere/at/all"))


def test_a_node_is_laid_out_with_private_state_and_an_interpreter_of_its_own(tmp_path: Path) -> None:
    plan = NodePlan(tmp_path / "node", tmp_path / "agents", "example.org")
    first = lay_out_node(plan).read_bytes()
    modes = {
        name: stat.S_IMODE((plan.folder / name).stat().st_mode) for name in ("state/attestor", "state/broker", "call")
    }
    assert modes == {"state/attestor": 0o700, "state/broker": 0o700, "call": 0o755}
    assert lay_out_node(plan).read_bytes() != first, "two nodes must not share the digest of their brokers"


def test_a_node_is_laid_out_under_the_witnesses_that_it_is_given(tmp_path: Path) -> None:
    for witnesses, quorum in (((), 0), ((("http://127.0.0.1:7380", str(W1.key)),), 1)):
        plan = NodePlan(tmp_path / "node", tmp_path, "example.org", witnesses=witnesses)
        lay_out_node(plan)
        audit = load_config(plan.folder / "broker.yaml").audit
        assert [(url, str(vkey)) for url, vkey in audit.witnesses] == list(witnesses)
        assert audit.quorum == quorum


def test_an_engine_is_found_once_however_many_names_it_has(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "engine.sock"
    (tmp_path / "no-socket").write_text("")
    (tmp_path / "link.sock").symlink_to(path)
    monkeypatch.setattr(engines_module, "DOCKER_SOCKETS", (tmp_path / "link.sock", tmp_path / "no-socket"))
    monkeypatch.setattr(engines_module, "PODMAN_SOCKETS", (tmp_path / "absent",))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        assert find_engines().docker == (path,)
    assert find_engines().podman == ()
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:2375")
    assert find_engines().docker == (path,)


def test_a_file_is_replaced_at_once_with_its_mode_and_nothing_left_over(tmp_path: Path) -> None:
    target = tmp_path / "key"
    target.write_text("old")
    target.chmod(0o644)
    with target.open() as reader:
        replace_file(target, b"new", 0o600)
        assert reader.read() == "old"
    assert target.read_text() == "new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [target]


def response(**changes: object) -> X509SVIDResponse:
    fields = {
        "spiffe_id": f"spiffe://{pki.PROD}/agents/crm/shell",
        "x509_svid": pki.SHELL.der + pki.PROD_CA.der,
        "x509_svid_key": b"key",
        "bundle": pki.PROD_CA.der,
        "hint": "main",
    }
    return X509SVIDResponse(
        svids=[X509SVID(**(fields | changes))], federated_bundles={"spiffe://b.example": pki.PROD_CA.der}
    )


def test_an_answer_of_the_workload_api_becomes_svids_and_bundles_kept_apart() -> None:
    snapshot = _parse_snapshot(response())
    (svid,) = snapshot.svids
    assert (svid.chain_der, svid.hint) == ((pki.SHELL.der, pki.PROD_CA.der), "main")
    leaf = x509.load_der_x509_certificate(pki.SHELL.der)
    assert svid.expires_at == int(leaf.not_valid_after_utc.timestamp())
    assert [bundle.trust_domain.name for bundle in snapshot.bundles] == [pki.PROD, "b.example"]
    assert snapshot.bundles.own.x509_authorities == (pki.PROD_CA.der,)


@pytest.mark.parametrize(
    "changes",
    [{"x509_svid": b""}, {"x509_svid": b"\x30\x82"}, {"bundle": b"x"}, {"spiffe_id": "no id"}, {"x509_svid": b"\x30"}],
)
def test_a_malformed_answer_is_our_error(changes: dict[str, object]) -> None:
    with pytest.raises(InvalidError):
        _parse_snapshot(response(**changes))


def test_an_answer_without_svids_is_no_identity() -> None:
    with pytest.raises(DeniedError):
        _parse_snapshot(X509SVIDResponse())


def test_certificates_in_a_row_are_told_apart() -> None:
    row = (pki.SHELL.der, pki.PROD_CA.der, pki.SHELL.der)
    assert _split_der(b"".join(row)) == row
    assert x509.load_der_x509_certificate(row[0]).public_bytes(Encoding.DER) == row[0]


@pytest.mark.parametrize(
    ("endpoint", "path"), [("unix:///run/a.sock", "/run/a.sock"), ("unix:/run/a.sock", "/run/a.sock")]
)
def test_a_workload_api_address_names_an_absolute_socket(endpoint: str, path: str) -> None:
    assert _socket_path(endpoint) == path


@pytest.mark.parametrize(
    "endpoint", ["", "/run/a.sock", "unix://run/a.sock", "unix:a", "tcp://127.0.0.1:1", "unix:////a"]
)
def test_any_other_address_is_refused(endpoint: str) -> None:
    with pytest.raises(InvalidError):
        _socket_path(endpoint)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59.9, "59s"), (60, "1m"), (3600, "1h"), (86_400, "1d"), (-120, "-2m")]
)
def test_an_age_is_in_its_largest_fitting_unit(seconds: float, text: str) -> None:
    assert format_age(seconds) == text


def test_moments_are_shown_relative_to_now() -> None:
    assert (format_since(10, now=70), format_since(None), format_since(0)) == ("1m", "-", "-")
    assert (format_until(70, now=10), format_until(10, now=10), format_until(None)) == ("1m", "expired", "-")


def test_json_holds_no_character_that_a_terminal_obeys_and_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    data = {"op\u202e": ["\x1b[2J\n\x7f\x9b\u2028\U000e0001", "größer"]}
    print_json(data)
    written = capsys.readouterr().out
    assert json.loads(written) == data
    assert all(line.isprintable() for line in written.split("\n"))
    assert "größer" in written
