"""An agent in real containers on a real SPIRE: attested by image, configuration and posture, cut off on drift."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from demo.image import build_image
from real.cluster import RELAY, THREE_HOPS, config_root_of, hopseal
from real.engine import RealEngine, private_docker
from real.nodes import Node, exe_digest
from real.spire import find_binaries, spire
from waiting import wait_until

AGENT = "boxed"
PYTHON = str(Path(sys.executable).resolve())
PROMPT = "/etc/agent/prompt.txt"
HARDENED = ("--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--read-only")
PARTS = {"orchestrator": 4202, "reasoner": 4203, "connector": 4204}
CALLS = {
    "shell": ["orchestrator"],
    "orchestrator": ["reasoner", "connector"],
    "reasoner": ["connector"],
    "connector": [],
}


@dataclass
class Boxes:
    """The node and the containers on it."""

    folder: Path
    node: Node
    engine: RealEngine
    image: str
    other_image: str
    client_image: str
    containers: dict[str, str] = field(default_factory=dict)

    def prompt(self, name: str) -> Path:
        return self.folder / "config" / name / "prompt.txt"

    def state(self, name: str) -> str:
        return self.node.state(f"{AGENT}/{name}")

    def start(self, name: str, *options: str, image: str | None = None, hardened: bool = True) -> None:
        """Start (again) the container of one component."""
        if name in self.containers:
            self.engine.remove(self.containers.pop(name))
        (self.folder / "listen" / f"{name}.sock").unlink(missing_ok=True)
        uid = PARTS[name]
        own = ("--user", f"{uid}:{uid}", *(HARDENED if hardened else ()), *self.mounts(name), *options)
        listen = ("--listen", str(self.folder / "listen" / f"{name}.sock"))
        command = [PYTHON, "/opt/relay.py", "--out", str(self.node.out_socket), *listen]
        self.containers[name] = self.engine.start(image or self.image, *own, command=command)

    def start_attested(self, name: str) -> None:
        self.start(name)
        self.node.wait_callable(f"{AGENT}/{name}")

    def mounts(self, name: str) -> tuple[str, ...]:
        listen = self.folder / "listen"
        volumes = [
            f"{RELAY}:/opt/relay.py:ro",
            f"{self.prompt(name).parent}:/etc/agent:ro",
            f"{self.node.agent_folder}:{self.node.agent_folder}:ro",
            f"{self.node.call_folder}:{self.node.call_folder}:ro",
            f"{listen}:{listen}",
        ]
        return tuple(part for volume in volumes for part in ("--volume", volume))

    def task(self) -> list[dict[str, Any]]:
        """Run the task as the component ``shell``, a container of its own."""
        options = ("--rm", "--network", "none", "--user", "4201:4201", *HARDENED, *self.mounts("shell"))
        command = [PYTHON, "/opt/relay.py", "--out", str(self.node.out_socket), "--once", json.dumps(THREE_HOPS)]
        results: list[dict[str, Any]] = json.loads(self.engine.run("run", *options, self.image, *command))
        return results


@contextmanager
def boxes_on_spire() -> Iterator[Boxes]:
    folder = Path(tempfile.mkdtemp(prefix="hb-", dir="/run"))
    folder.chmod(0o755)
    (folder / "listen").mkdir()
    (folder / "listen").chmod(0o777)
    try:
        with private_docker() as engine, spire("box") as (server, agent):
            boxes = Boxes(folder, _node(folder, server, agent, engine), engine, *_images(engine))
            _write_documents(boxes)
            _register(boxes, server, agent)
            boxes.node.write()
            try:
                boxes.node.start()
                yield boxes
            finally:
                boxes.node.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _node(folder: Path, server: Any, agent: Any, engine: RealEngine) -> Node:
    upstream = {
        "kind": "spire-delegated",
        "workload_socket": str(agent.public_socket),
        "admin_socket": str(agent.admin_socket),
    }
    engines = {"docker": [str(engine.socket)]}
    return Node(
        "box", folder / "node", folder / "agents", server.trust_domain, upstream, engines, reattest_interval_s=2.0
    )


def _images(engine: RealEngine) -> tuple[str, str, str]:
    """The approved image, one that differs in a single file, and one that holds only SPIRE's own client."""
    image = build_image(str(engine.socket), packages=False)
    changed = engine.run("create", "--network", "none", image, "/bin/true")
    with tempfile.NamedTemporaryFile() as extra:
        engine.run("cp", extra.name, f"{changed}:/etc/extra")
    other = engine.run("commit", changed)
    engine.run("rm", changed)
    with (find_binaries() / "spire-agent").open("rb") as program:
        client = engine.build_image("spire-client", {"bin/spire-agent": program.read()})
    return image, other, client


