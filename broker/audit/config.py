"""The ``audit`` section of ``broker.yaml``: how the custody log is kept, and who witnesses it.

Owns: its keys, defaults and bounds. Does not own: acting on any value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from hopseal.errors import InvalidError
from hopseal.log.note import COSIGNATURE_ED25519, COSIGNATURE_ML_DSA_44, VerifierKey, parse_vkey
from hopseal.settings import Section

if TYPE_CHECKING:
    from broker.config import Endpoint

MIN_SEGMENT_BYTES = 1 << 20
MAX_SEGMENT_BYTES = 1 << 40
DEFAULT_SEGMENT_BYTES = 256 << 20
MIN_INTERVAL_S = 0.05
MAX_INTERVAL_S = 60.0  # an auditor wants a witnessed time within 120 s of a record; custody-wire §11.3
_MAX_QUORUM = 32
_NO_KEY = VerifierKey("", COSIGNATURE_ED25519, b"")


@dataclass(frozen=True, slots=True)
class AuditConfig:
    """How the custody log is kept and published.

    Args:
        listen: where its tiles are served over HTTP; None serves them nowhere.
        segment_bytes: a file of the log that has reached this takes no more entries.
        checkpoint_interval_s: a changed log gets a checkpoint at least this often.
        strict: calls wait until a quorum of witnesses has confirmed their entry.
        wait_when_full: calls wait a while for a log that cannot be written; else they fail at once.
        witnesses: submission prefix and key of each.
        quorum: how many must cosign a checkpoint.
    """

    listen: Endpoint | None = None
    segment_bytes: int = DEFAULT_SEGMENT_BYTES
    checkpoint_interval_s: float = 1.0
    strict: bool = False
    wait_when_full: bool = False
    witnesses: tuple[tuple[str, VerifierKey], ...] = ()
    quorum: int = 0


def read_audit(section: Section, listen: Endpoint | None) -> AuditConfig:
    """What the section says; ``listen`` is read by the caller, who knows addresses."""
    witnesses = tuple(map(_read_witness, section.section_list("witnesses")))
    config = AuditConfig(
        listen=listen,
        segment_bytes=section.integer(
            "segment_bytes", default=DEFAULT_SEGMENT_BYTES, minimum=MIN_SEGMENT_BYTES, maximum=MAX_SEGMENT_BYTES
        ),
        checkpoint_interval_s=section.number(
            "checkpoint_interval_s", default=1.0, minimum=MIN_INTERVAL_S, maximum=MAX_INTERVAL_S
        ),
        strict=section.flag("strict", default=False),
        wait_when_full=section.choice("when_full", ("fail", "wait"), default="fail") == "wait",
        witnesses=witnesses,
        quorum=section.integer("quorum", default=min(1, len(witnesses)), minimum=0, maximum=_MAX_QUORUM),
    )
    if config.quorum > len({url for url, _ in witnesses}):
        section.mistake("quorum", "is more than there are witnesses", "list more witnesses, or ask for fewer")
    if config.strict and not config.quorum:
        section.mistake("strict", "nobody would be waited for", "list witnesses and a quorum of at least 1")
    return config


def _read_witness(section: Section) -> tuple[str, VerifierKey]:
    return section.parsed("url", _parse_url, ""), section.parsed("key", _parse_key, _NO_KEY)


def _parse_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        # Reading the port is what checks it.
        is_prefix = parts.scheme in {"https", "http"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_prefix = False
        parts = urlsplit("")
    if not is_prefix or parts.query or parts.fragment or "@" in parts.netloc or not text.isprintable():
        raise InvalidError("url_malformed", f"{text!r} is no submission prefix", remedy="write https://host/path")
    return text.rstrip("/")


def _parse_key(text: str) -> VerifierKey:
    key = parse_vkey(text)
    if key.algorithm not in {COSIGNATURE_ED25519, COSIGNATURE_ML_DSA_44}:
        raise InvalidError("vkey_invalid", "the key does not make cosignatures", remedy="ask the witness for its vkey")
    return key
