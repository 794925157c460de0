"""A stdio MCP server of a few lines, that also does what servers should not; standard library only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time


def say(message: dict) -> None:
    print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)


def progress(meta: dict, step: int) -> None:
    say({"method": "notifications/progress", "params": {"progressToken": meta["progressToken"], "progress": step}})


def text(number: object, value: str) -> None:
    say({"id": number, "result": {"content": [{"type": "text", "text": value}]}})


def call(number: object, name: str, arguments: dict, meta: dict) -> None:
    if name == "meta":
        text(number, json.dumps(meta))
    elif name == "pid":
        text(number, str(os.getpid()))
    elif name == "slow":
        for step in range(2):
            say(
                {
                    "method": "notifications/progress",
                    "params": {"progressToken": meta["progressToken"], "progress": step},
                }
            )
        text(number, "done")
    elif name == "quiet":
        time.sleep(arguments["seconds"])
        text(number, "done")
    elif name == "ask":
        say({"id": "q1", "method": "sampling/createMessage", "params": {"maxTokens": 1, "messages": []}})
        answered = json.loads(sys.stdin.readline())
        text(number, json.dumps(answered["result"]))
    elif name == "announce":
        say({"method": "notifications/tools/list_changed"})
        text(number, "announced")
    elif name == "noise":
        print("this is no message", flush=True)
        text(number, "done")
    elif name == "custody":
        say({"id": number, "result": {"content": [], "_meta": {"dev.hopseal/custody": {}, "theirs": 1}}})
    elif name == "flood":
        print("x" * (5 << 20), flush=True)
    elif name == "exit":
        sys.exit(arguments["code"])
    elif name == "exec":
        os.execv(arguments["command"][0], arguments["command"])
    elif name == "spawn":
        subprocess.Popen(["sleep", "1000"])
        text(number, "done")
    elif name == "never":
        progress(meta, 0)
    elif name == "later":
        text(number, "announced")
        say({"method": "notifications/tools/list_changed"})


def main() -> None:
    for line in sys.stdin:
        message = json.loads(line)
        method, number, params = message.get("method"), message.get("id"), message.get("params", {})
        if method == "initialize":
            if params.get("protocolVersion") == "refuse":
                say({"id": number, "error": {"code": -32602, "message": "no"}})
                continue
            info = {"name": "small", "version": "1"}
            result = {"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}}, "serverInfo": info}
            say({"id": number, "result": result})
        elif method == "tools/call":
            call(number, params["name"], params.get("arguments", {}), params.get("_meta", {}))
        elif method == "ping":
            say({"id": number, "result": {}})


if __name__ == "__main__":
    main()
