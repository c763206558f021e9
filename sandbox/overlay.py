"""Overlay views of a project, seen from the host: where they can work, which folders they need, what is left of dead ones.

A view is the project as lower layer, a mask over it (`mask.py`), and for a draft a private upper layer. The folders lie in
`/var/tmp` under random names: outside of every context path, on a disk, and saying nothing to who reads mountinfo inside.
An upper layer belongs to one sandbox and is never used again; a mask is only read, so all sandboxes of a run may share one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sandbox import mask, owner, scratch
from sandbox.guest.sweep import sweep
from sandbox.spec import GitView, Mask, Mount

HOME = scratch.HOME
PREFIX = "massgen-view-"
OWNER = "owner"
MAX_OPTIONS_BYTES = 3800
"""The kernel takes one page of mount options."""

_LOCAL = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs"})
"""File systems that may be lower and upper layers; networks, FUSE and overlays themselves are not, or not everywhere."""
_MEMORY = frozenset({"tmpfs"})


@dataclass(frozen=True, kw_only=True)
class View:
    """The folders of one overlay mount."""

    folder: Path
    """Of its own; of a read path with a mask that others share, that mask's, which is not removed with the view."""
    mask: Path
    source: Path
    git: GitView
    """What is shown of the repository."""
    writable: bool

    @property
    def options(self) -> str:
        """As the kernel takes them. `redirect_dir`, `metacopy` and `index` are off with `userxattr`."""
        upper = f",upperdir={self.upper},workdir={self.folder / 'work'}" if self.writable else ""
        return f"{self.lower}{upper},userxattr"

    @property
    def lower(self) -> str:
        """What shows where nothing was changed."""
        return f"lowerdir={self.mask}:{self.source}"

    @property
    def upper(self) -> Path:
        """What was changed."""
        return self.folder / "upper"


def unable(source: Path, *, draft: bool, uid: int) -> str:
    """Why an overlay over this path cannot work, whatever the engine; empty when it may. `uid`: who runs inside."""
    text = str(source)
    if any(c in text for c in ':,\\"\n') or not text.isprintable():
        return "its name holds a character that mount options cannot"
    about = source.lstat()
    if not source.is_dir():
        return "it is a single file"
    if draft and about.st_uid != uid:
        return f"it belongs to uid {about.st_uid}, agents run as {uid}"
    if len(text) + 6 * len(str(HOME / PREFIX)) + 128 > MAX_OPTIONS_BYTES:
        return "its name is too long for mount options"
    if (kind := file_system(source)) not in _LOCAL | _MEMORY:
        return f"it lies on {kind or 'an unknown file system'}"
    if (kind := file_system(HOME)) not in _LOCAL:
        return f"{HOME} lies on {kind or 'an unknown file system'}"
    if HOME.is_relative_to(source):
        return f"it holds {HOME}, where overlays keep their layers"
    return ""


def file_system(path: Path) -> str:
    """The type of the file system that holds a path; empty when the kernel does not say."""
    best, found = -1, ""
    for point, kind in _mounts():
        if path.is_relative_to(point) and len(point.parts) >= best:
            best, found = len(point.parts), kind
    return found


def below(path: Path) -> tuple[str, ...]:
    """What is mounted below a folder, relative to it."""
    return tuple(sorted({str(p.relative_to(path)) for p, _ in _mounts() if p != path and p.is_relative_to(path)}))


def _mounts() -> Iterator[tuple[Path, str]]:
    """Mount points and their types, later ones over earlier ones."""
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        fields, _, rest = line.partition(" - ")
        name = fields.split(" ")[4]
        for octal, char in ((r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\")):
            name = name.replace(octal, char)
        yield Path(name), rest.split(" ", 1)[0]


def hide(mount: Mount, *, image: str) -> Mask:
    """A mask for the sandboxes of a run. Blocks. Raises OSError, SpecError; nothing is left then."""
    with _folder(image) as folder:
        return _masked(folder, mount)


def prepare(mount: Mount, *, image: str) -> View:
    """Folders for one sandbox, with a mask of its own unless it was given one. Blocks. Raises OSError, SpecError."""
    writable, source = mount.mode == "draft", mount.source
    if mount.mask and not writable:
        folder = mount.mask.folder.parent
        return View(folder=folder, mask=mount.mask.folder, source=source, git=mount.mask.git, writable=False)
    with _folder(image) as folder:
        hidden = mount.mask or _masked(folder, mount)
        for name in ("upper", "work") if writable else ():
            (folder / name).mkdir(mode=0o700)
            mask.mirror(folder / name, source)
        return View(folder=folder, mask=hidden.folder, source=source, git=hidden.git, writable=writable)


@contextmanager
def _folder(image: str) -> Iterator[Path]:
    """A new folder with its owner's mark; gone again when what it was made for fails."""
    folder = HOME / (PREFIX + os.urandom(8).hex())
    with scratch.folder("layers", home=HOME) as made:
        (made / OWNER).write_text(f"{owner.me()}\n{image}\n", encoding="utf-8")
        made.rename(folder)  # marked from its first moment, and its owner is not in a name that containers see
    try:
        yield folder
    except BaseException:
        sweep(str(folder))
        raise


def _masked(folder: Path, mount: Mount) -> Mask:
    place = folder / "mask"
    place.mkdir(mode=0o700)
    return Mask(folder=place, git=mask.build(place, mount.source, mount.withhold, mount.git))


def discard(folder: Path) -> bool:
    """Remove what this user may; False when something of root's is left (the kernel makes the work folder's)."""
    sweep(str(folder), last=OWNER)
    return not folder.exists()


def dead() -> list[tuple[Path, str]]:
    """Folders of our user whose owner is gone, each with the image that can remove what is root's in it."""
    found: list[tuple[Path, str]] = []
    for folder in HOME.glob(PREFIX + "*"):
        try:
            about = folder.lstat()
            if about.st_uid != os.geteuid() or folder.is_symlink():
                continue
            who, _, image = (folder / OWNER).read_text(encoding="utf-8").partition("\n")
        except FileNotFoundError:  # marked before it got its name, and the mark goes last: only its removal was left
            found.append((folder, ""))
            continue
        except (OSError, UnicodeDecodeError):
            continue
        if not who or not owner.alive(who):  # empty: a power cut came before the mark was on the disk
            found.append((folder, image.strip()))
    return found
