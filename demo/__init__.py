"""``make demo``: the main job of Hopseal, shown on real processes or containers of this machine."""

from __future__ import annotations
