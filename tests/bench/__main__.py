"""Run benchmarks: ``make bench [NAME …]``; all of them without a name."""

from __future__ import annotations

import sys
import traceback

from bench import attest, audit, bodies, call, flood, fresh, headers, identities, log, memory, policies, stream
from bench.figures import keep, show

BENCHMARKS = {
    "attest": attest.run,
    "call": call.run,
    "bodies": bodies.run,
    "stream": stream.run,
    "fresh": fresh.run,
    "memory": memory.run,
    "policies": policies.run,
    "identities": identities.run,
    "flood": flood.run,
    "headers": headers.run,
    "log": log.run,
    "audit": audit.run,
}


def main() -> int:
    names = sys.argv[1:] or list(BENCHMARKS)
    unknown = set(names) - set(BENCHMARKS)
    if unknown:
        print(f"no such benchmark: {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
        return 2
    failed = [name for name in names if not measure(name)]
    if failed:
        print(f"not measured: {', '.join(failed)}")
    return int(bool(failed))


def measure(name: str) -> bool:
    """Run one benchmark, show and keep its figures; whether it came to an end."""
    try:
        measured = BENCHMARKS[name]()
    except Exception:  # the others can still be measured
        traceback.print_exc()
        return False
    show(name, measured)
    keep(name, measured)
    return True


sys.exit(main())
