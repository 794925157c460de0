"""What an engine's ``inspect`` answers say. Pure.

Owns: checking the shape and taking the facts out; an answer with a field of the
wrong kind is refused whole. Does not own: asking (``attestor.engine.api``).

Source: Docker Engine API, ContainerInspect and ImageInspect; Podman serves the same shape.
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import Any, Final, TypeVar

from attestor.collectors.secrets import find_in_environment
from attestor.engine.errors import ContainerUnknown, EngineInvalid
from attestor.facts import ContainerFacts, EngineKind, HostConfig, Mount, Unreadable

Kind = TypeVar("Kind")

_CONTAINER_ID: Final = re.compile(r"[0-9a-f]{64}")
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_MAX_ITEMS: Final = 4096
_PENDING: Final = Unreadable("image_pending", "the image has not been inspected")


def is_container_id(text: str) -> bool:
    """Whether the text is a full container id, never a prefix or a name."""
    return _CONTAINER_ID.fullmatch(text) is not None


def parse_container(answer: object, container_id: str, engine: EngineKind) -> ContainerFacts:
    """The facts about the container that was asked for; its image digests stand as pending.

    Raises:
        EngineInvalid: the answer is malformed or about another container.
        ContainerUnknown: the container does not run.
    """
    top = _fields(answer, "the answer")
    if top.get("Id") != container_id:
        raise EngineInvalid(f"asked about {container_id}, answered about {str(top.get('Id'))[:80]}")
    state = _fields(top.get("State"), "State")
    pid = _get(state, "Pid", int)
    if _get(state, "Running", bool) is not True or pid <= 0:
        raise ContainerUnknown(f"container {container_id} does not run")
    config = _fields(top.get("Config"), "Config")
    return ContainerFacts(
        id=container_id,
        engine=engine,
        name=_get(top, "Name", str).removeprefix("/"),
        pid=pid,
        image_id=_digest(top.get("Image"), "Image"),
        image_digests=_PENDING,
        labels=_text_map(config.get("Labels"), "Config.Labels"),
        host=_parse_host(_fields(top.get("HostConfig"), "HostConfig"), _items(top.get("Mounts"), "Mounts")),
        secrets=find_in_environment(_texts(config.get("Env"), "Config.Env")),
    )


def parse_image(answer: object, image_id: str) -> frozenset[str]:
    """Every content digest of the image that was asked for: config, manifest, index.

    Raises:
        EngineInvalid: the answer is malformed or about another image.
    """
    top = _fields(answer, "the answer")
    if _digest(top.get("Id"), "Id") != image_id:
        raise EngineInvalid(f"asked about image {image_id}, answered about {top.get('Id')}")
    digests = {image_id}
    for reference in _items(top.get("RepoDigests"), "RepoDigests"):
        _, at, digest = _text(reference, "RepoDigests").rpartition("@")
        if at:
            digests.add(_digest(digest, "RepoDigests"))
    return frozenset(digests)


def parse_list(answer: object) -> tuple[str, ...]:
    """The ids in a list of containers.

    Raises:
        EngineInvalid: malformed, or more containers than a node can run.
    """
    found = []
    for item in _items(answer, "the list", limit=4 * _MAX_ITEMS):
        container_id = _get(_fields(item, "the list"), "Id", str)
        if not is_container_id(container_id):
            raise EngineInvalid(f"not a container id: {container_id[:80]!r}")
        found.append(container_id)
    return tuple(found)


def _parse_host(host: dict[str, Any], mounts: list[Any]) -> HostConfig:
    masked = host.get("MaskedPaths")
    return HostConfig(
        privileged=_get(host, "Privileged", bool),
        security_opt=_texts(host.get("SecurityOpt"), "SecurityOpt"),
        devices=tuple(
            _get(_fields(device, "Devices"), "PathOnHost", str) for device in _items(host.get("Devices"), "Devices")
        ),
        sysctls=_text_map(host.get("Sysctls"), "Sysctls"),
        masked_paths=None if masked is None else _texts(masked, "MaskedPaths"),
        host_ports=_host_ports(host.get("PortBindings")),
        mounts=tuple(_parse_mount(_fields(mount, "Mounts")) for mount in mounts),
    )


def _parse_mount(mount: dict[str, Any]) -> Mount:
    return Mount(
        kind=_get(mount, "Type", str),
        source=_text(mount.get("Source", ""), "Mounts.Source"),
        destination=_get(mount, "Destination", str),
    )


def _host_ports(bindings: object) -> tuple[str, ...]:
    if bindings is None:
        return ()
    return tuple(
        sorted(_text(port, "PortBindings") for port, bound in _fields(bindings, "PortBindings").items() if bound)
    )


def _fields(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict) or len(value) > _MAX_ITEMS:
        raise EngineInvalid(f"{where} is not an object")
    return value


def _items(value: object, where: str, *, limit: int = _MAX_ITEMS) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > limit:
        raise EngineInvalid(f"{where} is not a list")
    return value


def _get(fields: dict[str, Any], name: str, kind: type[Kind]) -> Kind:
    value = fields.get(name)
    if type(value) is not kind:
        raise EngineInvalid(f"{name} is not a {kind.__name__}")
    return value


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise EngineInvalid(f"{where} is not text")
    return value


def _texts(value: object, where: str) -> tuple[str, ...]:
    return tuple(_text(item, where) for item in _items(value, where))


def _text_map(value: object, where: str) -> MappingProxyType[str, str]:
    if value is None:
        return MappingProxyType({})
    return MappingProxyType({_text(key, where): _text(item, where) for key, item in _fields(value, where).items()})


def _digest(value: object, where: str) -> str:
    if not isinstance(value, str) or _DIGEST.fullmatch(value) is None:
        raise EngineInvalid(f"{where} is not a sha256 digest: {str(value)[:80]!r}")
    return value
