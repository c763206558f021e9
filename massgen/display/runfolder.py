"""The readable folder of a run, `.massgen/massgen_logs/log_<timestamp>/`, written while the run goes on.

    events.jsonl  run.json  config.resolved.yaml  result.json  votes.json  coordination_table.txt
    agent_outputs/{agent}.txt  agent_outputs/final_presentation_{agent}.txt  agent_outputs/system_status.txt
    {agent}/{time}/answer.txt | vote.json          final/{agent}/answer.txt  final/{agent}/changes.patch

It is a copy for people: nothing reads it back, the log in the state folder is the truth. It lies in the
working directory, which may be a stranger's repository: a `.massgen` that is a link is refused, and a
`.gitignore` of `*` keeps the folder out of commits.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from massgen.display import costs
from massgen.display.story import Story
from massgen.display.text import block, duration_text, line
from massgen.errors import ConfigError
from massgen.events.codec import Envelope, encode
from massgen.events.types import (
    AnswerGiven,
    Cited,
    Event,
    Presented,
    RepairAttempted,
    RunFinished,
    RunStarted,
    TextSaid,
    ToolFinished,
    ToolStarted,
    VoteCast,
)


def make_folder(cwd: Path, *, now: datetime) -> Path:
    """A fresh log folder below `cwd/.massgen`. Raises ConfigError when `.massgen` leads elsewhere, OSError when unwritable."""
    place = cwd
    for name in (".massgen", "massgen_logs"):
        place /= name
        if place.is_symlink():
            raise ConfigError(
                f"{place} is a link; run logs are not written through links: remove it, or use --run-dir or --no-logs"
            )
        place.mkdir(exist_ok=True)
    ignore = cwd / ".massgen" / ".gitignore"
    if not ignore.exists() and not ignore.is_symlink():
        ignore.write_text("*\n")
    stamp = now.strftime("log_%Y%m%d_%H%M%S")
    for number in range(1, 1000):
        folder = place / (stamp if number == 1 else f"{stamp}_{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise ConfigError(f"{place} has a thousand logs of this second; use --run-dir")


class RunFolder:
    """A reader of the event log that writes the folder.

    `make` is called with the first event and gives an empty folder: what fails before a run begins leaves none.
    `config` is the resolved YAML. An OSError (no right to write, disk full) ends this reader, not the run.
    """

    def __init__(self, make: Callable[[], Path], *, config: str = "") -> None:
        self._make = make
        self._config = config
        self._folder: Path | None = None
        self._tools: dict[tuple[str, str], str] = {}
        self.story = Story()

    @property
    def made(self) -> Path | None:
        """The folder, once there is one."""
        return self._folder

    @property
    def folder(self) -> Path:
        """The folder, made now if need be."""
        if self._folder is None:
            self._folder = self._make()
            (self._folder / "agent_outputs").mkdir()
            if self._config:
                (self._folder / "config.resolved.yaml").write_text(self._config, encoding="utf-8")
        return self._folder

    def __call__(self, envelope: Envelope) -> None:
        """Append to what this event belongs to."""
        if not envelope.event.kept:
            return
        with (self.folder / "events.jsonl").open("ab") as file:
            file.write(encode(envelope))
        self.story.feed(envelope)
        event = envelope.event
        clock = duration_text(self.story.at(envelope.ts))
        agent = self.story.name(getattr(event, "agent", ""))
        if agent and agent in self.story.agents:
            self._append(f"agent_outputs/{agent}.txt", self._spoken(event))
            self._keep(event, agent, envelope.ts)
        self._append("agent_outputs/system_status.txt", f"{clock:>12}  {type(event).__name__:<16} {agent}\n")
        if isinstance(event, RunStarted):
            self._write_json("run.json", {"run_id": envelope.run_id, "started": envelope.ts, **_plain(event)})
        if isinstance(event, RunFinished):
            self._close(event)

    def patch(self, text: str) -> None:
        """The final change as a diff, once it is known."""
        if self.story.selected and self._folder:
            self._write(f"final/{self.story.name(self.story.selected.agent)}/changes.patch", text)

    def _spoken(self, event: Event) -> str:
        match event:
            case TextSaid():
                return block(event.text).rstrip("\n") + "\n\n"
            case Cited():
                return "".join(f"[source] {line(source['title'])} {line(source['url'])}\n" for source in event.sources) + "\n"
            case ToolStarted():
                self._tools[event.agent, event.call_id] = event.summary
                return ""
            case ToolFinished():
                code = f" (exit {event.exit_code})" if event.exit_code is not None else ""
                summary = line(self._tools.pop((event.agent, event.call_id), event.name))
                return f"$ {summary}{code}\n{block(event.text).rstrip()}\n\n"
            case RepairAttempted():
                where = f"{line(event.path)} {line(event.function)}"
                return f"[try {event.attempt}] {where}: {event.outcome} {line(event.detail)}\n\n"
            case AnswerGiven():
                return f"=== answer {event.answer}, {event.files} files +{event.added} -{event.removed}\n{block(event.text)}\n\n"
            case VoteCast():
                return f"=== votes for {self.story.name(event.for_agent)}: {line(event.reason)}\n\n"
            case _:
                return ""

    def _keep(self, event: Event, agent: str, ts: str) -> None:
        stamp = datetime.fromisoformat(ts).strftime("%Y%m%d_%H%M%S_%f")
        match event:
            case AnswerGiven():
                self._write(f"{agent}/{stamp}/answer.txt", block(event.text))
            case VoteCast():
                vote = {"for": self.story.name(event.for_agent), "reason": event.reason, "seen": list(event.seen)}
                self._write_json(f"{agent}/{stamp}/vote.json", vote)
            case Presented():
                self._write(f"agent_outputs/final_presentation_{agent}.txt", block(event.text))
                self._write(f"final/{agent}/answer.txt", block(event.text))
            case _:
                pass

    def _close(self, event: RunFinished) -> None:
        story = self.story
        votes = [{"agent": story.name(v.agent), "for": story.name(v.for_agent), "reason": v.reason} for v in story.votes]
        counted = {story.name(a): n for a, n in story.selected.votes.items()} if story.selected else {}
        self._write_json("votes.json", {"votes": votes, "counted": counted, "why": story.selected.why if story.selected else ""})
        self._write("coordination_table.txt", table(story))
        result = {
            "run_id": story.run_id,
            "exit_code": event.exit_code,
            "outcome": event.outcome,
            "message": event.message,
            "winner": story.name(event.winner),
            "answer": story.presented.text if story.presented else "",
            "verified": {answer: verdict.summary for answer, verdict in story.verified.items()},
            "written": list(story.applied.files) if story.applied else [],
            "usage": {agent: asdict(usage) for agent, usage in story.usage.items()},
            "costs": costs.plain(story),
            "seconds": event.seconds,
        }
        self._write_json("result.json", result)

    def _append(self, path: str, text: str) -> None:
        if text:
            with (self.folder / path).open("a", encoding="utf-8") as file:
                file.write(text)

    def _write(self, path: str, text: str) -> None:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8", errors="backslashreplace")

    def _write_json(self, path: str, value: object) -> None:
        self._write(path, json.dumps(value, indent=2, ensure_ascii=True) + "\n")


def table(story: Story) -> str:
    """Answers and votes, as text columns."""
    rows = [("agent", "answer", "files", "verify", "votes")]
    for answer in story.answers:
        verdict = story.verified.get(answer.answer)
        votes = sum(v.for_agent == answer.agent for v in story.votes)
        change = f"{answer.files} +{answer.added} -{answer.removed}" if answer.files else "none"
        latest = next(a for a in reversed(story.answers) if a.agent == answer.agent) is answer
        rows.append(
            (story.name(answer.agent), answer.answer, change, verdict.summary if verdict else "", str(votes) if latest else "")
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    text = "".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n" for row in rows)
    if story.selected:
        text += f"\nwinner: {story.name(story.selected.agent)} ({line(story.selected.why)})\n"
    return text


def _plain(event: RunStarted) -> dict[str, object]:
    return {
        "prompt": event.prompt,
        "agents": list(event.agents),
        "write_mode": event.write_mode,
        "context": list(event.context),
        "image": event.image,
        "verify": event.verify,
        "version": event.version,
    }
