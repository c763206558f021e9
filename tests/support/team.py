"""A team of four backends, each with a provider of its own on this machine that works, answers, votes and presents."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.support.fake_provider import FakeProvider, fake_provider
from tests.support.fake_wires import Script
from tests.support.user import ROOT

BACKENDS = ("openai", "claude", "gemini", "chatcompletion")
MODELS = {"openai": "gpt-5", "claude": "claude-sonnet-4-5", "gemini": "gemini-2.5-pro", "chatcompletion": "m"}
KEYS = {
    "openai": "OPENAI_API_KEY",
    "claude": "ANTHROPIC_API_KEY",
    "gemini": "GEMINI_API_KEY",
    "chatcompletion": "MASSGEN_API_KEY",
}
FIX = "sed -i 's/flat.append(flatten(item))/flat.extend(flatten(item))/' listkit/__init__.py && python3 -m pytest -q"


FINAL = "This is the final turn"
"""In a request of it, whichever the protocol."""

Work = str | tuple[str, dict[str, Any]]
"""A command, or a call of another tool."""


def thinks(*commands: Work, answer: str, final: str = "The bug in `flatten` is fixed.") -> Callable[[dict[str, Any]], Script]:
    """A model that runs these commands, answers, votes for agent1 where it can, and presents; its replies differ in tokens."""
    todo, answers = [*commands], [answer]
    asked = 0

    def think(body: dict[str, Any]) -> Script:
        nonlocal asked
        asked += 1
        tokens = (1000 + 100 * asked, 64 * asked, 20 + asked, asked)
        tools = _tools(body)
        if todo:
            work = todo.pop(0)
            name, args = ("shell", {"command": work}) if isinstance(work, str) else work
            return Script(words=["I look."], calls=[(name, json.dumps(args))], stop="tools", tokens=tokens)
        if answers:
            return Script(words=[], calls=[("new_answer", json.dumps({"content": answers.pop()}))], stop="tools", tokens=tokens)
        if "vote" in tools and FINAL not in json.dumps(body):
            shown = sorted(set(re.findall(r"Answer (agent\d+)\.\d+ by", json.dumps(body))))
            vote = {"agent_id": shown[0], "reason": "its tests pass"}
            return Script(words=[], calls=[("vote", json.dumps(vote))], stop="tools", tokens=tokens)
        return Script(words=list(final.partition(" ")), tokens=tokens)

    return think


def _tools(body: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The tools of a request, name to schema, whichever of the four protocols it is in."""
    found: dict[str, dict[str, Any]] = {}
    for tool in body.get("tools", ()):
        for one in tool.get("functionDeclarations", [tool.get("function", tool)]):
            schema = one.get("parameters") or one.get("input_schema") or one.get("parameters_json_schema") or {}
            found[str(one["name"])] = schema
    return found


@contextmanager
def providers() -> Iterator[dict[str, FakeProvider]]:
    """One for each backend; the first finds the bug, the others answer without having looked."""
    with ExitStack() as stack:
        found = {kind: stack.enter_context(fake_provider()) for kind in BACKENDS}
        for kind, provider in found.items():
            provider.think = thinks(*([FIX] if kind == "openai" else ["ls -la"]), answer=f"{kind} says: use extend.")
        yield found


def team(found: dict[str, FakeProvider], **orchestrator: Any) -> dict[str, Any]:
    """The config; keys are looked for where each backend's are."""
    agents = []
    for kind, provider in found.items():
        url = provider.url if kind in ("claude", "gemini") else f"{provider.url}/v1"
        agents.append({"id": f"with-{kind}", "backend": {"type": kind, "model": MODELS[kind], "base_url": url}})
    return {"agents": agents, "orchestrator": orchestrator}


def keys(value: str = "sk-test-{}-0123456789") -> dict[str, str]:
    """A key for each."""
    return {variable: value.format(kind) for kind, variable in KEYS.items()}


def project(folder: Path) -> Path:
    """The demo's project: a real bug, tests that fail for it."""
    shutil.copytree(ROOT / "massgen" / "demo_project" / "project", folder)
    return folder
