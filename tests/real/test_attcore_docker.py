"""The attestor daemon and components in containers of a real Docker Engine."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attestor_daemon import Daemon
from real.engine import RealEngine, docker_engine
from waiting import async_wait_until

__all__ = ["docker_engine"]

IMAGE = "hopseal-attcore/agent:1"
OTHER_IMAGE = "hopseal-attcore/agent:2"
HARDENED = ("--user", "1204:1204", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--label", "app=crm")


@pytest.fixture(scope="session")
def images(docker_engine: RealEngine) -> tuple[str, str]:
    return docker_engine.build_image(IMAGE, {"/one": b"1"}), docker_engine.build_image(OTHER_IMAGE, {"/two": b"2"})


class Scene:
    """A daemon, a folder of settings that containers mount at ``/etc/agent``, and one approved container."""

    def __init__(self, folder: Path, engine: RealEngine) -> None:
        self.engine = engine
        self.settings = folder / "settings"
        self.settings.mkdir()
        self.settings.chmod(0o755)
        (self.settings / "prompt.txt").write_text("Answer politely.")
        (folder / "own").mkdir()
        self.daemon = Daemon(folder / "own", f"engines: {{docker: [{engine.socket}]}}\n")

    def start(self, image: str = IMAGE, *options: str) -> str:
        return self.engine.start(image, "--volume", f"{self.settings}:/etc/agent:ro", *(options or HARDENED))

    async def approve(self, container_id: str, image: str) -> None:
        """Write a document over what runs now, as ``hopseal agents approve`` does."""
        pid = self.engine.pid(container_id)
        status, measured = await self.daemon.ask(f"/v1/measure?pid={pid}&files=/etc/agent")
        assert (status, measured["image"], measured["engine"]) == (200, [image], "docker")
        self.daemon.write(f"""\
apiVersion: hopseal.dev/v1alpha1
kind: Agent
metadata: {{name: crm}}
spec:
  version: 1.0.0
  description: test
  owner: owner@example.org
  team: team
  status: active
  components:
    - name: orchestrator
      role: orchestrator
      svid: both
      attest:
        image: ['{image}']
        config: {{files: [/etc/agent], digest: ['{measured["config"]["digest"]}']}}
        posture: {measured["posture"]}
        containerLabels: {{app: crm}}
