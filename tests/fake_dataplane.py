"""A data plane without a network: what the control process told it, and events at will."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass, field

from broker._dataplane import DataPlaneError, PolicySets


def mistakes_in(text: str) -> list[str]:
    """What the real data plane finds wrong with a policy set of this text."""
    sets = [{"name": "s", "layer": "operator", "observe": False, "pieces": [text]}]
    try:
        PolicySets(json.dumps(sets), "{}")
    except DataPlaneError as error:
        return [line.removeprefix("s: ") for line in error.args[1].splitlines()]
    return []


class FakeDataPlaneError(Exception):
    """Like the binding's: code, then message."""


@dataclass
class FakeIdentity:
    spiffe_id: str
    chain_der: list[bytes]
    key_pkcs8: bytes
    expires_at: int


@dataclass
class FakeDataPlane:
    """The binding's methods over dictionaries; ``calls`` keeps their names and arguments in order."""

    settings: dict = field(default_factory=dict)
    calls: list[tuple] = field(default_factory=list)
    callers: dict[int, tuple] = field(default_factory=dict)
    listeners: dict[tuple[str, int], tuple] = field(default_factory=dict)
    identities: dict[tuple[str, str], FakeIdentity] = field(default_factory=dict)
    bundles: list = field(default_factory=list)
    components: list = field(default_factory=list)
    routes: dict = field(default_factory=dict)
    issuers: list = field(default_factory=list)
    sets: list = field(default_factory=list)
    facts: dict = field(default_factory=dict)
    started: bool = False
    drained: bool = False
    stopped: bool = False
    metrics: list = field(default_factory=list)
    refuse_identities: bool = False
    refuse_policies: bool = False
    durable: int = 0
    witnessed: int = 0
    artifacts: list[tuple[dict, list[bytes]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._events: list[str] = []
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def emit(self, event: str, **fields: object) -> None:
        """Report ``event`` to the control process."""
        self._events.append(json.dumps({"event": event, **fields}, separators=(",", ":")))
        os.eventfd_write(self._fd, 1)

    def start(self) -> int:
        self.started = True
        return 8443

    def descriptors(self) -> list[int]:
        return []

    def hand_over(self) -> tuple[int, int]:
        return os.pipe()

    def take_over(self, out: int, out_lock: int, peer: int, relay: int, forward: int) -> int:
        self.started = True
        return 8443

    def event_fd(self) -> int:
        return self._fd

    def take_events(self) -> list[str]:
        with suppress(BlockingIOError):
            os.eventfd_read(self._fd)
        taken, self._events = self._events, []
        return taken

    def take_calls(self, end: str, most: int) -> tuple[str, list[str]]:
        calls = [text for text in self._events if text.startswith('{"event":"call",') or text == '{"event":"call"}'][
            :most
        ]
        taken = set(map(id, calls))
        self._events = [text for text in self._events if id(text) not in taken]
        return "".join(f"{text[:-1]}{end}\n" for text in calls), []

    def admit_caller(self, pidfd_inode: int, instance: str, component: str) -> None:
        self.calls.append(("admit_caller", pidfd_inode, instance, component))
        self.callers[pidfd_inode] = ("admitted", instance, component)

    def refuse_caller(self, pidfd_inode: int, code: str, retry: bool) -> None:
        self.calls.append(("refuse_caller", pidfd_inode, code, retry))
        if retry:
            self.callers.pop(pidfd_inode, None)
        else:
            self.callers[pidfd_inode] = ("refused", code)

    def forget_caller(self, pidfd_inode: int) -> None:
        self.calls.append(("forget_caller", pidfd_inode))
        self.callers.pop(pidfd_inode, None)

    def admit_listener(self, component: str, pidfd_inode: int, instance: str) -> None:
        self.calls.append(("admit_listener", component, pidfd_inode, instance))
        self.listeners[component, pidfd_inode] = ("admitted", instance)

    def refuse_listener(self, component: str, pidfd_inode: int, code: str) -> None:
        self.calls.append(("refuse_listener", component, pidfd_inode, code))
        self.listeners[component, pidfd_inode] = ("refused", code)

    def forget_listener(self, component: str, pidfd_inode: int) -> None:
        self.calls.append(("forget_listener", component, pidfd_inode))
        self.listeners.pop((component, pidfd_inode), None)

    def set_identity(
        self, instance: str, component: str, spiffe_id: str, chain_der: list[bytes], key_pkcs8: bytes, expires_at: int
    ) -> None:
        if self.refuse_identities:
            raise FakeDataPlaneError("identity_invalid", "key does not belong to the certificate")
        self.calls.append(("set_identity", instance, component, expires_at))
        self.identities[instance, component] = FakeIdentity(spiffe_id, chain_der, key_pkcs8, expires_at)

    def withdraw(self, instance: str, component: str, code: str) -> None:
        self.calls.append(("withdraw", instance, component, code))
        self.identities.pop((instance, component), None)
        self.callers = {k: v for k, v in self.callers.items() if v != ("admitted", instance, component)}
        self.listeners = {k: v for k, v in self.listeners.items() if k[0] != component or v != ("admitted", instance)}

    def set_bundles(self, bundles: list[tuple[str, list[bytes], int]]) -> None:
        self.bundles = bundles

    def set_components(self, components_json: str) -> None:
        self.components = json.loads(components_json)
        self.calls.append(("set_components",))

    def set_routes(self, routes_json: str) -> None:
        self.routes = json.loads(routes_json)

    def set_issuers(self, issuers_json: str) -> None:
        self.issuers = json.loads(issuers_json)
        self.calls.append(("set_issuers",))

    def set_policy_sets(self, sets_json: str, facts_json: str) -> None:
        if self.refuse_policies:
            raise FakeDataPlaneError("policy_invalid", "unexpected token")
        sets = json.loads(sets_json)
        mistakes = [f"{each['name']}: {why}" for each in sets for text in each["pieces"] for why in mistakes_in(text)]
        if mistakes:
            raise FakeDataPlaneError("policy_invalid", "\n".join(mistakes))
        self.calls.append(("set_policy_sets",))
        self.sets, self.facts = sets, json.loads(facts_json)

    def set_policy_facts(self, facts_json: str) -> None:
        self.calls.append(("set_policy_facts",))
        self.facts = json.loads(facts_json)

    def explain(self, question_json: str) -> str:
        question = json.loads(question_json)
        if "caller" not in question:
            raise FakeDataPlaneError("question_invalid", "missing field `caller`")
        return json.dumps({"allowed": True, "question": question})

    def decision(self, decision_id: str) -> str | None:
        return json.dumps({"decision": decision_id, "allowed": False}) if decision_id == "known.1" else None

    @property
    def policies(self) -> str:
        """The text of every set."""
        return "\n".join(text for each in self.sets for text in each["pieces"])

    def log_durable(self) -> int:
        return self.durable

    def take_leaves(self, start: int, end: int) -> list[bytes] | None:
        return None

    def set_witnessed(self, count: int) -> None:
        self.witnessed = max(self.witnessed, count)

    def append_artifact(self, artifact_json: str, chain_der: list[bytes] = ()) -> None:
        self.artifacts.append((json.loads(artifact_json), list(chain_der)))

    def stats(self) -> str:
        return json.dumps({"metrics": self.metrics})

    def drain(self, timeout_s: float) -> None:
        self.drained = True

    def stop(self) -> None:
        self.stopped = True

    def named(self, name: str) -> list[tuple]:
        """The arguments of every call of ``name``."""
        return [call[1:] for call in self.calls if call[0] == name]
