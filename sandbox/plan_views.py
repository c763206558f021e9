"""PURE: how an overlay view becomes mounts, and what is refused of one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sandbox.errors import SpecError
from sandbox.overlay import View
from sandbox.spec import Mount

LAYERS = "/.sandbox/layers"


@dataclass(frozen=True, kw_only=True)
class Volume:
    """An overlay that the engine mounts."""

    target: str
    options: str
    """As the kernel takes them."""
    read_only: bool = False


@dataclass(frozen=True, kw_only=True)
class Overlay:
    """What the guest needs to find the changes of an overlay draft; both paths are read-only."""

    root: str
    upper: str
    lower: str


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One view as mounts."""

    volumes: tuple[Volume, ...]
    upper: str = ""
    """Folder of the host to be bound read-only at `overlay.upper`; empty for a read path."""
    overlay: Overlay | None = None


def draw(mount: Mount, view: View, number: int) -> Drawn:
    """The mount itself; of a draft also its upper and its lower layers, where the guest compares them."""
    itself = Volume(target=mount.inside, options=view.options, read_only=not view.writable)
    if not view.writable:
        return Drawn(volumes=(itself,))
    overlay = Overlay(root=mount.inside, upper=f"{LAYERS}/{number}/upper", lower=f"{LAYERS}/{number}/lower")
    below = Volume(target=overlay.lower, options=f"{view.lower},userxattr", read_only=True)
    return Drawn(volumes=(itself, below), upper=str(view.upper), overlay=overlay)


def check(mount: Mount, view: View, mounts: Iterable[Mount], others: Iterable[View]) -> None:
    """Layers of a living overlay belong to it alone: used twice, or shown, its content is undefined. Raises SpecError."""
    if view.source != mount.source or view.writable != (mount.mode == "draft"):
        raise SpecError(f"the layers in {view.folder} were not prepared for {mount.source}")
    if view.writable and any(other.writable and other.folder == view.folder for other in others):
        raise SpecError(f"the layers in {view.folder} are in use; every mount needs its own")
    for shown in mounts:
        for layers in (view.folder, view.mask):
            if layers.is_relative_to(shown.source) or shown.source.is_relative_to(layers):
                raise SpecError(f"{shown.source} overlaps {layers}, which holds the layers of an overlay; name another folder")
