"""A model that says what a file says: for tests, demonstrations, and replays of what a real one once answered.

A script is a YAML or JSON list. The first entry that is unused and whose `when` holds is the reply:

    - when: {phase: coordination, answers: ">=1"}
      text: I agree.
      calls: [{name: vote, args: {agent_id: $latest, reason: it passes the tests}}]
      usage: {input: 900, output: 40}
      delay_s: 0.2
      error: rate_limit            # or disconnect, timeout: instead of a reply

Every key may be missing; an entry without `when` always holds. Entries are matched by the situation and not by the
text of the prompt, so that a script survives a change of wording.
"""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import anyio

from massgen.errors import ConfigError, ModelError, ModelUnavailable, RateLimited
from massgen.messages import Piece, Reply, Request, ToolCall, Usage
from massgen.models.base import OnPiece


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One reply and when it fits."""

    phase: str | None = None
    """`coordination` or `final`; None: either."""
    answers: tuple[str, int] | None = None
    """How the number of answers on the table must compare, e.g. `(">=", 1)`; None: any number."""
    text: str = ""
    calls: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    usage: Usage = field(default_factory=Usage)
    delay_s: float = 0.0
    error: str | None = None

    def holds(self, situation: Mapping[str, Any]) -> bool:
        """Whether this entry fits the situation of a request."""
        if self.phase is not None and situation.get("phase") != self.phase:
            return False
        if self.answers is None:
            return True
        compare, number = self.answers
        return _COMPARE[compare](int(situation.get("answers", 0)), number)


_COMPARE: Final[Mapping[str, Callable[[int, int], bool]]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}
_CONDITION: Final = re.compile(r"\s*(?P<compare>>=|<=|==|>|<|)\s*(?P<number>\d+)\s*")
_PHASES: Final = ("coordination", "final")
_ERRORS: Final[Mapping[str, type[ModelError]]] = {
    "rate_limit": RateLimited,
    "disconnect": ModelUnavailable,
    "timeout": ModelUnavailable,
}


class ScriptedModel:
    """A model that replies from a script: a file, or entries. Each agent needs its own, as entries are used up."""

    name = "scripted"
    key_source = ""

    def __init__(self, script: Path | Sequence[Entry]) -> None:
        """Raises: ConfigError: the file is missing, is not YAML, or an entry is wrong (says which and where)."""
        self._where = str(script) if isinstance(script, Path) else "the script"
        self._entries = load(script) if isinstance(script, Path) else tuple(script)
        self._used: set[int] = set()

    @classmethod
    def of(cls, entries: Iterable[Mapping[str, Any]]) -> Self:
        """From a list as the file would hold it. Raises: ConfigError."""
        return cls(parse(list(entries), where="the script"))

    async def complete(self, request: Request, *, on_piece: OnPiece | None = None) -> Reply:
        """The next fitting entry, after its delay. Raises: ModelError (none fits), or the error the entry asks for."""
        number, entry = self._take(request.situation)
        await anyio.sleep(entry.delay_s)
        if entry.error is not None:
            raise _ERRORS[entry.error](f"{self._where}, entry {number + 1}, says: {entry.error}")
        calls = tuple(
            ToolCall(id=f"call_{number + 1}_{place + 1}", name=name, args=self._addressed(name, args, request.situation))
            for place, (name, args) in enumerate(entry.calls)
        )
        if on_piece is not None:
            for line in entry.text.splitlines(keepends=True):
                on_piece(Piece(kind="text", text=line))
        return Reply(text=entry.text, calls=calls, usage=entry.usage, stop="tools" if calls else "end")

    async def aclose(self) -> None:
        """Nothing is open."""

    def _take(self, situation: Mapping[str, Any]) -> tuple[int, Entry]:
        for number, entry in enumerate(self._entries):
            if number not in self._used and entry.holds(situation):
                self._used.add(number)
                return number, entry
        raise ModelError(
            f"{self._where} has no unused entry for phase {situation.get('phase')}, answers {situation.get('answers', 0)} "
            f"({len(self._used)} of {len(self._entries)} used); add one whose `when` fits"
        )

    def _addressed(self, name: str, args: Mapping[str, Any], situation: Mapping[str, Any]) -> Mapping[str, Any]:
        """The arguments, with `$latest` and `$own` replaced by the labels of this moment: a script cannot know them."""
        target = args.get("agent_id")
        if name != "vote" or target not in ("$latest", "$own"):
            return args
        label = situation.get(target.removeprefix("$"))
        if label is None:
            raise ModelError(f"{self._where} votes for {target}, but there is no such answer; ask for `answers` in its `when`")
        return {**args, "agent_id": label}


def load(path: Path) -> tuple[Entry, ...]:
    """The entries of a script file. Raises: ConfigError."""
    import yaml  # only runs with a script pay for it

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the script {path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"the script {path} is neither YAML nor JSON: {error}") from error
    return parse(content, where=str(path))


def parse(content: object, *, where: str) -> tuple[Entry, ...]:
    """The entries of a script that was read already. Raises: ConfigError naming `where`, the entry and the key."""
    if not isinstance(content, list):
        raise ConfigError(f"{where}: a script is a list of entries (`- text: …`), not {_kind(content)}")
    return tuple(_Reader(f"{where}, entry {number}").entry(found) for number, found in enumerate(content, start=1))


@dataclass(frozen=True)
class _Reader:
    """Checks the values of one entry; knows how to say where it is."""

    where: str

    def entry(self, found: object) -> Entry:
        keys = self.table(found, "", ("when", "text", "calls", "usage", "delay_s", "error"))
        when = self.table(keys.get("when", {}), "when", ("phase", "answers"))
        usage = self.table(keys.get("usage", {}), "usage", ("input", "output"))
        calls = keys.get("calls", [])
        if not isinstance(calls, list):
            raise self.wrong("calls", "a list of {name, args}", calls)
        return Entry(
            phase=self.one_of(when.get("phase"), "when.phase", _PHASES),
            answers=self.condition(when.get("answers")),
            text=self.text(keys.get("text", ""), "text"),
            calls=tuple(self.call(call, f"calls[{place}]") for place, call in enumerate(calls)),
            usage=Usage(
                input_tokens=int(self.number(usage.get("input", 0), "usage.input")),
                output_tokens=int(self.number(usage.get("output", 0), "usage.output")),
            ),
            delay_s=float(self.number(keys.get("delay_s", 0), "delay_s")),
            error=self.one_of(keys.get("error"), "error", tuple(_ERRORS)),
        )

    def call(self, found: object, key: str) -> tuple[str, Mapping[str, Any]]:
        keys = self.table(found, key, ("name", "args"))
        args = keys.get("args", {})
        if not isinstance(args, dict):
            raise self.wrong(f"{key}.args", "a table of arguments", args)
        name = self.text(keys.get("name", ""), f"{key}.name")
        if not name:
            raise self.wrong(f"{key}.name", "the name of a tool", keys.get("name"))
        return name, args

    def table(self, found: object, key: str, known: Sequence[str]) -> dict[str, Any]:
        if not isinstance(found, dict):
            raise self.wrong(key, f"a table with {', '.join(known)}", found)
        for name in found:
            if name not in known:
                near = difflib.get_close_matches(str(name), known, n=1)
                meant = f"did you mean `{near[0]}`?" if near else f"known are {', '.join(known)}"
                raise ConfigError(f"{self.where}: unknown key `{f'{key}.' if key else ''}{name}`; {meant}")
        return found

    def condition(self, found: object) -> tuple[str, int] | None:
        if found is None:
            return None
        match = _CONDITION.fullmatch(str(found)) if isinstance(found, int | str) and not isinstance(found, bool) else None
        if match is None:
            raise self.wrong("when.answers", 'a number, or a comparison such as ">=1"', found)
        return match["compare"] or "==", int(match["number"])

    def one_of(self, found: object, key: str, known: Sequence[str]) -> str | None:
        if found is None:
            return None
        if not isinstance(found, str) or found not in known:
            raise self.wrong(key, f"one of {', '.join(known)}", found)
        return found

    def text(self, found: object, key: str) -> str:
        if not isinstance(found, str):
            raise self.wrong(key, "text", found)
        return found

    def number(self, found: object, key: str) -> float:
        if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found < float("inf"):
            raise self.wrong(key, "a number, 0 or more", found)
        return found

    def wrong(self, key: str, wanted: str, found: object) -> ConfigError:
        return ConfigError(f"{self.where}: `{key}` must be {wanted}, not {_kind(found)}" if key else self._not_an_entry(found))

    def _not_an_entry(self, found: object) -> str:
        return f"{self.where}: an entry is a table (`text: …`), not {_kind(found)}"


def _kind(found: object) -> str:
    return "nothing" if found is None else f"{found!r:.60}"
