"""The broker's custody log, read as bytes and verified offline.

Owns: the line format, damage and torn tails, finding chains, verification of a chain from what the log holds.
Does not own: opening files, and writing, which only the data plane does.
"""

from __future__ import annotations
