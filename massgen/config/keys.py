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

from massgen.config.model import BackendType, Secret
from massgen.config.paths import Places
from massgen.errors import ConfigError

KEY_VARIABLES: dict[str, str] = {
    "api.anthropic.com": "ANTHROPIC_API_KEY",
    "api.openai.com": "OPENAI_API_KEY",
    "api.cerebras.ai": "CEREBRAS_API_KEY",
    "api.deepseek.com": "DEEPSEEK_API_KEY",
    "api.fireworks.ai": "FIREWORKS_API_KEY",
    "api.groq.com": "GROQ_API_KEY",
    "api.moonshot.ai": "MOONSHOT_API_KEY",
    "api.poe.com": "POE_API_KEY",
    "api.studio.nebius.com": "NEBIUS_API_KEY",
    "api.together.xyz": "TOGETHER_API_KEY",
    "dashscope-intl.aliyuncs.com": "QWEN_API_KEY",
    "openrouter.ai": "OPENROUTER_API_KEY",
}
"""By the host of the base URL; any other host takes `MASSGEN_API_KEY`."""

OTHER_HOST = "MASSGEN_API_KEY"

_LINE = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*?)\s*\Z")


def environment(env: Mapping[str, str], places: Places) -> dict[str, str]:
    """The process environment, filled up (never overridden) from the two `.env` files."""
    out = dict(env)
    for path in (places.cwd / ".env", places.user_config / ".env"):
        for name, value in _dotenv(path).items():
            out.setdefault(name, value)
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
    """The URL as SDKs want it: without `/chat/completions` and closing slashes. Raises ConfigError when it is none."""
    trimmed = url.strip().rstrip("/").removesuffix("/chat/completions").rstrip("/")
    try:
        parts = urlsplit(trimmed)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        parts, usable = urlsplit(""), False
    if not usable or any(c.isspace() or not c.isprintable() for c in trimmed):
        raise ConfigError(f"base_url {url[:100]!r} is not a web address; it looks like http://127.0.0.1:8000/v1")
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
    if backend in ("scripted", "local"):
        return ""
    host = (urlsplit(url).hostname or "").lower()
    if not host:
        return "ANTHROPIC_API_KEY" if backend == "claude" else "OPENAI_API_KEY"
    return "" if is_this_machine(url) else KEY_VARIABLES.get(host, OTHER_HOST)


def find_key(backend: BackendType, url: str, given: str | None, env: Mapping[str, str]) -> tuple[Secret | None, str]:
    """The key and where it came from: `api_key` of the config first, else the endpoint's variable.

    (None, "") when none is needed; (None, VARIABLE) when the variable is needed and not set.
    """
    if backend in ("scripted", "local"):
        return None, ""
    if given:
        return Secret(given.strip()), "config"
    variable = key_variable(backend, url)
    value = env.get(variable, "").strip() if variable else ""
    return (Secret(value) if value else None), variable
