"""Names in the broker's configuration: nodes, and components of agents.

Owns: their form. Does not own: which of them exist.
"""

from __future__ import annotations

import re

from hopseal.errors import InvalidError

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)


def parse_component(text: str) -> str:
    """``agent/component``, both DNS labels.

    Raises:
        InvalidError: ``text`` is something else (``component_malformed``).
    """
    agent, slash, component = text.partition("/")
    if not slash or _LABEL.fullmatch(agent) is None or _LABEL.fullmatch(component) is None:
        raise InvalidError(
            "component_malformed", f"{text!r} is not <agent>/<component>", remedy="write agent/component"
        )
    return text


def parse_label(text: str) -> str:
    """``text``, a DNS label.

    Raises:
        InvalidError: it is something else (``label_malformed``).
    """
    if _LABEL.fullmatch(text) is None:
        raise InvalidError(
            "label_malformed", f"{text!r} is not a DNS label", remedy="use lower-case letters, digits and dashes"
        )
    return text
