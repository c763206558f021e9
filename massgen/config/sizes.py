"""What a config says in sizes and numbers, as limits; sizes and durations are read by the sandbox's own `measures`."""

from __future__ import annotations

from dataclasses import replace

from massgen.config.backends import BackendType
from massgen.config.schema import RawSandbox
from massgen.config.source import Document
from massgen.errors import ConfigError
from sandbox import measures
from sandbox.errors import SpecError
from sandbox.spec import MIB, Limits

MIN_MEMORY_BYTES = 64 * MIB
MIN_DISK_BYTES = MIB


def size_bytes(text: str | int) -> int:
    """`sandbox.measures.size_bytes`. Raises ConfigError."""
    try:
        return measures.size_bytes(text)
    except SpecError as error:
        raise ConfigError(str(error)) from error


def duration_s(text: str) -> float:
    """`sandbox.measures.duration_s`. Raises ConfigError."""
    try:
        return measures.duration_s(text)
    except SpecError as error:
        raise ConfigError(str(error)) from error


def limits(document: Document, raw: RawSandbox, command_timeout_s: float | None) -> Limits:
    """The sandbox's limits: defaults, less or more what `sandbox:` says. Raises ConfigError with the key's line."""
    out = Limits()
    if raw.memory is not None:
        out = replace(out, memory_bytes=_size(document, "memory", raw.memory, MIN_MEMORY_BYTES))
    if raw.disk is not None:
        out = replace(out, workspace_bytes=_size(document, "disk", raw.disk, MIN_DISK_BYTES))
    if raw.cpus is not None:
        out = replace(out, cpus=float(raw.cpus))
    if raw.pids is not None:
        out = replace(out, pids=raw.pids)
    if command_timeout_s is not None:
        out = replace(out, command_timeout_s=float(command_timeout_s))
    return out


def _size(document: Document, key: str, given: str | int, least: int) -> int:
    try:
        value = size_bytes(given)
    except ConfigError as error:
        raise document.error(("sandbox", key), str(error)) from error
    if value < least:
        raise document.error(("sandbox", key), f"{given} is too little to work in; at least {least // MIB}m")
    return value


THINKERS_TOKENS = 16_384
"""Output of a model that thinks, unless the config says how much."""
ANSWER_TOKENS = 4096
"""Left for the answer beside the thinking that was asked for."""


def most_tokens(kind: BackendType, said: int | None, thinking: int | None) -> int | None:
    """Of one reply. Claude counts its thinking as output: the limit is one that leaves room for an answer."""
    return max(said or THINKERS_TOKENS, thinking + ANSWER_TOKENS) if kind == "claude" and thinking else said
