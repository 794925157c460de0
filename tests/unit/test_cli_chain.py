"""hopseal chain show and logs: from log files and header lines, as a tree or JSON, with the right exit code."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from audit_scene import hash_of, tell
from custody_calls import Node, begin, go_on
from custody_logs import LogFile
from hopseal.cli.followed_log import FollowedLog
from hopseal.cli.main import cli
from hopseal.custody.headers import format_custody_fields
from hopseal.custody.receiver import Accepted
from hopseal.log.entries import format_line
from hopseal.log.segments import format_closed_name
from vectors import pki
from vectors.pki import NOW
from vectors.scene import some_hash


@dataclass
class Scene:
    """shell → orchestrator → reasoner, logged by two nodes."""

    first: Accepted
    second: Accepted
    left: Path
    right: Path

    @property
    def cid(self) -> str:
        return self.first.newest.record.cid


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    orchestrator, reasoner = Node("orchestrator"), Node("reasoner")
    first = begin("shell", orchestrator)
    second = go_on(first, orchestrator, reasoner)
    left, right = LogFile("left"), LogFile("right")
    for accepted, receiving in ((first, left), (second, right)):
        left.sent(accepted.newest.text)
        receiving.received(accepted)
    (tmp_path / "left").mkdir()
    (tmp_path / "left" / "custody.log").write_bytes(left.bytes())
    (tmp_path / "right.log").write_bytes(right.bytes())
    return Scene(first, second, tmp_path / "left", tmp_path / "right.log")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(each) for each in arguments], catch_exceptions=False)


def show(scene: Scene, *arguments: object) -> Result:
    return run("chain", "show", "--log", scene.left, "--log", scene.right, *arguments)


def test_a_chain_is_printed_as_a_tree_with_the_nodes_that_saw_it(scene: Scene) -> None:
    result = show(scene, "--cid", scene.cid)
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[0].split() == ["chain", scene.cid, "verified"]
    assert "└─ ✓" in lines[2]
    assert lines[3].startswith("   └─ ✓")
    assert lines[3].endswith("hop 1  (left ⇒ right)")


@pytest.mark.parametrize("way", ["--last", "--cid", "--jti", "--task"])
def test_a_chain_is_found_by_each_way_of_naming_it(scene: Scene, way: str) -> None:
    record = scene.first.newest.record
    assert record.task is not None
    value = {"--last": [], "--cid": [record.cid], "--jti": [scene.second.newest.record.jti], "--task": [record.task.id]}
    shown = json.loads(show(scene, way, *value[way], "--json").stdout)
    assert [each["cid"] for each in shown] == [scene.cid]


def test_json_nests_the_hops_and_says_who_saw_them(scene: Scene) -> None:
    (chain,) = json.loads(show(scene, "--last", "--json").stdout)
    assert chain["verified"] is True
    assert chain["damage"] == chain["rejected"] == []
    (hop,) = chain["hops"]
    (inner,) = hop["children"]
    assert (hop["hop"], inner["hop"]) == (0, 1)
    assert inner["verified"] is True
    assert {(each["node"], each["direction"]) for each in inner["seen"]} == {("left", "sent"), ("right", "received")}


def test_a_missing_side_is_named(scene: Scene) -> None:
    result = run("chain", "show", "--last", "--log", scene.left)
    assert "(only sent, on left)" in result.output


def test_a_chain_whose_ancestor_no_log_holds_does_not_verify_and_exits_1(scene: Scene, tmp_path: Path) -> None:
    log = LogFile("left")
    log.sent(scene.second.newest.text)
    (tmp_path / "cut.log").write_bytes(log.bytes())
    result = run("chain", "show", "--last", "--log", tmp_path / "cut.log")
    assert result.exit_code == 1
    assert "✗" in result.output
    assert "custody_unresolved" in result.output


def test_a_refused_message_is_shown_with_its_code(scene: Scene) -> None:
    log = LogFile("left")
    log.sent(scene.first.newest.text)
    log.received(scene.first)
    log.received(scene.first, verdict="refused", code="custody_replayed", detail="again")
    (scene.left / "custody.log").write_bytes(log.bytes())
    assert "refused on left: custody_replayed" in show(scene, "--cid", scene.cid).output


def test_an_entry_whose_claims_differ_from_its_record_is_said_and_exits_1(scene: Scene) -> None:
    log = LogFile("left")
    log.sent(scene.first.newest.text, op="GET /something/else")
    (scene.left / "custody.log").write_bytes(log.bytes())
    result = show(scene, "--cid", scene.cid)
    assert result.exit_code == 1
    assert "the log contradicts itself on left" in result.output
    (chain,) = json.loads(show(scene, "--cid", scene.cid, "--json").stdout)
    assert chain["contradictions"][0]["code"] == "log_contradiction"


def test_a_damaged_log_is_said_and_exits_1(scene: Scene) -> None:
    data = bytearray((scene.left / "custody.log").read_bytes())
    data[20] ^= 1
    (scene.left / "custody.log").write_bytes(bytes(data))
    result = show(scene, "--cid", scene.cid)
    assert result.exit_code == 1
    assert "the log is damaged" in result.output


def test_a_chain_out_of_headers_verifies_against_a_given_bundle(scene: Scene, tmp_path: Path) -> None:
    certificates = [pki.SHELL.der, pki.ORCHESTRATOR.der]
    fields = format_custody_fields(scene.second.newest.text, [scene.first.newest.text], certificates)
    (tmp_path / "headers").write_text("".join(f"{name}: {value}\r\n" for name, value in [("Host", "x"), *fields]))
    authority = x509.load_der_x509_certificate(pki.PROD_CA.der).public_bytes(Encoding.PEM)
    (tmp_path / "ca.pem").write_bytes(authority)
    arguments = ["chain", "show", "--headers", tmp_path / "headers", "--log", tmp_path / "none"]
    trusted = run(*arguments, "--bundle", tmp_path / "ca.pem", "--trust-domain", pki.PROD)
    assert trusted.exit_code == 0, trusted.output
    assert "hop 1" in trusted.output
    assert run(*arguments).exit_code == 1


def test_headers_that_cannot_be_read_are_unavailable(tmp_path: Path) -> None:
    result = run("chain", "show", "--headers", tmp_path / "none")
    assert result.exit_code == 3
    assert "standard input" in result.stderr


@pytest.mark.parametrize("content", [b"", b"Host: x\r\n", b"Custody-Record: a.b.c\r\n", b"\xff\xfe: \x00"])
def test_headers_without_a_readable_record_are_bad_input(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "headers").write_bytes(content)
    result = run("chain", "show", "--headers", tmp_path / "headers")
    assert result.exit_code == 2
    assert "Custody-Record" in result.stderr


@pytest.mark.parametrize("arguments", [[], ["--last", "--cid", "x"], ["--jti", "a", "--task", "b"]])
def test_a_chain_must_be_named_in_exactly_one_way(scene: Scene, arguments: list[str]) -> None:
    assert show(scene, *arguments).exit_code == 2


def test_an_unknown_chain_is_bad_input(scene: Scene) -> None:
    result = show(scene, "--cid", "nothing")
    assert result.exit_code == 2
    assert "chain_unknown" in result.stderr


def test_a_log_without_a_chain_says_how_to_get_one(tmp_path: Path) -> None:
    (tmp_path / "custody.log").write_text("")
    result = run("chain", "show", "--last", "--log", tmp_path)
    assert result.exit_code == 2
    assert "no chain yet" in result.stderr
    assert "hopseal call" in result.stderr


def test_a_log_that_cannot_be_read_is_unavailable(tmp_path: Path) -> None:
    assert run("chain", "show", "--last", "--log", tmp_path / "none").exit_code == 3
    assert run("logs", "--log", tmp_path / "none").exit_code == 3


def test_logs_print_one_line_for_each_record_and_none_for_certificates(scene: Scene) -> None:
    lines = run("logs", "--log", scene.left).output.splitlines()
    assert len(lines) == 4
    assert "broker of node left started its log" in lines[0]
    assert "accepted sent" in lines[1]


def test_logs_of_one_component_leave_the_others_out(scene: Scene) -> None:
    agent, name = str(scene.second.newest.record.aud).rsplit("/", 2)[-2:]
    lines = run("logs", f"{agent}/{name}", "--log", scene.left, "--log", scene.right).output.splitlines()
    assert len(lines) == 2
    assert all(name in line for line in lines)
    assert run("logs", "nobody/here", "--log", scene.left).output == ""


def test_logs_read_the_daemons_own_json_too_and_sort_by_time(tmp_path: Path) -> None:
    def line(event: str, second: int, **more: Any) -> str:
        return json.dumps({"event": event, "timestamp": f"2026-01-01T00:00:0{second}Z", "level": "info", **more}) + "\n"

    (tmp_path / "a.log").write_text(line("first", 1) + "no json\n" + line("third", 3, component="crm/x"))
    (tmp_path / "b.log").write_text(line("second", 2) + '{"unfinished": ')
    logs = ["--log", tmp_path / "a.log", "--log", tmp_path / "b.log"]
    assert [text.split()[2] for text in run("logs", *logs).output.splitlines()] == ["first", "second", "third"]
    assert [json.loads(text)["event"] for text in run("logs", "-n", 1, "--json", *logs).output.splitlines()] == [
        "third"
    ]
    assert "component=crm/x" in run("logs", "crm/x", *logs).output
    assert run("logs", "-n", 0, *logs).output == ""


def split_log(folder: Path, *, at: int) -> None:
    """The folder's log as two files, the first of ``at`` entries."""
    lines = (folder / "custody.log").read_bytes().splitlines(keepends=True)
    (folder / format_closed_name(0)).write_bytes(b"".join(lines[:at]))
    (folder / "custody.log").write_bytes(b"".join(lines[at:]))


