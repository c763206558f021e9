"""Names of models that people may have meant, for an error message. Never a reason to use one that was not asked for."""

from __future__ import annotations

import difflib

from massgen.config.backends import PRESETS, BackendType, backend_for

MOST = 3


def nearest(model: str) -> tuple[tuple[str, BackendType], ...]:
    """Known models whose names are nearest, each with the backend that its name means; the best first, at most three."""
    known = {name: backend for name in _known() if (backend := backend_for(name))}
    return tuple((name, known[name]) for name in difflib.get_close_matches(model.lower(), known, n=MOST, cutoff=0.6))


def did_you_mean(model: str) -> str:
    """A half-sentence, or nothing."""
    found = nearest(model)
    return "; did you mean " + " or ".join(f"`{name}` ({backend})" for name, backend in found) + "?" if found else ""


def _known() -> list[str]:
    """Names in the table of prices: the only list of models that comes with a package that is kept up to date."""
    from genai_prices import data_snapshot  # 0.2 s, for a message only

    own = ("anthropic", "google", "openai", "x-ai", "zai", *PRESETS)
    return [model.id for provider in data_snapshot.get_snapshot().providers if provider.id in own for model in provider.models]
