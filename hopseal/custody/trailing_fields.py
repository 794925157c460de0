"""Custody fields that come with or after a body: the receipt of a response, the closing statement of a stream.

Owns: their places, sizes and certificates. Does not own: what the values mean, comments of event streams
(``event_stream``). Source: custody-wire §4.1, §4.2, §7.1 and §7.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hopseal.custody.binding import OWS, Header
from hopseal.custody.errors import Code, refusal
from hopseal.custody.headers import (
    CERTS,
    CLOSE,
    RECEIPT,
    check_sizes,
    collect_fields,
    format_certificates,
    split_elements,
)
from hopseal.limits import MAX_CERTS_BYTES, MAX_RECORD_BYTES


@dataclass(frozen=True, slots=True)
class TrailingFields:
    """One sealed text and the certificates that came with it, within all bounds, not decoded.

    Args:
        sealed: the text.
        certs: elements of ``Custody-Certs``.
    """

    sealed: str
    certs: tuple[str, ...]


def read_receipt_fields(
    headers: Sequence[Header], trailers: Sequence[Header], comment: str | None
) -> TrailingFields | None:
    """The receipt of a response, from the one place where it is; None if there is none.

    Args:
        headers: raw list of the response.
        trailers: raw list after its body.
        comment: sealed text of the final comment of an event stream, see ``event_stream``.

    Raises:
        CustodyError: [malformed], [duplicate], [too_large].
    """
    fields = collect_fields([*headers, *trailers])
    if comment is not None:
        if RECEIPT.lower() in fields:
            raise refusal(Code.DUPLICATE, "a receipt in two places")
        fields[RECEIPT.lower()] = comment
    return _read(fields, RECEIPT) if RECEIPT.lower() in fields else None


def read_closing_fields(trailers: Sequence[Header]) -> TrailingFields:
    """The closing statement in the trailers of a request.

    Raises:
        CustodyError: [malformed], [duplicate], [missing], [too_large].
    """
    fields = collect_fields(trailers)
    if CLOSE.lower() not in fields:
        raise refusal(Code.MISSING, "the stream ended without a closing statement")
    return _read(fields, CLOSE)


def format_receipt_fields(receipt: str, certs: Sequence[bytes] = ()) -> list[Header]:
    """The lines that carry a receipt in a header or trailer; ``certs`` (DER) if the leaf was rotated since.

    Raises:
        CustodyError: [too_large], as the caller would say.
    """
    lines = [(RECEIPT, receipt), *format_certificates(certs)]
    read_receipt_fields(lines, (), None)
    return lines


def format_closing_fields(closing: str, certs: Sequence[bytes] = ()) -> list[Header]:
    """The trailers that carry a closing statement; ``certs`` (DER) if the leaf was rotated since.

    Raises:
        CustodyError: [too_large], as the callee would say.
    """
    lines = [(CLOSE, closing), *format_certificates(certs)]
    read_closing_fields(lines)
    return lines


def _read(fields: dict[str, str], name: str) -> TrailingFields:
    certs = split_elements(fields, CERTS)
    check_sizes(fields, {name: MAX_RECORD_BYTES, CERTS: MAX_CERTS_BYTES}, certs)
    return TrailingFields(fields[name.lower()].strip(OWS), certs)
