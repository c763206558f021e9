"""Only a lease writes, only where it says, and never over `.git` or what is protected."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Literal

import pytest

from sandbox import Drift, Engine, Entry, Lease, LeaseError, Mount, Sandbox, SandboxSpec, Snapshot, SpecError, Store
from tests.security.attack import SMALL, portrait, report
from tests.security.conftest import own
from tests.security.witness import Witness
from tests.support.boxes import signature

pytestmark = pytest.mark.docker


def grant(
    *paths: Path, purpose: Literal["apply", "undo", "direct"] = "direct", snapshot: str = "", protected: tuple[Path, ...] = ()
) -> Lease:
    """A fresh lease."""
    return Lease.grant(run_id="run", agent="agent1", snapshot_id=snapshot, purpose=purpose, paths=paths, protected=protected)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with one nested in it, a protected file, and files that anybody inside may write."""
    top = tmp_path / "project"
    for folder in (".git/hooks", "vendor/lib/.git", "conf", "src"):
        (top / folder).mkdir(parents=True)
    (top / ".git/config").write_text("[core]\n")
    (top / "vendor/lib/.git/config").write_text("[core]\n")
    (top / "conf/locked").write_text("locked")
    (top / "src/a").write_text("original")
    own(top)
    return top


def change(project: Path, store: Store, text: bytes = b"changed") -> tuple[Snapshot, dict[tuple[str, str], str]]:
    """A snapshot that rewrites `src/a`, and what it expects there."""
    entry = Entry(root=str(project), path="src/a", kind="file", mode=0o644, size=len(text), sha256=store.put(text))
    return Snapshot(entries=(entry,)), {(str(project), "src/a"): store.put(b"original")}


@pytest.mark.probe("12")
async def test_git_or_a_protected_file_is_replaced_under_a_direct_lease(engine: Engine, image: str, project: Path) -> None:
    """`.git` at any depth and protected paths refuse writes, and neither they nor a folder above them can be moved away (12).

    The control: other files of the write path are written, on the host.
    """
    protected = (project / "conf/locked",)
    before = {p: portrait(project / p) for p in (".git", "vendor/lib/.git", "conf")}
    async with Sandbox.open(
        SandboxSpec(image=image, limits=SMALL), engine=engine, lease=grant(project, protected=protected)
    ) as box:
        seen = await report(
            box,
            r"""
os.chdir(sys.argv[1])
for path in (".git", "vendor", "vendor/lib", "vendor/lib/.git", "conf", "conf/locked"):
    attempt("move " + path, lambda: os.rename(path, path + ".aside"))
    attempt("exchange " + path, lambda: call("renameat2", -100, path.encode(), -100, b"src", 2))
for path in (".git/config", "vendor/lib/.git/config", "conf/locked"):
    attempt("write " + path, lambda: write(path))
    attempt("link " + path, lambda: os.link(path, "linked"))
for path in (".git/hooks/evil", "vendor/lib/.git/evil"):
    attempt("make " + path, lambda: write(path, os.O_WRONLY | os.O_CREAT))
attempt("unlink", lambda: os.unlink("conf/locked"))
attempt("rmdir", lambda: os.rmdir(".git/hooks"))
attempt("allowed", lambda: write("src/a"))
attempt("allowed beside", lambda: write("conf/new", os.O_WRONLY | os.O_CREAT))
attempt("up", lambda: write("../evil", os.O_WRONLY | os.O_CREAT))
""",
            str(project),
        )
    assert {n: e for n, e in seen.items() if n.startswith("move") and e != "EBUSY"} == {}
    assert {n: e for n, e in seen.items() if n.startswith("exchange") and e not in ("EBUSY", "EXDEV")} == {}
    assert {n: e for n, e in seen.items() if n.startswith(("write", "make", "rmdir")) and e != "EROFS"} == {}
    assert {n: e for n, e in seen.items() if n.startswith("link") and e != "EXDEV"} == {}
    assert (seen["unlink"], seen["allowed"], seen["allowed beside"]) == ("EBUSY", "done", "done")
    assert (project / "src/a").read_text() == "evilinal"
    assert (project / "conf/new").read_text() == "evil"
    assert not (project.parent / "evil").exists()
    (project / "conf/new").unlink()
    assert portrait(project / ".git") == before[".git"]
    assert portrait(project / "vendor/lib/.git") == before["vendor/lib/.git"]
    assert (project / "conf/locked").read_text() == "locked"


