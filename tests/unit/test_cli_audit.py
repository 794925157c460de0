"""hopseal audit export, verify, show, search, follow and compare: from logs on disk to verdicts, with exit codes."""

from __future__ import annotations

import json
import shutil
import stat
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from audit_attacks import OBO, TH
from audit_scene import (
    TOKEN,
    USER,
    WITNESS,
    Scene,
    Story,
    hash_of,
    pem_of,
    seal,
    several_chains,
    tell,
    trust_file,
    witnessed,
)
from hopseal.cli import audit_inputs, audit_verify, audit_workers
from hopseal.cli.log_folders import open_log_folders
from hopseal.cli.main import cli
from hopseal.custody.authority import Narrowing
from hopseal.custody.delegation import Approval, Continuation
from hopseal.custody.encoding import encode_b64url, sha256
from hopseal.log.bundle import format_evidence, parse_evidence
from hopseal.log.entries import format_line
from vectors import pki
from vectors.pki import NOW, spiffe
from vectors.scene import random_id, some_hash


@dataclass
class Disk:
    """A task on the disks of two nodes, with a policy and evidence beside them."""

    story: Story
    left: Path
    right: Path
    policy: Path
    evidence: Path


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return save(witnessed(), tmp_path)


def save(story: Story, folder: Path) -> Disk:
    left, right = story.scene.save(folder)
    disk = Disk(story, left, right, folder / "witnesses.policy", folder / "task.evidence")
    disk.policy.write_bytes(story.scene.policy().encode())
    disk.evidence.write_bytes(format_evidence(story.scene.bundle()))
    return disk


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["audit", *map(str, arguments)], catch_exceptions=False)


def both(disk: Disk) -> tuple[object, ...]:
    return ("--log", disk.left, "--log", disk.right)


# --- export


def test_an_export_of_both_logs_verifies(disk: Disk, tmp_path: Path) -> None:
    output = tmp_path / "out.evidence"
    result = run("export", "--task", "task-1", *both(disk), "--policy", disk.policy, "-o", output)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "1 chain, 6 statements, 6 certificates, 4 other entries" in result.output
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    assert run("verify", output, "--policy", disk.policy).exit_code == 0


def test_an_export_says_the_same_as_the_logs_it_came_from(disk: Disk, tmp_path: Path) -> None:
    """The proofs out of tiles are those out of the tree; folders may be named in three ways."""
    outputs = []
    for number, paths in enumerate([(disk.left, disk.right), (disk.left / "log", disk.right / "log" / "custody.log")]):
        outputs.append(tmp_path / f"{number}.evidence")
        run("export", "--all", *(each for path in paths for each in ("--log", path)), "-o", outputs[-1])
    assert outputs[0].read_bytes() == outputs[1].read_bytes() == disk.evidence.read_bytes()


def test_a_log_that_grew_after_the_checkpoint_still_has_the_proofs(tmp_path: Path) -> None:
    """Partial tiles go when they are full, and wider ones take their place."""
    story = tell()
    story.scene.witness()
    for _ in range(2):
        for log in (story.scene.left, story.scene.right):
            while len(log.lines) % 256:
                log.write(NOW, type="start", node=log.name, version="0")
        story.scene.witness()
    disk = save(story, tmp_path)
    for partial in (disk.left / "tlog" / "tile" / "0").rglob("000.p"):
        for each in partial.iterdir():
            each.unlink()
    output = tmp_path / "out.evidence"
    assert run("export", "--all", *both(disk), "-o", output).exit_code == 0
    assert run("verify", output, "--policy", disk.policy).exit_code == 0


def test_entries_in_full_files_and_the_growing_one_are_one_log(disk: Disk, tmp_path: Path) -> None:
    file = disk.left / "log" / "custody.log"
    lines = file.read_bytes().splitlines(keepends=True)
    (disk.left / "log" / f"custody-{0:020}.log").write_bytes(b"".join(lines[:5]))
    file.write_bytes(b"".join(lines[5:]))
    output = tmp_path / "out.evidence"
    run("export", "--all", *both(disk), "-o", output)
    assert output.read_bytes() == disk.evidence.read_bytes()


