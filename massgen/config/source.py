"""A config file as plain values that remember their lines, so that every later complaint can name one.

YAML is composed to nodes and converted here instead of with `safe_load`, which keeps the last of two equal
keys silently and forgets where anything stood. JSON takes the same way: it is YAML but for tabs.
Refused: duplicate keys (both lines are named), keys that are not text, tags, several documents, aliases
that blow up, and files that are no text. `${VAR}` is replaced here, where the line is still known.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from massgen.errors import ConfigError

MAX_BYTES = 1024 * 1024
MAX_NODES = 20_000
"""An alias counts each time it is used: the bound is on what the file *means*, not on its size."""

Path_ = tuple[str | int, ...]

_VARIABLE = re.compile(r"(\$?)\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_TEXT_TAGS = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:value")
_SCALAR_TAGS = tuple(f"tag:yaml.org,2002:{t}" for t in ("int", "float", "bool", "null"))


@dataclass(frozen=True, kw_only=True)
class Document:
    """The top mapping of a config file, and where each value stood."""

    name: str
    """As shown in messages: the file's path."""
    data: dict[str, Any]
    lines: Mapping[Path_, int] = field(default_factory=dict)

    def line(self, path: Path_) -> int:
        """The line of this value, or of the nearest enclosing one."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def error(self, path: Path_, text: str) -> ConfigError:
        """A ConfigError that names file, line and key."""
        where = f"{self.name}:{self.line(path)}"
        return ConfigError(f"{where}: {dotted(path)}: {text}" if path else f"{where}: {text}")


def dotted(path: Path_) -> str:
    """`agents[0].backend.type`."""
    out = ""
    for part in path:
        out += f"[{part}]" if isinstance(part, int) else (f".{part}" if out else part)
    return out


def read_document(path: Path, env: Mapping[str, str] | None, *, name: str = "") -> Document:
    """The file at `path`; `env` None: it may not use variables. Raises ConfigError for whatever is wrong with it."""
    shown = name or str(path)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise ConfigError(f"config file {shown} does not exist; check the path after --config") from error
    except OSError as error:
        raise ConfigError(f"config file {shown} cannot be read: {error.strerror}") from error
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"config file {shown} is larger than {MAX_BYTES // 1024} KiB; is it the right file?")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"config file {shown} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    return parse_document(text, env, name=shown)


def parse_document(text: str, env: Mapping[str, str] | None, *, name: str) -> Document:
    """The same from text."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        pass
    else:
        text = text.replace("\t", " ")  # valid JSON has raw tabs between values only; PyYAML refuses them there
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise ConfigError(f"{name}:{line}: not valid YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not valid YAML: {' '.join(str(error).split())}") from error
    except (RecursionError, ValueError) as error:
        raise ConfigError(f"{name}: not usable YAML: {type(error).__name__}") from error
    if node is None:
        raise ConfigError(f"{name}: the file is empty; it needs at least `agents:`")
    reader = _Reader(name=name, env=env)
    data = reader.value(node, ())
    if not isinstance(data, dict):
        raise ConfigError(f"{name}:1: a config is a mapping with `agents:` at the top, not a {type(data).__name__}")
    return Document(name=name, data=data, lines=reader.lines)


class _Reader:
    """One conversion from nodes to values."""

    def __init__(self, *, name: str, env: Mapping[str, str] | None) -> None:
        self.name = name
        self.env = env
        self.lines: dict[Path_, int] = {}
        self._open: set[int] = set()
        self._nodes = 0

    def value(self, node: yaml.Node, path: Path_) -> object:
        self.lines.setdefault(path, node.start_mark.line + 1)
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise self._error(node, path, "the file means too much (aliases?)")
        if id(node) in self._open:
            raise self._error(node, path, "an alias contains itself")
        self._open.add(id(node))
        try:
            return self._convert(node, path)
        finally:
            self._open.discard(id(node))

    def _convert(self, node: yaml.Node, path: Path_) -> object:
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            return [self.value(child, (*path, i)) for i, child in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
            return self._mapping(node, path)
        raise self._error(node, path, f"the tag {node.tag} is not for configs")

    def _mapping(self, node: yaml.MappingNode, path: Path_) -> dict[str, Any]:
        out: dict[str, Any] = {}
        seen: dict[str, int] = {}
        merged: list[tuple[yaml.Node, yaml.Node]] = []
        for key_node, value_node in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                merged.append((key_node, value_node))
                continue
            key = self._key(key_node, path)
            line = key_node.start_mark.line + 1
            if key in seen:
                raise self._error(key_node, (*path, key), f"this key stands twice, in lines {seen[key]} and {line}; remove one")
            seen[key] = line
            self.lines[(*path, key)] = line
            out[key] = self.value(value_node, (*path, key))
        for key_node, value_node in merged:
            for mapping in self._merge_sources(key_node, value_node, path):
                for key, value in mapping.items():
                    out.setdefault(key, value)
        return out

    def _merge_sources(self, key_node: yaml.Node, value_node: yaml.Node, path: Path_) -> Iterable[dict[str, Any]]:
        value = self.value(value_node, path)
        sources = value if isinstance(value, list) else [value]
        mappings = [s for s in sources if isinstance(s, dict)]
        if len(mappings) != len(sources):
            raise self._error(key_node, path, "`<<` takes mappings")
        return mappings

    def _key(self, node: yaml.Node, path: Path_) -> str:
        if not isinstance(node, yaml.ScalarNode) or node.tag not in _TEXT_TAGS:
            raise self._error(node, path, f"a key must be text; quote it: {str(node.value)[:40]!r}")
        return _well_formed(node.value)

    def _scalar(self, node: yaml.ScalarNode, path: Path_) -> object:
        if node.tag in _TEXT_TAGS:
            return _VARIABLE.sub(lambda m: self._variable(m, node, path), _well_formed(node.value))
        if node.tag not in _SCALAR_TAGS:
            raise self._error(node, path, f"the tag {node.tag} is not for configs")
        try:
            value: object = yaml.SafeLoader("").construct_object(node)
        except (ValueError, KeyError, OverflowError, IndexError, yaml.YAMLError) as error:
            raise self._error(node, path, f"{node.value[:40]!r} is not a usable value; quote it if it is text") from error
        return value

    def _variable(self, match: re.Match[str], node: yaml.Node, path: Path_) -> str:
        if match[1]:  # `$${X}` means the text `${X}`, for verify commands
            return match[0][1:]
        if self.env is None:
            text = "a config that was merely found in the project may not use variables; trust it with --config"
            raise self._error(node, path, f"{text} {self.name}")
        if match[2] not in self.env:
            raise self._error(node, path, f"the variable {match[2]} is not set; export it or put it into ./.env")
        return self.env[match[2]]

    def _error(self, node: yaml.Node, path: Path_, text: str) -> ConfigError:
        where = f"{self.name}:{node.start_mark.line + 1}"
        return ConfigError(f"{where}: {dotted(path)}: {text}" if path else f"{where}: {text}")


def _well_formed(text: str) -> str:
    """The text with surrogate pairs joined (JSON escapes); lone surrogates become U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
