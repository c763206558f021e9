"""The product as an ordinary user: files belong to whoever started it, and nothing of root's is written."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sandbox.overlay import HOME, PREFIX
from tests.support.account import a_python, as_user
from tests.support.user import ROOT

pytestmark = pytest.mark.docker

PROGRAM = r"""
import json, os, sys
from pathlib import Path
import anyio
from sandbox import *

async def main():
    image, home = sys.argv[1], Path(sys.argv[2])
    engine, store, seen = await DockerEngine.connect(), Store(home / "store"), {}
    limits = Limits(memory_bytes=64 << 20, workspace_bytes=8 << 20, tmp_bytes=8 << 20)
    project, foreign, mixed = home / "project", home / "foreign", home / "mixed"

    def lease(path, snapshot_id, purpose="apply"):
        return Lease.grant(run_id="r", agent="a", snapshot_id=snapshot_id, purpose=purpose, paths=(path,))

    async def write(path):
        new = b"written by a lease"
        sha = store.put(new)
        snapshot = Snapshot(entries=(Entry(root=str(path), path="a/new", kind="file", mode=0o644, size=len(new), sha256=sha),
                                     Entry(root=str(path), path="old", kind="file", mode=0o600, size=len(new), sha256=sha)))
        expected = {(str(path), "a/new"): "", (str(path), "old"): store.put(b"old")}
        async with Sandbox.open(SandboxSpec(image=image, limits=limits), engine=engine, lease=lease(path, snapshot.id)) as box:
            await box.commit(snapshot, store, expected=expected)
        return "written"

    async def refusal(work):
        try:
            return await work
        except SandboxError as error:
            return f"{type(error).__name__}: {error}"

    mounts = (Mount(source=project, mode="draft"), Mount(source=foreign, mode="ro"))
    async with Sandbox.open(SandboxSpec(image=image, mounts=mounts, limits=limits), engine=engine) as box:
        seen["uid"] = (await box.run(["id", "-u"])).stdout.text.strip()
        seen["draft_kind"] = box.mounts[0].get("draft")
        seen["name"] = (await box.run(["id", "-un"])).stdout.text.strip()
        draft = ["sh", "-c", "cat old && echo mine > old && touch made && echo && ls"]
        seen["draft"] = (await box.run(draft, cwd=str(project))).stdout.text
        seen["unreadable"] = (await box.run(["cat", str(foreign / "secret")])).exit_code
    seen["project"] = (project / "old").read_text()
    seen["apply"] = await refusal(write(project))
    seen["foreign"] = await refusal(write(foreign))
    seen["mixed"] = await refusal(write(mixed))
    async with Sandbox.open(SandboxSpec(image=image, limits=limits), engine=engine, lease=lease(project, "", "direct")) as box:
        outcome = await box.run(["sh", "-c", "id -u; echo direct > direct; rm .git/config; echo evil > .git/x"], cwd=str(project))
        seen["direct"] = outcome.stdout.text.strip()
    print(json.dumps(seen))

anyio.run(main)
"""


@dataclass(frozen=True, kw_only=True)
class User:
    """An account that may use the engine, a home of its own, and a Python that it can read."""

    uid: int
    home: Path
    seen: dict[str, Any]


@pytest.fixture(scope="module")
def user(installed: Path, account: pwd.struct_passwd, image: str) -> User:
    """One run of the program, as the user; every test looks at another side of it."""
    home = installed / "home"
    for name in ("project", "foreign", "mixed"):
        (home / name).mkdir(parents=True)
        (home / name / "old").write_text("old")
    (home / "project/.git").mkdir()
    (home / "project/.git/config").write_text("[core]\n")
    (home / "foreign/secret").write_text("secret")
    (home / "foreign/secret").chmod(0o600)
    for path in (home, *home.rglob("*")):
        if not path.is_relative_to(home / "foreign") and path != home / "mixed/old":
            os.chown(path, account.pw_uid, account.pw_gid)
    done = as_user(account, home, a_python(account, home), "-c", PROGRAM, image, str(home))
    assert done.returncode == 0, done.stderr
    return User(uid=account.pw_uid, home=home, seen=json.loads(done.stdout))


def test_an_agent_is_somebody_else_than_the_caller(user: User) -> None:
    """Inside, the uid is the caller's, and it has a name; the draft is writable, the project is as it was."""
    assert user.seen["uid"] == str(user.uid)
    assert user.seen["name"] == "agent"
    assert user.seen["draft"].split() == ["old", "made", "old"]
    assert user.seen["project"] == "old"


def test_a_users_project_is_copied_where_an_overlay_works(user: User) -> None:
    """An ordinary user's project on an ordinary disk is an overlay draft; no layer of the user's is left."""
    assert user.seen["draft_kind"] == "overlay"
    assert not [p for p in HOME.glob(f"{PREFIX}*") if p.stat().st_uid == user.uid]


def test_an_agent_reads_what_its_user_cannot(user: User) -> None:
    """A file of root's that the user cannot read is as closed inside, although the engine that mounts it is root (design 2.6)."""
    assert user.seen["unreadable"] == 1


def test_a_lease_writes_files_of_root(user: User) -> None:
    """What a lease wrote, and the folders it made, belong to the user."""
    assert user.seen["apply"] == "written"
    assert (user.home / "project/old").read_text() == "written by a lease"
    for name in ("old", "a", "a/new"):
        assert (user.home / "project" / name).stat().st_uid == user.uid


def test_a_lease_of_a_user_writes_in_a_project_of_root(user: User) -> None:
    """A project, or a single file, that belongs to somebody else is refused with its name, and stays as it was."""
    assert user.seen["foreign"].startswith("SpecError: ")
    assert "belongs to uid 0" in user.seen["foreign"]
    assert user.seen["mixed"].startswith("LeaseError: ")
    assert str(user.home / "mixed/old") in user.seen["mixed"]
    for name in ("foreign", "mixed"):
        assert (user.home / name / "old").read_text() == "old"
        assert not (user.home / name / "a").exists()


def test_direct_does_not_work_for_a_user_or_touches_git(user: User) -> None:
    """Under a direct lease commands run as the user, write the project, and cannot write `.git` (12)."""
    assert user.seen["direct"] == str(user.uid)
    assert (user.home / "project/direct").stat().st_uid == user.uid
    assert sorted(path.name for path in (user.home / "project/.git").iterdir()) == ["config"]


def test_a_closed_engine_socket_is_explained_by_its_symptom():
    """Who may not use the socket is told how to be let in; nothing is started."""
    program = (
        "import os, anyio, anyio._backends._asyncio, sandbox.engines.docker\n"
        "from sandbox import DockerEngine, EngineUnavailable\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try:\n    anyio.run(DockerEngine.connect)\nexcept EngineUnavailable as error:\n    print(error)\n"
    )
    if os.getuid() != 0:
        pytest.skip("only root can give its rights away")
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "no permission on the Docker socket" in done.stdout, done.stderr
    assert "usermod -aG docker" in done.stdout
