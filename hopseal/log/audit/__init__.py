"""The auditor: what an evidence bundle proves, years later and offline.

Owns: the numbered steps of custody-wire §11, and the report on every hop. Pure: bytes, policies and the time are
arguments, and nothing is looked up. ``run`` is the entry; ``steps`` holds steps 1 to 5, ``hopseal.log.judge`` step 6,
``cross`` step 7, ``report`` step 8.
"""

from __future__ import annotations
