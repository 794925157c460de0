"""The story that the demo tells, step by step; each step is checked, and the first that fails ends it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from demo.components.data import CHANGED_RULE
from demo.document import write_document
from demo.runner import Finished, Runner
from demo.screen import bad, command, good, heading, seconds, step
from demo.stage import AGENT, PARTS, Stage
from hopseal.cli.admin import AdminClient
from hopseal.cli.local_node import LocalNode
from hopseal.log.offline import ChainReport, HopReport, verify_chain_offline
from hopseal.log.reader import find_chains, read_log

TIMEOUT_S = 30.0
POLL_S = 0.02
POLICY, EVIDENCE, WITNESS_LOG = "witnesses.policy", "task.evidence", "witness.log"
TASK_URL = f"http://orchestrator.{AGENT}/task"
QUESTION = json.dumps({"question": "What should we do next about account Acme?"})
EXPECTED_STEP = "book a review with the account's executives"
# Who calls whom, as (caller, callee, operation), of the calls that matter in the chain.
BRANCHES = (
    ("shell", "orchestrator", "POST /task"),
    ("orchestrator", "reasoner", "POST /v1/chat/completions"),
    ("reasoner", "crm-connector", "tools/call crm.lookup"),
    ("orchestrator", "crm-connector", "tools/call crm.update"),
)


class StoryError(Exception):
    """Something was not as it should be; the message says what."""


class Story:
    """Tells it once.

    Args:
        stage: the folders.
        node: attestor and broker, not started.
        runner: the components, not started.
    """

    def __init__(self, stage: Stage, node: LocalNode, runner: Runner) -> None:
        self._stage = stage
        self._node = node
        self._runner = runner
        self._admin = AdminClient("attestor", node.plan.attestor_socket)

    def tell(self) -> None:
        """All of it.

        Raises:
            StoryError: a step did not show what it should.
        """
        self._bring_up()
        self._approve()
        self._run_task()
        self._show_chain()
        self._prove()
        self._show_status()
        self._change_prompt()
        self._run_task_again()
        self._explain()

    def _bring_up(self) -> None:
        heading("1. Attestor and broker, on an embedded authority; an agent of three components")
        for part in PARTS:
            self._runner.start(part)
        self._node.start()
        for part in PARTS:
            self._wait(self._stage.socket(part.name).exists, f"{part.name} listens", self._stage.log(part.name).name)
            step(f"{part.name} runs as {self._runner.pid(part.name)}, user {part.uid}; nobody has approved it yet")

    def _approve(self) -> None:
        heading("2. Measure what runs, write the Agent document that approves exactly that")
        folders = {part.name: self._runner.config_folder(part.name) for part in PARTS}
        measured = {
            part.name: self._admin.get(
                "/v1/measure", {"pid": self._runner.pid(part.name), "files": [folders[part.name]]}
            )
            for part in PARTS
        }
        write_document(self._stage, measured, folders)
        self._hopseal("agents", "check", str(self._stage.documents))
        for part in PARTS:
            self._wait(partial(self._is, part.name, "attested"), f"{part.name} is attested")
            step(f"{part.name} is {good('attested')}: {_measurement(measured[part.name])}")
        self._wait(self._are_callable, "the broker has every component's identity")

    def _run_task(self) -> None:
        heading("3. One task: shell → orchestrator → reasoner → connector, orchestrator → connector")
        done = self._call()
        if done.code or EXPECTED_STEP not in done.stdout:
            raise StoryError(f"the task failed with code {done.code}: {done.stdout}{done.stderr}")
        print(done.stdout.rstrip())
        step(good("answered") + "; every hop over mutual TLS, signed and logged before it went on")

    def _show_chain(self) -> None:
        heading("4. The custody chain, verified offline from the broker's log alone")
        code = self._hopseal("chain", "show", "--last")
        report = self._read_chain()
        missing = [" → ".join(branch[:2]) for branch in BRANCHES if branch not in set(_hops(report.roots))]
        if code or not report.verified or missing:
            raise StoryError(f"the chain is not as it should be: missing {missing}, verified {report.verified}")

    def _prove(self) -> None:
        heading("5. The same for an auditor, years later, who trusts nobody here but the witness that cosigned the log")
        self._wait(self._is_witnessed, "the witness has cosigned the whole log", WITNESS_LOG)
        cid = self._read_chain().cid
        exported = self._hopseal("audit", "export", "--cid", cid, "--policy", POLICY, "-o", EVIDENCE)
        if exported or self._hopseal("audit", "verify", EVIDENCE, "--policy", POLICY, "--brief"):
            raise StoryError("the evidence is not verified")

    def _show_status(self) -> None:
        heading("6. What the operator sees")
        if self._hopseal("status"):
            raise StoryError("the node is not healthy")

    def _change_prompt(self) -> None:
        heading("7. Somebody changes the reasoning engine's prompt")
        prompt = self._stage.config("reasoner") / "prompt.md"
        prompt.write_text(prompt.read_text() + CHANGED_RULE)
        changed = time.monotonic()
        step(f"prompt.md now says: {CHANGED_RULE.strip()}")
        self._wait(partial(self._is, "reasoner", "drifted"), "the reasoner has drifted")
        step(f"reasoner is {bad('drifted')}: its identity was withdrawn after {time.monotonic() - changed:.2f} s")

    def _run_task_again(self) -> None:
        heading("8. The same task again")
        done = self._call()
        if done.code == 0 or '"peer":"reasoner"' not in done.stdout:
            raise StoryError(f"the task was not refused: code {done.code}, {done.stdout}{done.stderr}")
        print(done.stdout.rstrip())
        step(f"{bad('refused')}: the orchestrator cannot reach the reasoner any more")

    def _explain(self) -> None:
        heading("9. Why")
        if self._hopseal("explain", f"{AGENT}/reasoner") != 1:
            raise StoryError("explain does not say that the reasoner is refused")
        found = self._admin.get("/v1/explain", {"component": f"{AGENT}/reasoner"})
        wrong = [(item["item"], item["detail"].rpartition("/")[2]) for item in found["items"] if not item["holds"]]
        if found["state"] != "drifted" or wrong != [("config", "prompt.md")]:
            raise StoryError(f"explain names {wrong} of a component that is {found['state']}")
        step(good("Done: everything above was observed") + f" in {seconds():.1f} s")
        print("\nNext: docs/guide.md keeps a node running, with agents of your own.")

    def _call(self) -> Finished:
        command(f"hopseal call {TASK_URL} -d '{QUESTION}'     (as the component shell)")
        return self._runner.run_shell(["call", TASK_URL, "-d", QUESTION])

    def _hopseal(self, *arguments: str) -> int:
        """Run a command of the operator, which prints for itself."""
        command("hopseal " + " ".join(arguments).replace(str(self._stage.documents), "documents"))
        return subprocess.run(
            [sys.executable, "-m", "hopseal.cli.main", *arguments],
            env={**os.environ, **self._node.plan.environment},
            cwd=self._stage.folder,
            check=False,
        ).returncode

    def _read_chain(self) -> ChainReport:
        entries = read_log((self._node.plan.custody_log / "custody.log").read_bytes()).entries
        return verify_chain_offline(entries, find_chains(entries)[-1])

    def _is(self, name: str, state: str) -> bool:
        listed: list[dict[str, Any]] = self._admin.get("/v1/status")["components"]
        return any(each["component"] == f"{AGENT}/{name}" and each["state"] == state for each in listed)

    def _is_witnessed(self) -> bool:
        audit = AdminClient("broker", self._node.plan.broker_socket).get("/v1/status")["audit"]
        return bool(audit["published"] == audit["entries"] > 0)

    def _are_callable(self) -> bool:
        """Both daemons reload the documents for themselves, and the broker may have asked too early."""
        callees = AdminClient("broker", self._node.plan.broker_socket).get("/v1/status")["callees"]
        return len(callees) == len(PARTS) and all(each["state"] == "attested" for each in callees)

    def _wait(self, condition: Callable[[], bool], what: str, log: str = "") -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            if time.monotonic() > deadline:
                tail = (self._stage.folder / log).read_text(errors="replace")[-2000:] if log else ""
                raise StoryError(f"{what}: not within {TIMEOUT_S:g} s\n{tail}")
            time.sleep(POLL_S)


def _hops(reports: tuple[HopReport, ...]) -> list[tuple[str, str, str]]:
    found = [
        (str(each.record.iss).rpartition("/")[2], each.record.aud.rpartition("/")[2], each.record.op or "")
        for each in reports
    ]
    return found + [hop for each in reports for hop in _hops(each.children)]


def _measurement(measured: dict[str, Any]) -> str:
    program = measured["image"][0] if measured.get("image") else measured["exe"]
    kind = "image" if measured.get("image") else "executable"
    return f"{kind} {program[7:19]}, config {measured['config']['digest'][7:19]}, posture {measured['posture']}"
