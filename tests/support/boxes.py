"""What the sandbox's contract tests share: how to open a box, how to look at the host, how to wait for the kernel."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio

from sandbox import WORKSPACE, Engine, Entry, Lease, Limits, Mount, Sandbox, SandboxSpec, Snapshot, Store
from sandbox.testing import FakeEngine

SMALL = Limits(
    memory_bytes=256 * 1024**2, workspace_bytes=64 * 1024**2, tmp_bytes=16 * 1024**2, inodes=20_000, command_timeout_s=30
)

OWNER = 12345
"""Who owns the projects of overlay drafts when the tests run as root."""


class Boxes:
    """Opens sandboxes of one engine."""

    def __init__(self, engine: Engine, image: str, folder: Path) -> None:
        self.engine = engine
        self.image = image
        self.folder = folder

    @property
    def fake(self) -> bool:
        """Whether nothing is isolated, so that what only a container can promise is not asked for."""
        return isinstance(self.engine, FakeEngine)

    def open(
        self, *mounts: Mount, limits: Limits = SMALL, lease: Lease | None = None, **more: Any
    ) -> AbstractAsyncContextManager[Sandbox]:
        """A sandbox with these mounts."""
        spec = SandboxSpec(image=self.image, mounts=mounts, limits=limits, **more)
        return Sandbox.open(spec, engine=self.engine, lease=lease)

    def project(self, name: str = "project", files: Mapping[str, str] | None = None) -> Path:
        """A folder of the host with files in it."""
        root = self.folder / name
        root.mkdir()
        for path, text in (files or {}).items():
            place = root / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)
        return root

    def lease(self, snapshot: Snapshot | str, *paths: Path, **more: Any) -> Lease:
        """The right to write one snapshot."""
        snapshot_id = snapshot if isinstance(snapshot, str) else snapshot.id
        given = {"run_id": "r", "agent": "agent1", "purpose": "apply", **more}
        return Lease.grant(snapshot_id=snapshot_id, paths=paths, **given)

    async def commit(
        self, snapshot: Snapshot, store: Store, expected: Mapping[tuple[str, str], str], *roots: Path, **more: Any
    ) -> Snapshot:
        """One lease, one sandbox, one commit; the undo snapshot."""
        async with self.open(lease=self.lease(snapshot, *roots, **more)) as box:
            return await box.commit(snapshot, store, expected=expected)


class OverlayBoxes(Boxes):
    """The same with overlay drafts: the projects belong to whoever runs inside, who is not root."""

    def open(
        self, *mounts: Mount, limits: Limits = SMALL, lease: Lease | None = None, **more: Any
    ) -> AbstractAsyncContextManager[Sandbox]:
        """A sandbox with these mounts; single files stay copies."""
        uid = os.getuid() or OWNER
        for root in (*(m.source for m in mounts if m.mode == "draft"), *(lease.paths if lease else ())):
            self.own(root)
        laid = [replace(m, draft="overlay") if m.mode == "draft" and m.source.is_dir() else m for m in mounts]
        return super().open(*laid, limits=limits, lease=lease, uid=uid, gid=uid, **more)

    def own(self, project: Path) -> None:
        """Make it belong to whoever runs inside."""
        if os.getuid() == 0:
            for place in (project, *project.rglob("*")):
                os.chown(place, OWNER, OWNER, follow_symlinks=False)


def sha(text: str | bytes) -> str:
    """The hash of a content."""
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()


def picture(root: Path) -> dict[str, tuple[str, int, str]]:
    """Everything below a folder: kind, mode and content, so that two moments can be compared."""
    found: dict[str, tuple[str, int, str]] = {}
    for place in sorted([root, *root.rglob("*")]):
        about = place.lstat()
        mode = stat.S_IMODE(about.st_mode)
        name = str(place.relative_to(root))
        if stat.S_ISLNK(about.st_mode):
            found[name] = ("link", 0, str(place.readlink()))
        elif stat.S_ISDIR(about.st_mode):
            found[name] = ("dir", mode, "")
        elif not stat.S_ISREG(about.st_mode):
            found[name] = ("other", mode, "")
        else:
            found[name] = ("file", mode, place.read_bytes().decode("latin-1"))
    return found


def processes(marker: str) -> list[int]:
    """Processes of this machine (containers included) that have `marker` in their command line."""
    found: list[int] = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                if marker.encode() in (place / "cmdline").read_bytes():
                    found.append(int(place.name))
            except OSError:
                continue
    return found


def state(pid: int) -> str:
    """The kernel's letter for a process."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


async def until(condition: Callable[[], bool], *, timeout_s: float = 10.0) -> None:
    """Wait for something the kernel or another process does in its own time. Raises TimeoutError."""
    with anyio.fail_after(timeout_s):
        while not condition():  # noqa: ASYNC110 - the kernel sets no event
            await anyio.sleep(0.01)


def signature(place: Path) -> str:
    """What `expected` says of a path as it is now."""
    if place.is_symlink():
        return f"link:{place.readlink()}"
    if place.is_dir():
        return "dir"
    return sha(place.read_bytes()) if place.exists() else ""


def seen(snapshot: Snapshot) -> dict[tuple[str, str], str]:
    """The expectations of somebody who looks at the project right now."""
    return {(e.root, e.path): signature(Path(e.root) / e.path if e.path else Path(e.root)) for e in snapshot.entries}


def safely(snapshot: Snapshot) -> Mapping[tuple[str, str], str]:
    """Like `seen`, where a path may lie below a file: nothing is there then."""
    found: dict[tuple[str, str], str] = {}
    for e in snapshot.entries:
        place = Path(e.root) / e.path
        parents = [Path(e.root) / p for p in Path(e.path).parents if str(p) != "."]
        real = all(p.is_dir() and not p.is_symlink() for p in parents)
        found[e.root, e.path] = signature(place) if real else ""
    return found


async def work(boxes: Boxes, store: Store, script: str, *roots: Path) -> Snapshot:
    """What a script changes in drafts of the roots."""
    async with boxes.open(
        *(Mount(source=r, mode="draft") for r in roots), cwd=str(roots[0] if roots[0].is_dir() else roots[0].parent)
    ) as box:
        outcome = await box.run(["sh", "-ec", script])
        assert outcome.ok, outcome.stderr.text
        return (await box.snapshot(store)).without(WORKSPACE)


def content(store: Store, text: str, path: str, root: Path, mode: int = 0o644) -> Entry:
    """A file entry with its blob in the store."""
    return Entry(root=str(root), path=path, kind="file", mode=mode, size=len(text), sha256=store.put(text.encode()))


def of(*entries: Entry) -> Snapshot:
    """A snapshot of these."""
    return Snapshot(entries=entries)


def contents(root: Path) -> set[str]:
    """Of all files; empty while some of them are on their way."""
    try:
        return {p.read_text() for p in root.iterdir()}
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        return set()