def test_what_is_not_witnessed_yet_and_what_was_pruned_is_said(tmp_path: Path) -> None:
    story = witnessed()
    story.scene.answer(story.scene.call("orchestrator", "reasoner", story.first))
    disk = save(story, tmp_path)
    file = disk.right / "log" / "custody.log"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[2:]) + format_line(b'{"n":99,"at_ms":1,"type":"unheard"}') + b"torn")
    result = run("export", "--all", *both(disk), "-o", tmp_path / "out")
    assert result.exit_code == 0
    assert "and 1 more are not witnessed yet" in result.stderr
    assert "begins at entry 2: older entries were pruned" in result.stderr
    assert "custody.prod.example.org/right/99 is unreadable" in result.stderr


def test_a_log_that_was_never_signed_is_exported_without_proofs(tmp_path: Path) -> None:
    disk = save(tell(), tmp_path)
    output = tmp_path / "out"
    result = run("export", "--all", "--log", disk.left, "-o", output)
    assert result.exit_code == 0
    assert "has no checkpoint that enough witnesses cosigned" in result.stderr
    assert "name them in broker.yaml" in result.stderr
    assert "export again" not in result.stderr
    assert run("verify", output, "--policy", disk.policy).exit_code == 1


def test_checkpoints_that_the_policy_does_not_accept_prove_nothing(disk: Disk, tmp_path: Path) -> None:
    disk.policy.write_text(f"log {disk.story.scene.left.key.key}\nwitness w {WITNESS.key}\nquorum w\n")
    result = run("export", "--all", *both(disk), "--policy", disk.policy, "-o", tmp_path / "out")
    assert "custody.prod.example.org/right" in result.stderr


@pytest.mark.parametrize("arguments", [[], ["--all", "--task", "x"]])
def test_an_export_needs_a_question(disk: Disk, arguments: list[str], tmp_path: Path) -> None:
    assert run("export", *arguments, *both(disk), "-o", tmp_path / "out").exit_code == 2


