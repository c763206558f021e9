"""Runs for `tests/docker/test_resume.py`: together they say every event there is, each as a user would meet it."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from tests.support.fake_provider import FakeProvider, Script, fake_provider
from tests.support.team import project
from tests.support.user import User, agent, say

Line = dict[str, Any]
NEW = "".join(f"line {number}\n" for number in range(10)).replace("line 1\n", "new\n")
OLD = "".join(f"line {number}\n" for number in range(10))


@dataclass(kw_only=True)
class Scene:
    """One run, and what it comes to."""

    args: tuple[str, ...] = ()
    code: int = 0
    """Of the run and of its resumption."""
    text: str = NEW
    """What `code.txt` holds in the end."""
    answers: tuple[str, ...] = ("agent1.1",)
    meddle: Callable[[Line, subprocess.Popen[str]], None] = lambda _line, _run: None
    """Told of each event as it comes."""
    again: Callable[[], None] = lambda: None
    """Just before the run is gone on with."""


def at_first(**what: object) -> Line:
    """An entry for as long as nobody has answered: who goes on with a run reads the script from the top."""
    entry = say(**what)
    return {**entry, "when": {"phase": "coordination", "answers": 0}}


VOTES = [say(vote="agent1")] * 4
WORK = [{**at_first(shell="sed -i 's/line 1$/new/' code.txt; echo x > 'a b'"), "text": "I look."}, at_first(answer="fixed")]
WAIT = [at_first(shell="sleep 0.2")] * 200


def team(user: User, *more: Line, two: list[Line] | None = None, config: Line | None = None) -> None:
    """The first fixes it, the second waits for that; both vote for it."""
    user.write("project/code.txt", OLD)
    user.write("one.json", [*WORK, *VOTES, say(final="done")])
    user.write("two.json", two or [*WAIT, *VOTES])
    user.write("team.json", {"agents": [agent("one", "one.json"), agent("two", "two.json"), *more], **(config or {})})


@contextmanager
def plain(user: User) -> Iterator[Scene]:
    """Nothing goes wrong."""
    team(user)
    yield Scene()


@contextmanager
def debate(user: User) -> Iterator[Scene]:
    """The second has an answer of its own, and gives in once it has heard the reasons."""
    early, both = {"phase": "coordination", "answers": "<=1"}, {"phase": "coordination", "answers": 2}
    votes = [{"when": both, "calls": say(vote=label)["calls"]} for label in ("agent1", "agent2", "agent1", "agent1", "agent1")]
    wait = [{**entry, "when": early} for entry in WAIT]
    team(user, two=[{**at_first(answer="leave it"), "when": early}, *wait, *votes[1:]])
    user.write("one.json", [*[{**entry, "when": early} for entry in (*WORK, *wait)], votes[0], *votes[2:], say(final="done")])
    yield Scene(args=("--consensus", "1.0"), answers=("agent1.1", "agent2.1"))


@contextmanager
def lame(user: User) -> Iterator[Scene]:
    """A third whose model has nothing to say is out, and the two others go on."""
    team(user, agent("three", "three.json"))
    user.write("three.json", [])
    yield Scene()


def _edits(user: User, edit: str) -> Callable[[Line, subprocess.Popen[str]], None]:
    def meddle(line: Line, _run: subprocess.Popen[str]) -> None:
        if line["type"] == "AnswerGiven":
            user.write("project/code.txt", edit)

    return meddle


@contextmanager
def merge(user: User) -> Iterator[Scene]:
    """The user edits another line of the file that the result changes."""
    team(user)
    yield Scene(text=NEW.replace("line 8", "mine"), meddle=_edits(user, OLD.replace("line 8", "mine")))


@contextmanager
def conflict(user: User) -> Iterator[Scene]:
    """The user edits the very line."""
    team(user)
    mine = OLD.replace("line 1", "mine")
    yield Scene(code=5, text=mine, meddle=_edits(user, mine))


@contextmanager
def spent(user: User) -> Iterator[Scene]:
    """The answer costs nearly all that the run may cost."""
    team(user)
    dear = {**WORK[1], "usage": {"input": 999_990, "output": 5}}
    user.write("one.json", [WORK[0], dear, *VOTES, say(final="done")])
    yield Scene(args=("--max-tokens", "1000000"), code=4, text=OLD)


@contextmanager
def late(user: User) -> Iterator[Scene]:
    """The second never ends its command."""
    team(user, two=[at_first(shell="sleep 600")])
    yield Scene(args=("--timeout", "8"), code=124, text=OLD)


@contextmanager
def stopped(user: User) -> Iterator[Scene]:
    """The user has seen enough."""
    team(user, two=[at_first(shell="sleep 600")])

    def meddle(line: Line, run: subprocess.Popen[str]) -> None:
        if line["type"] == "AnswerGiven":
            run.send_signal(signal.SIGINT)

    yield Scene(code=130, text=OLD, meddle=meddle)


def _provided(user: User, provider: FakeProvider, *names: str) -> None:
    """A team whose others are models of that provider."""
    key = "ANTHROPIC_API_KEY"
    user.env[key] = "sk-test-claude-0123456789"
    backend = {"type": "claude", "model": "claude-sonnet-4-5", "base_url": provider.url, "api_key": f"${{{key}}}"}
    team(user)
    user.write("team.json", {"agents": [agent("one", "one.json"), *({"id": name, "backend": backend} for name in names)]})


def _votes(body: Line) -> Script | None:
    """For agent1, as soon as that can be voted for."""
    if "Answer agent1." in json.dumps(body):
        return Script(words=[], calls=[("vote", '{"agent_id": "agent1", "reason": "it holds"}')], stop="tools")
    return None


def _shell(command: str, **more: Any) -> Script:
    return Script(calls=[("shell", f'{{"command": "{command}"}}')], stop="tools", **more)


@contextmanager
def searching(user: User) -> Iterator[Scene]:
    """A model whose provider searches, and says where it found what it says."""
    with fake_provider() as provider:
        _provided(user, provider, "two")
        provider.think = lambda body: _votes(body) or _shell("sleep 0.2", searched=True)
        yield Scene()


@contextmanager
def crowded(user: User) -> Iterator[Scene]:
    """Two share a key, and the provider wants to be left alone for some seconds."""
    with fake_provider() as provider:
        _provided(user, provider, "two", "three")
        provider.think = lambda body: _votes(body) or _shell("sleep 0.2")
        provider.mode = "rate_limit"

        def again() -> None:
            provider.mode = "text"

        yield Scene(again=again)


@contextmanager
def overlong(user: User) -> Iterator[Scene]:
    """A conversation that no longer fits its model."""
    with fake_provider() as provider:
        _provided(user, provider, "two")
        user.write("one.json", [at_first(shell="sleep 3"), *WORK, *VOTES, say(final="done")])
        asked = 0

        def think(body: Line) -> Script:
            nonlocal asked
            asked += 1
            if asked == 4:
                provider.mode = "overflow"
            return _votes(body) or _shell("seq 500")

        def again() -> None:
            provider.mode = "text"

        provider.think = think
        yield Scene(again=again)


@contextmanager
def small(user: User) -> Iterator[Scene]:
    """A model that runs on this machine repairs a function by trial."""
    project(user.cwd / "project")
    user.write("project/code.txt", OLD)
    user.write("team.json", {"agents": [{"id": "one", "backend": {"type": "local"}}]})
    yield Scene(args=("--verify", "python3 -m pytest -q"), text=OLD)


def scene_of(event: str) -> Callable[[User], AbstractContextManager[Scene]]:
    """The scene in which that event comes up. One that has none here comes up in `plain`, or the test of it fails."""
    return {
        "DebateStarted": debate,
        **dict.fromkeys(("ModelFailed", "LookFailed", "AgentExcluded"), lame),
        "Merged": merge,
        "Conflicted": conflict,
        "BudgetOut": spent,
        "TimeUp": late,
        "UserStop": stopped,
        "Cited": searching,
        "ModelHeld": crowded,
        "Compacted": overlong,
        "RepairAttempted": small,
    }.get(event, plain)
