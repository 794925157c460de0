"""Where chains are read from: log files, header lines, PEM bundles. Nothing is verified here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from hopseal.bundle import Bundle
from hopseal.cli.log_folders import journal_of
from hopseal.custody.headers import parse_certificate_element, read_custody_fields
from hopseal.custody.record import parse_sealed_record
from hopseal.custody.seal import thumbprint
from hopseal.errors import HopsealError, InvalidError, UnavailableError
from hopseal.ids import TrustDomain
from hopseal.log.entries import CertificateEntry, Direction, LogEntry, RecordEntry
from hopseal.log.reader import Damage, LogContents, read_files, read_log
from hopseal.log.segments import CURRENT, order_segments


@dataclass(frozen=True, slots=True)
class ReadLog:
    """One log as far as it can be read; ``path`` is its file, or the folder of its files."""

    path: Path
    entries: tuple[LogEntry, ...]
    damage: tuple[Damage, ...]


def read_logs(paths: Sequence[Path], *, optional: bool) -> list[ReadLog]:
    """The logs at ``paths``; a broker's state or log folder stands for the files of the log, one after the other.

    Raises:
        UnavailableError: one cannot be read (``log_unreadable``), unless ``optional``.
    """
    found: list[ReadLog] = []
    for path in map(journal_of, paths):
        try:
            contents = _read_folder(path) if path.is_dir() else read_log(path.read_bytes())
        except OSError as error:
            if optional:
                continue
            raise UnavailableError(
                "log_unreadable",
                f"{error.filename or path}: {error.strerror}",
                remedy="name the log with --log, or run this as root or the broker's user",
            ) from error
        found.append(ReadLog(path, contents.entries, contents.damage))
    return found


def _read_folder(folder: Path) -> LogContents:
    names = order_segments(each.name for each in folder.iterdir())
    while True:
        # Without a file this is the error that says so.
        files = [(name, (folder / name).read_bytes()) for name in names or (CURRENT,)]
        listed = order_segments(each.name for each in folder.iterdir())
        if listed == names:
            return read_files(files)
        # One became full while we read: what came into the next one may be missing between them.
        names = listed


def read_headers(path: Path) -> list[LogEntry]:
    """The chain in a file of header lines, as the entries that a log would have of it.

    Raises:
        InvalidError: the lines hold no readable Custody fields.
        UnavailableError: the file cannot be read (``headers_unreadable``).
    """
    try:
        with click.open_file(str(path), encoding="utf-8", errors="replace") as file:
            lines = [line.rstrip("\r\n").partition(":") for line in file if line.strip()]
    except OSError as error:
        raise UnavailableError(
            "headers_unreadable", f"{path}: {error.strerror}", remedy="name a readable file, or - for standard input"
        ) from error
    try:
        return _entries_of([(name.strip(), value.strip()) for name, _, value in lines])
    except HopsealError as error:
        remedy = "it needs the Custody-Record, Custody-Chain and Custody-Certs lines of one request, whole"
        raise InvalidError(error.code, f"{path}: {error.message}", detail=error.detail, remedy=remedy) from error


def _entries_of(lines: list[tuple[str, str]]) -> list[LogEntry]:
    fields = read_custody_fields(lines)
    ders = [parse_certificate_element(element) for element in fields.certs]
    certificates: list[LogEntry] = [CertificateEntry(0, 0, thumbprint(der), der) for der in ders]
    record = parse_sealed_record(fields.record).record
    return [
        *certificates,
        RecordEntry(
            n=0,
            at_ms=record.iat * 1000,
            direction=Direction.SENT,
            accepted=True,
            code=None,
            detail=None,
            sealed=fields.record,
            ancestors=fields.chain,
            iss=str(record.iss),
            aud=record.aud,
            jti=record.jti,
            exp=record.exp,
            cid=record.cid,
            hop=record.hop,
            op=record.op,
        ),
    ]


def read_bundle(path: Path, trust_domain: TrustDomain) -> Bundle:
    """The authorities in a PEM file.

    Raises:
        InvalidError: it holds no certificates (``bundle_invalid``).
        UnavailableError: it cannot be read (``bundle_unreadable``).
    """
    try:
        certificates = x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        raise UnavailableError("bundle_unreadable", f"{path}: {error.strerror}", remedy="name a PEM file") from error
    except ValueError as error:
        raise InvalidError("bundle_invalid", f"{path} holds no certificates", remedy="name a PEM file") from error
    return Bundle(trust_domain, tuple(each.public_bytes(Encoding.DER) for each in certificates))
