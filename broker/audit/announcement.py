"""The log key, announced by the broker under its own SVID: which key an auditor may believe, and since when.

Owns: the statement, made anew for each leaf that the broker gets, and every hour.
Does not own: the key (``log_signer``), the entry in the log, which the data plane writes.
Source: custody-wire §4.2 "Evidence statement", §10 "Log key".
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Callable

import structlog
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_private_key

from broker.dataplane_api import DataPlane
from broker.own_identity import OwnIdentity
from hopseal.custody.encoding import encode_b64url
from hopseal.custody.evidence_statement import EvidenceStatement, LogKey, Verdict, encode_evidence
from hopseal.custody.seal import Signer, seal_statements, thumbprint
from hopseal.log.note import VerifierKey
from hopseal.svid import X509Svid
from hopseal.watch import Watch

AGAIN_S = 3600.0  # so that a file of the journal that is kept holds one, whichever older ones are deleted
_RETRY_S = 1.0
_RANDOM_BYTES = 16

log = structlog.get_logger("broker.audit")


class LogKeyAnnouncer:
    """Announces the log's key for each leaf of the broker, and again every hour.

    Args:
        own: the broker's own SVID.
        key: of the log.
        data_plane: writes the entry.
        now: seconds since 1970.
    """

    def __init__(
        self,
        own: Watch[OwnIdentity | None],
        key: VerifierKey,
        data_plane: DataPlane,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._own = own
        self._key = key
        self._data_plane = data_plane
        self._now = now
        self._announced = ""

    async def run(self) -> None:
        """Follow for ever."""
        seen, patience_s = 0, AGAIN_S
        while True:
            try:
                async with asyncio.timeout(patience_s):
                    seen = await self._own.wait_change(seen)
            except TimeoutError:
                if patience_s == AGAIN_S:
                    self._announced = ""
            own = self._own.value
            patience_s = AGAIN_S if own is None or self._is_announced(own.svid) else _RETRY_S

    def _is_announced(self, svid: X509Svid) -> bool:
        x5t = thumbprint(svid.chain_der[0])
        if x5t == self._announced:
            return True
        sealed = seal_log_key(svid, self._key, int(self._now()))
        if sealed is None:
            log.error("log_key_not_announced", detail="the broker's SVID key is not P-256")
            self._announced = x5t
            return True
        try:
            self._data_plane.append_artifact(json.dumps({"type": "attest", "sealed": sealed}), list(svid.chain_der))
        except Exception as error:  # noqa: BLE001 - the binding's own exception type exists only where it is installed
            log.warning("log_key_not_announced", detail=str(error))
            return False
        log.info("log_key_announced", origin=self._key.name, vkey=str(self._key), x5t=x5t)
        self._announced = x5t
        return True


def seal_log_key(svid: X509Svid, key: VerifierKey, now: int) -> str | None:
    """The sealed announcement; None if the SVID's key cannot make seals, which are ES256 only."""
    private = load_der_private_key(svid.key_pkcs8, None)
    if not isinstance(private, ec.EllipticCurvePrivateKey) or not isinstance(private.curve, ec.SECP256R1):
        return None
    statement = EvidenceStatement(
        iss=svid.spiffe_id,
        iat=now,
        exp=svid.expires_at,
        jti=encode_b64url(secrets.token_bytes(_RANDOM_BYTES)),
        sub=svid.spiffe_id,
        sx=thumbprint(svid.chain_der[0]),
        verdict=Verdict.ATTESTED,
        log=LogKey(key.name, str(key)),
    )
    return seal_statements([encode_evidence(statement)], Signer(svid.chain_der[0], private))[0]
