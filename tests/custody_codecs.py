"""The Rust codec with the face of the Python one, through the data plane's binding, and sealing with either.

The binding is imported plainly: without it the tests fail.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from broker import _dataplane
from custody_mutations import Json
from vectors.pki import Party
from vectors.scene import b64

Sign = Callable[[Json], Json]


def rust_answer(request: Json) -> Json:
    answered: Json = json.loads(_dataplane.custody_verify(json.dumps(request)))
    return answered


def rust_sign(request: Json) -> Json:
    answered: Json = json.loads(_dataplane.custody_sign(json.dumps(request)))
    return answered


def sealed_by(codec: Sign, claims: list[Json], party: Party) -> list[str]:
    key = b64(party.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))
    sealed: list[str] = codec({"claims": claims, "key_pkcs8": key, "leaf": b64(party.der)})["sealed"]
    return sealed
