"""A witness for transparency logs: it cosigns what continues everything that it saw of a log, and remembers.

Owns: the process around the decision of ``hopseal.log.witness``: configuration, keys, durable state, HTTP.
Does not own: the broker's side (``broker.audit``).
Run it where the operators of the logs have no rights: docs/witness.md. Needs the extra ``hopseal[witness]``.
Source: c2sp.org/tlog-witness.
"""

from __future__ import annotations
