"""Events to JSON lines and back, strictly: what cannot be read again exactly is never written.

The rules come from the types of the event dataclasses, so a new event needs no line here. An unknown type, an
unknown or missing field, or a value of another type is an error that names it: a log is a contract, and a
guess on reading would make replay differ from what happened. Every line carries `v`; a reader of another
version says so instead of trying.
"""

from __future__ import annotations

import dataclasses
import json
import types as python_types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

from massgen.errors import MassgenError
from massgen.events import types
from massgen.events.types import Event
from massgen.messages import Usage

_T = TypeVar("_T")
VERSION = 1
_HEAD = ("v", "seq", "ts", "run_id", "type")


class LogError(MassgenError):
    """A line is not an event of this version; the message names the line, field or type."""


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """One event with its place in one run."""

    seq: int
    """From 1, without gaps."""
    ts: str
    """ISO 8601, UTC, microseconds."""
    run_id: str
    event: Event


def encode(envelope: Envelope) -> bytes:
    """One line, newline included. Raises LogError for a value that would not read back the same."""
    event = envelope.event
    name = type(event).__name__
    if event_types().get(name) is not type(event):
        raise LogError(f"{name} is not an event type: add it to massgen/events/types.py")
    row: dict[str, Any] = {"v": VERSION, "seq": envelope.seq, "ts": envelope.ts, "run_id": envelope.run_id, "type": name}
    for field, codec in _fields(type(event)).items():
        row[field] = codec.dump(getattr(event, field), f"{name}.{field}")
    try:
        # ASCII on purpose: undecodable file names are lone surrogates, which UTF-8 has no bytes for.
        return json.dumps(row, allow_nan=False).encode("ascii") + b"\n"
    except (TypeError, ValueError) as error:
        raise LogError(f"{name} holds a value that JSON cannot carry: {error}") from error


def decode(line: bytes) -> Envelope:
    """The inverse of `encode`. Raises LogError."""
    try:
        row = json.loads(line)
    except ValueError as error:
        raise LogError(f"not JSON: {error}") from error
    if not isinstance(row, dict):
        raise LogError("not a JSON object")
    if row.get("v") != VERSION:
        raise LogError(f"log version {row.get('v')!r}, this massgen reads version {VERSION}: use the version that wrote it")
    missing = [key for key in _HEAD if key not in row]
    if missing:
        raise LogError(f"missing {', '.join(missing)}")
    if not isinstance(row["type"], str) or row["type"] not in event_types():
        raise LogError(f"unknown event type {row['type']!r}")
    event = _event(event_types()[row["type"]], {key: value for key, value in row.items() if key not in _HEAD})
    return Envelope(
        seq=_of(int, row["seq"], "seq"), ts=_of(str, row["ts"], "ts"), run_id=_of(str, row["run_id"], "run_id"), event=event
    )


@cache
def event_types() -> Mapping[str, type[Event]]:
    """Every event by name: the subclasses of Event that `types.py` defines."""
    found = (item for item in vars(types).values() if isinstance(item, type) and issubclass(item, Event) and item is not Event)
    return {item.__name__: item for item in found}


def _event(kind: type[Event], values: Mapping[str, Any]) -> Event:
    fields = _fields(kind)
    unknown = sorted(values.keys() - fields.keys())
    if unknown:
        raise LogError(f"{kind.__name__} has no field {', '.join(map(repr, unknown))}")
    # Defaults do not fill gaps: encode writes every field, so a missing one means another version or damage.
    missing = [name for name in fields if name not in values]
    if missing:
        raise LogError(f"{kind.__name__} lacks {', '.join(map(repr, missing))}")
    return cast("Event", _build(kind, values, kind.__name__))


# -- one codec per type -----------------------------------------------------------------------------------------

_Step = Callable[[object, str], object]
"""A value and where it stands (for messages) → the value on the other side."""


@dataclass(frozen=True, kw_only=True)
class _Codec:
    dump: _Step
    load: _Step


@cache
def _codecs() -> Mapping[type, Mapping[str, _Codec]]:
    return {kind: _codecs_of(kind) for kind in (*event_types().values(), Usage)}


