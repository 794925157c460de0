"""What was measured about a process, as immutable values.

Owns: the types that collectors produce and that matching, selectors and
``explain`` read. Does not own: how anything is measured
(``attestor.collectors``), nor what is approved (``attestor.matching``).

Every item is a value or :class:`Unreadable`; nothing is ever guessed and an
unreadable item never turns into a smaller set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from hopseal.selectors import Posture

EngineKind: TypeAlias = Literal["docker", "podman", "containerd"]


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Why an item could not be measured; whoever needs the item is refused.

    ``code`` is stable, ``detail`` is for the operator, ``remedy`` says what to do next.
    """

    code: str
    detail: str
    remedy: str = ""


@dataclass(frozen=True, slots=True, order=True)
class ExeIdentity:
    """The inode that a process executes; changes at every exec of another file."""

    dev: int
    ino: int


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """Kernel facts about one process, read through ``/proc/PID``.

    Attributes:
        uid: effective user id, in the attestor's user namespace.
        gids: effective group id first, then the supplementary ones, sorted, without repeats.
        exe_sha256: ``sha256:<hex>`` of the running inode, or why it could not be hashed.
        exe_path: the path the kernel shows, for people only; never compared.
        exe_deleted: the running file has no name any more.
        namespaces: namespace name (``mnt``, ``net``, …) to inode.
        cgroup: path in the unified hierarchy, else in systemd's, else the first that is not ``/``.
        unit: systemd unit that owns the cgroup, if any.
    """

    pid: int
    uid: int
    gids: tuple[int, ...]
    exe: ExeIdentity
    exe_sha256: str | Unreadable
    exe_path: str
    exe_deleted: bool
    namespaces: Mapping[str, int]
    ppid: int
    start_ticks: int
    cgroup: str
    unit: str | None

    @property
    def units(self) -> frozenset[str]:
        """Everything that ``unit`` in a document may name: the systemd unit and the cgroup path."""
        return frozenset({self.cgroup}) if self.unit is None else frozenset({self.unit, self.cgroup})


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount that the engine made for a container; ``source`` is a path of the host."""

    kind: str
    source: str
    destination: str


@dataclass(frozen=True, slots=True)
class HostConfig:
    """What the engine was asked to grant a container beyond its defaults."""

    privileged: bool
    security_opt: tuple[str, ...]
    devices: tuple[str, ...]
    sysctls: Mapping[str, str]
    masked_paths: tuple[str, ...] | None
    host_ports: tuple[str, ...]
    mounts: tuple[Mount, ...]


@dataclass(frozen=True, slots=True, order=True)
class FoundSecret:
    """A credential that lies open: the name of the rule that knows it, and where. Never its value."""

    rule: str
    place: str

    def __str__(self) -> str:
        return f"{self.rule} in {self.place}"


@dataclass(frozen=True, slots=True)
class ContainerFacts:
    """The running container that a process belongs to, as its engine describes it.

    Attributes:
        id: 64 hexadecimal digits, equal to the id in ``/proc/PID/cgroup``.
        pid: the container's first process.
        image_id: ``sha256:<hex>`` of the image that the container runs, never a name.
        image_digests: every content digest of that image (config, manifest, index), or why unknown.
        secrets: found in the environment that the engine sets.
    """

    id: str
    engine: EngineKind
    name: str
    pid: int
    image_id: str
    image_digests: frozenset[str] | Unreadable
    labels: Mapping[str, str]
    host: HostConfig
    secrets: tuple[FoundSecret, ...] = ()


@dataclass(frozen=True, slots=True)
class ConfigFacts:
    """Merkle root over declared files; ``files`` is (path as the process sees it, ``sha256:<hex>``), sorted.

    ``secrets`` were found in these files.
    """

    root: str
    files: tuple[tuple[str, str], ...]
    secrets: tuple[FoundSecret, ...] = ()


@dataclass(frozen=True, slots=True)
class FailedControl:
    """A Pod Security Standards control that does not hold, and the level that asks for it."""

    control: str
    level: Posture
    detail: str


@dataclass(frozen=True, slots=True)
class PostureFacts:
    """The highest level that holds and every control that fails, weakest level first."""

    level: Posture
    failed: tuple[FailedControl, ...]


CHILDREN_NOT_MEASURED = Unreadable("children_not_measured", "no document asked for the processes below it")


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything measured about one process at one time.

    Attributes:
        container: ``None`` when the cgroup names no container.
        children: digests of what the processes below it execute.
        config: one entry for each set of declared paths that was asked for.
        measured_at: seconds since the epoch when the last read ended.
    """

    process: ProcessFacts | Unreadable
    container: ContainerFacts | Unreadable | None
    config: Mapping[tuple[str, ...], ConfigFacts | Unreadable]
    posture: PostureFacts | Unreadable
    measured_at: float
    children: frozenset[str] | Unreadable = CHILDREN_NOT_MEASURED

    @property
    def engine(self) -> EngineKind | Literal["none"] | None:
        """``none`` outside containers; ``None`` when it could not be found out."""
        if self.container is None:
            return "none"
        return None if isinstance(self.container, Unreadable) else self.container.engine
