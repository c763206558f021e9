"""A project in which every kind of change is possible, and a snapshot that makes all of them at once."""

from __future__ import annotations

from pathlib import Path

from sandbox import Entry, Snapshot, Store
from tests.support.boxes import content, of

FILES = {
    "edit.txt": "old",
    "gone.txt": "gone",
    "d/one": "1",
    "d/two": "2",
    "becomes": "a folder",
    "ro/x": "x",
    "run.sh": "#!/bin/sh\n",
    "keep.txt": "keep",
    "was/a": "a folder",
}


def make(root: Path) -> Path:
    """The project."""
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "link").symlink_to("keep.txt")
    (root / "edit.txt").chmod(0o640)
    (root / "ro").chmod(0o555)
    return root


def change(store: Store, root: Path) -> Snapshot:
    """Every kind of change at once."""
    where = str(root)
    return of(
        content(store, "new", "edit.txt", root, mode=0o600),
        content(store, "#!/bin/sh\n", "run.sh", root, mode=0o755),
        content(store, "deep", "implicit/deep/file", root),
        content(store, "beside", "implicit/other", root),
        content(store, "x", "becomes/x", root),
        content(store, "y", "ro/x", root),
        content(store, "z", "ro/new", root),
        content(store, "now a file", "was", root),
        Entry(root=where, path="becomes", kind="dir", mode=0o750),
        Entry(root=where, path="ro", kind="dir", mode=0o500),
        Entry(root=where, path="empty", kind="dir", mode=0o700),
        Entry(root=where, path="link", kind="link", target="edit.txt"),
        Entry(root=where, path="new-link", kind="link", target="d"),
        *(Entry(root=where, path=p, kind="gone") for p in ("gone.txt", "d", "d/one", "d/two", "was/a")),
    )