def test_an_export_of_no_chain_writes_nothing(disk: Disk, tmp_path: Path) -> None:
    result = run("export", "--task", "nothing", *both(disk), "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "chain_unknown" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_file_that_cannot_be_written_leaves_nothing_behind(disk: Disk, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for output in (tmp_path / "none" / "out", tmp_path / "folder"):
        result = run("export", "--all", *both(disk), "-o", output)
        assert result.exit_code == 3
        assert "evidence_unwritable" in result.stderr
    assert not [each for each in tmp_path.iterdir() if each.name.startswith(".folder")]


@pytest.mark.parametrize("name", ["none", "empty"])
def test_a_log_that_is_none_is_unavailable(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    result = run("export", "--all", "--log", tmp_path / name, "-o", tmp_path / "out")
    assert result.exit_code == 3
    assert "log_unreadable" in result.stderr


@pytest.mark.parametrize("path", ["log/custody.log", "tlog/history/2026112212.jsonl"])
def test_a_part_of_a_log_that_cannot_be_read_is_unavailable(disk: Disk, tmp_path: Path, path: str) -> None:
    (disk.left / path).unlink()
    (disk.left / path).mkdir()
    result = run("export", "--all", *both(disk), "-o", tmp_path / "out")
    assert result.exit_code == 3
    assert "log_unreadable" in result.stderr


def test_without_tiles_nothing_is_proven(disk: Disk, tmp_path: Path) -> None:
    shutil.rmtree(disk.left / "tlog" / "tile")
    result = run("export", "--all", *both(disk), "-o", tmp_path / "out")
    assert result.exit_code == 0
    assert "custody.prod.example.org/left/" in result.stderr


def test_a_wider_tile_stands_in_for_one_that_is_gone(tmp_path: Path) -> None:
    story = witnessed()
    story.scene.call("orchestrator", "reasoner", story.first)
    story.scene.witness()
    disk = save(story, tmp_path)
    partials = sorted((disk.left / "tlog/tile/0/000.p").iterdir(), key=lambda each: int(each.name))
    assert len(partials) == 2
    partials[0].unlink()
    output = tmp_path / "out"
    assert run("export", "--all", *both(disk), "-o", output).stderr == ""
    assert output.read_bytes() == disk.evidence.read_bytes()


def test_one_log_given_twice_is_bad_input(disk: Disk, tmp_path: Path) -> None:
    result = run("export", "--all", "--log", disk.left, "--log", disk.left / "log", "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "log_twice" in result.stderr


def test_a_log_whose_history_is_gone_is_known_by_its_published_checkpoint(disk: Disk) -> None:
    for each in (disk.left / "tlog" / "history").iterdir():
        each.unlink()
    (folder,) = open_log_folders([disk.left])
    assert folder.origin == disk.story.scene.left.origin
    assert folder.source(None).vkey == str(disk.story.scene.left.key.key)
    (disk.left / "tlog" / "checkpoint").write_text("torn")
    (folder,) = open_log_folders([disk.left])
    assert folder.origin.startswith("unsigned:")


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        (str(NOW), True),
        (str(NOW + 1), False),
        ("2026-11-22T12:00:00", True),
        ("2026-11-22T13:00:00+01:00", True),
        ("2026-11-22T12:00:01Z", False),
        ("99999d", True),
    ],
)
def test_times_are_written_in_several_ways(disk: Disk, text: str, fits: bool) -> None:
    assert run("search", "--since", text, "--log", disk.left).exit_code == (0 if fits else 1)


@pytest.mark.parametrize("text", ["yesterday", "2y", "-1"])
def test_what_is_no_time_is_bad_input(disk: Disk, text: str) -> None:
    result = run("search", f"--since={text}", "--log", disk.left)
    assert result.exit_code == 2
    assert "is no time" in result.stderr


# --- verify


def test_the_report_tells_everything_about_each_hop(tmp_path: Path) -> None:
    scene = Scene(obo=OBO)
    approval = Approval("ciba", "approval-1", some_hash("consent"), USER, NOW)
    story = tell(scene, att=Narrowing(scope=frozenset({"crm.read"}), hops=3, ops=("POST *",)), apv=(approval,))
    scene.left.write(NOW, type="token", th=TH, kid="k", claims=TOKEN | {"req_wl": spiffe("shell")})
    streamed = scene.call("shell", "orchestrator", bm="stream")
    scene.close(streamed)
    scene.answer(streamed)
    scene.witness()
    disk = save(story, tmp_path)
    result = run("verify", disk.evidence, "--policy", disk.policy)
    assert result.exit_code == 0, result.output
    for expected in (
        f"for      {USER}, by https://tts.example.org (the token's claims match)",
        "task     task-1",
        "approved ciba approval-1",
        "may      until 2026-11-22T12:10:00Z, hops 5, scope crm.read crm.write",
        "  then   until 2026-11-22T12:10:00Z, hops 3, scope crm.read, ops POST *",
        "proven   2026-11-22T12:00:00Z to 2026-11-22T12:00:02Z, logged twice",
        "✓ receipt  200, 2 bytes, eof, digest ",
        "✓ streamed 9 bytes, eof, digest ",
        "based on the answer of crm-assistant/reasoner",
        "verified: 1 chain, 9 statements, proven to be in custody.prod.example.org/left, custody.prod",
    ):
        assert expected in result.output


def test_a_time_that_no_calendar_has_is_printed_as_it_is(tmp_path: Path) -> None:
    story = witnessed(apv=(Approval("ticket", "t-1", some_hash("evidence"), USER, 2**53 - 1),))
    disk = save(story, tmp_path)
    result = run("verify", disk.evidence, "--policy", disk.policy)
    assert result.exit_code == 0, result.output
    assert "at second 9007199254740991" in result.output


@pytest.mark.parametrize("command", ["verify", "show"])
def test_nothing_in_evidence_reaches_a_terminal_as_a_command(command: str, tmp_path: Path) -> None:
    disk = save(witnessed(op="\x9b2J\u202e\x7f"), tmp_path)
    for option in ((), ("--json",)):
        result = run(command, disk.evidence, "--policy", disk.policy, *option)
        assert result.exit_code == 0, result.output
        assert all(each.isprintable() for each in result.output.replace("\n", "")), result.output
        assert r"9b2J\u202e" in result.output


def test_json_has_the_whole_report(disk: Disk) -> None:
    report = json.loads(run("verify", disk.evidence, "--policy", disk.policy, "--json").stdout)
    assert (report["verdict"], report["statements"], report["problems"]) == ("verified", 6, [])
    ((root,),) = (chain["hops"] for chain in report["chains"])
    assert root["proven_time"] == {"from": NOW, "until": NOW + 2}
    assert [each["direction"] for each in root["logged"]] == ["sent", "received"]
    cited = [each["based_on"] for each in root["children"] if each["based_on"]]
    assert cited == [[{"receipt": hash_of(disk.story.told), "record": hash_of(disk.story.ask)}]]


def test_a_witness_key_is_enough_where_the_bundle_names_the_logs(disk: Disk) -> None:
    assert run("verify", disk.evidence, "--witness-key", WITNESS.key).exit_code == 0
    assert run("verify", disk.evidence, "--witness-key", str(WITNESS.key).replace("net", "com")).exit_code == 2


def test_pinned_authorities_are_read_from_a_trust_policy(disk: Disk, tmp_path: Path) -> None:
    for party, code in ((pki.PROD_CA, 0), (pki.PARTNER_CA, 1)):
        (tmp_path / "trust").write_text(json.dumps(trust_file(bundles="pinned", pem=pem_of(party))))
        arguments = ["--policy", disk.policy, "--trust", tmp_path / "trust"]
        assert run("verify", disk.evidence, *arguments).exit_code == code


def test_what_is_missing_and_what_is_wrong_is_said_where_it_belongs(tmp_path: Path) -> None:
    story = tell()
    scene = story.scene
    scene.left.statement(
        seal(scene.record("orchestrator", "crm-connector", story.first), pki.ORCHESTRATOR), "sent", NOW
    )
    glued = seal(scene.record("reasoner", "crm-connector", story.ask), pki.ORCHESTRATOR)
    scene.log_call(glued, "reasoner", "crm-connector")
    scene.answer(story.lookup, rec=some_hash("no record"))
    scene.left.statement(story.ask, "received", NOW, verdict="refused", code="custody_replayed", detail="\x1b[31m")
    scene.answer(scene.call("shell", "orchestrator", cont=Continuation(some_hash("x"), random_id("x"), "boundary")))
    scene.left.write(NOW, type="revoke", id=None, x5t=None, since=1, why="")
    scene.witness()
    disk = save(story, tmp_path)
    result = run("verify", disk.evidence, "--policy", disk.policy)
    assert result.exit_code == 1
    for expected in (
        "missing: copy:received",
        "missing: receipt",
        "step 1: custody_identity (spiffe://",
        "rcp ",
        "belongs to no record here",
        "refused by custody.prod.example.org/left: custody_replayed",
        "(boundary)",
        ": step 2: custody_malformed",
        "refused: 1 chain",
    ):
        assert expected in result.output
    assert "\x1b" not in result.output


@pytest.mark.parametrize("given", [[], ["--policy", "x", "--witness-key", "y"]])
def test_verify_needs_exactly_one_way_to_say_whom_to_trust(disk: Disk, given: list[str]) -> None:
    result = run("verify", disk.evidence, *given)
    assert result.exit_code == 2
    assert "policy_missing" in result.stderr


@pytest.mark.parametrize("option", ["--policy", "--trust", "bundle"])
def test_a_file_that_cannot_be_read_is_unavailable(disk: Disk, tmp_path: Path, option: str) -> None:
    none = tmp_path / "none"
    arguments = {"--policy": [disk.evidence, "--policy", none], "bundle": [none, "--policy", disk.policy]}
    trust = [disk.evidence, "--policy", disk.policy, "--trust", none]
    assert run("verify", *arguments.get(option, trust)).exit_code == 3


def test_a_file_that_is_too_large_is_not_read_whole(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_inputs, "MAX_FILE_BYTES", 10)
    assert run("verify", disk.evidence, "--policy", disk.policy).exit_code == 2


def test_the_result_does_not_depend_on_the_number_of_processes(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_workers, "FEW", 0)
    monkeypatch.setattr(audit_workers, "_BATCH", 2)
    one, three = (run("verify", disk.evidence, "--policy", disk.policy, "--json", "--jobs", n) for n in (1, 3))
    assert one.exit_code == three.exit_code == 0
    assert one.stdout == three.stdout


@pytest.mark.parametrize("options", [["--brief"], [], ["--json"]], ids=["brief", "whole", "json"])
@pytest.mark.parametrize("connected", [False, True], ids=["apart", "connected"])
def test_many_chains_are_told_the_same_by_any_number_of_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], connected: bool
) -> None:
    scene, roots = several_chains(5)
    if connected:
        scene.cid = random_id("another")
        scene.answer(scene.call("shell", "orchestrator", based_on=(hash_of(roots[0]),)))
    path = save_scene(scene.witness(), tmp_path)
    arguments = ("verify", path, "--policy", path.with_suffix(".policy"), *options)
    at_once = run(*arguments)
    monkeypatch.setattr(audit_workers, "FEW", 0)
    monkeypatch.setattr(audit_workers, "_BATCH", 5)
    apart = [run(*arguments, "--jobs", jobs) for jobs in (1, 2, 3)]
    assert [each.output for each in apart] == [at_once.output] * 3
    assert [each.exit_code for each in apart] == [at_once.exit_code] * 3 == [int(connected)] * 3


