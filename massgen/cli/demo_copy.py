"""The project that `massgen demo` works on: copied to where the user can look at it, and reused only when it is still ours.

`massgen/demo_project/` is data: the project with its bug, and the two teams that fix it. Agents see the copy, and
the copy is what is written.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from massgen.errors import ConfigError

HERE = Path(__file__).parent.parent / "demo_project"
MARK = ".massgen-demo"
TASK = "The tests of this project fail. Find the bug and fix it."


def files() -> dict[str, bytes]:
    """The project's files by relative path."""
    root = HERE / "project"
    found = (p for p in sorted(root.rglob("*")) if p.is_file() and not {"__pycache__", ".pytest_cache"} & set(p.parts))
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in found}


def team(*, scripted: bool) -> Path:
    """The config file of the demo's agents."""
    return HERE / ("scripted.yaml" if scripted else "local.yaml")


def place(folder: Path) -> Path:
    """Put a fresh copy into `folder`, or beside it when it holds something of the user's. Returns where it is.

    A folder is used again when its files are as a demo left them. Raises ConfigError when no copy can be written.
    """
    for number in range(1, 100):
        target = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        if target.is_symlink() or (target.exists() and not _free(target)):
            continue
        try:
            _write(target)
        except OSError as error:
            raise ConfigError(f"the demo project cannot be copied to {target} ({error.strerror}); use --keep DIR") from error
        return target.resolve()
    raise ConfigError(f"{folder} and 98 folders beside it are taken; use --keep DIR")


def leave(target: Path) -> None:
    """Note what the files are now, so that the next demo knows that nobody else has worked on them."""
    (target / MARK).write_text(f"Made by massgen demo, which may put these files back.\n{_digest(target)}\n")


def _free(target: Path) -> bool:
    """True for an empty folder, and for one whose files are the original ones or those a demo left."""
    if not target.is_dir():
        return False
    if not any(target.iterdir()):
        return True
    try:
        left = (target / MARK).read_text().split()[-1]
        now = _digest(target)
    except (OSError, ValueError, IndexError):
        return False
    return now in (left, _digest(HERE / "project"))


def _digest(root: Path) -> str:
    whole = hashlib.sha256()
    for name in files():
        path = root / name
        if _linked(root, name):
            raise ValueError(f"{path} is a link")
        whole.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return whole.hexdigest()


def _linked(root: Path, name: str) -> bool:
    parts = name.split("/")
    return any((root / "/".join(parts[: i + 1])).is_symlink() for i in range(len(parts)))


def _write(target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for name, content in files().items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    leave(target)
