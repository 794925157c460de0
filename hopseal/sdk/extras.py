"""Libraries that are installed only with an extra of this distribution."""

from __future__ import annotations


def missing(extra: str) -> ModuleNotFoundError:
    """The error for a module of the SDK whose library, named like its extra, is not installed."""
    return ModuleNotFoundError(f"hopseal.sdk.{extra} needs {extra}: pip install 'hopseal[{extra}]'", name=extra)
