"""How the broker names a process to the attestor.

Owns: the two references and their form on the wire. Does not own: what comes back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from google.protobuf.any_pb2 import Any as AnyMessage

from hopseal.wire.gen.hopseal.v1.reference_pb2 import ListenerReference, PidfdReference
from hopseal.wire.gen.spiffe.broker.api_pb2 import WorkloadReference


@dataclass(frozen=True, slots=True)
class CallerRef:
    """A process that connected to the broker's socket, named by the inode of its pidfd."""

    pidfd_inode: int


@dataclass(frozen=True, slots=True)
class ListenerRef:
    """Whoever listens on a component's socket; ``pidfd_inode`` is 0 when the process that called listen has exited.

    Args:
        component: ``agent/component`` that should be listening.
        path: the socket.
    """

    pidfd_inode: int
    component: str
    path: str


Reference: TypeAlias = CallerRef | ListenerRef


def encode_reference(reference: Reference, boot_id: bytes) -> WorkloadReference:
    """The message that names ``reference`` on the machine's boot ``boot_id``."""
    packed = AnyMessage()
    if isinstance(reference, CallerRef):
        packed.Pack(PidfdReference(pidfd_inode=reference.pidfd_inode, boot_id=boot_id))
    else:
        packed.Pack(
            ListenerReference(
                pidfd_inode=reference.pidfd_inode,
                boot_id=boot_id,
                component=reference.component,
                path=reference.path,
            )
        )
    return WorkloadReference(reference=packed)
