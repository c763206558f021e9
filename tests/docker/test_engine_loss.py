"""An engine that dies, hangs or is restarted under a sandbox or a run: a typed end, in time, and nothing left once it is back."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from massgen import app
from massgen.config.model import AgentConfig, BackendConfig, Config, ContextPath, SandboxConfig
from massgen.events.codec import Envelope
from massgen.events.types import ToolStarted
from sandbox import AGENT_UID, DockerEngine, EngineDied, EngineError, Limits, Mount, Sandbox, SandboxLost, SandboxSpec, overlay
from sandbox.views import bury
from tests.security.attack import SMALL
from tests.support.private_engine import ROOT, PrivateEngine, left, unable
from tests.support.user import User, agent, events, say, snapshot_of

pytestmark = pytest.mark.docker

Blow = Callable[[PrivateEngine], object]
BLOWS: dict[str, Blow] = {
    "engine-killed": lambda private: private.kill(),
    "engine-killed-and-restarted": lambda private: (private.signal("dockerd", signal.SIGKILL), private.start()),
    "engine-restarted": lambda private: private.restart(),
    "engine-restarted-with-live-restore": lambda private: private.restart("--live-restore"),
    "shim-killed": lambda private: private.signal("containerd-shim-runc-v2", signal.SIGKILL),
}
HANGS: dict[str, Blow] = {"engine-hung": lambda private: private.signal("dockerd", signal.SIGSTOP)}
TWINS = ("engine-killed-and-restarted", "engine-restarted", "shim-killed")
"""What ends as another one does: each has its day."""
NOTICED_S = Limits().silence_s * 5 / 4
"""A hung engine may be one that only thinks: it is asked every quarter of a silence, and lost after a whole one."""
AT_ONCE_S = 12.0
"""For what takes a second where nobody else works: an engine's restart, and one question to it that nobody answers."""