async def test_a_git_folder_that_is_a_link_is_left_unprotected(engine: Engine, image: str, project: Path, store: Store) -> None:
    """No mount holds a link in place: `direct` is refused where `.git` is one; `apply`, which never touches it, works (92)."""
    (project.parent / "real").mkdir()
    (project / "src/.git").symlink_to("../../real")
    own(project)
    with pytest.raises(SpecError, match=r"src/\.git is a link"):
        async with Sandbox.open(SandboxSpec(image=image, limits=SMALL), engine=engine, lease=grant(project)):
            pytest.fail("opened")
    snapshot, expected = change(project, store)
    lease = grant(project, purpose="apply", snapshot=snapshot.id)
    async with Sandbox.open(SandboxSpec(image=image, limits=SMALL), engine=engine, lease=lease) as box:
        await box.commit(snapshot, store, expected=expected)
    assert (project / "src/a").read_text() == "changed"
    assert (project / "src/.git").is_symlink()


async def test_a_mask_over_a_dangling_link_makes_a_file_in_the_project(engine: Engine, image: str, project: Path) -> None:
    """Withholding a link lands on what it names: hidden when that is here, left alone when it is not; nothing is created."""
    (project / "real.env").write_text("SECRET=1")
    (project / ".env").symlink_to("real.env")
    (project / "src/.env").symlink_to("missing")
    own(project)
    names = sorted(portrait(project))
    mounts = (Mount(source=project, mode="ro", withhold=(".env", "src/.env")),)
    for lease in (None, grant(project)):
        async with Sandbox.open(SandboxSpec(image=image, mounts=mounts, limits=SMALL), engine=engine, lease=lease) as box:
            seen = await report(
                box,
                "for n in ('.env', 'real.env', 'src/.env', 'src/a'): attempt(n, lambda: read(sys.argv[1] + '/' + n))",
                str(project),
            )
        assert {seen.pop(".env"), seen.pop("real.env")} <= {"", "ENOENT"}  # masked, or not there where a view leaves names out
        assert seen == {"src/.env": "ENOENT", "src/a": "original"}
        assert sorted(portrait(project)) == names


@pytest.mark.skipif(os.getuid() != 0, reason="needs a project of root's, and somebody else's")
async def test_commands_run_as_root_over_a_project_of_root(engine: Engine, image: str, tmp_path: Path) -> None:
    """A direct lease over what belongs to root is refused: no command ever runs as uid 0 (design 2.10)."""
    with pytest.raises(SpecError, match="belongs to root"):
        async with Sandbox.open(SandboxSpec(image=image, limits=SMALL), engine=engine, lease=grant(tmp_path)):
            pytest.fail("opened")


@pytest.mark.probe("21", "100")
async def test_more_than_one_container_can_write_to_a_project(engine: Engine, image: str, project: Path, store: Store) -> None:
    """Of an agent's sandbox, one for verifying and an apply lease, the engine gives only the lease a writable bind (design 2.10).

    Its label says so, and the two without a lease show the same path as draft and as ro.
    """
    snapshot, expected = change(project, store)
    run = secrets.token_hex(8)
    labels = {"massgen.run": run, "massgen.role": "agent"}
    with Witness(project) as witness:
        for mode in ("draft", "ro"):
            mounts = (Mount(source=project, mode="draft" if mode == "draft" else "ro"),)
            spec = SandboxSpec(image=image, mounts=mounts, limits=SMALL, labels=labels)
            async with Sandbox.open(spec, engine=engine) as box:
                with pytest.raises(LeaseError, match="no lease"):
                    await box.commit(snapshot, store, expected=expected)
        spec = SandboxSpec(image=image, limits=SMALL, labels={**labels, "massgen.role": "final"})
        lease = grant(project, purpose="apply", snapshot=snapshot.id)
        async with Sandbox.open(spec, engine=engine, lease=lease) as box:
            undo = await box.commit(snapshot, store, expected=expected)
            assert box.mounts == ({"path": str(project), "mode": "write"},)
        with pytest.raises(LeaseError, match="already"):
            async with Sandbox.open(spec, engine=engine, lease=lease):
                pytest.fail("opened twice")
    assert witness.missed(run) == 0
    assert len(witness.sandboxes(run)) == 3
    (writer,) = witness.writers()
    assert writer.labels["massgen.role"] == "final"
    assert json.loads(writer.labels["massgen.mounts"]) == [{"path": str(project), "mode": "write"}]
    # The folders between the root and a nested `.git` are mounts of their own, so that it cannot be moved away.
    assert set(writer.writable) == {str(project), str(project / "vendor"), str(project / "vendor/lib")}
    assert [e.sha256 for e in undo.entries] == [store.put(b"original")]
    assert (project / "src/a").read_text() == "changed"


