"""One agent in its container: the door through which coordination talks to it.

```python
async with open_session(label="agent1", model=model, sandbox=box, emit=log.emit, system_message=…) as session:
    decision = await session.look(view)
```

Two strategies behind one protocol: `loop` (a model that calls tools) and `repair` (a small local model that only ever
writes one function; `massgen/agent/repair.py` says why). Plain values come in, so that nothing here knows the config.
The `sandbox` must have been opened with `tools={BODY: build_body_zip(cache_dir)}`.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

from massgen.agent.bodyzip import BODY, build_body_zip
from massgen.agent.calls import Caller
from massgen.agent.circuit import Circuit
from massgen.agent.cli import CliSession
from massgen.agent.loop import LoopSession
from massgen.agent.programs import PROGRAMS, mounted
from massgen.agent.repair import RepairSession
from massgen.agent.view import (
    Answered,
    Box,
    Decision,
    Emit,
    Failed,
    Place,
    Presented,
    Session,
    ShownAnswer,
    View,
    Voted,
)
from massgen.config.model import ProgramConfig
from massgen.messages import Message
from massgen.models.base import Model

__all__ = [
    "BODY",
    "Answered",
    "Box",
    "Decision",
    "Emit",
    "Failed",
    "Place",
    "Presented",
    "Session",
    "ShownAnswer",
    "View",
    "Voted",
    "build_body_zip",
    "mounted",
    "open_session",
]


@asynccontextmanager
async def open_session(
    *,
    label: str,
    model: Model,
    sandbox: Box,
    emit: Emit,
    system_message: str = "",
    strategy: Literal["loop", "repair", "cli"] = "loop",
    program: str = "",
    settings: ProgramConfig = ProgramConfig(),  # noqa: B008 - frozen
    cwd: str | None = None,
    verify: str = "",
    transcript: tuple[Message, ...] = (),
    labels: tuple[str, ...] = (),
    temperature: float | None = None,
    max_tokens: int | None = None,
    command_timeout_s: float = 120.0,
    deadline: float = math.inf,
    circuit: Circuit | None = None,
) -> AsyncIterator[Session]:
    """An agent, ready to look. Leaving the block ends what is left of its body.

    `program`: the name of the program that the agent is, with the strategy `cli`; it is mounted at `mounted(program)`;
    `settings`: how it is asked to work.
    `cwd`: where its commands start: the project inside the container (None: the sandbox's own cwd).
    `verify`: the user's test command, run in `cwd`; `repair` works by it (empty: pytest), `loop` only names it.
    `transcript`: of an earlier session, to go on from (final turn); `label` names the agent in events (its anonymous label).
    `labels`: of all agents of the run, in its order: with them `loop` names the same tools to its model in every call.
    `temperature`, `max_tokens`: of every model call; None leaves it to the provider.
    `command_timeout_s`: what a command may ask for at most, and the longest first test run of `repair`.
    `deadline`: of the run, on anyio's clock: no model call is waited for beyond it. `circuit`: see `circuit.py`.
    """
    session: Session
    if strategy == "cli":
        caller = Caller(label=label, model=model, emit=emit, deadline=deadline, circuit=circuit)
        session = CliSession(
            label=label,
            program=PROGRAMS[program],
            settings=settings,
            caller=caller,
            box=sandbox,
            emit=emit,
            system_message=system_message,
            cwd=cwd,
            verify=verify,
            max_tokens=max_tokens,
        )
    elif strategy == "repair":
        session = RepairSession(
            label=label,
            model=model,
            box=sandbox,
            emit=emit,
            system_message=system_message,
            cwd=cwd,
            verify=verify,
            transcript=transcript,
            temperature=temperature,
            first_run_timeout_s=command_timeout_s,
            deadline=deadline,
            circuit=circuit,
        )
    else:
        session = LoopSession(
            label=label,
            model=model,
            box=sandbox,
            emit=emit,
            system_message=system_message,
            cwd=cwd,
            verify=verify,
            transcript=transcript,
            labels=labels,
            temperature=temperature,
            max_tokens=max_tokens,
            command_timeout_s=command_timeout_s,
            deadline=deadline,
            circuit=circuit,
        )
    yield session