def save_scene(scene: Scene, folder: Path) -> Path:
    evidence = folder / "chains.evidence"
    evidence.write_bytes(format_evidence(scene.bundle()))
    evidence.with_suffix(".policy").write_bytes(scene.policy().encode())
    return evidence


UNASKED = b'\n,"rec.%b":["nobody asks for this"]},\n"policy":' % (b"A" * 43)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'},\n"policy":', UNASKED),
        (b'{"sealed":"', b'{"sealed":"x'),
        (b"=\\n", b"=\\\\n"),
        (b'"sealed":', b'"s\\u0065aled":'),
        (b"/", b"\\/"),
        (b"},\n{", b"}, {"),
        (b'},\n"policy":', UNASKED.replace(b"]", b"}")),
        (b'},\n"policy":', UNASKED.replace(b"nobody", b"\\ud800")),
        (b'"dir":"sent"', b'"dir":"went"'),
    ],
)
def test_evidence_in_any_form_is_told_the_same_by_any_number_of_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: bytes, new: bytes
) -> None:
    path = save_scene(several_chains(4)[0].witness(), tmp_path)
    data = path.read_bytes()
    head = data[: data.rindex(b'"digest":')].replace(old, new, 1)
    path.write_bytes(head + f'"digest":"{encode_b64url(sha256(head))}"}}\n'.encode())
    arguments = ("verify", path, "--policy", path.with_suffix(".policy"), "--json")
    expected = by_the_general_reader(arguments)
    monkeypatch.setattr(audit_workers, "FEW", 0)
    monkeypatch.setattr(audit_workers, "_BATCH", 1)
    found = [run(*arguments, "--jobs", jobs) for jobs in (1, 2)]
    assert head != data
    assert [(each.exit_code, each.output) for each in found] == [expected] * 2


