"""A model with a meter: each call is reserved before it is made, and its cost is known when it is over."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from massgen.budget import FREE, Cap, Counted, Ledger, Price, Reservation, price_of
from massgen.config.backends import TABLE
from massgen.config.model import AgentConfig, Config, Spending
from massgen.errors import BudgetReached, ConfigError, ModelError
from massgen.messages import Message, Reply, Request, Usage
from massgen.models.base import Model, OnPiece, OnUsage, ScoringModel

MESSAGES_WRITTEN = 1.25
"""What input costs that Anthropic keeps for five minutes, as a part of other input: its price list, where no other says more."""


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
        self._last: tuple[Request, Reply] | None = None

    async def complete(self, request: Request, *, on_piece: OnPiece | None = None) -> Reply:
        """As the model's own. Raises: ModelError; one that says so when the budget does not cover the call."""
        with self._paid(request, known=self._counted(request)) as held:
            reply = await self._model.complete(replace(request, max_tokens=held.max_tokens), on_piece=on_piece)
            self._last = (request, reply)
        cost = self._ledger.settle(held, reply.usage, self._price, cache_written_tokens=reply.cache_written_tokens)
        return replace(reply, cost_usd=cost)

    @contextmanager
    def _paid(self, request: Request, *, known: Counted | None = None) -> Iterator[Reservation]:
        """What a call may cost is set aside; whoever leaves without an error settles it. Raises: ModelError."""
        try:
            held = self._ledger.reserve(self._agent, request, self._price, known=known)
        except BudgetReached as error:
            if error.whole:
                self._spent()
            raise ModelError(str(error)) from error
        try:
            yield held
        except ModelError as error:
            (self._ledger.cancel if error.unbilled else self._ledger.forfeit)(held)
            raise
        except BaseException:
            self._ledger.forfeit(held)
            raise

    def _counted(self, request: Request) -> Counted | None:
        """What the provider has counted at the last call. None: the conversation is another, or was begun anew.

        What it said itself is counted, too, thoughts included: as input it is no more than it was as output.
        """
        if self._last is None:
            return None
        asked, reply = self._last
        before = asked.messages
        if request.messages[: len(before)] != before:
            return None
        usage, number = reply.usage, len(before)
        if request.messages[number : number + 1] == (reply.as_message(),):
            return Counted(tokens=usage.input_tokens + usage.output_tokens, messages=number + 1, tools=asked.tools)
        return Counted(tokens=usage.input_tokens, messages=number, tools=asked.tools)

    async def aclose(self) -> None:
        """The model's own."""
        await self._model.aclose()


class MeteredScoringModel(MeteredModel):
    """One that can weigh two words, too: that takes tokens like any call."""

    def __init__(self, model: ScoringModel, **meter: Any) -> None:  # noqa: ANN401 - as the base has it
        super().__init__(model, **meter)
        self._scoring = model

    async def score(
        self, messages: tuple[Message, ...], *, yes: str = "yes", no: str = "no", on_usage: OnUsage | None = None
    ) -> float:
        """As the model's own. Raises: ModelError; one that says so when the budget does not cover the call."""
        used = [Usage()]
        with self._paid(Request(messages=messages, max_tokens=1)) as held:
            found = await self._scoring.score(messages, yes=yes, no=no, on_usage=used.append)
        total = sum(used, Usage())
        self._ledger.settle(held, total, self._price)
        if on_usage:
            on_usage(total)
        return found


Spent = tuple[str, Usage, float | None]
"""Agent id, tokens, and what they cost."""


def metered(
    models: Mapping[str, Model], config: Config, spent: Callable[[], object], *, before: Iterable[Spent] = ()
) -> dict[str, Model]:
    """A meter for every model. `before`: calls of this run in an earlier process.

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
        price = _price(agent, given)
        if price is None and budget.capped:
            raise ConfigError(
                f"nobody knows what {agent.backend.model} costs, so a cap on cost cannot be kept; add its price: "
                f"budget: {{prices: {{{agent.backend.model}: {{input: …, output: …}}}}}} (US dollars per million tokens)"
            )
        if isinstance(model, ScoringModel):
            found[agent.id] = MeteredScoringModel(model, agent=agent.id, ledger=ledger, price=price, spent=spent)
        else:
            found[agent.id] = MeteredModel(model, agent=agent.id, ledger=ledger, price=price, spent=spent)
    return found


def _cap(spending: Spending) -> Cap:
    return Cap(cost_usd=spending.cost_usd, tokens=spending.tokens)


def _price(agent: AgentConfig, given: Mapping[str, Price]) -> Price | None:
    row = TABLE[agent.backend.type]
    if row.local:
        return given.get(agent.backend.model, FREE)
    price = price_of(agent.backend.model, base_url=agent.backend.base_url or row.url, given=given)
    if price is not None and price.written is None and row.protocol == "messages":
        return replace(price, written=price.input * MESSAGES_WRITTEN)
    return price