def _fields(kind: type) -> Mapping[str, _Codec]:
    return _codecs()[kind]


def _codecs_of(kind: type) -> Mapping[str, _Codec]:
    hints = get_type_hints(kind)
    return {field.name: _codec(hints[field.name]) for field in dataclasses.fields(kind)}


def _codec(hint: object) -> _Codec:
    args = get_args(hint)
    if isinstance(hint, type) and hint in (str, int, float, bool):
        return _plain(hint)
    if hint is Any:
        return _Codec(dump=_json, load=lambda value, _where: value)
    if hint is Usage:
        return _Codec(dump=_dump_usage, load=_load_usage)
    match get_origin(hint):
        case python_types.UnionType if type(None) in args:
            (inner,) = (_codec(arg) for arg in args if arg is not type(None))
            found = _optional(inner)
        case kind if kind is Literal:
            found = _checked(lambda value: value in args, f"one of {', '.join(map(str, args))}")
        case kind if kind is tuple and args[1:] == (...,):
            found = _list(_codec(args[0]))
        case kind if kind is dict:
            found = _mapping(_codec(args[1]))
        case _:
            raise TypeError(f"massgen/events/types.py uses {hint!r}, which the log cannot carry")
    return found


def _plain(kind: type) -> _Codec:
    if kind is float:
        return _checked(lambda value: type(value) in (int, float), "a number", float)
    return _checked(lambda value: type(value) is kind, f"of type {kind.__name__}")


def _checked(test: Callable[[object], bool], wanted: str, convert: Callable[[Any], object] | None = None) -> _Codec:
    def check(value: object, where: str) -> object:
        if not test(value):
            raise LogError(f"{where} is {str(value)[:80]!r}, not {wanted}")
        return convert(value) if convert else value

    return _Codec(dump=check, load=check)


def _list(item: _Codec) -> _Codec:
    def load(value: object, where: str) -> tuple[object, ...]:
        if not isinstance(value, list):
            raise LogError(f"{where} is not a list")
        return tuple(item.load(each, where) for each in value)

    def dump(value: object, where: str) -> list[object]:
        if not isinstance(value, tuple):
            raise LogError(f"{where} is not a tuple")
        return [item.dump(each, where) for each in value]

    return _Codec(dump=dump, load=load)


def _mapping(item: _Codec) -> _Codec:
    def walk(step: _Step) -> _Step:
        def each(value: object, where: str) -> dict[str, object]:
            if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
                raise LogError(f"{where} is not an object with string keys")
            return {key: step(inner, f"{where}[{key}]") for key, inner in value.items()}

        return each

    return _Codec(dump=walk(item.dump), load=walk(item.load))


def _optional(inner: _Codec) -> _Codec:
    return _Codec(
        dump=lambda value, where: None if value is None else inner.dump(value, where),
        load=lambda value, where: None if value is None else inner.load(value, where),
    )


def _load_usage(value: object, where: str) -> object:
    if not isinstance(value, dict) or value.keys() != _fields(Usage).keys():
        raise LogError(f"{where} is not {{{', '.join(_fields(Usage))}}}")
    return _build(Usage, value, where)


def _dump_usage(value: object, where: str) -> object:
    if type(value) is not Usage:
        raise LogError(f"{where} is not a Usage")
    return {name: codec.dump(getattr(value, name), f"{where}.{name}") for name, codec in _fields(Usage).items()}


def _build(kind: type, values: Mapping[str, object], where: str) -> object:
    return kind(**{name: codec.load(values[name], f"{where}.{name}") for name, codec in _fields(kind).items()})


def _of(kind: type[_T], value: object, where: str) -> _T:
    return cast("_T", _plain(kind).load(value, where))


def _json(value: object, where: str) -> object:
    match value:
        case None | bool() | int() | float() | str():
            return value
        case list():
            return [_json(item, where) for item in value]
        case dict() if all(isinstance(key, str) for key in value):
            return {key: _json(item, f"{where}[{key}]") for key, item in value.items()}
        case _:
            raise LogError(f"{where} holds a {type(value).__name__}; use JSON types (lists, not tuples)")
