"""What an agent's author imports: calls through the broker that stay on their task's custody chain.

Owns: carrying the ``Custody-Handle`` from the inbound request to outbound calls. Does not own:
identity, encryption or records; those are the broker's.
"""

from __future__ import annotations