def by_the_general_reader(arguments: tuple[object, ...]) -> tuple[int, str]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(audit_verify, "read_lines", parse_evidence)
        result = run(*arguments)
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        (b"=\\n", b"=\\\\n", 1),
        (b"\\n\\n", b"\\n\\\\n", 1),
        (b"/", b"\\/", 0),
        (b"index ", b"inde\\u0078 ", 0),
    ],
)
def test_a_proof_is_its_text_however_the_file_escapes_it(tmp_path: Path, old: bytes, new: bytes, code: int) -> None:
    """A line break that is escaped twice is none, though all other bytes are those of a proof that held."""
    path = save_scene(several_chains(4)[0].witness(), tmp_path)
    data = path.read_bytes()
    start, end = data.rindex(b"c2sp.org/tlog-proof@v1"), data.rindex(b'"digest":')
    head = data[:start] + data[start:end].replace(old, new, 1)
    path.write_bytes(head + f'"digest":"{encode_b64url(sha256(head))}"}}\n'.encode())
    assert run("verify", path, "--policy", path.with_suffix(".policy")).exit_code == code


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_bar_shows_progress_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int) -> None:
    path = save_scene(several_chains(4)[0].witness(), tmp_path)
    monkeypatch.setattr(audit_workers, "FEW", 0)
    monkeypatch.setattr(audit_workers, "_BATCH", 1)
    monkeypatch.setattr(audit_workers, "is_terminal", lambda: True)
    result = run("verify", path, "--policy", path.with_suffix(".policy"), "--jobs", jobs, "--brief")
    assert result.exit_code == 0
    assert "verified" in result.output


# --- show


def test_a_tree_without_a_policy_judges_nothing(disk: Disk) -> None:
    result = run("show", *both(disk))
    assert result.exit_code == 0
    assert "based on the answer of crm-assistant/reasoner" in result.output
    assert "not judged" in result.output
    assert "✓" not in result.output


def test_a_tree_with_a_policy_is_judged(disk: Disk) -> None:
    assert "✓ crm-assistant/shell" in run("show", disk.evidence, "--policy", disk.policy).output


