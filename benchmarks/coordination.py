"""What the orchestrator adds to models and containers: looks, answers, relays, the log, and going on with a run that died.

    python benchmarks/coordination.py [--quick]

A table, and JSON in benchmarks/results/coordination.json; exit 1 when a promise is missed.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from itertools import cycle, islice
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run by its path: `sandbox.py` beside this file would hide the package
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.ratios import IMAGE, Row, machine, p50, p95, quietly, report, since, timed

AGENTS, ANSWERS = 3, 3
FILES, FILE_BYTES = 2000, 25_000
EVENTS = 10_000


def script() -> list[dict[str, Any]]:
    """One agent's: so many answers, then votes for the newest, each at once."""
    coordination = {"phase": "coordination"}
    answers = [
        {"when": coordination, "calls": [{"name": "new_answer", "args": {"content": f"answer {n}"}}]} for n in range(ANSWERS)
    ]
    votes = [{"when": coordination, "calls": [{"name": "vote", "args": {"agent_id": "$latest", "reason": "newest"}}]}]
    return [*answers, *votes * 20, {"when": {"phase": "final"}, "text": "done"}]


async def overhead(rounds: int, folder: Path) -> Row:
    """From the moment at which all containers are up to the decision, with models that answer at once."""
    from massgen import app
    from massgen.config.model import AgentConfig, BackendConfig, Config, ContextPath, SandboxConfig
    from massgen.events.codec import Envelope
    from massgen.events.types import AgentReady, AnswerGiven, Selected
    from sandbox import DockerEngine

    engine = await DockerEngine.connect()
    walls: list[float] = []
    (folder / "project").mkdir()
    (folder / "project" / "code.py").write_text("x = 1\n", encoding="utf-8")
    agents = []
    for number in range(AGENTS):
        path = folder / f"{number}.json"
        entries = script()
        for entry in entries[:ANSWERS]:
            entry["calls"][0]["args"]["content"] += f" of {number}"
        path.write_text(_json(entries), encoding="utf-8")
        agents.append(AgentConfig(id=f"a{number}", backend=BackendConfig(type="scripted", model="scripted", script=path)))
    config = Config(
        agents=tuple(agents),
        context_paths=(ContextPath(path=folder / "project", permission="write"),),
        write="never",
        sandbox=SandboxConfig(image=IMAGE),
    )
    for _ in range(rounds):
        seen: list[Envelope] = []
        await app.run(config, "answer", engine=engine, readers=[seen.append], state_dir=folder / "state")
        at = {kind: [_clock(e) for e in seen if isinstance(e.event, kind)] for kind in (AgentReady, AnswerGiven, Selected)}
        assert len(at[AnswerGiven]) == AGENTS * ANSWERS, "the script was not followed"
        walls.append((at[Selected][0] - at[AgentReady][-1]) * 1000)
    return Row(
        what=f"{AGENTS} agents × {ANSWERS} answers and the vote, models instant, containers up",
        ours=p50(walls),
        p95=p95(walls),
        limit=150,
    )


def _json(entries: list[dict[str, Any]]) -> str:
    import json

    return json.dumps(entries)


def _clock(envelope: Any) -> float:  # noqa: ANN401 - imported late
    return datetime.fromisoformat(envelope.ts).timestamp()


