"""Who may call whom: the documents' rules compiled to Cedar, and the operator's own policies.

Owns: compiling (``compile``, pure), the schema (``schema``), checking and following files (``follow``).
Does not own: deciding; the data plane evaluates the text on both sides of a call.
"""

from __future__ import annotations
