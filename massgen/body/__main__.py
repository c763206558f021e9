"""The protocol: ask for the next step by handing in the results of the last one.

    body → {"next": [{"id", "ok", "text", "exit_code", "truncated_bytes", "picture"}]}     first: []
           `picture`, where there is one: {"media_type", "data": base64}
    host → {"act": [{"id", "name", "args"}]}    done in order
           {"interrupt": why}                   at any time: the running command stops, the rest of the batch is not run
           {"end": {"why"}}                     everything is killed, the body exits

Commands never see the protocol's descriptors: stdin and stdout are moved away and replaced by /dev/null first.
`MASSGEN_COMMAND_TIMEOUT_S` in the environment is the most a command may ask for.
"""

from __future__ import annotations

import json
import os
import select
import sys
from typing import Any

from massgen.body.commands import Commands
from massgen.body.hostline import HostLine, parse
from massgen.body.result import Refused, Result
from massgen.body.table import Workbench, do


def main() -> int:
    """Serve the host until it ends us or goes away."""
    hear, say = _take_stdio()
    limit_s = float(os.environ.pop("MASSGEN_COMMAND_TIMEOUT_S", "") or 120)
    host = HostLine(hear)
    commands = Commands(host, max_timeout_s=limit_s)
    bench = Workbench(commands=commands, cwd=os.getcwd())
    done: list[dict[str, Any]] = []
    try:
        while True:
            _send(say, {"next": done})
            message: dict[str, Any] = {}
            while "act" not in message:
                line = commands.wait_for_line()
                message = parse(line) if line is not None else {"end": {}}
                if "end" in message:
                    return 0
            done = [_act(bench, host, act) for act in message["act"]]
    except BrokenPipeError:
        return 0
    finally:
        commands.close()


def _act(bench: Workbench, host: HostLine, act: Any) -> dict[str, Any]:
    """One action; whatever goes wrong in it is a result."""
    if not isinstance(act, dict) or not isinstance(act.get("args"), dict):
        return Result("an act needs id, name and args (an object)", ok=False).line(str(act))
    call_id = str(act.get("id"))
    host.fill_if_ready()
    if host.stop_wanted:
        return Result(f"[not run: interrupted: {host.stop_wanted}]", ok=False).line(call_id)
    try:
        return do(bench, str(act.get("name")), act["args"]).line(call_id)
    except Refused as error:
        return Result(str(error), ok=False).line(call_id)
    except OSError as error:
        return Result(f"{error}. Check the path with list.", ok=False).line(call_id)
    except RecursionError:
        return Result("the input is nested too deeply for Python's parser", ok=False).line(call_id)


def _take_stdio() -> tuple[int, int]:
    hear, say = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    return hear, say


def _send(fd: int, message: dict[str, Any]) -> None:
    data = memoryview(json.dumps(message).encode("utf-8", "surrogatepass") + b"\n")
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:
            # stdin and stdout may be one socket, and stdin does not block
            select.select([], [fd], [])


if __name__ == "__main__":
    sys.exit(main())
