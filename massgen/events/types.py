"""Everything that can happen in a run, as values: the log, the displays, replay and undo know only these.

The facts that move coordination are events among the others, so the log *is* the list of facts. Fields are
JSON types, tuples of them, or `Usage`; an envelope (`v`, `seq`, `ts`, `run_id`, `type`) is added by the log.
An answer's name is `label.version` (`agent2.1`); labels are anonymous and fixed for the run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from massgen.messages import Usage


@dataclass(frozen=True, kw_only=True)
class Event:
    """Base of all events."""

    kept: ClassVar[bool] = True
    """Whether the log has it. What is not kept is told to readers only, under the number of the event before it."""


@dataclass(frozen=True, kw_only=True)
class RunStarted(Event):
    """First event: what was asked, of whom. `agents` holds {id, label, model, backend} in registration order."""

    prompt: str
    agents: tuple[dict[str, Any], ...]
    write_mode: Literal["apply", "review", "direct", "never"]
    context: tuple[dict[str, Any], ...]
    """{path, permission, files, bytes, withheld, draft: overlay|copy, git: clean|fresh|hide}, with draft_why and git_why."""
    image: str
    verify: str = ""
    version: str = ""
    prepared: tuple[str, ...] = ()
    """Commands that ran, once and with network, to make the image that agents run in."""


@dataclass(frozen=True, kw_only=True)
class RunResumed(Event):
    """Another process goes on with a run that had not come to its end. What follows counts as if it had never stopped."""

    after: str
    """`killed`, or the outcome of the RunFinished that it takes back (`crashed`, `sandbox`)."""
    events: int
    """How many were there."""
    version: str = ""


@dataclass(frozen=True, kw_only=True)
class Notice(Event):
    """Something the user should know, said once. `level` is info or warning."""

    text: str
    level: Literal["info", "warning"] = "info"
    agent: str = ""


@dataclass(frozen=True, kw_only=True)
class SandboxStarted(Event):
    """A container was created. `mounts` is what its label `massgen.mounts` says: {path, mode: ro|draft|write}."""

    agent: str
    role: Literal["agent", "verify", "merge", "final", "lease"]
    container: str
    mounts: tuple[dict[str, str], ...]
    start_s: float


@dataclass(frozen=True, kw_only=True)
class SandboxEnded(Event):
    """The container is gone."""

    agent: str
    role: Literal["agent", "verify", "merge", "final", "lease"]
    container: str


@dataclass(frozen=True, kw_only=True)
class LookStarted(Event):
    """An agent is shown the task and the current answers."""

    agent: str
    answers: tuple[str, ...]
    phase: Literal["coordination", "final"] = "coordination"


@dataclass(frozen=True, kw_only=True)
class ModelAsked(Event):
    """A model call begins: what comes next may take minutes."""

    agent: str
    model: str


@dataclass(frozen=True, kw_only=True)
class Streamed(Event):
    """The next part of a reply, as it comes, for whoever watches; `TextSaid` has the text whole.

    `call` is the name of a tool and then its arguments. What came before a `ModelFailed` of the same agent is void.
    """

    kept: ClassVar[bool] = False

    agent: str
    kind: Literal["text", "reasoning", "call"]
    text: str


@dataclass(frozen=True, kw_only=True)
class ModelHeld(Event):
    """No call is made for so long: the provider wants it, or has failed everybody several times in a row."""

    agent: str
    why: str
    wait_s: float


@dataclass(frozen=True, kw_only=True)
class Compacted(Event):
    """The conversation had become too long for the model: the oldest tool results were replaced by a remark that says so."""

    agent: str
    results: int
    chars: int
    """How much was taken out."""


@dataclass(frozen=True, kw_only=True)
class TextSaid(Event):
    """What the model wrote in one reply (whole, not per delta)."""

    agent: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Cited(Event):
    """Where the provider's own web search found what the model said in its last reply. `sources` holds {url, title}."""

    agent: str
    sources: tuple[dict[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class ModelCalled(Event):
    """One completed model call."""

    agent: str
    model: str
    usage: Usage
    seconds: float
    stop: str = ""
    cost_usd: float | None = None
    """By the provider's own counts; None: nobody knows the price."""


@dataclass(frozen=True, kw_only=True)
class ModelFailed(Event):
    """One failed model call; `retry_s` says when it is tried again (None: not)."""

    agent: str
    error: str
    retry_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class ToolStarted(Event):
    """A tool runs in the agent's container; `summary` is one line for people."""

    agent: str
    call_id: str
    name: str
    summary: str


@dataclass(frozen=True, kw_only=True)
class ToolFinished(Event):
    """It ended. `text` is what the model gets, at most 4 KiB of it."""

    agent: str
    call_id: str
    name: str
    ok: bool
    exit_code: int | None = None
    seconds: float = 0.0
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class RepairAttempted(Event):
    """The small-model strategy tried one fix: which file, which function, and whether the tests pass now."""

    agent: str
    attempt: int
    path: str
    function: str
    outcome: Literal["pass", "fail", "unusable"]
    detail: str = ""


# -- facts: what coordination is a function of ---------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class AgentReady(Event):
    """The agent's container and model are up."""

    agent: str


@dataclass(frozen=True, kw_only=True)
class AnswerGiven(Event):
    """A new answer, its snapshot already stored. Clears all votes."""

    agent: str
    answer: str
    text: str
    snapshot: str
    files: int = 0
    added: int = 0
    removed: int = 0


@dataclass(frozen=True, kw_only=True)
class VoteCast(Event):
    """A vote for the latest answer of `for_agent`, by someone who had been shown `seen`. Coordination judges it."""

    agent: str
    for_agent: str
    reason: str
    seen: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class LookFailed(Event):
    """A look ended without an answer or a vote. `fatal`: no retry can help (wrong key)."""

    agent: str
    why: str
    fatal: bool = False


@dataclass(frozen=True, kw_only=True)
class AgentExcluded(Event):
    """The agent is out; its last answer stays eligible."""

    agent: str
    why: str


def figure(number: int, word: str, counted: str) -> str:
    """A number of tests needs no noun, one of anything else does."""
    noun = "" if counted == "tests" else f"{counted.removesuffix('s') if number == 1 else counted} "
    return f"{number} {noun}{word}"


@dataclass(frozen=True, kw_only=True)
class Verified(Event):
    """The verify command ran on an answer in a fresh sandbox (`base`: on the untouched project; `final`: on the result)."""

    answer: str
    ok: bool
    summary: str
    """`pass`, `FAIL 2/41`, `timeout`."""
    passed: int | None = None
    failed: int | None = None
    counted: Literal["tests", "packages"] = "tests"
    """What `passed` and `failed` are numbers of."""
    tail: str = ""
    seconds: float = 0.0
    tests_changed: bool = False

    def figure(self, number: int, word: str) -> str:
        """`5 passed`; of packages `5 packages passed`, as a package is many tests."""
        return figure(number, word, self.counted)


@dataclass(frozen=True, kw_only=True)
class TimeUp(Event):
    """The run's deadline passed during coordination."""


@dataclass(frozen=True, kw_only=True)
class BudgetOut(Event):
    """What the run may cost was spent during coordination."""


@dataclass(frozen=True, kw_only=True)
class UserStop(Event):
    """Ctrl-C: stop with the best answer so far."""


@dataclass(frozen=True, kw_only=True)
class DebateStarted(Event):
    """All voted and agreed too little: votes are cleared, everybody looks again. Follows from the facts before it."""

    round: int
    votes: dict[str, str]
    """{voter: agent it had voted for}."""
    share: float
    """Of the live agents, how many had voted for the leading answer."""


# -- after the vote ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Selected(Event):
    """The winner. `votes` is {agent: number of valid votes}; `why` says how it was decided."""

    agent: str
    answer: str
    votes: dict[str, int]
    why: str


@dataclass(frozen=True, kw_only=True)
class Presented(Event):
    """The final turn's text and what will be written."""

    agent: str
    text: str
    snapshot: str
    files: int = 0
    added: int = 0
    removed: int = 0


@dataclass(frozen=True, kw_only=True)
class LeaseGranted(Event):
    """The one right to write, before its container exists."""

    agent: str
    purpose: Literal["apply", "undo", "direct", "recover"]
    """recover: to end a write that was killed, by finishing it or taking it back."""
    token_sha256: str
    snapshot: str
    paths: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Applied(Event):
    """The project now has the change; `undo` is the snapshot that takes it back (content in the store)."""

    purpose: Literal["apply", "undo", "direct"]
    snapshot: str
    undo: str
    files: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Merged(Event):
    """Files that the user edited during the run hold both edits in what is written next."""

    paths: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Conflicted(Event):
    """Nothing was written: these paths are not what the agents saw."""

    paths: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class RunFinished(Event):
    """The terminal event. `outcome` is one word for people: applied, ready, answered, failed, timeout and so on.

    Nothing follows it; only after `crashed` and `sandbox`, where the machine failed and not the run, a RunResumed may.
    """

    exit_code: int
    outcome: str
    message: str = ""
    winner: str = ""
    seconds: float = 0.0


Fact = AgentReady | AnswerGiven | VoteCast | LookFailed | AgentExcluded | Verified | TimeUp | BudgetOut | UserStop
