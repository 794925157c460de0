"""The broker's half of the audit: what of the custody log leaves this node while it runs.

Owns: tiles and checkpoints of the log, and their cosignatures by witnesses.
Does not own: the journal, which only the data plane writes; verification (``hopseal.log``).
"""

from __future__ import annotations