def test_a_tree_says_where_a_cited_answer_is_missing(tmp_path: Path) -> None:
    story = witnessed(based_on=(some_hash("gone"),))
    assert "an answer that is not here" in run("show", save(story, tmp_path).evidence).output


def test_graphs_and_json_are_printed_for_other_programs(disk: Disk) -> None:
    assert run("show", disk.evidence, "--format", "dot").output.startswith("digraph custody {")
    assert run("show", disk.evidence, "--format", "mermaid").output.startswith("flowchart LR")
    assert json.loads(run("show", disk.evidence, "--json").stdout)["judged"] is False


def test_nothing_to_show_is_bad_input(disk: Disk) -> None:
    assert run("show", "--task", "none", *both(disk)).exit_code == 2


# --- search, follow, compare


def test_a_search_finds_calls_by_the_chains_task_and_a_calls_parties(disk: Disk) -> None:
    result = run("search", "--task", "task-1", "--component", "crm-assistant/crm-connector", *both(disk))
    lines = result.output.splitlines()
    assert [line.split()[9] for line in lines[1:]] == ["sent", "received"]
    assert all("task-1" in line for line in lines[1:])
    nothing = run("search", "--task", "none", *both(disk))
    assert (nothing.exit_code, nothing.stdout) == (1, "no such call in 2 logs\n")


def test_a_search_in_json_has_every_column(disk: Disk) -> None:
    rows = json.loads(run("search", "--json", "-n", 1, *both(disk)).stdout)
    assert [row["operation"] for row in rows] == ["POST /crm-connector"]
    assert rows[0]["log"] == "custody.prod.example.org/right"


def test_refused_messages_can_be_searched_alone(tmp_path: Path) -> None:
    story = tell()
    story.scene.left.statement(story.ask, "received", NOW, verdict="refused", code="custody_expired")
    story.scene.left.write(NOW, type="rec", dir="received", verdict="refused", code="custody_missing")
    result = run("search", "--refused", "--log", save(story, tmp_path).left)
    assert len(result.output.splitlines()) == 2
    assert "custody_expired" in result.output


def test_follow_prints_what_is_appended_in_every_log(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    scene, story = disk.story.scene, disk.story
    scene.call("orchestrator", "crm-connector", story.first, op="POST /more")
    refused = {"verdict": "refused", "code": "custody_expired"}
    scene.left.statement(story.ask, "received", NOW, **refused)
    fresh = [(disk.left, scene.left.lines[-2:]), (disk.right, scene.right.lines[-1:])]

    def append(_seconds: float) -> None:
        for folder, lines in fresh:
            with (folder / "log" / "custody.log").open("ab") as file:
                file.write(b"".join(map(format_line, lines)))
        monkeypatch.setattr(time, "sleep", lambda _seconds: None)

    monkeypatch.setattr(time, "sleep", append)
    lines = run("follow", "--task", "task-1", "-n", 3, *both(disk)).output.splitlines()
    assert [line.split()[1:3] for line in lines] == [
        ["accepted", "sent"],
        ["refused", "received"],
        ["accepted", "received"],
    ]
    assert "on left" in lines[0]
    assert lines[1].endswith("custody_expired")


def test_follow_prints_json_a_line(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.story.scene.call("orchestrator", "reasoner", disk.story.first)
    line = disk.story.scene.left.lines[-1]

    def append(_seconds: float) -> None:
        with (disk.left / "log" / "custody.log").open("ab") as file:
            file.write(format_line(line))

    monkeypatch.setattr(time, "sleep", append)
    (printed,) = run("follow", "-n", 1, "--json", "--log", disk.left).output.splitlines()
    assert json.loads(printed)["callee"] == spiffe("reasoner")


def test_logs_that_agree_exit_0_and_logs_that_do_not_exit_1(disk: Disk) -> None:
    agree = run("compare", disk.left, disk.right)
    assert (agree.exit_code, agree.output) == (0, "no difference between 2 logs\n")
    file = disk.right / "log" / "custody.log"
    lines = [line for line in file.read_bytes().splitlines(keepends=True) if b'"dir":"received"' not in line]
    file.write_bytes(b"".join(lines))
    differ = run("compare", disk.left, disk.right)
    assert differ.exit_code == 1
    assert "sent, and not in the receiver's log" in differ.output
    (found,) = json.loads(run("compare", disk.left, disk.right, "--json").stdout)
    assert (found["kind"], found["record"]) == ("not_received", hash_of(disk.story.lookup))
