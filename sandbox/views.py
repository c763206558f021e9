"""Which mounts of a sandbox become overlays, and the life of their layers.

An overlay is used only where this engine was seen to keep every promise of a draft (`_prove`, once per engine, boot and
guest, then remembered); anywhere else a draft is a copy and a read path a bind with masks. Layers are removed when the
sandbox is gone; what the kernel made there as root is removed by the engine's sweeper; what a killed process left, by `bury`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

import anyio
import anyio.to_thread

from sandbox import overlay, owner, scratch
from sandbox.engines.base import Engine
from sandbox.errors import SandboxError, SpecError, StoreError
from sandbox.facts import cache_folder, guest_zip, own_cache
from sandbox.overlay import View
from sandbox.spec import AGENT_UID, WORKSPACE, Lease, Limits, Mount, SandboxSpec
from sandbox.zipped import cached

T = TypeVar("T")

CLOSE_S = 60.0
_LIMITS = Limits(memory_bytes=128 * 1024**2, pids=64, workspace_bytes=8 * 1024**2, tmp_bytes=8 * 1024**2, command_timeout_s=20)
_PROGRAM = """
set -e
! cat secret 2>/dev/null && ! cat deep/secret 2>/dev/null
echo new > new; echo changed > changed; rm gone deep/gone; chmod 700 script; rm -r folder; mkdir folder; echo again > folder/again
"""
_EXPECTED = {
    "new": "file",
    "changed": "file",
    "gone": "gone",
    "deep/gone": "gone",
    "script": "file",
    "folder/again": "file",
    "folder/old": "gone",
}

_proving: ContextVar[bool] = ContextVar("proving", default=False)
_seen: dict[str, str] = {}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How a mount will be made."""

    kind: Literal["overlay", "copy", "bind"]
    why: str = ""
    """What stands in the way of an overlay, where one was wanted."""


def agent_uid(uid: int | None = None) -> int:
    """Who runs inside, for what a spec says of it."""
    return (os.getuid() if uid is None else uid) or AGENT_UID


def foresee(mount: Mount, *, uid: int) -> Choice:
    """Decide for one mount by this machine alone. Blocks. Raises SpecError where an overlay was demanded and cannot be."""
    draft = mount.mode == "draft"
    if draft and mount.draft == "copy":
        return Choice(kind="copy")
    if not draft and not mount.withhold and mount.git == "hide":
        return Choice(kind="bind")
    why = _unable(mount.source, draft=draft, uid=uid)
    return _instead(mount, why) if why else Choice(kind="overlay")


async def choose(engine: Engine, image: str, mount: Mount, *, uid: int, runtime: str = "") -> Choice:
    """Decide for one mount. Raises SpecError where an overlay was demanded and cannot be."""
    choice = await anyio.to_thread.run_sync(lambda: foresee(mount, uid=uid))
    if choice.kind == "overlay" and (why := await unproven(engine, image, runtime)):
        return _instead(mount, why)
    return choice


def _instead(mount: Mount, why: str) -> Choice:
    if mount.mode == "draft" and mount.draft == "overlay":
        raise SpecError(f"{mount.source} cannot be an overlay draft: {why}; use `draft: copy` or `auto`")
    return Choice(kind="copy" if mount.mode == "draft" else "bind", why=why)


def _unable(source: Path, *, draft: bool, uid: int) -> str:
    try:
        return overlay.unable(source, draft=draft, uid=uid)
    except OSError as error:
        return str(error.strerror)


@asynccontextmanager
async def prepared(spec: SandboxSpec, engine: Engine, lease: Lease | None) -> AsyncIterator[Mapping[str, View]]:
    """The views of one sandbox, by path inside; their layers are gone afterwards. Raises SpecError, SandboxError."""
    views: dict[str, View] = {}
    leased = set(lease.paths) if lease else set()
    try:
        for mount in spec.mounts:
            if mount.source in leased:
                continue
            choice = await choose(engine, spec.image, mount, uid=agent_uid(spec.uid), runtime=spec.runtime)
            if choice.kind == "overlay":
                with anyio.CancelScope(shield=True):  # a thread cannot be cancelled, and what it made must be known here
                    views[mount.inside] = await anyio.to_thread.run_sync(_made, overlay.prepare, mount, spec.image)
        yield views
    finally:
        with anyio.move_on_after(CLOSE_S, shield=True):
            for inside, view in views.items():
                shared = next(m.mask for m in spec.mounts if m.inside == inside)
                if not shared or view.folder != shared.folder.parent:
                    await discard(engine, view.folder, spec.image)


