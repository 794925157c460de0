"""Agent documents: the identity record of an agent and what its components must be.

Owns: the shape (``model``), strict parsing of many files at once (``parse``), reading a folder
(``load``) and following its changes (``follow``). Does not own: deciding whether a process is a
component (``attestor``) or whether a call may happen (``broker``).
"""

from __future__ import annotations
