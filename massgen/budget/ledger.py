"""Who may still spend what: a call is reserved at its worst case before it is made, and settled at what it cost.

Reservations count as spent. So two agents that race for the last cent cannot both win, and a cap is never passed by the calls
in flight. A call that fails gives its reservation back; one whose cost nobody learned (the connection broke) keeps it: providers
bill what they generated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from massgen.budget.prices import Price
from massgen.errors import BudgetReached
from massgen.messages import Message, Request, ToolSpec, Usage

DEFAULT_OUTPUT_TOKENS = 16_384
"""Assumed of a call that names no limit; under a cap it is then given this one."""
LEAST_OUTPUT_TOKENS = 256
"""A call that could not say more than this is not worth making."""
FRAME_TOKENS = 16
"""What a provider adds around each message or tool."""
PICTURE_TOKENS = 50_000
"""What a picture counts at most, of whatever size: gpt-4o-mini takes up to 48,169 for one, most models a tenth of it."""


@dataclass(frozen=True, kw_only=True)
class Cap:
    """At most this much. None: no limit."""

    cost_usd: float | None = None
    tokens: int | None = None
    """Input and output together."""


@dataclass(kw_only=True)
class Account:
    """What was spent and what is reserved, of one agent or of the whole run."""

    cap: Cap = Cap()
    usage: Usage = field(default_factory=Usage)
    cost_usd: float = 0.0
    held_usd: float = 0.0
    held_tokens: int = 0

    @property
    def left_usd(self) -> float:
        """Infinite without a cap."""
        return math.inf if self.cap.cost_usd is None else self.cap.cost_usd - self.cost_usd - self.held_usd

    @property
    def left_tokens(self) -> float:
        """Infinite without a cap."""
        spent = self.usage.input_tokens + self.usage.output_tokens
        return math.inf if self.cap.tokens is None else self.cap.tokens - spent - self.held_tokens


@dataclass(frozen=True, kw_only=True)
class Reservation:
    """The right to make one call."""

    agent: str
    tokens: int
    cost_usd: float
    max_tokens: int | None
    """What the call may generate; None: as it asked."""


@dataclass(frozen=True, kw_only=True)
class Counted:
    """What of a request its provider has counted already."""

    tokens: int = 0
    messages: int = 0
    """So many, from the first."""
    tools: tuple[ToolSpec, ...] = ()


class Ledger:
    """The accounts of one run. Not for several threads."""

    def __init__(self, *, run: Cap = Cap(), agents: Mapping[str, Cap] | None = None) -> None:
        self._run = Account(cap=run)
        self._agents = {name: Account(cap=cap) for name, cap in (agents or {}).items()}

    @property
    def cost_usd(self) -> float:
        """Of all settled calls."""
        return self._run.cost_usd

    def reserve(self, agent: str, request: Request, price: Price | None, *, known: Counted | None = None) -> Reservation:
        """Set the worst case of a call aside. Raises: BudgetReached when not even a short answer can be paid for.

        `known`: what the provider has counted of it; the rest is taken at one token per byte, which no tokenizer passes.
        """
        accounts = (self._run, self._account(agent))
        known = known or Counted()
        given = known.tokens + _most_tokens(request.messages[known.messages :]) + _tool_tokens(request, known)
        cost = price or Price(input=0.0, output=0.0)
        left_tokens = min(account.left_tokens for account in accounts) - given
        left_usd = min(account.left_usd for account in accounts) - given * cost.worst_input / 1_000_000
        affordable = left_tokens if not cost.output else min(left_tokens, left_usd * 1_000_000 / cost.output)
        wanted = request.max_tokens or DEFAULT_OUTPUT_TOKENS
        if left_usd < 0 or affordable < min(wanted, LEAST_OUTPUT_TOKENS):
            raise self._refusal(agent)
        capped = affordable < math.inf
        output = int(min(wanted, affordable))
        reserved = Reservation(
            agent=agent,
            tokens=given + output,
            cost_usd=(given * cost.worst_input + output * cost.output) / 1_000_000,
            max_tokens=output if capped else request.max_tokens,
        )
        for account in accounts:
            account.held_usd += reserved.cost_usd
            account.held_tokens += reserved.tokens
        return reserved

    def settle(
        self, reservation: Reservation, usage: Usage, price: Price | None, *, cache_written_tokens: int = 0
    ) -> float | None:
        """Book what the call used; the cost in US dollars, None when no price is known."""
        cost = None if price is None else price.cost_usd(usage, cache_written_tokens=cache_written_tokens)
        for account in self._release(reservation):
            account.usage += usage
            account.cost_usd += cost or 0.0
        return cost

    def book(self, agent: str, usage: Usage, cost_usd: float | None) -> None:
        """A call of an earlier process of the same run."""
        for account in (self._run, self._account(agent)):
            account.usage += usage
            account.cost_usd += cost_usd or 0.0

    def forfeit(self, reservation: Reservation) -> None:
        """Nobody knows what the call cost: it counts as its worst case."""
        for account in self._release(reservation):
            account.usage += Usage(input_tokens=reservation.tokens)
            account.cost_usd += reservation.cost_usd

    def cancel(self, reservation: Reservation) -> None:
        """The call was refused: it cost nothing."""
        self._release(reservation)

    def _release(self, reservation: Reservation) -> tuple[Account, Account]:
        accounts = (self._run, self._account(reservation.agent))
        for account in accounts:
            account.held_usd -= reservation.cost_usd
            account.held_tokens -= reservation.tokens
        return accounts

    def _account(self, agent: str) -> Account:
        return self._agents.setdefault(agent, Account())

    def _refusal(self, agent: str) -> BudgetReached:
        own = self._account(agent)
        whose, account = ("run", self._run)
        if own.left_usd < self._run.left_usd or own.left_tokens < self._run.left_tokens:
            whose, account = (agent, own)
        spent = account.usage.input_tokens + account.usage.output_tokens
        caps = []
        if account.cap.cost_usd is not None:
            caps.append(f"${account.cost_usd:.4f} of ${account.cap.cost_usd:g}")
        if account.cap.tokens is not None:
            caps.append(f"{spent} of {account.cap.tokens} tokens")
        waiting = f", {account.held_tokens} tokens reserved for calls under way" if account.held_tokens else ""
        message = (
            f"the budget of {'this run' if whose == 'run' else whose} does not cover another call "
            f"({' and '.join(caps)} spent{waiting}); raise --max-cost or --max-tokens, or `budget` in the config"
        )
        return BudgetReached(message, whole=whose == "run")


def _most_tokens(messages: tuple[Message, ...]) -> int:
    return sum(_message_tokens(message) for message in messages)


def _message_tokens(message: Message) -> int:
    texts = [message.text, *(result.text for result in message.results)]
    calls = [str(dict(call.args)) + call.name for call in message.calls]
    native = [] if message.native is None else [str(message.native)]  # what its provider wants back, unread, is read as input
    pictures = len(message.images) + sum(len(result.images) for result in message.results)
    return (
        FRAME_TOKENS + sum(len(text.encode("utf-8", "replace")) for text in (*texts, *calls, *native)) + PICTURE_TOKENS * pictures
    )


def _tool_tokens(request: Request, known: Counted) -> int:
    texts = [tool.name + tool.description + str(dict(tool.parameters)) for tool in request.tools if tool not in known.tools]
    return sum(FRAME_TOKENS + len(text.encode("utf-8", "replace")) for text in texts)