@asynccontextmanager
async def masked(
    mounts: Sequence[Mount], *, engine: Engine, image: str, uid: int | None = None, runtime: str = ""
) -> AsyncIterator[tuple[Mount, ...]]:
    """The same mounts for many sandboxes: what each hides is made once, here, and removed at the end.

    No sandbox may be open any more then. Mounts that become copies or plain binds stay as they are. Raises SpecError,
    SandboxError.
    """
    made: list[Mount] = []
    try:
        for mount in mounts:
            choice = await choose(engine, image, mount, uid=agent_uid(uid), runtime=runtime)
            if choice.kind != "overlay":
                made.append(mount)
                continue
            with anyio.CancelScope(shield=True):
                made.append(replace(mount, mask=await anyio.to_thread.run_sync(_made, overlay.hide, mount, image)))
        yield tuple(made)
    finally:
        with anyio.move_on_after(CLOSE_S, shield=True):
            for mount in made:
                if mount.mask:
                    await discard(engine, mount.mask.folder.parent, image)


def _made(make: Callable[..., T], mount: Mount, image: str) -> T:
    try:
        return make(mount, image=image)
    except OSError as error:
        raise SandboxError(f"the layers for {mount.source} cannot be made in {overlay.HOME}: {error}", op="open") from error


async def discard(engine: Engine, folder: Path, image: str) -> None:
    """Remove layers, by the engine where they are root's. What stays has its owner's mark and goes at a later start."""
    if not await anyio.to_thread.run_sync(overlay.discard, folder):
        try:
            await engine.sweep(folder, image)
        except SandboxError:
            return
        await anyio.to_thread.run_sync(overlay.discard, folder)


async def bury(engine: Engine) -> tuple[str, ...]:
    """Layers and temporary files of dead owners; returns the layers' folders. Their containers and volumes must be gone."""
    await anyio.to_thread.run_sync(_bury_files)
    dead = await anyio.to_thread.run_sync(overlay.dead)
    for folder, image in dead:
        await discard(engine, folder, image)
    return tuple(str(folder) for folder, _ in dead if not folder.exists())


def _bury_files() -> None:
    scratch.bury()
    with contextlib.suppress(StoreError):  # whoever needs the cache says what is wrong with it
        scratch.bury(cache_folder(), own_cache())


# -- the self-test ---------------------------------------------------------------------------------------------------


@contextmanager
def taken_for_granted() -> Iterator[None]:
    """In this block overlays count as proven: for who tries them, itself or at the same time."""
    token = _proving.set(True)
    try:
        yield
    finally:
        _proving.reset(token)


async def unproven(engine: Engine, image: str, runtime: str = "") -> str:
    """Why overlays are not used with this engine; empty when they keep what is promised."""
    if _proving.get():
        return ""
    about = await engine.facts()
    if not about.local:
        return "the engine does not see this machine's files"
    cache = own_cache()
    built = (about.id, about.version, runtime, owner.boot(), guest_zip(cache).name)
    identity = (*built, os.getuid() == 0, overlay.HOME.stat().st_dev)
    name = f"overlay-{hashlib.sha256(repr(identity).encode()).hexdigest()[:24]}"
    if name not in _seen:
        mark = cache / name
        if not mark.exists():
            try:
                why = await _prove(engine, image, runtime)
            except SandboxError as error:  # of this image perhaps, or of this moment: nobody else is told
                return f"the engine cannot mount one: {error}"
            cached(cache, name, why.encode())
        _seen[name] = mark.read_text(encoding="utf-8")
    return _seen[name]


async def _prove(engine: Engine, image: str, runtime: str) -> str:
    """One overlay draft over a bait: what is withheld is gone, the bait stays as it was, the snapshot says what was done.

    Raises SandboxError: it could not be tried.
    """
    from sandbox.box import Sandbox
    from sandbox.store import Store

    uid = os.getuid() or AGENT_UID
    try:
        with taken_for_granted(), scratch.folder("bait", home=overlay.HOME) as place:
            root = place / "project"
            before = _bait(root, uid)
            mount = Mount(source=root, mode="draft", withhold=("secret", "deep/secret"), draft="overlay")
            spec = SandboxSpec(image=image, mounts=(mount,), limits=_LIMITS, cwd=str(root), runtime=runtime)
            async with Sandbox.open(spec, engine=engine) as box:
                outcome = await box.run(["sh", "-c", _PROGRAM])
                if not outcome.ok:
                    return f"its self-test failed: {outcome.stderr.text.strip()[-200:] or outcome.reason}"
                snapshot = (await box.snapshot(Store(place / "store"))).without(WORKSPACE)
            found = {e.path: e.kind for e in snapshot.entries}
            if found != _EXPECTED:
                return f"its self-test found other changes than were made: {sorted(found.items() ^ _EXPECTED.items())}"
            if _picture(root) != before:
                return "its self-test changed the project"
    except OSError as error:
        return f"its self-test could not be set up: {error}"
    return ""


def _bait(root: Path, uid: int) -> dict[str, tuple[int, str]]:
    for name in ("secret", "changed", "gone", "deep/gone", "deep/secret", "script", "folder/old"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name, encoding="ascii")
    if os.getuid() == 0:
        for place in (root, *root.rglob("*")):
            os.chown(place, uid, uid)
    return _picture(root)


def _picture(root: Path) -> dict[str, tuple[int, str]]:
    files = [p for p in root.rglob("*") if p.is_file()]
    return {str(p): (p.stat().st_mode, p.read_text(encoding="ascii")) for p in files}
