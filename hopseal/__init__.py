"""Hopseal: attested identity and sealed chain of custody for AI agents."""

from __future__ import annotations

__version__ = "0.1.0"
