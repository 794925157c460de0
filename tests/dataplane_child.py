"""A node in a process of its own, to be killed: reads its set-up as JSON, prints its port and the time its start took.

It admits everybody, and answers the line ``stats`` with its metrics. With ``tlog`` its log is tiled and signed in that
folder.
"""

from __future__ import annotations

import asyncio
import base64
import json
import select
import sys
import threading
import time
from pathlib import Path

from broker._dataplane import DataPlane
from broker.audit.log_signer import load_log_signer
from broker.audit.tile_store import TileStore
from broker.audit.tiler import Tiler

ORIGIN = "custody.example.org/killed"


def follow(folder: Path, plane: DataPlane) -> None:
    """The Merkle log of the node, with its key in the same folder."""
    signer = load_log_signer(folder / "log.key", ORIGIN)
    tiler = Tiler(folder / "log", TileStore(folder / "tlog"), signer, plane, interval_s=0.02)
    asyncio.run(tiler.run())


def main() -> None:
    setup = json.loads(sys.stdin.readline())
    plane = DataPlane(json.dumps(setup["settings"]))
    plane.set_bundles([(name, [base64.b64decode(der) for der in ders], 1) for name, ders in setup["bundles"]])
    plane.set_components(setup["components"])
    plane.set_policies(setup["policies"], "[]")
    for name, chain, key, expires_at in setup["identities"]:
        instance, component, spiffe_id = name
        plane.set_identity(
            instance, component, spiffe_id, [base64.b64decode(der) for der in chain], base64.b64decode(key), expires_at
        )
    began = time.monotonic()
    port = plane.start()
    took_s = time.monotonic() - began
    if setup.get("tlog"):
        threading.Thread(target=follow, args=(Path(setup["tlog"]), plane), daemon=True).start()
    print(port, took_s, flush=True)
    while True:
        asked, _, _ = select.select([sys.stdin], [], [], 0)
        if asked and sys.stdin.readline() == "stats\n":
            print(plane.stats(), flush=True)
        select.select([plane.event_fd()], [], [], 0.05)
        for text in plane.take_events():
            event = json.loads(text)
            if event["event"] == "caller_seen":
                plane.admit_caller(event["pidfd_inode"], *setup["caller"])
            elif event["event"] == "listener_seen":
                name = event["component"].removeprefix("crm/")
                plane.admit_listener(event["component"], event["pidfd_inode"], f"instance-of-{name}")
            print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
