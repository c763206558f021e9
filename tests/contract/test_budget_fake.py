"""A run under a cap, from the config to the exit code, over the fake engine with scripted models."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from massgen import app
from massgen.agent.metered import MeteredModel, metered
from massgen.budget import Cap, Ledger, Price
from massgen.config.load import Flags, load
from massgen.config.model import AgentConfig, BackendConfig, BudgetConfig, Config, Spending
from massgen.errors import ConfigError, ModelError, ModelUnavailable, RateLimited
from massgen.messages import Message, Reply, Request, Usage
from massgen.models.scripted import ScriptedModel
from sandbox.testing import FakeEngine

PRICE = Price(input=1.0, output=10.0)
ASK = Request(messages=(Message(role="user", text="hello"),), max_tokens=1000)
ANSWER = {"calls": [{"name": "new_answer", "args": {"content": "It is done."}}], "usage": {"input": 900_000, "output": 10}}
VOTE = {"calls": [{"name": "vote", "args": {"agent_id": "$own"}}], "usage": {"input": 900_000, "output": 10}}


def agent(folder: Path, *entries: object) -> AgentConfig:
    """A scripted agent whose usage is in its script."""
    script = folder / "script.json"
    script.write_text(json.dumps(entries))
    return AgentConfig(id="a", backend=BackendConfig(type="scripted", model="m", script=script))


async def go(folder: Path, budget: BudgetConfig, *entries: object) -> app.RunResult:
    """One run."""
    config = Config(agents=(agent(folder, *entries),), budget=budget)
    with anyio.fail_after(30):
        return await app.run(config, "do it", engine=FakeEngine(folder / "boxes"), state_dir=folder / "state")


async def test_a_run_that_may_spend_no_more_ends_with_its_best_answer(tmp_path: Path) -> None:
    """Exit 4; the answer that was paid for is kept, and the next call was never made."""
    budget = BudgetConfig(run=Spending(tokens=1_000_000))
    ended = await go(tmp_path, budget, ANSWER, VOTE, {"text": "never asked"})
    assert (ended.outcome, ended.exit_code) == ("budget", 4)
    assert ended.answer == "It is done."
    assert ended.usage.input_tokens == 900_000


async def test_a_run_within_its_budget_does_not_notice_it(tmp_path: Path) -> None:
    """And what it cost is in the events."""
    budget = BudgetConfig(run=Spending(cost_usd=5.0), prices={"m": (1.0, 10.0, None)})
    ended = await go(tmp_path, budget, ANSWER, VOTE, {"when": {"phase": "final"}, "text": "Done."})
    assert ended.exit_code == 0
    assert ended.usage.input_tokens == 1_800_000


def spec(*entries: dict[str, object], cap: float | None = None) -> tuple[MeteredModel, Ledger, list[str]]:
    """A metered model of a script."""
    told: list[str] = []
    ledger = Ledger(run=Cap(cost_usd=cap))
    model = MeteredModel(ScriptedModel.of(entries), agent="a", ledger=ledger, price=PRICE, spent=lambda: told.append("spent"))
    return model, ledger, told


async def test_only_a_lost_call_keeps_its_worst_case() -> None:
    """A refusal costs nothing; a broken connection may have cost all of it."""
    model, ledger, _ = spec(
        {"error": "rate_limit"}, {"error": "disconnect"}, {"text": "hi", "usage": {"input": 100, "output": 10}}
    )
    with pytest.raises(RateLimited):
        await model.complete(ASK)
    assert ledger.cost_usd == 0
    with pytest.raises(ModelUnavailable):
        await model.complete(ASK)
    lost = ledger.cost_usd
    assert lost > 0.01
    reply: Reply = await model.complete(ASK)
    assert reply.cost_usd == pytest.approx(0.0002)
    assert reply.usage == Usage(input_tokens=100, output_tokens=10)


async def test_a_call_that_cannot_be_paid_is_not_made() -> None:
    """It is a model error for the agent, and the end for the run."""
    model, ledger, told = spec({"text": "never"}, cap=0.001)
    with pytest.raises(ModelError, match="budget of this run"):
        await model.complete(ASK)
    assert (told, ledger.cost_usd) == (["spent"], 0)


def test_a_cap_on_cost_without_a_price_is_refused(tmp_path: Path) -> None:
    """Nobody could keep it; with the price given, it is kept."""
    backend = BackendConfig(type="chatcompletion", model="mystery", base_url="https://models.example.org/v1")
    config = Config(agents=(AgentConfig(id="a", backend=backend),), budget=BudgetConfig(run=Spending(cost_usd=1.0)))
    models = {"a": ScriptedModel.of([])}
    with pytest.raises(ConfigError, match="prices"):
        metered(models, config, lambda: None)
    metered(models, replace(config, budget=replace(config.budget, prices={"mystery": (1.0, 2.0, None)})), lambda: None)


def test_a_budget_is_read_from_file_and_flags(tmp_path: Path) -> None:
    """Flags win; an unknown agent is an error that names the known ones."""
    text = "agent: {id: a, backend: {type: local}}\nbudget: {max_cost_usd: 2, per_agent: {%s: {max_tokens: 5}}}\n"
    (tmp_path / "team.yaml").write_text(text % "a")
    env = {"HOME": str(tmp_path)}
    found = load(Flags(config="team.yaml", max_cost_usd=1.5), env, cwd=tmp_path).budget
    assert (found.run, found.agents) == (Spending(cost_usd=1.5), {"a": Spending(tokens=5)})
    (tmp_path / "team.yaml").write_text(text % "b")
    with pytest.raises(ConfigError, match="the agents are a"):
        load(Flags(config="team.yaml"), env, cwd=tmp_path)