@pytest.mark.probe("96")
async def test_a_refused_write_leaves_something_in_the_project(engine: Engine, image: str, project: Path, store: Store) -> None:
    """Drift, a missing expectation and a link that leads outside each end with the project byte for byte as it was (96)."""
    snapshot, expected = change(project, store)
    outward = Snapshot(entries=(*snapshot.entries, Entry(root=str(project), path="src/up", kind="link", target="../../outside")))
    (project / "through").symlink_to(project.parent)
    own(project)
    before = portrait(project, folder_times=False)  # contents are staged beside the project's files, then taken away
    across = Snapshot(entries=tuple(Entry(**{**e.__dict__, "path": "through/planted"}) for e in snapshot.entries))
    for what, wanted, error in (
        (snapshot, dict.fromkeys(expected, "0" * 64), Drift),
        (snapshot, {}, LeaseError),
        (outward, {**expected, (str(project), "src/up"): ""}, LeaseError),
        (across, {(str(project), "through/planted"): ""}, LeaseError),
    ):
        lease = grant(project, purpose="apply", snapshot=what.id)
        async with Sandbox.open(SandboxSpec(image=image, limits=SMALL), engine=engine, lease=lease) as box:
            with pytest.raises(error):
                await box.commit(what, store, expected=wanted)
        assert portrait(project, folder_times=False) == before
    assert not (project.parent / "planted").exists()


@pytest.mark.probe("88", "93")
async def test_a_git_hook_is_written_by_a_lease(engine: Engine, image: str, project: Path, store: Store) -> None:
    """Even a lease for a snapshot that names `.git` paths, made by hand, cannot write them: the mount denies it (88, 93)."""
    before = portrait(project / ".git")
    sha = store.put(b"#!/bin/sh\n")
    entry = Entry(root=str(project), path=".git/hooks/pre-commit", kind="file", mode=0o755, size=10, sha256=sha)
    forged = Snapshot(entries=(entry,))
    lease = grant(project, purpose="apply", snapshot=forged.id)
    async with Sandbox.open(SandboxSpec(image=image, limits=SMALL), engine=engine, lease=lease) as box:
        with pytest.raises((LeaseError, SpecError, Drift)):
            await box.commit(forged, store, expected={(str(project), entry.path): ""})
    assert portrait(project / ".git") == before
    assert [name for name in portrait(project) if ".massgen" in name] == []


@pytest.mark.probe("98")
async def test_a_deletion_of_everything_is_final(engine: Engine, image: str, project: Path, store: Store) -> None:
    """An agent deletes all it sees: `.git` stays, and undo brings every byte, mode and link back.

    Nothing asks for a confirmation: a deletion is a change like others, shown before it is written.
    """
    (project / "src/link").symlink_to("a")
    (project / "src/a").chmod(0o751)
    own(project)
    before = portrait(project, folder_times=False)
    async with Sandbox.open(
        SandboxSpec(image=image, mounts=(Mount(source=project, mode="draft"),), limits=SMALL), engine=engine
    ) as box:
        assert (await box.run(["sh", "-c", "rm -rf ./* ./.[!.]*; ls -A | grep -v '^.git$' | wc -l"], cwd=str(project))).ok
        snapshot = (await box.snapshot(store)).without("/workspace")
    assert {e.kind for e in snapshot.entries} == {"gone"}
    expected = {(e.root, e.path): signature(project / e.path) for e in snapshot.entries}
    lease = grant(project, purpose="apply", snapshot=snapshot.id)
    async with Sandbox.open(SandboxSpec(image=image, limits=SMALL), engine=engine, lease=lease) as box:
        undo = await box.commit(snapshot, store, expected=expected)
    assert not (project / "src/a").exists()
    assert (project / ".git/config").exists()
    expected = {(e.root, e.path): signature(project / e.path) for e in undo.entries}
    lease = grant(project, purpose="undo", snapshot=undo.id)
    async with Sandbox.open(SandboxSpec(image=image, limits=SMALL), engine=engine, lease=lease) as box:
        await box.commit(undo, store, expected=expected)
    assert {n: (f[0], f[3]) for n, f in portrait(project, folder_times=False).items()} == {
        n: (f[0], f[3]) for n, f in before.items()
    }
