"""The auditor's guide and the example of an evidence bundle: every command prints what the page says, byte for byte."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from audit_guide_scene import write_one_call, write_task
from hopseal.cli.main import cli

DOCS = Path(__file__).resolve().parents[2] / "docs"
BLOCKS = re.compile(r"```(sh|python)\n(.*?)```\n\n```text\n(.*?)```", re.DOTALL)


def run_shell(commands: str) -> str:
    output = ""
    for line in commands.strip().splitlines():
        result = CliRunner().invoke(cli, shlex.split(line)[1:], catch_exceptions=False)
        output += result.output
    return output


def run_python(code: str) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "docs/audit.md", "exec"), {})
    return printed.getvalue()


def trimmed(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


def test_every_command_of_the_guide_prints_what_the_page_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_task(tmp_path)
    monkeypatch.chdir(tmp_path)
    blocks = BLOCKS.findall((DOCS / "audit.md").read_text())
    assert len(blocks) == 8
    for kind, commands, expected in blocks:
        shown = run_shell(commands) if kind == "sh" else run_python(commands)
        assert trimmed(shown) == trimmed(expected), commands


def test_the_example_of_a_bundle_is_what_the_code_writes_and_verifies(tmp_path: Path) -> None:
    write_one_call(tmp_path)
    for name in ("one-call.evidence", "one-call.policy"):
        assert (tmp_path / name).read_bytes() == (DOCS / "examples" / name).read_bytes()
    folder = DOCS / "examples"
    arguments = ["audit", "verify", str(folder / "one-call.evidence"), "--policy", str(folder / "one-call.policy")]
    assert CliRunner().invoke(cli, arguments, catch_exceptions=False).exit_code == 0


def test_the_steps_of_the_page_read_the_example_without_this_projects_code() -> None:
    """What a stranger does by the page alone: digest, statement hash, seal hash, log entry, key of its proofs."""

    def b64u(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    def unb64u(text: str) -> bytes:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))

    data = (DOCS / "examples" / "one-call.evidence").read_bytes()
    head, tail = data[:-56], data[-56:]
    assert tail == b'"digest":"' + b64u(hashlib.sha256(head).digest()).encode() + b'"}\n'
    bundle = json.loads(data)
    certificates = {b64u(hashlib.sha256(base64.b64decode(each)).digest()) for each in bundle["certs"]}
    for statement in bundle["statements"]:
        payload, _, seal = statement["sealed"].split(".", 2)
        x5t = json.loads(unb64u(seal.split(".")[0]))["x5t#S256"]
        assert x5t in certificates
        statement_hash = b64u(hashlib.sha256(b"\0" + unb64u(x5t) + payload.encode()).digest())
        seal_hash = b64u(hashlib.sha256(seal.encode()).digest())
        kind = json.loads(unb64u(payload))["t"]
        entry = f"custody/v1 {kind} {statement_hash} {seal_hash}\n".encode()
        for proof in bundle["proofs"][f"{statement_hash}.{seal_hash}"]:
            lines = proof.split("\n")
            path = lines[2 : lines.index("")]
            origin, size, root = lines[len(path) + 3 : len(path) + 6]
            assert origin == statement["seen"][0]["origin"]
            node = hashlib.sha256(b"\0" + entry).digest()
            assert walk(node, int(lines[1].split()[1]), int(size), path) == base64.b64decode(root)


def walk(node: bytes, index: int, size: int, path: list[str]) -> bytes:
    """RFC 9162 §2.1.3.2."""
    last = size - 1
    for sibling in map(base64.b64decode, path):
        if index & 1 or index == last:
            node = hashlib.sha256(b"\1" + sibling + node).digest()
            while not index & 1 and index:
                index, last = index >> 1, last >> 1
        else:
            node = hashlib.sha256(b"\1" + node + sibling).digest()
        index, last = index >> 1, last >> 1
    return node
