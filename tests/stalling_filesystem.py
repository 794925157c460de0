"""A filesystem of our own that answers until it is told to stop: what a component may mount and never serve.

Run as ``python stalling_filesystem.py FOLDER FILE``: mounts FUSE at FOLDER with one executable ``exe``, a copy
of FILE, prints ``ready``, and stops answering (but stays) at the first line on standard input.

Source: linux/fuse.h.
"""

from __future__ import annotations

import ctypes
import os
import select
import stat
import struct
import sys

IN_HEADER = struct.Struct("=IIQQIIIHH")
OUT_HEADER = struct.Struct("=IiQ")
LOOKUP, FORGET, GETATTR, OPEN, READ, RELEASE, INIT, OPENDIR, BATCH_FORGET = 1, 2, 3, 14, 15, 18, 26, 27, 42
ROOT, FILE = 1, 2
ENOENT, ENOSYS = 2, 38


def attributes(node: int, size: int) -> bytes:
    mode = stat.S_IFDIR | 0o755 if node == ROOT else stat.S_IFREG | 0o755
    return struct.pack("=QQQQQQIIIIIIIIII", node, size, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def answer(opcode: int, node: int, body: bytes, content: bytes) -> bytes | int:
    """The body of an answer, or the error number."""
    size = len(content) if node == FILE else 0
    if opcode == INIT:
        return struct.pack("=IIIIHHIIHH8I", 7, 31, 0, 0, 8, 8, 65536, 1, 0, 0, *[0] * 8)
    if opcode == LOOKUP:
        if node != ROOT or body != b"exe\0":
            return ENOENT
        return struct.pack("=QQQQII", FILE, 0, 0, 0, 0, 0) + attributes(FILE, len(content))
    if opcode == GETATTR:
        return struct.pack("=QII", 0, 0, 0) + attributes(node, size)
    if opcode in {OPEN, OPENDIR}:
        return struct.pack("=QII", 0, 0, 0)
    if opcode == READ:
        _, offset, length = struct.unpack_from("=QQI", body)
        return content[offset : offset + length]
    return b"" if opcode == RELEASE else ENOSYS


def main(folder: str, source: str) -> None:
    with open(source, "rb") as file:
        content = file.read()
    fuse = os.open("/dev/fuse", os.O_RDWR)
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
    if libc.mount(b"stalling", folder.encode(), b"fuse", 0, options):
        raise OSError(ctypes.get_errno(), "mount")
    print("ready", flush=True)
    while not select.select([fuse, 0], [], [])[0].count(0):
        request = os.read(fuse, 1 << 17)
        _, opcode, unique, node, *_ = IN_HEADER.unpack_from(request)
        if opcode in {FORGET, BATCH_FORGET}:
            continue
        reply = answer(opcode, node, request[IN_HEADER.size :], content)
        error, data = (-reply, b"") if isinstance(reply, int) else (0, reply)
        os.write(fuse, OUT_HEADER.pack(OUT_HEADER.size + len(data), error, unique) + data)
    print("stalled", flush=True)
    select.select([], [], [])


if __name__ == "__main__":
    main(*sys.argv[1:])
