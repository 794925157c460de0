"""The demo's agent: an orchestrator, a reasoning engine and a connector, each its own process."""

from __future__ import annotations
