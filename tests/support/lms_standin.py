"""A stand-in for LM Studio's `lms`: answers the few commands that we give, keeps its state in a file, records what it was asked.

It is not LM Studio, and what it prints was written from that program's documentation: it shows that we start, load, unload and
stop in the right order and end what we began, not that a later version of the real one still prints this.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

STATE = Path(os.environ["LMS_STATE"])


def say(text: str) -> None:
    """On stdout."""
    sys.stdout.write(text + "\n")


def main() -> int:
    """One command."""
    state = json.loads(STATE.read_text()) if STATE.exists() else {}
    state = {"running": False, "loaded": [], "models": ["qwen3-8b"], "asked": [], "fail": ""} | state
    words = sys.argv[1:]
    state["asked"].append(" ".join(words))
    code = 0
    match words:
        case ["server", "status", *_]:
            say(json.dumps({"running": state["running"], "port": 1234}))
        case ["server", "start", *_]:
            code = 1 if state["fail"] == "start" else 0
            state["running"] = not code
            say("Starting server…" if not code else "Error: the port is taken")
        case ["server", "stop"]:
            state["running"] = False
        case ["ps", "--json"]:
            say(json.dumps([{"identifier": name, "modelKey": name} for name in state["loaded"]]))
        case ["ls", "--json"]:
            say(json.dumps([{"modelKey": name, "sizeBytes": 1} for name in state["models"]]))
        case ["load", name, *_]:
            code = 1 if state["fail"] == "load" else 0
            state["loaded"] += [] if code else [name]
            say("Error: not enough memory" if code else "Model loaded")
        case ["unload", name]:
            state["loaded"].remove(name)
        case _:
            code = 2
    STATE.write_text(json.dumps(state))
    return code


if __name__ == "__main__":
    sys.exit(main())
