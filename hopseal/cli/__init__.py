"""The command line ``hopseal``: noun, then verb; thin over the rest of the package.

Owns: arguments, what is printed, exit codes. Does not own: any decision; those stand in the modules
that the commands call, or behind the daemons' admin sockets.
"""

from __future__ import annotations