@pytest.mark.parametrize("at", [1, 4, 6])
def test_a_log_of_several_files_is_read_as_one(scene: Scene, at: int) -> None:
    whole, printed = show(scene, "--last").output, run("logs", "--log", scene.left).output
    split_log(scene.left, at=at)
    assert show(scene, "--last").output == whole
    assert run("logs", "--log", scene.left).output == printed


def test_damage_is_told_with_its_file(scene: Scene) -> None:
    split_log(scene.left, at=6)
    path = scene.left / format_closed_name(0)
    path.write_bytes(path.read_bytes()[:-9])
    result = show(scene, "--last")
    assert result.exit_code == 1
    assert f"{path}: byte" in result.output


def test_logs_go_on_in_the_next_file_when_one_is_full(tmp_path: Path) -> None:
    log = LogFile("a")
    path = tmp_path / "custody.log"
    path.write_bytes(log.bytes())
    with ExitStack() as stack:
        followed = FollowedLog(stack, tmp_path)
        assert [entry["type"] for entry in followed.entries()] == ["start"]
        for first_n in (0, 20):
            with path.open("ab") as file:
                file.write(format_line(b'{"n":6,"type":"token"}'))
            path.rename(tmp_path / format_closed_name(first_n))
            path.write_bytes(
                format_line(b'{"n":7,"type":"start","continues":true}') + format_line(b'{"n":8,"type":"attest"}')
            )
        assert [entry["type"] for entry in followed.entries()] == ["token", "attest", "token", "attest"]
        assert list(followed.entries()) == []


