"""Progress as lines: one per change of state, aligned, made only from events.

    00:07  careful   answer agent1.1   1 file +1 -1
    00:08  careful   verify agent1.1   pass (4 passed)

It never moves the cursor, so it reads the same in a terminal, in a CI log and in a file. Foreign text goes
through `text.py` and into `rich.text.Text`, never into markup.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from massgen.display.paths import git_reason, kind_text
from massgen.display.rows import put
from massgen.display.story import Story
from massgen.display.text import bytes_text, count, duration_text, line, padded, widest
from massgen.events.codec import Envelope
from massgen.events.types import (
    AgentExcluded,
    AnswerGiven,
    Applied,
    BudgetOut,
    Compacted,
    Conflicted,
    DebateStarted,
    Event,
    LeaseGranted,
    LookFailed,
    LookStarted,
    Merged,
    ModelAsked,
    ModelCalled,
    ModelFailed,
    ModelHeld,
    Notice,
    Presented,
    RepairAttempted,
    RunStarted,
    SandboxEnded,
    SandboxStarted,
    Selected,
    Streamed,
    TimeUp,
    ToolFinished,
    ToolStarted,
    UserStop,
    Verified,
    VoteCast,
)

_COLOURS = ("cyan", "magenta", "yellow", "blue", "green", "red")
_MAX_TEXT = 160
SILENCE_S = 10.0
"""An agent whose model is busy for so long without a line of its own gets one, so that nobody takes it for dead."""
MAX_NAMED = 4
"""Answers that a look is said to be at by their names; sixteen agents would fill the terminal with one another's."""
LONG_SILENCE_S = 60.0
"""Between two such lines of one call; before, each comes after twice the time of the one before it."""

Said = tuple[str, str, str]
"""Who (an agent's id or one of our own words), what, and a style."""


