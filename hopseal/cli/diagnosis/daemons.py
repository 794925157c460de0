"""The daemons: reachable, healthy, of one version, of one mind about the documents; and their certificates."""

from __future__ import annotations

import datetime as dt
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from cryptography import x509

import hopseal
from hopseal.cli.admin import AdminClient
from hopseal.cli.diagnosis.finding import Finding, failed, ok, reason_of, skipped, warning
from hopseal.cli.diagnosis.services import TIMEOUT_S
from hopseal.cli.output import format_age
from hopseal.errors import DeniedError, HopsealError

LATE_ROTATION: Final = 0.75  # of a lifetime; SVIDs are renewed at half of it
SOON_S: Final = 30
_TROUBLED: Final = {"drifted", "refused", "unreadable"}

Status = Mapping[str, Any]


def ask_daemon(daemon: str, admin_socket: Path) -> tuple[list[Finding], Status | None]:
    """Whether a daemon answers and what it says is wrong, with its status."""
    check = f"{daemon}.reachable"
    try:
        status = AdminClient(daemon, admin_socket).get("/v1/status")
    except DeniedError as error:
        return [skipped(check, error.message, error.code, error.remedy)], None
    except HopsealError as error:
        remedy = f"systemctl start hopseal-{daemon}, or {error.remedy}"
        return [failed(check, error.message, error.detail or error.code, remedy)], None
    findings = [ok(check, f"the {daemon} answers", f"{admin_socket}, version {status.get('version')}")]
    findings += [
        failed(f"{daemon}.health", problem, f"hopseal status, {daemon}", f"journalctl -u hopseal-{daemon} --since -10m")
        for problem in status.get("problems") or ()
    ]
    if status.get("version") != hopseal.__version__:
        findings.append(
            warning(
                f"{daemon}.version",
                f"the {daemon} is another version than this command",
                f"{status.get('version')} and {hopseal.__version__}",
                f"systemctl restart hopseal-{daemon}",
            )
        )
    return findings, status


def check_agreement(attestor: Status | None, broker: Status | None) -> Iterator[Finding]:
    """Both daemons have read the same documents."""
    if attestor is None or broker is None:
        return
    digests = [str((each.get("documents") or {}).get("sha256") or "none") for each in (attestor, broker)]
    evidence = f"attestor {digests[0][:12]}, broker {digests[1][:12]}"
    if digests[0] == digests[1]:
        yield ok("documents.agreement", "both daemons have read the same documents", evidence)
    else:
        remedy = "name one folder as `documents` in attestor.yaml and broker.yaml"
        yield failed("documents.agreement", "the daemons have read different documents", evidence, remedy)


def check_components(attestor: Status | None) -> Iterator[Finding]:
    """Components that are not what was approved."""
    for each in (attestor or {}).get("components") or ():
        if each["state"] in _TROUBLED:
            name = each["component"]
            evidence = f"{each['code']}: {each['message']}"
            yield warning("components.state", f"{name} is {each['state']}", evidence, f"hopseal explain {name}")


def check_expiries(attestor: Status | None, broker: Status | None, now: float | None = None) -> Iterator[Finding]:
    """No SVID that is in use has expired, or is about to."""
    moment = time.time() if now is None else now
    known = dict(_expiries(attestor, broker))
    late = {name: at for name, at in known.items() if at - moment < SOON_S}
    for name, at in late.items():
        left = at - moment
        when = f"expires in {format_age(left)}" if left > 0 else f"expired {format_age(-left)} ago"
        finding = warning if left > 0 else failed
        yield finding("certificates.svid", f"the SVID of {name} is not renewed", when, f"hopseal explain {name}")
    if known and not late:
        soonest = min(known.values()) - moment
        evidence = f"{len(known)} in use, the first expires in {format_age(soonest)}"
        yield ok("certificates.svid", "SVIDs are renewed in time", evidence)


def check_certificate(broker_socket: Path, now: dt.datetime | None = None) -> Finding:
    """The age of the attestor's own certificate, as it shows it to brokers."""
    check = "certificates.attestor"
    try:
        certificate = x509.load_der_x509_certificate(_shown_certificate(broker_socket))
    except PermissionError as error:
        return skipped(check, f"this user may not use {broker_socket}", reason_of(error), "run it as root")
    except (OSError, ValueError) as error:
        return failed(
            check,
            f"no certificate is shown at {broker_socket}",
            str(error),
            "journalctl -u hopseal-attestor --since -10m",
        )
    moment = dt.datetime.now(dt.UTC) if now is None else now
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    age, life = (format_age(each.total_seconds()) for each in (moment - begins, ends - begins))
    evidence = f"issued {age} ago, lives {life}"
    if not begins <= moment < ends:
        return failed(
            check, "the attestor's certificate is not valid now", evidence, "systemctl restart hopseal-attestor"
        )
    if moment - begins > LATE_ROTATION * (ends - begins):
        return warning(check, "the attestor's certificate is late to be renewed", evidence, "hopseal status")
    return ok(check, "the attestor's certificate is fresh", evidence)


def _shown_certificate(path: Path) -> bytes:
    # The certificate is only looked at: nothing is sent, so nothing is trusted.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with socket.socket(socket.AF_UNIX) as plain:
        plain.settimeout(TIMEOUT_S)
        plain.connect(str(path))
        with context.wrap_socket(plain) as secured:
            return secured.getpeercert(binary_form=True) or b""


def _expiries(attestor: Status | None, broker: Status | None) -> Iterator[tuple[str, float]]:
    for component in (attestor or {}).get("components") or ():
        for instance in component.get("instances") or ():
            if instance.get("svid_expires_at") and instance["state"] == "attested":
                yield component["component"], instance["svid_expires_at"]
    for identity in (broker or {}).get("identities") or ():
        if identity.get("svid_expires_at") and identity.get("component"):
            yield identity["component"], identity["svid_expires_at"]
    own = ((broker or {}).get("attestor") or {}).get("svid_expires_at")
    if own:
        yield "hopseal/broker", own
