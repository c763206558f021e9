"""A model with a meter: each call is reserved before it is made, and its cost is known when it is over."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from massgen.budget import FREE, Cap, Ledger, Price, price_of
from massgen.config.backends import TABLE
from massgen.config.model import AgentConfig, Config, Spending
from massgen.errors import BudgetReached, ConfigError, ModelError
from massgen.messages import Message, Reply, Request, Usage
from massgen.models.base import Model, OnPiece


class MeteredModel:
    """One agent's model. `spent` is called when the whole run can afford no further call."""

    def __init__(self, model: Model, *, agent: str, ledger: Ledger, price: Price | None, spent: Callable[[], object]) -> None:
        self.name = model.name
        self.key_source = model.key_source
        self._model = model
        self._agent = agent
        self._ledger = ledger
        self._price = price
        self._spent = spent
        self._known = 0
        self._seen: tuple[Message, ...] = ()

    async def complete(self, request: Request, *, on_piece: OnPiece | None = None) -> Reply:
        """As the model's own. Raises: ModelError; one that says so when the budget does not cover the call."""
        # A transcript that was begun anew, or another conversation of the same agent, is counted from its beginning.
        seen = len(self._seen) if request.messages[: len(self._seen)] == self._seen else 0
        try:
            held = self._ledger.reserve(self._agent, request, self._price, known=self._known if seen else 0, seen=seen)
        except BudgetReached as error:
            if error.whole:
                self._spent()
            raise ModelError(str(error)) from error
        try:
            reply = await self._model.complete(replace(request, max_tokens=held.max_tokens), on_piece=on_piece)
        except ModelError as error:
            (self._ledger.cancel if error.unbilled else self._ledger.forfeit)(held)
            raise
        except BaseException:
            self._ledger.forfeit(held)
            raise
        self._seen, self._known = request.messages, reply.usage.input_tokens
        cost = self._ledger.settle(held, reply.usage, self._price, cache_written_tokens=reply.cache_written_tokens)
        return replace(reply, cost_usd=cost)

    async def aclose(self) -> None:
        """The model's own."""
        await self._model.aclose()


Spent = tuple[str, Usage, float | None]
"""Agent id, tokens, and what they cost."""


def metered(
    models: Mapping[str, Model], config: Config, spent: Callable[[], object], *, before: Iterable[Spent] = ()
) -> dict[str, Model]:
    """A meter for every model but the embedded one. `before`: calls of this run in an earlier process.

    Raises ConfigError: a cap on cost, and a price that nobody knows.
    """
    budget = config.budget
    caps = {name: _cap(spending) for name, spending in budget.agents.items()}
    ledger = Ledger(run=_cap(budget.run), agents=caps)
    for agent_id, usage, cost in before:
        ledger.book(agent_id, usage, cost)
    given = {model: Price(input=i, output=o, cached=c) for model, (i, o, c) in budget.prices.items()}
    found: dict[str, Model] = {}
    for agent in config.agents:
        model = models[agent.id]
        if agent.backend.type == "local":  # its agents read it in another way, too, and it costs nothing
            found[agent.id] = model
            continue
        price = _price(agent, given)
        if price is None and budget.capped:
            raise ConfigError(
                f"nobody knows what {agent.backend.model} costs, so a cap on cost cannot be kept; add its price: "
                f"budget: {{prices: {{{agent.backend.model}: {{input: …, output: …}}}}}} (US dollars per million tokens)"
            )
        found[agent.id] = MeteredModel(model, agent=agent.id, ledger=ledger, price=price, spent=spent)
    return found


def _cap(spending: Spending) -> Cap:
    return Cap(cost_usd=spending.cost_usd, tokens=spending.tokens)


def _price(agent: AgentConfig, given: Mapping[str, Price]) -> Price | None:
    row = TABLE[agent.backend.type]
    if row.local:
        return given.get(agent.backend.model, FREE)
    return price_of(agent.backend.model, base_url=agent.backend.base_url or row.url, given=given)
