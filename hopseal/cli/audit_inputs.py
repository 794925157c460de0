"""What the audit commands read: evidence bundles, log policies, trust policies.

Owns: files and the options that name them. Does not own: their forms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from hopseal.errors import InvalidError, UnavailableError
from hopseal.log.audit.trust import TrustPolicy, parse_trust
from hopseal.log.bundle import MAX_FILE_BYTES, EvidenceBundle, parse_evidence
from hopseal.log.note import VerifierKey, parse_vkey
from hopseal.log.policy import MAX_POLICY_BYTES, Policy, parse_policy, policy_of

_F = TypeVar("_F", bound=Callable[..., Any])
_PATH = click.Path(path_type=Path)
MAX_TRUST_FILE_BYTES = 1 << 21

bundle_argument = click.argument("bundle", type=_PATH)


def judging_options(function: _F) -> _F:
    """``--policy``, ``--witness-key``, ``--trust`` and ``--now``."""
    options = (
        click.option("--policy", "policy_file", type=_PATH, help="tlog-policy: logs, witnesses and their quorum."),
        click.option(
            "--witness-key",
            "witness_keys",
            multiple=True,
            help="Instead of a policy: a witness's vkey; all must have cosigned, logs are those that the bundle names.",
        ),
        click.option(
            "--trust",
            "trust_file",
            type=_PATH,
            help="Trust policy: domains, pinned authorities, attestors. Default: bundles that witnessed logs held.",
        ),
        click.option(
            "--now", type=click.IntRange(0), help="Seconds since 1970; later cosignatures do not count. Default: now."
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


def read_evidence(path: Path) -> EvidenceBundle:
    """The evidence bundle at ``path``.

    Raises:
        UnavailableError: it cannot be read (``evidence_unreadable``).
        EvidenceError: it is none.
    """
    return parse_evidence(read_evidence_file(path))


def read_evidence_file(path: Path) -> bytes:
    """The bytes of the file at ``path``.

    Raises:
        UnavailableError: it cannot be read (``evidence_unreadable``).
    """
    return _read(path, MAX_FILE_BYTES, "evidence")


def load_policy(path: Path | None, witness_keys: Sequence[str], bundle: EvidenceBundle) -> Policy:
    """The log policy in a file, or the one that given witness keys make.

    Keys of logs may come from the bundle only because each checkpoint must be cosigned: a witness cosigns a log that it
    was told of, under the key that it was told.

    Raises:
        InvalidError: neither or both are given, or they are wrong.
    """
    if (path is None) == (not witness_keys):
        raise InvalidError(
            "policy_missing",
            "say whom you trust to witness: a policy, or witness keys",
            remedy="give --policy FILE, or --witness-key VKEY for each witness that must have cosigned",
        )
    if path is not None:
        return parse_policy(read_policy_text(path))
    return policy_of(_logs_of(bundle), [(parse_vkey(key),) for key in witness_keys], len(witness_keys))


def read_policy_text(path: Path) -> bytes:
    """The text of a log policy.

    Raises:
        UnavailableError: it cannot be read (``policy_unreadable``).
    """
    return _read(path, MAX_POLICY_BYTES, "policy")


def load_trust(path: Path | None) -> TrustPolicy:
    """The trust policy in a file; without one, every domain's logged bundles are accepted."""
    return TrustPolicy() if path is None else parse_trust(_read(path, MAX_TRUST_FILE_BYTES, "trust"))


def _logs_of(bundle: EvidenceBundle) -> list[VerifierKey]:
    """The keys that a bundle names; one that does not fit its origin is left out."""
    keys = {log.origin: parse_vkey(log.vkey) for log in bundle.logs}
    return [key for origin, key in keys.items() if key.name == origin]


def _read(path: Path, limit: int, kind: str) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(limit + 1)
    except OSError as error:
        raise UnavailableError(
            f"{kind}_unreadable", f"{path}: {error.strerror}", remedy="name a file that can be read"
        ) from error