def test_text_of_a_caller_cannot_move_the_terminals_cursor(tmp_path: Path) -> None:
    log = LogFile("a\x1b[31m\n")
    hostile = {"verdict": "refused", "dir": "received", "code": "custody_chain", "detail": "x\x1b[2Jy\nz"}
    log.write({"type": "rec", **hostile, "iss": "spiffe://a/agents/\u202eevil", "aud": None, "cid": "\r"})
    log.write({"type": "rcp", **hostile, "st": 200})
    log.write({"type": "token"})
    log.write({"event": "boo\x07"})
    (tmp_path / "custody.log").write_bytes(log.bytes())
    output = run("logs", "--log", tmp_path).output
    assert len(output.splitlines()) == 5
    assert all(each.isprintable() for each in output.splitlines())
    assert "receipt 200" in output
    assert "user token seen" in output


def test_what_a_call_is_based_on_is_shown_below_it(tmp_path: Path) -> None:
    story = tell()
    left, right = story.scene.save(tmp_path)
    logs = ["--log", left / "log", "--log", right / "log"]
    result = run("chain", "show", "--last", *logs)
    assert result.exit_code == 0, result.output
    assert "based on the answer of crm-assistant/reasoner" in result.output
    ((root,),) = (chain["hops"] for chain in json.loads(run("chain", "show", "--last", "--json", *logs).stdout))
    cited = [each["based_on"] for each in root["children"] if each["based_on"]]
    assert cited == [[hash_of(story.told)]]
    story.scene.left.statement(story.found, "received", NOW, sealed="a.b")
    story.scene.left.statement(story.found, "received", NOW, cid="another chain")
    story.scene.call("orchestrator", "reasoner", story.first, based_on=(some_hash("gone"),))
    left, right = story.scene.save(tmp_path / "more")
    result = run("chain", "show", "--last", "--log", left / "log", "--log", right / "log")
    assert "based on the answer of ?" in result.output


def test_a_brokers_state_folder_stands_for_its_log(tmp_path: Path) -> None:
    left, right = tell().scene.save(tmp_path)
    for command in (["chain", "show", "--last"], ["logs"]):
        by_state = run(*command, "--log", left, "--log", right)
        assert (by_state.exit_code, by_state.output) == (
            0,
            run(*command, "--log", left / "log", "--log", right / "log").output,
        )


def test_the_lines_below_a_call_keep_the_branches_of_the_tree(tmp_path: Path) -> None:
    left, right = tell().scene.save(tmp_path)
    shown = run("chain", "show", "--last", "--log", left, "--log", right).output.splitlines()[2:]
    assert [line[:5].rstrip() for line in shown] == ["└─ ✓", "   │", "   ├─", "   │", "   │", "   └─", ""]
