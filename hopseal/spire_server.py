"""Registration entries of a SPIRE Server, over the server's own Unix socket.

Owns: reading and changing owned entries. Does not own: deciding what to change
(``hopseal.registrations``), nor asking an operator first (the command line does).

Source: spire-api-sdk, spire.api.server.entry.v1 and spire.api.types.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from grpclib.client import Channel

from hopseal.entries import OWNED_PREFIX
from hopseal.errors import InvalidError, UnavailableError
from hopseal.ids import SpiffeId
from hopseal.registrations import Registration, RegistrationChanges
from hopseal.wire.client import call
from hopseal.wire.gen.spire.api.server.entry.v1 import entry_pb2 as pb
from hopseal.wire.gen.spire.api.server.entry.v1.entry_grpc import EntryStub
from hopseal.wire.gen.spire.api.types.entry_pb2 import Entry, EntryMask
from hopseal.wire.gen.spire.api.types.selector_pb2 import Selector
from hopseal.wire.gen.spire.api.types.spiffeid_pb2 import SPIFFEID
from hopseal.wire.gen.spire.api.types.status_pb2 import Status

T = TypeVar("T")

TIMEOUT_S = 10.0
PAGE_SIZE = 500
BATCH_SIZE = 50  # of one create, update or delete call; the server works through a batch in one request
_OK = 0  # google.rpc.Code
_FIELDS = EntryMask(spiffe_id=True, parent_id=True, selectors=True, x509_svid_ttl=True, jwt_svid_ttl=True, hint=True)


class Action(StrEnum):
    """What was done to an entry."""

    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one change; ``error`` is empty if it was made."""

    action: Action
    entry_id: str
    error: str = ""


class SpireServer:
    """A SPIRE Server's entries; an async context manager.

    Args:
        socket: the server's API socket, which makes its user an administrator.
    """

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._channel: Channel | None = None

    async def __aenter__(self) -> Self:
        self._channel = Channel(path=str(self._socket))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    async def list_owned(self) -> tuple[Registration, ...]:
        """Every entry whose ID begins with ``hopseal.``.

        Raises:
            UnavailableError: the server cannot be reached (``rpc_unavailable``).
            DeniedError: it refuses (``rpc_denied``).
            InvalidError: an owned entry cannot be read (``spire_entry_malformed``).
        """
        found: list[Registration] = []
        token = ""
        while True:
            page = await call(
                self._entries().ListEntries,
                pb.ListEntriesRequest(output_mask=_FIELDS, page_size=PAGE_SIZE, page_token=token),
                timeout_s=TIMEOUT_S,
            )
            found += [_parse(entry) for entry in page.entries if entry.id.startswith(OWNED_PREFIX)]
            token = page.next_page_token
            if not token:
                return tuple(found)

    async def apply(self, changes: RegistrationChanges) -> tuple[Outcome, ...]:
        """Make ``changes``: delete, then update, then create, so that a moved identity is never there twice.

        A change that the server refuses does not stop the others; its outcome says why.

        Raises:
            UnavailableError, DeniedError, InvalidError: a whole call fails, as :meth:`list_owned`; what was made
                before it stays made.
        """
        outcomes: list[Outcome] = []
        for deleted in _batches([each.entry_id for each in changes.delete]):
            removed = await call(
                self._entries().BatchDeleteEntry, pb.BatchDeleteEntryRequest(ids=deleted), timeout_s=TIMEOUT_S
            )
            outcomes += _outcomes(Action.DELETE, deleted, [result.status for result in removed.results])
        for updated in _batches([wanted for _, wanted in changes.update]):
            answer = await call(
                self._entries().BatchUpdateEntry,
                pb.BatchUpdateEntryRequest(entries=[_render(each) for each in updated], input_mask=_FIELDS),
                timeout_s=TIMEOUT_S,
            )
            outcomes += _outcomes(Action.UPDATE, _ids(updated), [result.status for result in answer.results])
        for created in _batches(list(changes.create)):
            made = await call(
                self._entries().BatchCreateEntry,
                pb.BatchCreateEntryRequest(entries=[_render(each) for each in created]),
                timeout_s=TIMEOUT_S,
            )
            outcomes += _outcomes(Action.CREATE, _ids(created), [result.status for result in made.results])
        return tuple(outcomes)

    def _entries(self) -> EntryStub:
        if self._channel is None:
            raise UnavailableError("rpc_unavailable", "the client is not open")
        return EntryStub(self._channel)


def _batches(items: Sequence[T]) -> list[Sequence[T]]:
    return [items[start : start + BATCH_SIZE] for start in range(0, len(items), BATCH_SIZE)]


def _ids(registrations: Sequence[Registration]) -> list[str]:
    return [each.entry_id for each in registrations]


def _outcomes(action: Action, entry_ids: Sequence[str], statuses: Sequence[Status]) -> list[Outcome]:
    return [
        Outcome(action, entry_id, "" if status.code == _OK else status.message or f"status {status.code}")
        for entry_id, status in zip(entry_ids, statuses, strict=True)
    ]


def _render(registration: Registration) -> Entry:
    return Entry(
        id=registration.entry_id,
        spiffe_id=_render_id(registration.spiffe_id),
        parent_id=_render_id(registration.parent_id),
        selectors=[Selector(type=kind, value=value) for kind, value in sorted(registration.selectors)],
        x509_svid_ttl=registration.x509_svid_ttl_s,
        jwt_svid_ttl=registration.jwt_svid_ttl_s,
        hint=registration.hint,
    )


def _render_id(spiffe_id: SpiffeId) -> SPIFFEID:
    return SPIFFEID(trust_domain=spiffe_id.trust_domain.name, path=spiffe_id.path)


def _parse(entry: Entry) -> Registration:
    try:
        return Registration(
            entry_id=entry.id,
            spiffe_id=_parse_id(entry.spiffe_id),
            parent_id=_parse_id(entry.parent_id),
            selectors=frozenset((selector.type, selector.value) for selector in entry.selectors),
            hint=entry.hint,
            x509_svid_ttl_s=entry.x509_svid_ttl,
            jwt_svid_ttl_s=entry.jwt_svid_ttl,
        )
    except InvalidError as error:
        raise InvalidError(
            "spire_entry_malformed",
            "an owned entry of the SPIRE Server cannot be read",
            detail=f"{entry.id}: {error}",
            remedy="delete it with `spire-server entry delete`",
        ) from error


def _parse_id(value: SPIFFEID) -> SpiffeId:
    return SpiffeId.parse(f"spiffe://{value.trust_domain}{value.path}")
