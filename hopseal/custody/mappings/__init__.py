"""Custody beside other formats: what they can carry of it, and what it can take from them.

Owns: pure translations, one module for each neighbour. Does not own: trust. Nothing that a neighbour says becomes
custody without a seal; what is exported to one is for reading, and loses the signatures.
Source: custody-wire §9.
"""

from __future__ import annotations
