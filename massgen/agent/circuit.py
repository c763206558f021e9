"""Whether a provider may be asked now: one switch for each provider and key, shared by all agents that use it.

A provider that fails everybody is left alone for a while, longer each time, and then asked once: agents that each found out for
themselves would send it, when it is in trouble, five times what it gets when it is well. A wait that it names holds for all who
share the key, as limits are kept by key. Agents on other providers do not notice.

What a provider says no to (a wrong key, a request that it does not understand) is an answer: it works. And where nobody ever took
a connection there is no provider to be spared: that is a wrong address, and each agent finds it out for itself in seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import anyio

from massgen.config.backends import TABLE
from massgen.config.model import AgentConfig
from massgen.errors import BadReply, ModelError, ModelUnavailable, ModelUnreachable, RateLimited

OPENS_AFTER = 5
"""Failures in a row, of whichever agents."""
FIRST_PAUSE_S = 10.0
LONGEST_PAUSE_S = 120.0
PROBE_S = 30.0
"""How long the one that is let through may be silent before another one is."""

OUTAGE_S = 180.0
"""Whoever has to wait for one that fails longer than that goes on without it: a team is not held up by one member's provider."""

_TROUBLE = (ModelUnavailable, BadReply)


class Circuit:
    """One provider with one key. Not for several threads."""

    def __init__(self, *, first_pause_s: float = FIRST_PAUSE_S, clock: Callable[[], float] = time.monotonic) -> None:
        self.why = ""
        """What kept the last caller waiting, for people."""
        self.reached = False
        """Somebody has been there, whatever they said."""
        self._clock = clock
        self._first_pause_s = first_pause_s
        self._pause_s = first_pause_s
        self._failures = 0
        self._failing_since = 0.0
        self._closed_until = 0.0
        self._probe_until = 0.0
        self._changed = anyio.Event()

    @property
    def open(self) -> bool:
        """It has failed everybody, and nobody has had an answer since."""
        return self._failures >= OPENS_AFTER

    @property
    def outlasts(self) -> bool:
        """The wait that is due would be part of an outage that nobody waits for the end of."""
        return self.open and self._closed_until > max(self._clock(), self._failing_since + OUTAGE_S)

    def hold_s(self) -> float:
        """How long not to ask. 0: ask now, and tell what came of it. Of those who wait for an open one only the first gets 0."""
        now = self._clock()
        until = max(self._closed_until, self._probe_until if self.open else 0.0)
        if until > now:
            return until - now
        if self.open:
            self._probe_until = now + PROBE_S
        return 0.0

    async def changed(self, within_s: float) -> None:
        """Wait so long, or until something is known that may make the wait needless."""
        with anyio.move_on_after(within_s):
            await self._changed.wait()

    def answered(self) -> None:
        """It works."""
        if self.open:
            self._closed_until = 0.0
            self._wake()
        self.reached = True
        self._failures, self._probe_until, self._pause_s = 0, 0.0, self._first_pause_s

    def failed(self, error: ModelError) -> None:
        """A call of some agent ended so."""
        now = self._clock()
        self._probe_until = 0.0
        self.reached = self.reached or not isinstance(error, ModelUnreachable)
        if not self.reached:
            return
        if isinstance(error, _TROUBLE):
            self._failing_since = self._failing_since if self._failures else now
            self._failures += 1
            if self.open:
                self.why = f"it failed {self._failures} times in a row for the agents that use it, the last time so: {error}"
                self._closed_until = now + max(self._pause_s, error.retry_after_s or 0.0)
                self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
            return
        if isinstance(error, RateLimited):
            self.why = f"it wants to be left alone: {error}"
            self._closed_until = max(self._closed_until, now + (error.retry_after_s or 0.0))
        else:
            self.answered()

    def left(self) -> None:
        """A call was dropped before anything was known: the next one may be the probe."""
        if self._probe_until:
            self._probe_until = 0.0
            self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


@dataclass(frozen=True)
class _Place:
    """What shares a limit."""

    url: str
    key: object


class Circuits:
    """Those of one run."""

    def __init__(self) -> None:
        self._all: dict[_Place, Circuit] = {}

    def of(self, agent: AgentConfig) -> Circuit:
        """The one that this agent shares with all who ask the same server with the same key."""
        backend = agent.backend
        row = TABLE[backend.type]
        url = backend.base_url or row.url or f"{backend.type} {backend.script or agent.id}"
        return self._all.setdefault(_Place(url, backend.api_key), Circuit())
