"""What a model costs, by the `genai-prices` package or by the user's own word.

A price that nobody knows is not zero: with a cap on cost such a model is refused, without one its calls are shown without a
price. Prices that depend on the length of a prompt are taken at their highest, as a cap must hold in the worst case.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from massgen.messages import Usage

_MILLION = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Price:
    """US dollars per million tokens."""

    input: float
    output: float
    cached: float | None = None
    """Of input that the provider had seen before; None: as other input."""
    written: float | None = None
    """Of input that the provider puts into its cache; None: as other input."""
    source: str = "config"

    @property
    def worst_input(self) -> float:
        """Of an input token, whatever becomes of it."""
        return max(self.input, self.written or 0.0)

    def cost_usd(self, usage: Usage, *, cache_written_tokens: int = 0) -> float:
        """Of one call. Reasoning is output."""
        cached = self.input if self.cached is None else self.cached
        written = self.input if self.written is None else self.written
        fresh = max(0, usage.input_tokens - usage.cached_tokens - cache_written_tokens)
        read = fresh * self.input + usage.cached_tokens * cached + cache_written_tokens * written
        return (read + usage.output_tokens * self.output) / _MILLION


FREE = Price(input=0.0, output=0.0, cached=0.0, source="runs on your own machine")


def price_of(model: str, *, base_url: str, given: Mapping[str, Price]) -> Price | None:
    """The price of a model at an address; `given` (by the model's name) wins. None: nobody knows."""
    if model in given:
        return given[model]
    import genai_prices

    try:
        found = genai_prices.calc_price(genai_prices.Usage(input_tokens=1, output_tokens=1), model, provider_api_url=base_url)
    except LookupError:
        return None
    prices = found.model_price
    read, written = _highest(prices.input_mtok), _highest(prices.output_mtok)
    if read is None or written is None:
        return None
    cached, kept = _highest(prices.cache_read_mtok), _highest(prices.cache_write_mtok)
    return Price(input=read, output=written, cached=cached, written=kept, source="genai-prices")


def _highest(price: Any) -> float | None:  # noqa: ANN401  # a number or steps of prices, of a package imported late
    if price is None:
        return None
    steps = [price.base, *(tier.price for tier in price.tiers)] if hasattr(price, "tiers") else [price]
    return max(float(step) for step in steps)
