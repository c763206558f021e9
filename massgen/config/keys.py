"""Where keys come from: the environment, else `./.env`, else the `.env` of the user's config folder.

Which variable is decided by the endpoint, not only by the backend: an OpenAI key is never offered to
somebody else's server merely because that server speaks the same protocol.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from massgen.config.backends import KEYS_AT, PRESETS, TABLE, BackendType, spellings, variable_for
from massgen.config.model import Secret
from massgen.config.paths import Places
from massgen.errors import ConfigError

_LINE = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*?)\s*\Z")


class Environment(dict[str, str]):
    """Variables by name, and of those that came from a file, which."""

    def __init__(self, env: Mapping[str, str]) -> None:
        super().__init__(env)
        self.files: dict[str, str] = {}
        """By name: the file as a user would write it. What is not in it was in the process's own environment."""

    def where(self, name: str) -> str:
        """The variable for people: `OPENAI_API_KEY`, or `OPENAI_API_KEY in ./.env`."""
        return f"{name} in {self.files[name]}" if name in self.files else name


def environment(env: Mapping[str, str], places: Places) -> Environment:
    """The process environment, filled up (never overridden) from the two `.env` files."""
    out = Environment(env)
    own = places.user_config / ".env"
    shown = f"~/{own.relative_to(places.home)}" if own.is_relative_to(places.home) else str(own)
    for path, name in ((places.cwd / ".env", "./.env"), (own, shown)):
        for variable, value in _dotenv(path).items():
            if variable not in out:
                out[variable] = value
                out.files[variable] = name
    return out


def _dotenv(path: Path) -> dict[str, str]:
    """Assignments of a `.env` file; a missing or unreadable file has none. Nothing in it is expanded or executed."""
    try:
        text = path.read_text(encoding="utf-8-sig") if path.is_file() else ""
    except (OSError, UnicodeDecodeError):
        return {}
    out: dict[str, str] = {}
    for line in text.splitlines():
        match = _LINE.match(line)
        if match:
            out[match[1]] = _unquoted(match[2])
    return out


def _unquoted(value: str) -> str:
    for quote in ("'", '"'):
        if value.startswith(quote):
            end = value.find(quote, 1)
            return value[1:end] if end > 0 else value[1:]
    return value.split(" #", 1)[0].rstrip()


def base_url(url: str) -> str:
    """The URL as SDKs want it: without `/chat/completions` and closing slashes; the name of a known provider is its URL.

    Raises ConfigError when it is none.
    """
    if preset := PRESETS.get(url.strip().lower()):
        return preset.url
    trimmed = url.strip().rstrip("/").removesuffix("/chat/completions").rstrip("/")
    try:
        parts = urlsplit(trimmed)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        parts, usable = urlsplit(""), False
    if not usable or any(c.isspace() or not c.isprintable() for c in trimmed):
        raise ConfigError(
            f"base_url {url[:100]!r} is not a web address; it looks like http://127.0.0.1:8000/v1, "
            f"or is one of {', '.join(PRESETS)}"
        )
    if parts.username or parts.password:
        raise ConfigError("base_url has a user name or password in it; put the key into `api_key: ${VARIABLE}` instead")
    return trimmed


def is_this_machine(url: str) -> bool:
    """True for endpoints on a loopback address; those need no key."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def key_variable(backend: BackendType, url: str) -> str:
    """The variable that holds the key of this endpoint; empty when no key is needed."""
    return "" if url and is_this_machine(url) else variable_for(backend, url)


def find_key(
    backend: BackendType, url: str, given: str | None, env: Mapping[str, str], *, clear: bool = False
) -> tuple[Secret | None, str]:
    """The key and where it came from: `api_key` of the config first, else the endpoint's variable.

    (None, "") when none is needed; (None, VARIABLE) when the variable is needed and not set. Raises ConfigError when a key
    would travel in the clear, unless that is what the user wants (`clear`).
    """
    if "api_key" not in TABLE[backend].takes:
        return None, ""
    variable = key_variable(backend, url)
    key, source = (given.strip(), _said_by(given.strip(), variable, env)) if given else _looked_up(variable, env)
    if key and not clear:
        _check_clear(url, source)
    return (Secret(key) if key else None), source


def no_key(variable: str, model: str) -> str:
    """What to say when a key is missing: the variable, where to put it, where to get it."""
    got = f"; get one at {KEYS_AT[variable]}" if variable in KEYS_AT else ""
    return f"no key for `{model}`: export {variable}, or put `{variable}=…` into ./.env{got}"


def _looked_up(variable: str, env: Mapping[str, str]) -> tuple[str, str]:
    for name in spellings(variable) if variable else ():
        if value := env.get(name, "").strip():
            return value, where(env, name)
    return "", variable


def _said_by(given: str, variable: str, env: Mapping[str, str]) -> str:
    """Where a key of the config came from: `api_key: ${VARIABLE}` has been replaced by its value when it arrives here."""
    names = [*spellings(variable), *env] if variable else list(env)
    found = next((name for name in names if given and env.get(name, "").strip() == given), "")
    return where(env, found) if found else "config"


def where(env: Mapping[str, str], name: str) -> str:
    """A variable for people, with its file if it stands in one."""
    return env.where(name) if isinstance(env, Environment) else name


def _check_clear(url: str, source: str) -> None:
    if urlsplit(url).scheme == "http" and not is_this_machine(url):
        raise ConfigError(
            f"the key from {source} would be sent to {url} unencrypted, for everybody in between to read; use https, "
            "or, for a server that checks no key, give neither api_key nor the variable; `allow_http: true` beside base_url "
            "in a config sends it all the same"
        )
