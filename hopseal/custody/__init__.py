"""The chain-of-custody wire format: codec, verifier and error codes, without any I/O.

Owns: bytes and claims of records, seals, chains, certificates and authority.
Does not own: sockets, clocks, randomness, key storage and logs, which arrive as arguments.
Source: custody-wire, version 1; section numbers in this package are that document's.
"""

from __future__ import annotations