class Progress:
    """A reader of the event log that prints to a console. `limits` is what each container may use, as text for the plan."""

    def __init__(self, console: Console, *, limits: str = "") -> None:
        self._console = console
        self._limits = limits
        self._story = Story()
        self._tools: dict[tuple[str, str], str] = {}
        self._quiet_since: dict[str, float] = {}
        self._asked: dict[str, tuple[str, float]] = {}
        """Model and moment of each agent's call that has not come back."""
        self._width = 8

    def __call__(self, envelope: Envelope) -> None:
        """Print what this event means to a user; most mean nothing."""
        self._story.feed(envelope)
        event = envelope.event
        if isinstance(event, RunStarted):
            self._plan(event)
            return
        if isinstance(event, ToolStarted):
            self._tools[event.agent, event.call_id] = event.summary
        now = self._story.at(envelope.ts)
        self._keep_asked(event, now)
        said = self._model_said(event, now) or self._agent_said(event) or self._answer_said(event) or self._run_said(event)
        if said:
            self._quiet_since[said[0]] = now
            self._line(now, *said)

    def _keep_asked(self, event: Event, now: float) -> None:
        match event:
            case ModelAsked():
                self._asked[event.agent] = event.model, now
            case ModelCalled() | ModelFailed() | SandboxEnded(role="agent" | "final"):
                self._asked.pop(event.agent, None)
            case _:
                pass

    def tick(self, ts: str) -> None:
        """Time goes by without an event: a line for each agent whose model has been busy in silence. `ts`: as in an envelope."""
        now = self._story.at(ts)
        for agent, (model, since) in self._asked.items():
            waited = now - since
            if now - self._quiet_since.get(agent, since) >= max(SILENCE_S, min(waited / 2, LONG_SILENCE_S)):
                self._quiet_since[agent] = now
                self._line(now, agent, f"thinking {duration_text(waited)}: {line(model, 48)}", "dim")

    def catch_up(self, past: Sequence[Envelope]) -> None:
        """What happened before this process went on with the run: one line of it, and the names are known."""
        for envelope in past:
            self._story.feed(envelope)
        story = self._story
        self._width = widest((line(a, 24) for a in story.agents), least=8)
        done = f"{count(len(story.answers), 'answer')}, {count(len(story.votes), 'vote')} so far"
        self._said("resume", f"run {story.run_id} · {line(story.started.prompt, 72) if story.started else ''} · {done}")

    def _plan(self, event: RunStarted) -> None:
        self._width = widest((line(a, 24) for a in self._story.agents), least=8)
        models = dict.fromkeys(line(str(a.get("model", "")), 48) for a in event.agents)
        limits = f" · {self._limits} each" if self._limits else ""
        self._said("plan", f"{count(len(event.agents), 'agent')} · {', '.join(models)} · {event.image}{limits} · no network")
        if event.prepared:
            self._said("", f"network used once to prepare the image: {line('; '.join(event.prepared), _MAX_TEXT)}")
        for path in event.context:
            hidden = int(path.get("withheld", 0))
            what = "write" if path.get("permission") == "write" else "read "
            mode = f" ({event.write_mode})" if path.get("permission") == "write" else ""
            size = bytes_text(int(path.get("bytes", 0)))
            tail = f", {hidden} withheld" if hidden else ""
            where = line(str(path.get("path", "")))
            kind = f" · {kind_text(path)}" if kind_text(path) else ""
            self._said("", f"{what} {where}{mode}   {count(int(path.get('files', 0)), 'file')}, {size}{tail}{kind}")
            if why := git_reason(path):
                self._said("", f"      {why}")
        if not event.context:
            self._said("", "no files of yours: the agents see only their own workspace")
        if event.verify:
            self._said("", f"verify {line(event.verify, _MAX_TEXT)}")

    def _model_said(self, event: Event, now: float) -> Said | None:
        """What models do; a stream is told of now and then only."""
        match event:
            case LookStarted():
                self._quiet_since.pop(event.agent, None)
            case ModelAsked() if event.agent not in self._quiet_since:
                return event.agent, f"asks {line(event.model, 48)}", "dim"
            case Streamed() if now - self._quiet_since.get(event.agent, now) >= SILENCE_S:
                doing = {"text": "writes", "reasoning": "thinks", "call": "writes a call"}[event.kind]
                return event.agent, f"{doing}: …{line(event.text.strip()[-60:], 60)}", "dim"
            case ModelHeld():
                return event.agent, f"waits {duration_text(event.wait_s)}: {line(event.why, _MAX_TEXT)}", "yellow"
            case Compacted():
                what = f"{count(event.results, 'old result')} of tools taken out ({bytes_text(event.chars)})"
                return event.agent, f"made room for its model: {what}", "yellow"
            case ModelFailed():
                again = f"; again in {duration_text(event.retry_s)}" if event.retry_s is not None else ""
                return event.agent, f"model call failed: {line(event.error, _MAX_TEXT)}{again}", "yellow"
            case _:
                pass
        return None

    def _agent_said(self, event: Event) -> Said | None:
        """What agents do."""
        match event:
            case SandboxStarted(role="agent"):
                return event.agent, f"container up in {duration_text(event.start_s)}", "dim"
            case LookStarted(phase="final"):
                return event.agent, "final turn, in a new container", ""
            case LookStarted() if event.answers:
                few = len(event.answers) <= MAX_NAMED
                return event.agent, f"looks at {', '.join(event.answers) if few else f'{len(event.answers)} answers'}", "dim"
            case ToolFinished():
                return event.agent, self._tool(event), "dim"
            case RepairAttempted():
                return event.agent, f"try {event.attempt}: {line(event.function or event.path, 48)} → {event.outcome}", "dim"
            case LookFailed():
                return event.agent, f"failed: {line(event.why, _MAX_TEXT)}", "yellow"
            case AgentExcluded():
                return event.agent, f"is out: {line(event.why, _MAX_TEXT)}", "red"
            case _:
                return None

    def _answer_said(self, event: Event) -> Said | None:
        """What becomes of answers."""
        match event:
            case AnswerGiven():
                return event.agent, f"answer {event.answer}   {_changes(event)}", "bold"
            case VoteCast():
                reason = line(event.reason, 72)
                return event.agent, f"votes for {self._story.name(event.for_agent)}" + (f"   “{reason}”" if reason else ""), ""
            case DebateStarted():
                return "debate", f"round {event.round}: {event.share:.0%} agree, all look again", ""
            case Verified():
                return "verify", f"{_verified_what(event.answer)}   {_verdict(event)}", "green" if event.ok else "red"
            case Selected():
                return event.agent, f"wins with {event.answer}   {line(event.why, _MAX_TEXT)}", "bold"
            case Presented():
                return event.agent, f"final answer   {_changes(event)}", ""
            case _:
                return None

    def _run_said(self, event: Event) -> Said | None:
        """What happens to the project and to the run."""
        match event:
            case LeaseGranted():
                return event.agent, f"gets the one write mount, to {event.purpose}", ""
            case Applied():
                return "written", f"{count(len(event.files), 'file')} in your project", "bold green"
            case Merged():
                return "", f"your edits and the agents' were joined in {', '.join(map(line, event.paths))}", "yellow"
            case Conflicted():
                why = f": {count(len(event.paths), 'file')} changed meanwhile" if event.paths else ""
                return "conflict", f"nothing written{why}", "bold red"
            case TimeUp():
                return "time", "is up; the best answer so far counts", "yellow"
            case BudgetOut():
                return "budget", "is used up; the best answer so far counts", "yellow"
            case UserStop():
                return "stop", "the best answer so far counts", "yellow"
            case Notice():
                return event.agent or "note", line(event.text, 200), "yellow" if event.level == "warning" else "dim"
            case _:
                return None

    def _tool(self, event: ToolFinished) -> str:
        code = "" if event.exit_code in (None, 0) else f"exit {event.exit_code}, "
        failed = "failed, " if not event.ok and not code else ""
        summary = line(self._tools.pop((event.agent, event.call_id), ""), 72)
        what = summary if summary.startswith(event.name) else f"{line(event.name, 24)} {summary}".rstrip()
        return f"{what}   {failed}{code}{duration_text(event.seconds)}"

    def _line(self, seconds: float, who: str, what: str, style: str) -> None:
        minutes, rest = divmod(int(seconds), 60)
        name = line(self._story.name(who), 24)
        clock, label = (f"{minutes:02d}:{rest:02d}  ", "dim"), (padded(name, self._width) + "  ", self._colour(name))
        put(self._console, Text.assemble(clock, label), Text(what, style))

    def _said(self, word: str, what: str) -> None:
        put(self._console, Text(f"{word:<6} ", "bold"), Text(what))

    def _colour(self, name: str) -> str:
        agents = [line(a, 24) for a in self._story.agents]
        return _COLOURS[agents.index(name) % len(_COLOURS)] if name in agents else "bold"


def _changes(event: AnswerGiven | Presented) -> str:
    return f"{count(event.files, 'file')} +{event.added} -{event.removed}" if event.files else "no files"


def _verified_what(answer: str) -> str:
    return {"base": "your project as it is", "final": "the result"}.get(answer, answer)


def _verdict(event: Verified) -> str:
    tests = f" ({event.figure(event.passed, 'passed')})" if event.ok and event.passed is not None else ""
    changed = "; it changed the tests" if event.tests_changed else ""
    return f"{line(event.summary, 48)}{tests}   {duration_text(event.seconds)}{changed}"