def appends(count: int) -> list[Row]:
    """One event with a full tool result; and one that is on the disk before the run goes on."""
    from massgen.events.log import EventLog
    from massgen.events.types import AnswerGiven, ToolFinished

    event = ToolFinished(agent="agent1", call_id="c", name="shell", ok=True, exit_code=0, text="x" * 4096)
    answer = AnswerGiven(agent="agent1", answer="agent1.1", text="x" * 4096, snapshot="0" * 64)
    with tempfile.TemporaryDirectory(prefix="massgen-bench-") as name, EventLog(Path(name), "r") as log:
        each = [timed(lambda: log.emit(event)) for _ in range(count)]
        synced = [timed(lambda: log.emit(answer)) for _ in range(max(count // 20, 20))]
    return [
        Row(what="event, appended and flushed", ours=p50(each), p95=p95(each), limit=1),
        Row(what="answer, appended and on the disk", ours=p50(synced), p95=p95(synced)),
    ]


def relay(rounds: int) -> Row:
    """An answer of many files, for all peers to see: manifest, originals, patch, folder and rename, against one copy of it."""
    from massgen.coordination.archive import Archive
    from massgen.coordination.originals import Originals
    from massgen.coordination.peers import Peers
    from sandbox import Entry, Snapshot, Store
    from sandbox.base import Base

    ours: list[float] = []
    copies: list[float] = []
    with tempfile.TemporaryDirectory(prefix="massgen-bench-") as name:
        folder = Path(name)
        project, made = folder / "project", folder / "made"
        project.mkdir()
        store = Store(folder / "store")
        entries = []
        for number, text in enumerate(_texts()):
            path = made / f"d{number % 50}" / f"f{number}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text)
            sha = store.put(text)
            relative = str(path.relative_to(made))
            entries.append(Entry(root=str(project), path=relative, kind="file", mode=0o644, size=len(text), sha256=sha))
        folders = [Entry(root=str(project), path=f"d{n}", kind="dir", mode=0o755) for n in range(50)]
        for number in range(rounds):
            archive = Archive(
                store=store,
                base=Base.take([project], store),
                peers=Peers(folder / f"peers{number}", store),
                originals=Originals(folder),
            )
            # Another one each time: nothing of it is known yet, neither its manifest nor what the project has in its places.
            snapshot = Snapshot(entries=(*folders, *entries[number:]))
            began = time.perf_counter()
            archive.publish(archive.prepare("agent1.1", "many files", snapshot))
            ours.append(since(began))
            copies.append(timed(lambda number=number: quietly("cp", "-r", str(made), str(folder / f"copy{number}"))))
    return Row(
        what=f"answer of {FILES:,} files, {FILES * FILE_BYTES // 1_000_000} MB, shown to all peers",
        ours=p50(ours),
        p95=p95(ours),
        baseline="one `cp -r` of it",
        base=p50(copies),
        limit=2,
    )


def _texts() -> Iterator[bytes]:
    """Lines that look like code, each file another."""
    chance = random.Random(1)  # noqa: S311 - the same files each time
    words = [f"name_{chance.randrange(10_000)} = value({chance.randrange(1000)})" for _ in range(4000)]
    for _ in range(FILES):
        text = "\n".join(chance.choices(words, k=FILE_BYTES // 28)).encode()
        yield text[: FILE_BYTES - 1].ljust(FILE_BYTES - 1, b"#") + b"\n"


def machine_speed(count: int) -> Row:
    """Facts of five agents that answer and vote, through `advance`."""
    from massgen.coordination.state import advance, start
    from massgen.events.types import AgentReady, AnswerGiven, VoteCast

    labels = [f"agent{n}" for n in range(1, 6)]
    state = start(labels)
    for label in labels:
        state, _ = advance(state, AgentReady(agent=label))
    facts: list[Any] = []
    seen: dict[str, str] = {}
    for number, label in islice(enumerate(cycle(labels)), count // 2):
        seen[label] = f"{label}.{number // 5 + 1}"
        facts.append(AnswerGiven(agent=label, answer=seen[label], text="", snapshot=""))
        voter = labels[(number + 1) % 5]
        facts.append(VoteCast(agent=voter, for_agent=label, reason="", seen=tuple(sorted(seen.values()))))
    began = time.perf_counter()
    for fact in facts:
        state, _ = advance(state, fact)
    rate = len(facts) / (time.perf_counter() - began)
    assert state.members[0].answers == count // 10, "the facts were not taken"
    return Row(what="facts through the state machine", ours=rate, unit="/s", limit=50_000, sense="at least")


def replay(rounds: int) -> Row:
    """A log as a long run leaves it: read, checked, cut, replayed."""
    from massgen.coordination.relive import read_past, relive
    from massgen.coordination.state import start
    from massgen.events.log import EventLog, reopen
    from massgen.events.types import AgentReady, AnswerGiven, LookStarted, ModelCalled, TextSaid, ToolFinished, ToolStarted
    from massgen.messages import Usage

    labels = [f"agent{n}" for n in range(1, 6)]
    walls: list[float] = []
    with tempfile.TemporaryDirectory(prefix="massgen-bench-") as name:
        folder = Path(name)
        with EventLog(folder, "r") as log:
            for label in labels:
                log.emit(AgentReady(agent=label))
            number = 0
            while number < EVENTS - 10:
                label = labels[number // 100 % 5]
                log.emit(LookStarted(agent=label, answers=()))
                for _ in range(24):
                    log.emit(ModelCalled(agent=label, model="m", usage=Usage(input_tokens=9000, output_tokens=100), seconds=1.5))
                    log.emit(TextSaid(agent=label, text="I look at the next file. " * 10))
                    log.emit(ToolStarted(agent=label, call_id="c", name="shell", summary="pytest -q"))
                    log.emit(ToolFinished(agent=label, call_id="c", name="shell", ok=True, exit_code=0, text="line\n" * 200))
                number += 98
                answer = f"{label}.{number // 500 + 1}"
                log.emit(AnswerGiven(agent=label, answer=answer, text="an answer " * 100, snapshot="0" * 64))
        for _ in range(rounds):
            began = time.perf_counter()
            log, envelopes = reopen(folder, "r")
            relived = relive(start(labels), read_past(envelopes))
            walls.append(since(began))
            log.close()
            assert len(envelopes) >= EVENTS - 100, len(envelopes)
            assert relived.state.latest, "nothing was replayed"
    return Row(what=f"a log of {EVENTS:,} events, read and replayed to go on with", ours=p50(walls), p95=p95(walls), limit=1000)


def main() -> int:
    """Measure, print, write JSON; returns the exit code."""
    import anyio

    quick = "--quick" in sys.argv
    with tempfile.TemporaryDirectory(prefix="massgen-bench-") as name:
        run = anyio.run(overhead, 3 if quick else 7, Path(name).resolve())
    rows = [
        run,
        *appends(400 if quick else 2000),
        relay(3 if quick else 5),
        machine_speed(20_000 if quick else 100_000),
        replay(3 if quick else 7),
    ]
    return report("coordination", {"coordination": rows}, machine())


if __name__ == "__main__":
    sys.exit(main())
