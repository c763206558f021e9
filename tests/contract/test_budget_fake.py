"""A run under a cap, from the config to the exit code, over the fake engine with scripted models."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from massgen import app
from massgen.agent.metered import MeteredModel, metered
from massgen.budget import Cap, Counted, Ledger, Price
from massgen.config.load import Flags, load
from massgen.config.model import AgentConfig, BackendConfig, BudgetConfig, Config, Spending
from massgen.errors import ConfigError, ModelError, ModelUnavailable, RateLimited
from massgen.messages import Message, Reply, Request, Usage
from massgen.models.base import OnUsage, ScoringModel
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


async def test_what_a_model_said_is_reserved_at_what_it_counted() -> None:
    """Its thoughts come back as input and are not in its text: they count as they did as output, not as nothing nor by bytes."""
    model, ledger, _ = spec(
        {"text": "hi", "usage": {"input": 100, "output": 5000}}, {"text": "again", "usage": {"input": 5200, "output": 10}}
    )
    reply = await model.complete(ASK)
    more = replace(ASK, messages=(*ASK.messages, reply.as_message(), Message(role="user", text="x" * 84)))
    assert model._counted(more) == Counted(tokens=5100, messages=2)
    another = replace(ASK, messages=(*ASK.messages, Message(role="assistant", text="rewritten")))
    assert model._counted(another) == Counted(tokens=100, messages=1)
    assert model._counted(replace(ASK, messages=(Message(role="user", text="anew"),))) is None
    await model.complete(more)
    assert ledger.cost_usd == pytest.approx((100 + 5200 + 50_000 + 100) / 1_000_000)


class Weighing(ScriptedModel):
    """A scripted model that can weigh words, as the embedded one does."""

    async def score(self, messages: object, *, yes: str = "yes", no: str = "no", on_usage: OnUsage | None = None) -> float:
        if on_usage:
            on_usage(Usage(input_tokens=70, output_tokens=1))
        return 1.0


async def test_a_cap_on_tokens_holds_for_a_model_that_costs_nothing(tmp_path: Path) -> None:
    """The embedded one, too: replies and weighed words count, and beyond the cap neither is asked for."""
    config = Config(
        agents=(AgentConfig(id="a", backend=BackendConfig(type="local", model="m")),),
        budget=BudgetConfig(run=Spending(tokens=1200)),
    )
    told: list[str] = []
    entries = [{"text": "hi", "usage": {"input": 100, "output": 900}}, {"text": "never"}]
    model = metered({"a": Weighing.of(entries)}, config, lambda: told.append("spent"))["a"]
    assert isinstance(model, ScoringModel)
    used: list[Usage] = []
    assert await model.score(ASK.messages, on_usage=used.append) == 1.0
    assert used == [Usage(input_tokens=70, output_tokens=1)]
    await model.complete(ASK)
    with pytest.raises(ModelError, match="1071 of 1200 tokens"):
        await model.complete(ASK)
    with pytest.raises(ModelError, match="1071 of 1200 tokens"):
        await model.score((Message(role="user", text="x" * 200),))
    assert told == ["spent", "spent"]


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
    assert not load(Flags(config="team.yaml"), env, cwd=tmp_path).notices
    searching = (
        "agent: {id: a, backend: {type: grok, model: m, api_key: k, enable_web_search: true}}\nbudget: {max_cost_usd: 2}\n"
    )
    (tmp_path / "search.yaml").write_text(searching)
    assert "searches of a" in load(Flags(config="search.yaml"), env, cwd=tmp_path).notices[0]
    (tmp_path / "team.yaml").write_text(text % "b")
    with pytest.raises(ConfigError, match="the agents are a"):
        load(Flags(config="team.yaml"), env, cwd=tmp_path)
