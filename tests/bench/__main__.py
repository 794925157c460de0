"""Run benchmarks: ``make bench [NAME …]``; all of them without a name."""

from __future__ import annotations

import sys

from bench import attest, audit, call, flood, headers, log
from bench.figures import keep, show

BENCHMARKS = {
    "attest": attest.run,
    "call": call.run,
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
    figures = []
    for name in names:
        measured = BENCHMARKS[name]()
        show(name, measured)
        figures += measured
    keep(figures)
    return 0


sys.exit(main())
