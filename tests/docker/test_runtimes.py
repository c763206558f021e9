"""Another runtime of the engine, when it is asked for, makes every container of a run and of what is done with it later."""

from __future__ import annotations

import os
import time
from pathlib import Path

import anyio
import pytest

from sandbox import DockerEngine, Mount, Sandbox, SandboxSpec, StartFailed
from sandbox.probe import probe
from tests.security.attack import SMALL
from tests.support.private_engine import PrivateEngine
from tests.support.user import User, agent, say

pytestmark = pytest.mark.docker


async def test_a_runtime_is_replaced_by_the_engines_own(private: PrivateEngine, image: str, tmp_path: Path) -> None:
    """A sandbox, its overlays' self-test and doctor's probe: each container is the runtime's, none is made by another."""
    engine = await DockerEngine.connect({"DOCKER_HOST": private.host})
    (tmp_path / "project").mkdir()
    began, before = time.time(), private.witnessed()
    spec = SandboxSpec(image=image, limits=SMALL, runtime="witness", mounts=(Mount(source=tmp_path / "project", mode="draft"),))
    async with Sandbox.open(spec, engine=engine) as box:
        assert (await box.run(["echo", "there"])).stdout.text == "there\n"
    found = {g.name: g for g in await probe(engine, image, runtime="witness")}
    assert found["runtime"].state == "proven"
    assert found["runtime"].detail.startswith("witness;")
    assert [g for g in found.values() if g.state == "failed"] == []
    assert private.witnessed() - before == await anyio.to_thread.run_sync(private.created, began) >= 2
    with pytest.raises(StartFailed, match=r"no runtime runsc \(it has: .*witness"):
        await probe(engine, image, runtime="runsc")


@pytest.mark.slow
def test_a_later_write_forgets_the_runtime_of_its_run(private: PrivateEngine, tmp_path: Path) -> None:
    """`run`, `apply`, `undo`: all by the runtime that the config named; where the engine lost it, 125 and nothing written."""
    user = User(tmp_path / "home")
    user.env |= {"DOCKER_HOST": private.host, "XDG_CACHE_HOME": os.environ["XDG_CACHE_HOME"]}
    code = user.write("project/code.txt", "old\n")
    user.write("s.yaml", [say(shell="echo new > code.txt"), say(answer="done"), say(final="done")])
    user.write("team.yaml", {"agents": [agent("one", "s.yaml")], "sandbox": {"runtime": "witness"}})
    began, before = time.time(), private.witnessed()
    run = user.massgen("run", "Change it", "--config", "team.yaml", "--write", "project", "--write-mode", "review")
    assert run.returncode == 0, run.stderr
    for step, text in (("apply", "new\n"), ("undo", "old\n")):
        seen = private.witnessed()
        done = user.massgen(step)
        assert (done.returncode, code.read_text()) == (0, text), done.stderr
        assert private.witnessed() > seen
    assert private.witnessed() - before == private.created(began) >= 5

    private.configure(runtimes={})
    private.restart()
    try:
        for words in (["undo", "--redo"], ["run", "Again", "--config", "team.yaml", "--write", "project"]):
            refused = user.massgen(*words)
            assert refused.returncode == 125, refused.stderr
            assert "no runtime witness" in refused.stderr
        assert code.read_text() == "old\n"
    finally:
        private.configure()
        private.restart()