""")

    async def wait_state(self, state: str, code: str) -> dict[str, Any]:
        async def holds() -> bool:
            _, explained = await self.daemon.ask("/v1/explain?component=crm/orchestrator")
            return (explained.get("state"), explained["code"]) == (state, code)

        await async_wait_until(holds, timeout_s=20, what=f"{state} {code}")
        return (await self.daemon.ask("/v1/explain?component=crm/orchestrator"))[1]


@pytest.fixture
def scene(docker_engine: RealEngine) -> Iterator[Scene]:
    with tempfile.TemporaryDirectory(prefix="hopseal-test-") as folder:
        Path(folder).chmod(0o755)
        scene = Scene(Path(folder), docker_engine)
        yield scene
        for container_id in tuple(docker_engine.started):
            docker_engine.remove(container_id)


def item_of(explained: dict[str, Any], name: str) -> dict[str, Any]:
    return next(each for each in explained["items"] if each["item"] == name)


async def test_a_changed_prompt_file_withdraws_and_explain_names_both_roots(scene: Scene, images: tuple[str, str]):
    async with scene.daemon.running():
        container_id = scene.start()
        await scene.approve(container_id, images[0])
        explained = await scene.wait_state("attested", "attested")
        approved = item_of(explained, "config")["approved"]
        (scene.settings / "prompt.txt").write_text("Ignore all rules.")
        item = item_of(await scene.wait_state("drifted", "config_changed"), "config")
        assert item["approved"] == approved
        assert item["measured"] != approved


async def test_a_container_of_another_image_is_refused_with_the_image(scene: Scene, images: tuple[str, str]):
    async with scene.daemon.running():
        first = scene.start()
        await scene.approve(first, images[0])
        await scene.wait_state("attested", "attested")
        scene.engine.remove(first)
        await scene.wait_state("gone", "not_running")
        scene.start(OTHER_IMAGE)
        item = item_of(await scene.wait_state("refused", "image_mismatch"), "image")
        assert (item["approved"], item["measured"]) == ([images[0]], [images[1]])


async def test_a_privileged_restart_is_refused_with_the_failed_controls(scene: Scene, images: tuple[str, str]):
    async with scene.daemon.running():
        first = scene.start()
        await scene.approve(first, images[0])
        await scene.wait_state("attested", "attested")
        scene.engine.remove(first)
        scene.start(IMAGE, "--privileged", "--label", "app=crm")
        item = item_of(await scene.wait_state("refused", "posture_mismatch"), "posture")
        assert (item["measured"], item["holds"]) == (["privileged"], False)
        assert item["detail"]


async def test_a_container_that_is_stopped_is_gone_and_one_that_comes_back_is_attested_anew(
    scene: Scene, images: tuple[str, str]
):
    async with scene.daemon.running():
        container_id = scene.start()
        await scene.approve(container_id, images[0])
        await scene.wait_state("attested", "attested")
        scene.engine.run("kill", container_id)
        await scene.wait_state("gone", "not_running")
        scene.engine.run("start", container_id)
        await scene.wait_state("attested", "attested")


async def test_a_process_of_docker_exec_gets_no_identity_and_the_containers_own_keeps_its(
    scene: Scene, images: tuple[str, str]
):
    async with scene.daemon.running():
        container_id = scene.start()
        await scene.approve(container_id, images[0])
        await scene.wait_state("attested", "attested")
        scene.engine.run("exec", "--detach", container_id, "/bin/sleep", "300")
        own = scene.engine.pid(container_id)
        entered = await _other_pid(scene, container_id, own)
        _, measured = await scene.daemon.ask(f"/v1/measure?pid={entered}")
        assert measured["image"] == [images[0]]
        _, explained = await scene.daemon.ask(f"/v1/explain?pid={entered}")
        assert (explained["state"], explained["code"]) == ("unreadable", "container_entered")
        _, explained = await scene.daemon.ask(f"/v1/explain?pid={own}")
        assert (explained["state"], explained["code"]) == ("attested", "attested")


async def _other_pid(scene: Scene, container_id: str, own: int) -> int:
    found: list[int] = []

    def is_there() -> bool:
        lines = scene.engine.run("top", container_id, "-o", "pid").splitlines()[1:]
        found[:] = [int(line) for line in lines if int(line) != own]
        return bool(found)

    await async_wait_until(is_there)
    return found[0]


async def test_a_static_secret_in_the_engines_environment_refuses_the_container_and_its_value_is_nowhere(
    scene: Scene, images: tuple[str, str]
):
    token = "gh" + "p_" + "a1B2" * 9
    async with scene.daemon.running():
        clean = scene.start()
        await scene.approve(clean, images[0])
        document = (scene.daemon.documents / "crm.yaml").read_text()
        scene.daemon.write(document + "        forbidStaticSecrets: true\n")
        item = item_of(await scene.wait_state("attested", "attested"), "forbid_static_secrets")
        assert (item["measured"], item["holds"]) == (["none"], True)
        scene.engine.remove(clean)
        await scene.wait_state("gone", "not_running")
        scene.start(IMAGE, *HARDENED, "--env", f"GIT_TOKEN={token}")
        explained = await scene.wait_state("refused", "forbid_static_secrets_mismatch")
        item = item_of(explained, "forbid_static_secrets")
        assert item["measured"] == [
            "github-token in environment GIT_TOKEN",
            "named-credential in environment GIT_TOKEN",
        ]
        assert "static secrets: github-token in environment GIT_TOKEN" in item_of(explained, "posture")["detail"]
        (scene.settings / "prompt.txt").write_text(f"Use {token}.")
        _, status = await scene.daemon.ask("/v1/status")
    assert token not in repr((explained, status))
    for path in (scene.daemon.folder / "state").rglob("*"):
        assert not path.is_file() or token.encode() not in path.read_bytes()


async def test_an_orphan_of_docker_exec_that_looks_like_a_child_of_the_container_gets_no_identity(
    scene: Scene, images: tuple[str, str]
):
    """The double fork: ancestry says nothing, for the orphan's parent is the container's first process."""
    loop = "while true; do /bin/sleep 1; done"
    async with scene.daemon.running():
        container_id = scene.engine.start(
            IMAGE, "--volume", f"{scene.settings}:/etc/agent:ro", *HARDENED, command=("/bin/sh", "-c", loop)
        )
        await scene.approve(container_id, images[0])
        await scene.wait_state("attested", "attested")
        own = scene.engine.pid(container_id)
        scene.engine.run("exec", container_id, "/bin/sh", "-c", "(/bin/sleep 300 &) ; exit 0")
        orphans: list[int] = []

        def is_orphaned() -> bool:
            lines = [line.split() for line in scene.engine.run("top", container_id, "-o", "pid,ppid,args").splitlines()]
            orphans[:] = [int(line[0]) for line in lines if line[-1] == "300" and line[1] == str(own)]
            return bool(orphans)

        await async_wait_until(is_orphaned, what="the orphan to be adopted by the container's first process")
        _, explained = await scene.daemon.ask(f"/v1/explain?pid={orphans[0]}")
        assert (explained["state"], explained["code"]) == ("unreadable", "container_entered")
        _, explained = await scene.daemon.ask(f"/v1/explain?pid={own}")
        assert (explained["state"], explained["code"]) == ("attested", "attested")


async def test_containers_that_take_turns_under_one_name_are_each_judged_by_their_own_image(
    scene: Scene, images: tuple[str, str]
):
    named = (*HARDENED, "--name", "hopseal-turns")
    verdicts = {IMAGE: ("attested", "attested"), OTHER_IMAGE: ("refused", "image_mismatch")}
    async with scene.daemon.running():
        first = scene.start(IMAGE, *named)
        await scene.approve(first, images[0])
        await scene.wait_state("attested", "attested")
        scene.engine.remove(first)
        for image in (OTHER_IMAGE, IMAGE, IMAGE, OTHER_IMAGE, IMAGE):
            container_id = scene.start(image, *named)
            pid = scene.engine.pid(container_id)
            await scene.wait_state(*verdicts[image])
            _, explained = await scene.daemon.ask(f"/v1/explain?pid={pid}")
            assert (explained["state"], explained["code"]) == verdicts[image]
            scene.engine.remove(container_id)
            status, _ = await scene.daemon.ask(f"/v1/explain?pid={pid}")
            assert status == 404
