"""A hostile program in the place of Claude Code, and the model behind the host, which says what it is asked to say.

The model does what the last line of a message asks for: `SAY word`, `VOTE agent`, `FAIL`, `FAIL for good`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from massgen.agent.calls import Caller
from massgen.agent.cli import MAX_CALLS, CliSession
from massgen.agent.programs import Claude, Start
from massgen.agent.view import Decision, Failed
from massgen.config.model import ProgramConfig
from massgen.errors import ModelDeclined, ModelError
from massgen.events.types import Event
from massgen.messages import Reply, Request, ToolCall, Usage
from massgen.models.base import Model
from sandbox import Sandbox
from tests.support.looks import ONE, OWN, Said, view

PRELUDE = r"""
import http.client, json, os, re, socket, sys, threading
prompt, port = sys.stdin.read(), int(sys.argv[1])
seen = {}
def connect():
    return socket.create_connection(("127.0.0.1", port), 20)
def raw(data):
    "The status of every answer to what is said at once; the connection is closed by the other side, or said to be over."
    with connect() as one:
        try:
            one.sendall(data)
            one.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        told = b""
        try:
            while piece := one.recv(65536):
                told += piece
        except OSError:
            pass
    return [int(status) for status in re.findall(rb"HTTP/1.1 (\d+) ", told) if status != b"100"]
def post(path, body):
    one = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    one.request("POST", path, body if isinstance(body, bytes) else json.dumps(body), {"content-type": "application/json"})
    got = one.getresponse()
    return got.status, got.read().decode()
def head(size, path="/v1/messages"):
    return b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (path.encode(), size)
def messages(*texts):
    return [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(texts)]
def ask(*texts, **more):
    return post("/v1/messages", {"model": "said", "max_tokens": 99, "messages": messages(*texts), **more})
def vote(agent, args=None):
    call = {"name": "vote", "arguments": args or {"agent_id": agent, "reason": "x"}}
    return post("/mcp", {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call})[1]
def counts(agent):
    return "does not count" not in vote(agent)
def tell():
    ask("SAY " + json.dumps(seen))
"""


def think(request: Request) -> Reply:
    """What the last line asks for."""
    line = request.messages[-1].text.strip().splitlines()[-1:]
    word = line[0] if line else ""
    usage = Usage(input_tokens=sum(len(message.text) for message in request.messages) // 4, output_tokens=10)
    if word.startswith("FAIL"):
        raise ModelDeclined("said will not answer this") if word == "FAIL for good" else ModelError("it broke off in VOTE agent1")
    if word.startswith("VOTE "):
        args = {"agent_id": word.removeprefix("VOTE "), "reason": "x"}
        call = ToolCall(id=f"call-{args['agent_id']}", name="mcp__massgen__vote", args=args)
        return Reply(calls=(call,), stop="tools", usage=usage)
    return Reply(text=word.removeprefix("SAY "), usage=usage)


class Seat(Claude):
    """Whoever got hold of the place of Claude Code."""

    def __init__(self, script: str) -> None:
        self._script = script

    def start(self, *, address: str, model: str, settings: ProgramConfig) -> Start:
        return Start(argv=("python3", "-I", "-c", PRELUDE + self._script, address.rpartition(":")[2]))


@dataclass
class Attack:
    """One look of a hostile program, and what came of it on the host."""

    decision: Decision = field(default_factory=lambda: Failed(why="not begun"))
    model: Said = field(default_factory=lambda: Said(*[think] * 2 * MAX_CALLS))
    events: list[Event] = field(default_factory=list)

    @property
    def seen(self) -> dict[str, Any]:
        """What the program last told of itself, in words to the model."""
        told = [request.messages[-1].text for request in self.model.requests]
        return dict(json.loads([text for text in told if text.startswith("SAY {")][-1].removeprefix("SAY ")))


async def attacked(
    box: Sandbox, script: str, *, metered: Callable[[Model], Model] = lambda model: model, looks: int = 1
) -> Attack:
    """`looks`: so many of one agent, in one container, the last of which is told of."""
    attack = Attack()
    session = CliSession(
        label="agent2",
        program=Seat(script),
        settings=ProgramConfig(),
        caller=Caller(label="agent2", model=metered(attack.model), emit=attack.events.append),
        box=box,
        emit=attack.events.append,
        system_message="",
        cwd=None,
        verify="",
        max_tokens=1000,
    )
    for _ in range(looks):
        attack.decision = await session.look(view(ONE, OWN))
    return attack
