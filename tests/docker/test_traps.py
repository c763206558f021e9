"""What engines and kernels do that nobody would expect, each found by trying: a test for each wall against it."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import docker.errors
import pytest

from massgen.coordination.peers import Peers
from massgen.coordination.shelf import collect
from massgen.events.types import Verified
from sandbox import AGENT_UID, DockerEngine, Limits, Sandbox, SandboxSpec, Store
from sandbox.engines import docker_volumes
from sandbox.errors import StartFailed
from sandbox.patch import Patch
from sandbox.plan_views import Volume
from sandbox.snapshot import Entry, Snapshot
from tests.docker.engine_view import client, labelled
from tests.support.user import User, agent, say

pytestmark = pytest.mark.docker


async def test_whoever_stops_a_container_waits_for_a_deaf_guest(image: str) -> None:
    """`docker stop`, and an engine that is shut down, would give PID 1 ten seconds to hear a SIGTERM: it is killed at once."""
    label = f"massgen.test={os.urandom(6).hex()}"
    spec = SandboxSpec(image=image, labels=dict([label.split("=")]))
    async with Sandbox.open(spec, engine=await DockerEngine.connect()) as box:
        (container,) = labelled(label)
        began = time.monotonic()
        stopping = ["docker", "stop", "-t", "20", container]
        await anyio.to_thread.run_sync(lambda: subprocess.run(stopping, capture_output=True, check=True, timeout=60))
        assert time.monotonic() - began < 5
        assert (await box.run(["true"])).reason == "lost"


class Faster:
    """An engine where somebody else always made the volume first."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self.taken: list[str] = []

    def create_volume(self, name: str, **options: object) -> object:
        """Theirs is a plain one, and then ours, which is theirs."""
        self._real.create_volume(name)
        self.taken.append(name)
        return self._real.create_volume(name, **options)

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)


def test_a_volume_of_somebody_else_is_taken_for_an_overlay_of_ours(tmp_path: Path) -> None:
    """The engine says nothing and returns what is there. It is refused, and stays: it is not ours to remove."""
    options = f"lowerdir={tmp_path}:{tmp_path}"
    with client() as engine:
        faster = Faster(engine)
        try:
            with pytest.raises(StartFailed, match="already has a volume"):
                docker_volumes.create(faster, [Volume(target="/x", options=options, read_only=True)])
            assert [engine.inspect_volume(name)["Options"] for name in faster.taken] == [None]
        finally:
            for name in faster.taken:
                engine.remove_volume(name)


async def test_an_engine_keeps_what_was_said_on_its_disk(image: str) -> None:
    """No log of the stream: it would hold what every command wrote, and cost nine tenths of the speed."""
    label = f"massgen.test={os.urandom(6).hex()}"
    spec = SandboxSpec(image=image, labels=dict([label.split("=")]))
    async with Sandbox.open(spec, engine=await DockerEngine.connect()) as box:
        assert (await box.run(["echo", "canary"])).stdout.text == "canary\n"
        (container,) = labelled(label)
        with client() as engine:
            assert engine.inspect_container(container)["LogPath"] == ""
            with pytest.raises(docker.errors.APIError, match="logging driver"):
                engine.logs(container)


WORDS = ("zorro", "quixote", "agent1", "agent2", "scripted", "prompt-canary")
"""Configured ids, labels, a backend, the question."""


def test_names_of_mounts_tell_an_agent_who_it_is(tmp_path: Path) -> None:
    """The kernel shows the host's folder names inside. What we named says nothing, so that anonymous votes stay that."""
    user = User(tmp_path / "home")
    project, read = user.cwd / "project", user.cwd / "read"
    user.write("project/a", "a")
    user.write("project/.env", "S=1")
    user.write("read/b", "b")
    user.write("read/.env", "S=1")
    if os.geteuid() == 0:  # of somebody else's it is an overlay, and its layers are mounts, too
        subprocess.run(["chown", "-R", f"{AGENT_UID}:{AGENT_UID}", str(project)], check=True)
    look = "cat /proc/self/mountinfo /proc/mounts /proc/1/cmdline /etc/hostname /etc/hosts > seen"
    script = [say(shell=look), say(answer="done"), *[say(vote="$own")] * 6, say(final="done")]
    user.write("one.yaml", script)
    user.write("two.yaml", script)
    paths = [{"path": str(project), "permission": "write"}, {"path": str(read), "permission": "read"}]
    agents = [agent("zorro", "one.yaml"), agent("quixote", "two.yaml")]
    user.write("t.yaml", {"agents": agents, "orchestrator": {"context_paths": paths, "write": "apply"}})
    done = user.massgen("run", "prompt-canary", "--config", "t.yaml", "--no-logs")
    assert done.returncode == 0, done.stderr
    seen = (project / "seen").read_text()
    assert str(read) in seen
    assert "overlay" in seen
    assert [word for word in WORDS if word in seen.replace(str(tmp_path), "")] == [], seen


HOLD = """
import fcntl, os, sys
kept = []
for folder, _, names in os.walk("/peers"):
    for name in [".", *names]:
        kept.append(os.open(os.path.join(folder, name), os.O_RDONLY))
        fcntl.flock(kept[-1], fcntl.LOCK_EX)
        os.set_inheritable(kept[-1], True)
print(len(kept), flush=True)
os.execvp("sleep", ["sleep", "600"])
"""


async def test_a_lock_inside_holds_the_host_up(image: str, tmp_path: Path) -> None:
    """`flock` works through a read-only mount, on files that are the store's own: where the host locks one, an agent stops it."""
    store = Store(tmp_path / "store")
    peers = Peers(tmp_path / "peers", store)
    snapshot = Snapshot(entries=(Entry(root="/p", path="f", kind="file", mode=0o644, size=7, sha256=store.put(b"content")),))

    def show(name: str) -> None:
        peers.prepare(name, "text", snapshot, Patch(text="", changes=()))
        peers.publish(name)

    show("agent1.1")
    spec = SandboxSpec(image=image, peers=peers.folder, limits=Limits(command_timeout_s=600))

    def work() -> None:
        assert store.put(b"content") == snapshot.entries[0].sha256
        assert store.get(snapshot.entries[0].sha256) == b"content"
        show("agent2.1")
        peers.add_verdict(Verified(answer="agent1.1", ok=True, summary="pass"))
        collect(tmp_path, keep_days=0)
        store.path(snapshot.entries[0].sha256).unlink()

    engine = await DockerEngine.connect()
    async with Sandbox.open(spec, engine=engine) as box, box.spawn(["python3", "-c", HOLD]) as holder:
        stream, said = await holder.receive()
        assert (stream, int(said)) == (1, 7), said
        with anyio.fail_after(10):
            await anyio.to_thread.run_sync(work, abandon_on_cancel=True)
        assert not holder.verdict
