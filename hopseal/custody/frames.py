"""The frames of one direction of a WebSocket, and what they sum up to.

Owns: where frames begin and end; the direction is over behind its Close frame. Does not own: what frames mean. What is
compressed is summed up compressed. Source: custody-wire §7.3; RFC 6455 §5.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from hopseal.custody.binding import BodySum
from hopseal.custody.encoding import encode_b64url
from hopseal.custody.errors import malformed

_FIN = 0x80
_MASKED = 0x80
_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PONG = 0, 1, 2, 8, 10
_DATA = frozenset({_CONTINUATION, _TEXT, _BINARY})
_EXTENDED = {126: 2, 127: 8}
_MAX_CONTROL_BYTES = 125
_MASK_BYTES = 4
_SUMMED_BYTES = 9  # first byte and length of every frame


@dataclass
class FrameSum:
    """The sum over every frame of one direction: first byte, length in eight bytes, payload without mask.

    Args:
        masked: whether the frames are a client's.
    """

    masked: bool
    is_closed: bool = False
    _buffer: bytearray = field(default_factory=bytearray)
    _in_message: bool = False
    _length: int = 0
    _messages: int = 0

    def __post_init__(self) -> None:
        self._hash = hashlib.sha256()

    def update(self, part: bytes) -> None:
        """Take the next bytes; what is behind the Close frame does not count.

        Raises:
            CustodyError: [malformed] if they are no frames that may stand here.
        """
        self._buffer += part
        while not self.is_closed and (end := self._header_end()) is not None:
            length = self._payload_length(end)
            if len(self._buffer) < end + length:
                return
            self._finish(end, length)

    def sum(self) -> BodySum:
        """The sum of the frames that are whole."""
        return BodySum(self._length, encode_b64url(self._hash.digest()), self._messages)

    def _header_end(self) -> int | None:
        if self._buffer:
            self._check_first()
        if len(self._buffer) < 2:
            return None
        self._check_second()
        end = 2 + _EXTENDED.get(self._buffer[1] & ~_MASKED, 0) + (_MASK_BYTES if self.masked else 0)
        return end if len(self._buffer) >= end else None

    def _check_first(self) -> None:
        opcode, is_final = self._buffer[0] & 0x0F, self._buffer[0] & _FIN
        if opcode in _DATA:
            if (opcode == _CONTINUATION) != self._in_message:
                raise malformed("a message within another, or one that goes on and did not begin")
        elif not _CLOSE <= opcode <= _PONG or not is_final:
            raise malformed("a reserved opcode, or a control frame in pieces")

    def _check_second(self) -> None:
        if bool(self._buffer[1] & _MASKED) != self.masked:
            raise malformed("a mask where none may be, or none where one must")
        if self._buffer[0] & 0x0F >= _CLOSE and self._buffer[1] & ~_MASKED > _MAX_CONTROL_BYTES:
            raise malformed("a control frame that is too long")

    def _payload_length(self, end: int) -> int:
        short = self._buffer[1] & ~_MASKED
        if short not in _EXTENDED:
            return short
        length = int.from_bytes(self._buffer[2 : end - (_MASK_BYTES if self.masked else 0)])
        least, most = (126, 0xFFFF) if short == 126 else (0x10000, (1 << 63) - 1)  # RFC 6455 §5.2
        if not least <= length <= most:
            raise malformed("a length of another form than it need be")
        return length

    def _finish(self, end: int, length: int) -> None:
        opcode, is_final = self._buffer[0] & 0x0F, bool(self._buffer[0] & _FIN)
        payload = self._buffer[end : end + length]
        if self.masked:
            mask = self._buffer[end - _MASK_BYTES : end]
            payload = bytearray(byte ^ mask[at % _MASK_BYTES] for at, byte in enumerate(payload))
        self._hash.update(self._buffer[:1] + length.to_bytes(8) + payload)
        self._length += _SUMMED_BYTES + length
        if opcode in _DATA:
            self._in_message = not is_final
            self._messages += is_final
        self.is_closed = opcode == _CLOSE
        del self._buffer[: end + length]
