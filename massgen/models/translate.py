"""What a provider's failure means to a run: one table for every adapter.

The two SDKs have an exception class for each status, but so have proxies and compatible servers their own habits:
an error inside a stream that began with 200, a context overflow that is 400 here and 413 there, a quota that is
spent reported as "rate limit". So the judgement is made on status, error code and text, in one place.

Messages name the endpoint and the place the key came from. They never contain the key: providers echo it.
"""

from __future__ import annotations

import math
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import urlsplit

from massgen.errors import (
    BadReply,
    ContextOverflow,
    ModelDeclined,
    ModelError,
    ModelRefusedKey,
    ModelUnavailable,
    ModelUnreachable,
    PicturesRefused,
    RateLimited,
)

_OVERFLOW: Final = re.compile(
    r"context.?length|context.?window|maximum context|context size|context limit|prompt is too long|too many (input )?tokens|"
    r"input is too long|request_too_large|string_above_max_length",
    re.IGNORECASE,
)
_SPENT: Final = re.compile(r"insufficient_quota|exceeded your current quota|credit balance|billing_error", re.IGNORECASE)
_PICTURES: Final = re.compile(
    r"image_url|image input|input image|"
    r"(support|allow|accept|process|decod|invalid|exceed|download).{0,60}\b(image|picture|vision|multimodal)|"
    r"\b(image|picture|vision|multimodal)s?\b.{0,60}(support|allow|accept|process|decod|invalid|exceed|dimension|format)",
    re.IGNORECASE | re.DOTALL,
)
"""llama.cpp says so with 500, OpenRouter with 404, others with 400 or 422."""
_FILTERED: Final = re.compile(r"content_filter|content_policy|content management policy", re.IGNORECASE)
_OVERLOADED: Final = re.compile(r"overloaded|api_error|server_error|service_unavailable|timeout", re.IGNORECASE)
_KEY_LIKE: Final = re.compile(r"\b(?:sk|pk|gsk|csk|xai)[-_][\w\-*.]{6,}|\S*\*{3,}\S*")
"""Keys by their usual beginnings, and masked ones (`abc***yz`): they still show a part."""
_TEXT_MAX: Final = 300


