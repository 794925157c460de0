"""Running programs that know nothing of Hopseal: ``hopseal run`` and ``hopseal serve-stdio``.

Owns: the process tree of such a program, and the bridge between it and the broker's call socket.
Does not own: identity. The process that runs here is the component; ``docs/run.md`` says what that proves of its
program.
"""

from __future__ import annotations
