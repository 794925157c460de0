"""What Envoy asks for by name, as its messages; pure.

Owns: which names there are and what each of them holds. Does not own: the discovery protocol (``attestor.api.sds``).

=============================  ==============================================================
name                           secret
=============================  ==============================================================
``default``                    certificate and key of the first identity
a SPIFFE ID                    certificate and key of that identity
``ROOTCA``                     validation by the bundle of the own trust domain
``ALL``                        validation by all bundles, each for its own trust domain only
a trust domain's SPIFFE ID     validation by that trust domain's bundle
no name at all                 every identity and every bundle, by SPIFFE ID
=============================  ==============================================================

Validation is Envoy's SPIFFE validator, which checks a peer by the bundle of the trust domain that its certificate
names: a plain list of authorities would let each trust domain speak for all others.

Source: SPIRE Agent, Envoy SDS (names and meaning); Envoy API v3.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from typing import Final

from google.protobuf.any_pb2 import Any as AnyMessage

from attestor.api.identities import Identities
from attestor.api.rpc import RequestInvalidError
from hopseal.bundle import Bundle
from hopseal.svid import X509Svid
from hopseal.wire.gen.hopseal.envoy.v3 import sds_pb2 as pb

DEFAULT_SVID: Final = "default"
DEFAULT_BUNDLE: Final = "ROOTCA"
ALL_BUNDLES: Final = "ALL"
TYPE_URL: Final = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
_VALIDATOR_TYPE: Final = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig"
_VALIDATOR_NAME: Final = "envoy.tls.cert_validator.spiffe"
_PEM_LINE: Final = 64
_NAMED, _NAMED_CHARS = 8, 256  # of the names that a refusal repeats: it travels in a header


def build_secrets(identities: Identities, names: Iterable[str]) -> tuple[pb.Secret, ...]:
    """The secrets of ``names``, in the order in which they are asked for; all of them if there is no name.

    Raises:
        RequestInvalidError: a name is none of this process' secrets.
    """
    wanted = tuple(dict.fromkeys(name for name in names if name))
    by_id = _by_spiffe_id(identities)
    if not wanted:
        return tuple(by_id.values())
    found = by_id | _by_alias(identities)
    missing = sorted(set(wanted) - found.keys())
    if missing:
        named = json.dumps([name[:_NAMED_CHARS] for name in missing[:_NAMED]])
        raise RequestInvalidError(f"workload is not authorized for the requested identities {named}")
    return tuple(found[name] for name in wanted)


def pack_secret(secret: pb.Secret) -> AnyMessage:
    """``secret`` as a resource, under the type that Envoy knows it by."""
    return AnyMessage(type_url=TYPE_URL, value=secret.SerializeToString(deterministic=True))


def _by_spiffe_id(identities: Identities) -> dict[str, pb.Secret]:
    bundles = {each.trust_domain.id: _validation(each.trust_domain.id, (each,)) for each in _usable(identities)}
    svids: dict[str, pb.Secret] = {}
    for held in identities.held:
        name = str(held.svid.spiffe_id)
        svids.setdefault(name, _certificate(name, held.svid))
    return {**bundles, **svids}


def _by_alias(identities: Identities) -> dict[str, pb.Secret]:
    usable = _usable(identities)
    own = [each for each in usable if each.trust_domain == identities.bundles.own.trust_domain]
    aliases = {DEFAULT_SVID: _certificate(DEFAULT_SVID, identities.held[0].svid)}
    if own:
        aliases[DEFAULT_BUNDLE] = _validation(DEFAULT_BUNDLE, own)
    if usable:
        aliases[ALL_BUNDLES] = _validation(ALL_BUNDLES, usable)
    return aliases


def _usable(identities: Identities) -> tuple[Bundle, ...]:
    """Bundles that can verify anybody, ordered; Envoy rejects a whole response over an empty one."""
    usable = (bundle for bundle in identities.bundles if bundle.x509_authorities)
    return tuple(sorted(usable, key=lambda bundle: bundle.trust_domain.name))


def _certificate(name: str, svid: X509Svid) -> pb.Secret:
    chain = b"".join(_pem("CERTIFICATE", each) for each in svid.chain_der)
    return pb.Secret(
        name=name,
        tls_certificate=pb.TlsCertificate(
            certificate_chain=pb.DataSource(inline_bytes=chain),
            private_key=pb.DataSource(inline_bytes=_pem("PRIVATE KEY", svid.key_pkcs8)),
        ),
    )


def _validation(name: str, bundles: Iterable[Bundle]) -> pb.Secret:
    config = pb.SpiffeCertValidatorConfig(
        trust_domains=[
            pb.SpiffeCertValidatorConfig.TrustDomain(
                name=bundle.trust_domain.name,
                trust_bundle=pb.DataSource(
                    inline_bytes=b"".join(_pem("CERTIFICATE", each) for each in bundle.x509_authorities)
                ),
            )
            for bundle in bundles
        ]
    )
    packed = AnyMessage(type_url=_VALIDATOR_TYPE, value=config.SerializeToString(deterministic=True))
    extension = pb.TypedExtensionConfig(name=_VALIDATOR_NAME, typed_config=packed)
    return pb.Secret(name=name, validation_context=pb.CertificateValidationContext(custom_validator_config=extension))


def _pem(label: str, der: bytes) -> bytes:
    text = base64.b64encode(der).decode()
    lines = [text[start : start + _PEM_LINE] for start in range(0, len(text), _PEM_LINE)]
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""]).encode()