class Improper(OSError):
    """A server does what no honest one does. An OSError, so that an SDK treats it as what a connection may do."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Whom an adapter speaks to, for its error messages."""

    base_url: str
    model: str
    key_source: str
    key: str = field(default="", repr=False)
    """Only to strike it out of foreign text."""

    @property
    def where(self) -> str:
        """The URL without user name, password and query: any of them may be a secret."""
        parts = urlsplit(self.base_url)
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}".rstrip("/")

    def clean(self, text: str) -> str:
        """Foreign text, short and without anything that is or looks like a key."""
        text = text.replace(self.key, "[key]") if self.key else text
        text = " ".join(_KEY_LIKE.sub("[key]", text).split())
        return text if len(text) <= _TEXT_MAX else f"{text[:_TEXT_MAX]}…"

    def cause(self, error: Exception) -> Exception | None:
        """What to raise `from`: None when the foreign exception itself quotes the key."""
        return None if self.key and self.key in f"{error!r}{error}" else error

    def broken(self, error: Exception, silence_s: float) -> ModelError:
        """No connection, or it broke, or nothing came in time, or far too much."""
        first = error.__cause__ or error
        if isinstance(first, Improper):
            return self.garbage(str(first))
        kind = type(first).__name__
        if "Timeout" in kind and "Connect" not in kind:
            return ModelUnavailable(
                f"{self.where} sent nothing for {silence_s:g} s (model {self.model}); try again, or raise timeout_settings"
            )
        if kind in ("ConnectError", "ConnectTimeout"):
            return ModelUnreachable(f"{self.where} cannot be reached ({self._unmet(first)}); {self._check_url}")
        reason = self.clean(str(first)) or kind
        return ModelUnavailable(f"{self.where} closed the connection ({reason}); {self._check_url}")

    def _unmet(self, error: BaseException) -> str:
        """Why there is no connection, by what the system said below all the layers that tried."""
        while below := error.__cause__ or error.__context__:
            error = below
        if isinstance(error, ConnectionRefusedError):
            return "nothing listens there"
        if isinstance(error, socket.gaierror):
            return f"no address is known for its name: {error.strerror}"
        return "no answer" if isinstance(error, TimeoutError) else self.clean(str(error)) or type(error).__name__

    def cut_off(self) -> ModelUnavailable:
        """The stream ended in the middle of a reply."""
        return ModelUnavailable(f"{self.where} ended its reply in the middle (model {self.model}); try again")

    def garbage(self, what: str) -> BadReply:
        """The reply is not what the protocol promises."""
        return BadReply(f"{self.where} answered outside its protocol ({self.clean(what)}); {self._check_url}")

    @property
    def _check_url(self) -> str:
        return "check that it is up and that base_url is right"

    def failure(self, status: int | None, code: str, text: str, headers: Mapping[str, str] | None = None) -> ModelError:
        """The error for a refusal with this HTTP status (None or 200: told inside a stream), code and text."""
        said = self.clean(text)
        about = f"{self.where} (model {self.model})"
        facts = f"{code} {text}"
        # Whoever answers with a failure has generated nothing; one told inside a stream comes after something was.
        unbilled, wait_s = status not in (None, 200), retry_after_s(headers or {})
        error: ModelError
        if status in (401, 403) or code in ("authentication_error", "permission_error", "invalid_api_key"):
            error = self._refused(status, said)
        elif status == 402 or _SPENT.search(facts):
            error = ModelError(f"{about} says that quota or credit is used up: {said}", unbilled=True)
        elif status == 429 or code in ("rate_limit_error", "rate_limit_exceeded"):
            named = f" for {wait_s:g} s" if wait_s else ""
            error = RateLimited(f"{about} asks us to slow down{named}: {said}", retry_after_s=wait_s)
        elif status in (None, 200, 400, 413, 422) and _OVERFLOW.search(facts):
            error = ContextOverflow(f"the conversation is too long for {about}: {said}")
        elif status in (400, 404, 415, 422, 500, 501) and _PICTURES.search(facts):
            error = PicturesRefused(f"{about} takes no pictures, or not these: {said}")
        elif status == 400 and _FILTERED.search(facts):
            error = ModelDeclined(f"the filter before {about} will not have this answered: {said}", unbilled=True)
        elif status in (408, 409) or (status or 0) >= 500 or (status in (None, 200) and _OVERLOADED.search(facts)):
            error = ModelUnavailable(
                f"{about} failed with {status or code}: {said}; try again later", retry_after_s=wait_s, unbilled=unbilled
            )
        elif status is not None and 300 <= status < 400:
            there = self.clean((headers or {}).get("location") or "nowhere")
            error = ModelError(
                f"{about} sends us to {there} ({status}), where the key and the conversation would go, too: if that is right, "
                "make it base_url",
                unbilled=True,
            )
        elif status == 404:
            error = ModelError(f"{self.where} knows no model {self.model}, or base_url is wrong (404): {said}", unbilled=True)
        else:
            error = ModelError(f"{about} refused the request ({status or code}): {said}", unbilled=unbilled)
        return error

    def _refused(self, status: int | None, said: str) -> ModelRefusedKey:
        if not self.key_source:
            return ModelRefusedKey(f"{self.where} wants a key and none was given ({status}): {said}; set api_key in the config")
        return ModelRefusedKey(f"{self.where} refused the key from {self.key_source} ({status}): {said}; check {self.key_source}")


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """How long a provider asks to be left alone: seconds, milliseconds (some add a header for that) or a date. None: not said."""
    try:
        if said := headers.get("retry-after-ms"):
            wait_s = float(said) / 1000
        elif said := headers.get("retry-after"):
            wait_s = float(said) if re.fullmatch(r"\s*[\d.]+\s*", said) else parsedate_to_datetime(said).timestamp() - time.time()
        else:
            return None
    except (ValueError, TypeError, OverflowError):
        return None
    return max(0.0, wait_s) if math.isfinite(wait_s) else None