def _write_documents(boxes: Boxes) -> None:
    for name in (*PARTS, "shell"):
        boxes.prompt(name).parent.mkdir(parents=True)
        boxes.prompt(name).write_text(f"You are the {name}.\n")
    spec = {
        "version": "1.0.0",
        "description": "The agent of the container tests",
        "owner": "tests@example.org",
        "team": "tests",
        "status": "active",
        "components": [*(_component(boxes, name) for name in CALLS), _client(boxes)],
    }
    document = {"apiVersion": "hopseal.dev/v1alpha1", "kind": "Agent", "metadata": {"name": AGENT}, "spec": spec}
    boxes.node.documents.mkdir()
    (boxes.node.documents / "boxed.yaml").write_text(yaml.safe_dump(document, sort_keys=False))


def _component(boxes: Boxes, name: str) -> dict[str, Any]:
    digest = config_root_of(PROMPT, boxes.prompt(name).read_bytes())
    attest = {"image": [boxes.image], "config": {"files": [PROMPT], "digest": [digest]}, "posture": "restricted"}
    component: dict[str, Any] = {
        "name": name,
        "role": {"orchestrator": "orchestrator", "reasoner": "reasoning-engine"}.get(name, "connector"),
        "attest": attest,
        "calls": [{"to": to} for to in CALLS[name]],
        "mayStart": name == "shell",
    }
    if name in PARTS:
        component["listen"] = f"unix://{boxes.folder / 'listen' / name}.sock"
    return component


def _client(boxes: Boxes) -> dict[str, Any]:
    attest = {"image": [boxes.client_image], "posture": "baseline"}
    return {"name": "client", "role": "environment", "svid": "both", "attest": attest}


def _register(boxes: Boxes, server: Any, agent: Any) -> None:
    common = ["--parent", agent.parent_id, "--server-socket", str(server.socket), "--apply"]
    common += ["--trust-domain", server.trust_domain]
    own = ["--node", "box", "--attestor-path", PYTHON, "--broker-uid", "0", "--broker-exe", exe_digest()]
    for command in (["bootstrap", *own], ["sync", "--documents", str(boxes.node.documents)]):
        made = hopseal("entries", *command, *common)
        assert made.returncode == 0, made.stdout + made.stderr


@pytest.fixture(scope="module")
def boxes() -> Iterator[Boxes]:
    with boxes_on_spire() as running:
        for name in PARTS:
            running.start_attested(name)
        yield running


def item(explained: Mapping[str, Any], name: str) -> dict[str, Any]:
    return next(each for each in explained["items"] if each["item"] == name)


def refused_item(boxes: Boxes, component: str, name: str) -> dict[str, Any]:
    """The item that ``explain`` blames, once the component is refused or drifted."""
    wait_until(lambda: boxes.state(component) in {"refused", "drifted"}, timeout_s=20, what=f"{component} refused")
    blamed = item(boxes.node.explain(f"{AGENT}/{component}"), name)
    assert not blamed["holds"]
    return blamed


def test_three_containers_are_attested_and_run_a_task(boxes):
    (answer,) = boxes.task()
    assert answer["status"] == 200
    assert [result["status"] for result in answer["body"]["results"]] == [200, 200]
    shown = hopseal("chain", "show", "--last", "--log", str(boxes.node.log_folder))
    assert shown.returncode == 0, shown.stdout + shown.stderr


def test_spires_own_client_in_a_container_gets_an_svid(boxes):
    options = ("--rm", "--network", "none", *HARDENED, "--user", "4209:4209")
    volume = f"{boxes.node.agent_folder}:{boxes.node.agent_folder}:ro"
    command = ("/bin/spire-agent", "api", "fetch", "x509", "-socketPath", str(boxes.node.api_socket))
    output = boxes.engine.run("run", *options, "--volume", volume, boxes.client_image, *command)
    assert f"spiffe://{boxes.node.trust_domain}/agents/{AGENT}/client" in output


def test_a_changed_prompt_withdraws_and_is_named(boxes):
    approved = boxes.prompt("reasoner").read_text()
    digest = config_root_of(PROMPT, approved.encode())
    boxes.prompt("reasoner").write_text("You give everything away.\n")
    try:
        blamed = refused_item(boxes, "reasoner", "config")
        assert blamed["approved"] == [digest]
        assert blamed["measured"] == [config_root_of(PROMPT, b"You give everything away.\n")]
        (answer,) = boxes.task()
        assert answer["body"]["results"][0]["status"] == 503
    finally:
        boxes.prompt("reasoner").write_text(approved)
    boxes.start_attested("reasoner")


def test_a_privileged_restart_is_refused_and_is_named(boxes):
    boxes.start("connector", "--privileged", hardened=False)
    blamed = refused_item(boxes, "connector", "posture")
    assert blamed["approved"] == ["restricted"]
    boxes.start_attested("connector")


def test_another_image_is_refused_and_is_named(boxes):
    boxes.start("orchestrator", image=boxes.other_image)
    blamed = refused_item(boxes, "orchestrator", "image")
    assert blamed["approved"] == [boxes.image]
    assert boxes.other_image in blamed["measured"]
    boxes.start_attested("orchestrator")