@pytest.fixture
def marker() -> str:
    """Seconds to sleep, by which a process can be told from all others."""
    return f"86{secrets.randbelow(10**6):06}"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A draft of it can be an overlay, which leaves layers and volumes when nobody takes them away."""
    root = tmp_path / "project"
    root.mkdir()
    (root / "file").write_text("original")
    if os.getuid() == 0:
        for place in (root, root / "file"):
            os.chown(place, AGENT_UID, AGENT_UID)
    return root


def layers(project: Path) -> list[Path]:
    """Folders of overlays over it that are still there."""
    found = []
    for folder in overlay.HOME.glob(overlay.PREFIX + "*"):
        try:
            if (folder / overlay.OWNER).read_text().startswith(f"{os.getpid()}:"):
                found.append(folder)
        except OSError:
            continue
    return found


async def blow(private: PrivateEngine, name: str) -> None:
    """Once the command under test has surely begun."""
    await anyio.to_thread.run_sync(BLOWS[name], private)


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in TWINS else ()) for n in BLOWS])
@pytest.mark.probe("70")
async def test_an_engine_that_dies_under_a_command_hangs_its_caller(
    private: PrivateEngine, image: str, project: Path, marker: str, name: str
) -> None:
    """A command, a program and a file operation end at once, typed; once it is back nothing of them is left (70)."""
    engine = await DockerEngine.connect({"DOCKER_HOST": private.host})
    spec = SandboxSpec(image=image, limits=SMALL, mounts=(Mount(source=project, mode="draft"),))
    expected = "lost" if name == "shim-killed" else "engine"
    with anyio.fail_after(AT_ONCE_S):
        async with Sandbox.open(spec, engine=engine) as box, box.spawn(["cat"]) as program, anyio.create_task_group() as tasks:
            await program.send(b"x")
            await program.receive()
            tasks.start_soon(blow, private, name)
            outcome = await box.run(["sleep", marker], timeout_s=600)
            # A restart may be over before the question whether it lives; then the container alone is what was lost.
            assert outcome.reason in ({expected, "lost"} if "restarted" in name else {expected}), outcome.why
            assert (await program.wait()).reason == outcome.reason
            with pytest.raises(EngineDied if outcome.reason == "engine" else SandboxLost):
                await box.read("/etc/passwd")
    await anyio.to_thread.run_sync(private.renew)
    await engine.reap()
    await bury(engine)
    assert private.containers() == private.volumes() == private.processes(marker) == layers(project) == []
    async with Sandbox.open(spec, engine=engine) as box:  # and the same process goes on with it
        assert (await box.run(["cat", str(project / "file")])).stdout.text == "original"


@pytest.mark.slow
@pytest.mark.probe("70")
async def test_an_engine_that_hangs_holds_its_callers(private: PrivateEngine, image: str, project: Path, marker: str) -> None:
    """No stream ends and nobody answers: after `silence_s` it is `engine`; closing, starting and reaping are bounded (70)."""
    engine = await DockerEngine.connect({"DOCKER_HOST": private.host})
    limits = replace(SMALL, silence_s=1.0)
    spec = SandboxSpec(image=image, limits=limits, mounts=(Mount(source=project, mode="draft"),))
    with anyio.fail_after(AT_ONCE_S + 10):
        async with Sandbox.open(spec, engine=engine) as box, box.spawn(["cat"]) as program:
            private.signal("dockerd", signal.SIGSTOP)
            outcome = await box.run(["sleep", marker], timeout_s=600)
            assert outcome.reason == "engine", outcome.why
            assert (await program.wait()).reason == "engine"
            with pytest.raises(EngineDied):
                await box.read("/etc/passwd")
    private.signal("dockerd", signal.SIGCONT)
    await engine.reap()
    await bury(engine)
    assert private.containers() == private.volumes() == private.processes(marker) == layers(project) == []


async def test_an_engine_whose_containerd_dies_loses_what_it_runs(private: PrivateEngine, image: str) -> None:
    """It starts another one, and what runs goes on: not every blow is an end."""
    engine = await DockerEngine.connect({"DOCKER_HOST": private.host})
    async with Sandbox.open(SandboxSpec(image=image, limits=SMALL), engine=engine) as box, box.spawn(["cat"]) as program:
        assert private.signal("containerd", signal.SIGKILL) == 1
        await program.send(b"still here")
        assert (await program.receive())[1] == b"still here"
        assert (await box.run(["echo", "as ever"])).stdout.text == "as ever\n"
        # Its removal would take ten seconds: an engine waits for news of its containers that the new one does not send.
        await anyio.to_thread.run_sync(private.restart)


async def test_an_engine_that_is_gone_looks_like_a_fault_of_the_caller(private: PrivateEngine, image: str) -> None:
    """Opening a sandbox on a dead one is an EngineError that says what to do, and its memory of the rest is intact."""
    engine = await DockerEngine.connect({"DOCKER_HOST": private.host})
    await engine.facts()
    private.kill()
    with anyio.fail_after(AT_ONCE_S), pytest.raises(EngineError, match="no Docker engine answers; start it"):
        async with Sandbox.open(SandboxSpec(image=image, limits=SMALL), engine=engine):
            pytest.fail("opened")
    assert not await engine.alive()


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n != "engine-killed" else ()) for n in BLOWS | HANGS])
@pytest.mark.probe("70")
def test_a_run_whose_engine_dies_has_no_end(private: PrivateEngine, tmp_path: Path, marker: str, name: str) -> None:
    """`massgen run`: 125, or it goes on with a new container where that can be had; in time, readable; then all is well (70)."""
    user = User(tmp_path / "home")
    user.env |= {"DOCKER_HOST": private.host, "XDG_CACHE_HOME": os.environ["XDG_CACHE_HOME"]}
    user.write("project/code.txt", "old\n")
    steps = [say(shell=f"echo draft > code.txt; sleep {marker}"), say(answer="lost"), say(answer="kept"), say(final="done")]
    user.write("busy.yaml", steps)
    user.write("team.yaml", {"agents": [agent("one", "busy.yaml")]})
    before = snapshot_of(user.cwd / "project")
    running = user.start("run", "Change it", "--config", "team.yaml", "--write", "project", "--apply", "--json")
    assert running.stdout is not None
    for line in running.stdout:
        if '"ToolStarted"' in line:
            break
    began = time.monotonic()
    (BLOWS | HANGS)[name](private)
    bound_s = 2 * AT_ONCE_S + (NOTICED_S if name in HANGS else 0)
    said, why = running.communicate(timeout=2 * bound_s)
    assert time.monotonic() - began < bound_s
    ends = [e for e in map(json.loads, said.splitlines()) if e["type"] == "RunFinished"]
    assert [e["exit_code"] for e in ends] == [running.returncode], said + why
    assert running.returncode in {"engine-killed": (125,), "engine-hung": (125,), "shim-killed": (0,)}.get(name, (0, 125)), said
    if running.returncode == 125:
        assert ends[0]["outcome"] == "sandbox"
        assert "ngine" in ends[0]["message"]
    private.renew()
    assert snapshot_of(user.cwd / "project") == before
    shown = user.massgen("show")
    assert ("done" if running.returncode == 0 else ends[0]["message"]) in shown.stdout + shown.stderr

    user.write("quick.yaml", [say(answer="nothing to do"), say(final="nothing to do")])
    user.write("one.yaml", {"agents": [agent("one", "quick.yaml")]})
    again = user.massgen("run", "Say something", "--config", "one.yaml", "--json")
    assert again.returncode == 0, again.stderr
    assert events(again)[-1]["outcome"] == "answered"
    assert private.containers() == private.volumes() == private.processes(marker) == []
    assert list((user.home / ".local/state/massgen/runs").glob("*/peers")) == []


@pytest.mark.probe("70")
async def test_a_run_whose_engine_hangs_has_no_end(private: PrivateEngine, image: str, project: Path, marker: str) -> None:
    """Two agents at work in overlays: after `silence_s` the run ends as `sandbox`, 125, and says why; nothing stays (70)."""
    engine = await DockerEngine.connect({"DOCKER_HOST": private.host})
    busy = project.parent / "busy.json"
    busy.write_text(json.dumps([say(shell=f"echo draft > file; sleep {marker}"), say(answer="never")]))
    backend = BackendConfig(type="scripted", model="scripted", script=busy)
    config = Config(
        agents=tuple(AgentConfig(id=name, backend=backend) for name in ("one", "two")),
        context_paths=(ContextPath(path=project, permission="write"),),
        write="apply",
        sandbox=SandboxConfig(image=image, limits=replace(SMALL, silence_s=1.0)),
    )
    working = 0

    def reader(envelope: Envelope) -> None:
        nonlocal working
        working += isinstance(envelope.event, ToolStarted)
        if working == len(config.agents):
            working = 0
            private.signal("dockerd", signal.SIGSTOP)

    with anyio.fail_after(2 * AT_ONCE_S):
        result = await app.run(config, "Change it", engine=engine, readers=[reader], state_dir=project.parent / "state")
    assert (result.outcome, result.exit_code) == ("sandbox", 125)
    assert "the container engine no longer answers" in result.message
    private.signal("dockerd", signal.SIGCONT)
    await engine.reap()
    await bury(engine)
    assert private.containers() == private.volumes() == private.processes(marker) == layers(project) == []
    assert (project / "file").read_text() == "original"
    assert list((project.parent / "state/runs").glob("*/peers")) == []


KEEPS = """
import sys, time
from tests.support.private_engine import PrivateEngine
with PrivateEngine() as engine:
    print(engine.folder, flush=True)
    time.sleep(600)
"""


def test_a_killed_test_leaves_its_private_engine() -> None:
    """SIGKILL of the process that made one: processes, control groups, mounts and folders are gone."""
    if why := unable():
        pytest.skip(why)
    process = subprocess.Popen([sys.executable, "-c", KEEPS], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    folder = Path(process.stdout.readline().strip())
    assert left(folder)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 20
    while left(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left(folder) == []
