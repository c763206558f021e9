"""Preparing an image: what stays in it, what must not, and that no end leaves half of it behind."""

from __future__ import annotations

import json
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from sandbox import DockerEngine, ImageMissing, Sandbox, SandboxSpec, StartFailed
from sandbox.prepare import REPOSITORY, PrepareFailed, Surroundings, forget, name_for, prepare
from tests.docker.engine_view import client, host, line, reaches_networks
from tests.support.boxes import SMALL, until
from tests.support.user import User, agent, say

pytestmark = pytest.mark.docker

OFFLINE = Surroundings(network="none")


@pytest.fixture
async def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[DockerEngine]:
    """The real one; the images that a test makes are gone after it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    opened = await DockerEngine.connect()
    yield opened
    for lock in (tmp_path / "cache/massgen/sandbox/prepared").glob("*.lock"):
        await opened.images().remove(f"{REPOSITORY}:{lock.stem}")


def unique(command: str) -> str:
    """The same for the shell, never seen by any cache."""
    return f"{command} # {secrets.token_hex(8)}"


def preparing(pid: int | None = None) -> list[str]:
    """Names of containers in which a process (None: this one) prepares something right now."""
    mine = f"{pid or os.getpid()}:"
    with client() as docker:
        found = docker.containers(all=True, filters={"label": "massgen.owner"})
        return [n for c in found for n in c["Names"] if "-prepare-" in n and c["Labels"]["massgen.owner"].startswith(mine)]


async def kept(engine: DockerEngine, image: str, *commands: str) -> bool:
    """Whether an image with these commands is there."""
    try:
        await engine.image(name_for((await engine.image(image)).id, commands, {}))
    except ImageMissing:
        return False
    return True


async def test_what_was_prepared_is_not_there_for_agents(engine: DockerEngine, image: str):
    """What the commands left is in the image; a sandbox of it is as locked as any, and the second call makes nothing."""
    said: list[str] = []
    commands = [unique("mkdir /opt/made; cp sub/in.txt /opt/made/"), "sleep 1234 & touch /tmp/rest"]
    given = {"commands": commands, "files": {"sub/in.txt": b"content\n"}, "surroundings": OFFLINE}
    name = await prepare(engine, image, **given, say=said.append)
    assert said[1].startswith("1/2 mkdir")
    async with Sandbox.open(SandboxSpec(image=name, limits=SMALL), engine=engine) as box:
        outcome = await box.run(["sh", "-c", "cat /opt/made/in.txt; id -u; ls /massgen-prepare /tmp; touch /opt/made/x"])
    assert outcome.stdout.text.split() == [
        "content",
        "65532" if os.getuid() == 0 else str(os.getuid()),
        "/massgen-prepare:",
        "/tmp:",
    ]
    assert "Read-only" in outcome.stderr.text
    again: list[str] = []
    assert await prepare(engine, image, **given, say=again.append) == name
    assert again == []
    assert preparing() == []


async def test_a_variable_or_certificate_stays_in_a_layer(engine: DockerEngine, image: str):
    """Commands see the variables, the bundle and the files; no layer, no history and no configuration of the image does."""
    canaries = {name: secrets.token_hex(16) for name in ("variable", "bundle", "file")}
    commands = [unique('test -n "$INDEX"; test -s "$PIP_CERT"; grep -q . "$SSL_CERT_FILE" f; env >/dev/null')]
    around = Surroundings(
        network="none", environment={"INDEX": canaries["variable"]}, certificates=canaries["bundle"].encode()
    )  # fmt: skip
    name = await prepare(engine, image, commands=commands, files={"f": canaries["file"].encode()}, surroundings=around)

    def seen() -> set[str]:
        with client() as docker:
            about = repr(docker.inspect_image(name)) + repr(docker.history(name))
            found = {what for what, canary in canaries.items() if canary in about}
            rest = b""
            for piece in docker.get_image(name):
                found |= {what for what, canary in canaries.items() if canary.encode() in rest + piece}
                rest = piece[-64:]
            return found

    assert await anyio.to_thread.run_sync(seen) == set()


async def test_a_failed_command_leaves_something_or_does_not_say_why(engine: DockerEngine, image: str):
    """Which command, its exit code, its last lines; no image, no layer, no container; a second try is a new try."""
    commands = ["echo fine", unique("echo broken >&2; exit 3"), "echo never"]
    for _ in range(2):
        with pytest.raises(PrepareFailed, match="ended with exit code 3") as caught:
            await prepare(engine, image, commands=commands, surroundings=OFFLINE)
        assert (caught.value.command, caught.value.exit_code, caught.value.lines) == (commands[1], 3, ("broken",))
        assert "  | broken" in str(caught.value)
    assert not await kept(engine, image, *commands)
    assert preparing() == []


async def test_a_deadline_or_cancellation_leaves_a_container(engine: DockerEngine, image: str):
    """Both stop the commands at once and leave nothing."""
    slow, slower = unique("sleep 1234"), unique("echo up; sleep 1234")
    with pytest.raises(StartFailed, match="nothing was kept"):
        await prepare(engine, image, commands=[slow], surroundings=OFFLINE, deadline_s=2)
    assert preparing() == []
    async with anyio.create_task_group() as group:

        def hear(text: str) -> None:
            if text == "  up":
                group.cancel_scope.cancel()

        await prepare(engine, image, commands=[slower], surroundings=OFFLINE, say=hear)
    assert preparing() == []
    assert not await kept(engine, image, slow)
    assert not await kept(engine, image, slower)


async def test_two_at_once_build_twice(engine: DockerEngine, image: str):
    """The second waits for the first and finds its image."""
    said: list[str] = []
    commands = [unique("sleep 1")]
    names: list[str] = []

    async def one() -> None:
        names.append(await prepare(engine, image, commands=commands, surroundings=OFFLINE, say=said.append))

    async with anyio.create_task_group() as group:
        group.start_soon(one)
        group.start_soon(one)
    assert len(set(names)) == 1
    assert len([s for s in said if s.startswith("preparing")]) == 1


async def test_a_killed_host_leaves_commands_running(engine: DockerEngine, image: str):
    """SIGKILL closes the container's stdin, which ends it; the next start of anything removes what is left of it."""
    program = f"""
from sandbox.prepare import prepare, Surroundings
async def main(argv):
    await prepare(await DockerEngine.connect(), {image!r}, commands=[argv[0]], surroundings=Surroundings(network="none"),
                  say=lambda text: print(text, flush=True))
"""
    command = unique("echo up; exec sleep 1234")
    with host(program, command) as process:
        while line(process) != "up":
            pass
        (running,) = preparing(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(10)

    def stopped() -> bool:
        with client() as docker:
            return not docker.containers(filters={"name": running.lstrip("/")})

    await until(stopped)
    await engine.reap()
    assert preparing(process.pid) == []
    assert not await kept(engine, image, command)


async def test_memory_of_a_preparation_is_not_limited(engine: DockerEngine, image: str):
    """The limits of the config hold for it, too, and the message says that memory may be why."""
    hungry = unique("python3 -c 'x = bytearray(1 << 30); print(len(x))'")
    with pytest.raises((PrepareFailed, StartFailed), match=r"sandbox\.memory"):
        await prepare(engine, image, commands=[hungry], limits=SMALL, surroundings=OFFLINE)
    assert preparing() == []


async def test_what_is_in_use_or_recent_is_removed(engine: DockerEngine, image: str):
    """Only prepared images that nobody used for that long, never one that a container uses, never the base."""
    name = await prepare(engine, image, commands=[unique("true")], surroundings=OFFLINE)
    now = (await engine.images().ours())[0].created + 100 * 86400

    async def removed(unused_s: float, *, at: float) -> bool:
        # As a trial: other people's images on this engine are theirs.
        rows = await forget(engine, unused_s=unused_s, now=at, dry_run=True)
        return any(name in row.tags for row in rows)

    assert not await removed(3600, at=0)
    assert await removed(3600, at=now)
    async with Sandbox.open(SandboxSpec(image=name, limits=SMALL), engine=engine):
        assert not await removed(3600, at=now)
    assert all(tag.startswith(REPOSITORY) for row in await forget(engine, unused_s=0, now=now, dry_run=True) for tag in row.tags)


def test_a_run_does_not_prepare_or_does_not_say_so(tmp_path: Path, image: str):
    """`sandbox.prepare` of a named config: the plan line says it, agents and verify find what was made, once."""
    user = User(tmp_path / "home")
    user.write("project/code.txt", "old\n")
    user.write("project/needs.txt", "tool\n")
    user.write("s.yaml", [say(shell="made-by-prepare > code.txt"), say(answer="done"), say(final="done")])
    script = "printf '#!/bin/sh\\necho new\\n' > /usr/local/bin/made-by-prepare; chmod 755 /usr/local/bin/made-by-prepare"
    sandbox = {
        "image": image,
        "prepare": [unique(f"test -s project/needs.txt; {script}")],
        "prepare_files": ["project/needs.txt"],
    }
    team = {"agents": [agent("one", "s.yaml")], "sandbox": sandbox}
    user.write("team.yaml", team)
    user.env["MASSGEN_BUILD_NETWORK"] = "none"
    words = ("run", "Change it", "--config", "team.yaml", "--write", "project", "--apply", "--verify", "made-by-prepare")
    done = user.massgen(*words)
    assert done.returncode == 0, done.stderr
    assert "network used once to prepare the image: test -s project/needs.txt" in done.stderr
    assert done.stderr.index("preparing massgen-agent") < done.stderr.index("network used once")
    assert (user.cwd / "project/code.txt").read_text() == "new\n"
    user.write("team.yaml", team | {"sandbox": sandbox | {"prepare": ["echo unhappy; exit 7"]}})
    failed = user.massgen(*words)
    assert failed.returncode == 125
    assert "`echo unhappy; exit 7` ended with exit code 7" in failed.stderr
    assert "| unhappy" in failed.stderr
    with client() as docker:
        base = docker.inspect_image(image)["Id"]
        docker.remove_image(name_for(base, sandbox["prepare"], {"project/needs.txt": b"tool\n"}))


def test_prune_removes_what_it_did_not_say(tmp_path: Path, image: str):
    """`massgen images list` shows a prepared image; `prune` spares it while it is recent, and names what would go."""
    user = User(tmp_path / "home")
    user.env["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    program = f"""
from sandbox.prepare import prepare, Surroundings
async def main(argv):
    around = Surroundings(network="none")
    print(await prepare(await DockerEngine.connect(), {image!r}, commands=argv, surroundings=around))
"""
    with host(program, unique("true"), environment=user.env) as process:
        made = line(process)
    try:
        listed = json.loads(user.massgen("images", "list", "--json").stdout)
        (row,) = [row for row in listed if made in row["tags"]]
        assert (row["prepared_from"], row["in_use"]) == (image, False)
        assert row["last_used"]
        assert made in user.massgen("images", "list").stdout
        recent = user.massgen("images", "prune", "--dry-run")
        assert (recent.returncode, made in recent.stdout) == (0, False)
        assert made in user.massgen("images", "prune", "--days", "0", "--dry-run").stdout
        assert made in user.massgen("images", "list").stdout
    finally:
        with client() as docker:
            docker.remove_image(made)


async def test_the_network_is_not_there_when_it_is_allowed(engine: DockerEngine, image: str):
    """With the default network, the proxies and the bundle of this machine a package comes from the public index."""
    if not reaches_networks():
        pytest.skip("this engine has no network to give")
    bundle = os.environ.get("MASSGEN_BUILD_CA") or os.environ.get("SSL_CERT_FILE", "")
    around = Surroundings.of({**os.environ, "MASSGEN_BUILD_CA": bundle})
    fetch = "import urllib.request as u; print(u.urlopen('https://pypi.org/simple/six/', timeout=20).status)"
    here = await anyio.run_process([sys.executable, "-c", fetch], check=False)
    if here.returncode:
        pytest.skip("the public package index cannot be reached from here")
    said: list[str] = []
    await prepare(engine, image, commands=[unique(f'python3 -c "{fetch}"')], surroundings=around, say=said.append)
    assert "  200" in said
