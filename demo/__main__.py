"""``python -m demo``: the main job of Hopseal on this machine; exits 0 only if all of it was observed."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import FrameType

from demo.containers import ContainerRunner
from demo.image import ImageError, build_image
from demo.processes import ProcessRunner
from demo.runner import Runner
from demo.screen import bad, step
from demo.stage import TRUST_DOMAIN, Stage, set_stage
from demo.story import POLICY, Story, StoryError
from demo.view import needs_view, run_in_view
from demo.witness import DemoWitness
from hopseal.cli.engines import find_engines
from hopseal.cli.lazy import EXIT_NO, EXIT_UNAVAILABLE
from hopseal.cli.local_node import LocalNode
from hopseal.cli.node_plan import NodePlan, choose_broker_user
from hopseal.errors import HopsealError

# Handed to the process that runs where every user can read it, see demo.view.
_IMAGE, _PYTHON, _ENGINE = "HOPSEAL_DEMO_IMAGE", "HOPSEAL_DEMO_PYTHON", "HOPSEAL_DEMO_ENGINE"
_IN_VIEW = "HOPSEAL_DEMO_IN_VIEW"
LOG_TAIL_LINES = 20


def main() -> int:
    """The whole demo."""
    if os.geteuid() != 0:
        print("The demo needs root: each component runs under a user of its own, and the attestor reads all of them.")
        return EXIT_UNAVAILABLE
    if _IN_VIEW not in os.environ:
        given = {_IN_VIEW: "1", **_prepare_containers()}
        if needs_view():
            return run_in_view(["-m", "demo"], given)
        os.environ.update(given)
    signal.signal(signal.SIGTERM, _interrupt)
    user = choose_broker_user()
    stage = set_stage(user.gid if user is not None else 0)
    try:
        return _tell(stage, _plan(stage))
    except KeyboardInterrupt:
        return EXIT_NO
    finally:
        shutil.rmtree(stage.folder)


def _prepare_containers() -> dict[str, str]:
    """The engine and image to use; nothing if components shall be plain processes."""
    engines = find_engines()
    for engine in (*engines.docker, *engines.podman):
        step(f"image of this machine's own Python for the engine at {engine}")
        try:
            return {_ENGINE: str(engine), _IMAGE: build_image(str(engine), packages=True), _PYTHON: sys.executable}
        except ImageError as error:
            step(f"not in containers: {error}")
    return {}


def _plan(stage: Stage) -> NodePlan:
    engines = find_engines()
    user = choose_broker_user()
    return NodePlan(
        stage.node,
        stage.documents,
        TRUST_DOMAIN,
        broker_user=user,
        docker=engines.docker if _ENGINE in os.environ else (),
        podman=engines.podman if _ENGINE in os.environ else (),
    )


def _tell(stage: Stage, plan: NodePlan) -> int:
    runner = _runner(stage, plan)
    try:
        with DemoWitness(stage.folder, plan) as witness:
            plan = replace(plan, witnesses=((witness.url, witness.key),))
            (stage.folder / POLICY).write_text(witness.policy)
            with LocalNode(plan, lambda name, seconds: step(f"{name} is ready after {seconds:.1f} s")) as node:
                print(f"Hopseal demo, components as {runner.description}.")
                Story(stage, node, runner).tell()
    except (StoryError, HopsealError) as error:
        step(f"{bad('The demo failed')}: {error}")
        _print_logs(stage)
        return EXIT_NO
    finally:
        runner.stop()
    return 0


def _print_logs(stage: Stage) -> None:
    """The end of what components and daemons wrote, before the folder is removed."""
    for path in (*sorted(stage.folder.glob("*.log")), *sorted(stage.node.glob("*.log"))):
        lines = path.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        print("\n".join([f"--- {path.name}", *lines]))


def _runner(stage: Stage, plan: NodePlan) -> Runner:
    if _ENGINE not in os.environ:
        return ProcessRunner(stage, plan.environment)
    return ContainerRunner(
        stage,
        engine=Path(os.environ[_ENGINE]),
        image=os.environ[_IMAGE],
        python=os.environ[_PYTHON],
        node={"/run/hopseal/agent": plan.workload_socket.parent, "/run/hopseal/call": plan.out_socket.parent},
        environment={"PYTHONDONTWRITEBYTECODE": "1"},
    )


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
