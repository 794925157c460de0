"""Which component the attestor's answer about a process makes it.

Owns: the decision, from the answer and the documents alone. Does not own: acting on it (``registry``).
"""

from __future__ import annotations

from broker.attestor_link import IdentityUpdate
from broker.identities.instances import InstanceKey
from broker.references import ListenerRef, Reference
from hopseal.documents.model import DocumentSet
from hopseal.errors import DeniedError
from hopseal.svid import X509Svid


def decide_identity(
    reference: Reference, update: IdentityUpdate, documents: DocumentSet | None
) -> tuple[InstanceKey, X509Svid] | None:
    """The component that ``update`` names, with its newest SVID; None while it names none.

    Raises:
        DeniedError: several identities, an undocumented one, or a listener that is another component.
    """
    if not update.svids:
        return None
    ids = {svid.spiffe_id for svid in update.svids}
    if len(ids) > 1:
        raise DeniedError(
            "identity_ambiguous",
            "the process matches several components",
            detail=", ".join(sorted(map(str, ids))),
            remedy="make their documents tell them apart",
        )
    # Several SVIDs of one SPIFFE ID come from several registration entries and are shown as one.
    svid = max(update.svids, key=lambda each: each.expires_at)
    component = documents.by_spiffe_id(svid.spiffe_id) if documents else None
    if component is None:
        raise DeniedError("identity_undocumented", "no document names the identity", detail=str(svid.spiffe_id))
    if isinstance(reference, ListenerRef) and reference.component != component.qualified:
        raise DeniedError(
            "listener_not_component",
            "another component answers on the socket",
            detail=f"{component.qualified} answers for {reference.component}",
        )
    return InstanceKey(update.instance, component.qualified), svid
