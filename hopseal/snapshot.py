"""What an identity upstream knows at one moment, as one immutable value."""

from __future__ import annotations

from dataclasses import dataclass

from hopseal.bundle import BundleSet
from hopseal.svid import X509Svid


@dataclass(frozen=True, slots=True)
class IdentitySnapshot:
    """SVIDs and the bundles that verify their peers; published together, never apart.

    ``svids`` may be empty: nothing is issued for these selectors now.
    """

    svids: tuple[X509Svid, ...]
    bundles: BundleSet
