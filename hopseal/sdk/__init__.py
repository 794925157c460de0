"""What an agent's author imports: calls through the broker that stay on their task's custody chain.

Owns: carrying the ``Custody-Handle`` from the inbound request to outbound calls, in HTTP clients and servers of Python.
Does not own: identity, encryption or records; those are the broker's.

| module | for |
| --- | --- |
| ``handle`` | the current handle; setting another one |
| ``tasks`` | beginning a task |
| ``context`` | who calls, through which path, for which task, on whose behalf |
| ``refusals`` | the broker's refusals as exceptions |
| ``httpx``, ``httpx2``, ``aiohttp`` | clients; each needs the library of its name |
| ``asgi``, ``wsgi`` | servers |
"""

from __future__ import annotations
