"""The components' identities: which process is which component, and with which key it is spoken for.

Owns: one subscription for each caller process and listener (``tracked``), one installed SVID for each
component instance (``instances``), and what follows from each outcome (``registry``).
Does not own: the connection to the attestor (``broker.attestor_link``).
"""

from __future__ import annotations
