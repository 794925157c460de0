"""The examples on a whole node: SDKs that nobody here wrote, unmodified, as components and as callers."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from waiting import wait_until
from whole_node import CLI, WholeNode, whole_node

pytestmark = pytest.mark.timeout(300)  # the SDKs of others are slow to import, and a node has to come up first
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ID = "spiffe://example.org/agents/desk/"


@pytest.fixture(scope="module")
def desk() -> Iterator[WholeNode]:
    with tempfile.TemporaryDirectory(prefix="hopseal-desk-") as folder, whole_node(Path(folder)) as node:
        begin(node)
        yield node


def begin(node: WholeNode) -> None:
    components = yaml.safe_load((EXAMPLES / "desk.yaml").read_text())["spec"]["components"]
    for each in components:
        del each["attest"]  # a user of its own; here an interpreter of its own
        if "listen" in each:
            each["listen"] = f"unix://{node.socket(each['name'])}"
    node.write("desk", components)
    for name in ("agent", "model"):
        uvicorn = ["-m", "uvicorn", "--log-level", "warning", "--app-dir", EXAMPLES, "--uds", node.socket(name)]
        node.start(name, *uvicorn, f"{name}:app")
    serve = [*CLI, "serve-stdio", "--listen", node.socket("tools"), "--"]
    node.start("tools", *serve, sys.executable, EXAMPLES / "tools.py")
    # The broker looks for a listener now and then, so being attested is not yet being called.
    for url in ("http://agent.desk/.well-known/agent-card.json", "http://tools.desk/mcp"):
        wait_until(lambda url=url: is_answered(node, url), timeout_s=60, what=f"{url} is answered")
    question = json.dumps({"model": "any", "messages": [{"role": "user", "content": "ready?"}]})
    wait_until(lambda: is_answered(node, "http://model.desk/v1/chat/completions", "-d", question), timeout_s=60)


def is_answered(node: WholeNode, url: str, *options: str) -> bool:
    shown = node.run("asker", *CLI, "call", url, *options, "--json").stdout
    return json.loads(shown or '{"status": 503}')["status"] not in {403, 502, 503, 504}


def run_plain(node: WholeNode, *command: object, **environment: str):
    return node.run("asker", *CLI, "run", "--", *command, **environment)


def test_an_agent_of_other_peoples_sdks_answers_and_its_calls_are_one_verified_chain(desk: WholeNode) -> None:
    done = desk.run("asker", EXAMPLES / "ask.py", "Who", "is", "there?")
    assert done.returncode == 0, done.stderr + desk.log("agent")
    assert done.stdout == f"You asked: Who is there? Sunday: closed. Asked by {ID}asker\n"
    command = done.stderr.split()
    shown = desk.cli(*command[1:])
    assert shown.returncode == 0, shown.stderr
    for text in ("verified", "question-1", "tools/call opening_hours", "POST /v1/chat/completions", "message/stream"):
        assert text in shown.stdout, shown.stdout


def test_a_task_reaches_threads_background_tasks_and_other_clients(desk: WholeNode) -> None:
    done = desk.run("asker", EXAMPLES / "handles.py")
    assert done.returncode == 0, done.stderr
    shown = desk.cli("chain", "show", "--task", "spread")
    assert shown.stdout.count("POST /v1/chat/completions") == 4, shown.stdout


def test_the_openai_client_knows_nothing(desk: WholeNode) -> None:
    done = run_plain(desk, sys.executable, EXAMPLES / "plain_openai.py", OPENAI_BASE_URL="http://model.desk/v1")
    assert (done.stdout, done.stderr) == ("You asked: Who is there?\n", "")


def test_the_mcp_client_knows_nothing(desk: WholeNode) -> None:
    done = run_plain(desk, sys.executable, EXAMPLES / "plain_mcp.py")
    assert done.stdout == "['opening_hours']\nclosed\n", done.stderr


def test_the_a2a_client_knows_nothing(desk: WholeNode) -> None:
    done = run_plain(desk, sys.executable, EXAMPLES / "plain_a2a.py")
    assert done.stdout == f"You asked: Who is there? Sunday: closed. Asked by {ID}asker\n", done.stderr


def test_curl_knows_nothing(desk: WholeNode) -> None:
    body = json.dumps({"model": "any", "messages": [{"role": "user", "content": "curl?"}]})
    done = run_plain(desk, "curl", "-sS", "http://model.desk/v1/chat/completions", "--json", body)
    assert json.loads(done.stdout)["choices"][0]["message"]["content"] == "You asked: curl?", done.stderr


def test_the_program_itself_is_no_component_only_its_bridge_is(desk: WholeNode) -> None:
    out_socket = desk.environment["HOPSEAL_OUT_SOCKET"]
    done = run_plain(desk, "curl", "-sS", "--unix-socket", out_socket, "http://model.desk/v1/chat/completions")
    assert json.loads(done.stdout)["code"] == "identity_none"
