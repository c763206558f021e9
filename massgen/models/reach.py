"""Whether an endpoint answers, and what it offers: it is asked for its list of models, which costs nothing.

The list also proves the key, which no look at a variable can. A server without such a list answers all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import anyio

from massgen.config.backends import TABLE, BackendType
from massgen.errors import ConfigError, ModelError, ModelRefusedKey, ModelUnavailable
from massgen.models.factory import open_model

PATIENCE_S = 8.0

State = Literal["answers", "refused", "unreachable", "no key", "not asked"]


@runtime_checkable
class Listing(Protocol):
    """A model whose server can say what else it has."""

    async def models(self) -> tuple[str, ...]:
        """Names, by the server's own list. Raises: ModelError."""
        ...


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where to ask, with which key."""

    backend: BackendType
    url: str
    """Empty: the backend's own."""
    key: str
    key_source: str
    """The variable; also when it is not set and `key` is empty. Empty: no key is needed."""
    model: str = ""
    """The one that is wanted there."""
    api_version: str = ""


@dataclass(frozen=True, kw_only=True)
class Reached:
    """What came of it."""

    state: State
    detail: str = ""
    models: tuple[str, ...] = ()

    def offers(self, model: str) -> bool | None:
        """Whether the model is among those that the server names. None: it names none."""
        return any(name.removeprefix("models/") == model for name in self.models) if self.models else None


async def reach_all(places: Sequence[Place]) -> list[Reached]:
    """All at once, each within a few seconds."""
    found: list[Reached | None] = [None] * len(places)

    async def one(at: int) -> None:
        found[at] = await reach(places[at])

    async with anyio.create_task_group() as tasks:
        for at in range(len(places)):
            tasks.start_soon(one, at)
    return [result for result in found if result is not None]


def unasked(place: Place) -> Reached:
    """What is known without a question."""
    if place.key_source and not place.key:
        return Reached(state="no key", detail=f"{place.key_source} is not set")
    if not place.url and not TABLE[place.backend].url:
        return Reached(state="not asked", detail="has an endpoint for each customer: give base_url in a config")
    return Reached(state="not asked")


async def reach(place: Place) -> Reached:
    """Ask. Raises nothing for what a server or a network does."""
    known = unasked(place)
    if known.state == "no key" or known.detail:
        return known
    try:
        with anyio.fail_after(PATIENCE_S):
            async with open_model(
                backend=place.backend,
                model=place.model or "any",
                base_url=place.url,
                api_key=place.key,
                key_source=place.key_source,
                api_version=place.api_version,
                silence_s=PATIENCE_S,
            ) as model:
                names = await model.models() if isinstance(model, Listing) else ()
        return Reached(state="answers", models=names)
    except TimeoutError:
        return Reached(state="unreachable", detail=f"no answer within {PATIENCE_S:g} s")
    except ModelRefusedKey as error:
        return Reached(state="refused", detail=str(error))
    except ModelUnavailable as error:
        return Reached(state="unreachable", detail=str(error))
    except ModelError:
        # It said no to this one question, so it is there: not every server keeps such a list.
        return Reached(state="answers", detail="without a list of its models")
    except ConfigError as error:
        return Reached(state="not asked", detail=str(error))
