"""Prove the guarantees from inside a real container, instead of believing the options that were passed.

One sandbox of the ordinary kind is opened; a program inside (`inside.py`) reports what it can see and do, and the report is
judged by name (`guarantees.py`). `doctor` shows the table; a run refuses to start when any guarantee failed, or when one
that the user requires is not proven.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import tempfile
from collections.abc import Iterable
from pathlib import Path

from sandbox import owner, scratch, seccomp
from sandbox.box import Sandbox
from sandbox.engines.base import Engine
from sandbox.errors import SandboxError, StartFailed
from sandbox.facts import cache_folder, guest_zip, own_cache
from sandbox.guarantees import Expected, Guarantee, judge, known
from sandbox.inside import PROGRAM
from sandbox.spec import AGENT_UID, MIB, DraftKind, Limits, Mount, SandboxSpec
from sandbox.zipped import cached

__all__ = ["Guarantee", "probe", "require"]

_LIMITS = Limits(
    memory_bytes=128 * MIB,
    cpus=0.5,
    pids=64,
    workspace_bytes=8 * MIB,
    tmp_bytes=8 * MIB,
    inodes=256,
    command_timeout_s=20,
)
"""Tight, so that each is reached in a moment."""
GONE_S = 10.0
"""A container that lives so long without its host will not end by itself."""


async def probe(engine: Engine, image: str, *, runtime: str = "", draft: DraftKind = "auto") -> tuple[Guarantee, ...]:
    """Open a sandbox and judge it. Raises SandboxError when none can be opened; that is the first thing to repair."""
    canary = secrets.token_hex(8)
    with scratch.folder("probe", home=_outside_cache()) as place:
        base = _bait(place, canary)
        mounts = (
            Mount(source=base / "shown", mode="ro"),
            Mount(source=base / "draft", mode="draft", withhold=("secret",), draft=draft),
        )
        spec = SandboxSpec(image=image, mounts=mounts, limits=_LIMITS, runtime=runtime)
        async with Sandbox.open(spec, engine=engine) as box:
            words = [str(base / "shown"), str(base / "draft"), str(_LIMITS.inodes)]
            outcome = await box.run(["python3", "-I", "-c", PROGRAM, *words])
            memory, kind = box.plan.memory_bytes, next(m["draft"] for m in box.mounts if "draft" in m)
            gone_s = await box.let_go(GONE_S)
        try:
            seen = json.loads(outcome.stdout.text)
        except ValueError as error:
            raise SandboxError(
                f"the probe did not report ({outcome.reason}): {outcome.stderr.text[-400:]}", op="probe"
            ) from error
        intact = _intact(base, canary)
    facts = await engine.facts()
    expected = Expected(
        limits=_LIMITS, memory_bytes=memory, intact=intact, facts=facts, runtime=runtime, draft=kind, gone_s=gone_s
    )
    return judge(seen, expected)


async def require(
    engine: Engine, image: str, *, runtime: str = "", draft: DraftKind = "auto", required: Iterable[str] = ()
) -> None:
    """Refuse to go on when a guarantee failed here, or one of `required` is not proven.

    Asked once per engine, boot, image, runtime, kind of draft, guest, filter and required set, then remembered. Raises SpecError
    (no such guarantee), StartFailed naming what is not proven and what to do, and what `probe` raises.
    """
    wanted = sorted({known(name) for name in required})
    about = await engine.facts()
    if not about.isolates:
        return
    cache = own_cache()
    built = (about.id, about.version, owner.boot(), (await engine.image(image)).id, guest_zip(cache).name, seccomp.identity())
    identity = (*built, runtime, draft, *wanted)
    mark = cache / f"proven-{hashlib.sha256(repr(identity).encode()).hexdigest()[:24]}"
    if mark.exists():
        return
    found = await probe(engine, image, runtime=runtime, draft=draft)
    failed = [g for g in found if g.state == "failed"]
    if failed:
        seen = "; ".join(f"{g.name}: {g.detail}" for g in failed)
        raise StartFailed(f"this engine does not keep what is promised ({seen}); `massgen doctor` shows all of it", op="probe")
    missing = [g for g in found if g.name in wanted and g.state != "proven"]
    if missing:
        seen = "; ".join(f"{g.name}: {g.detail}; {g.remedy}" for g in missing)
        raise StartFailed(
            f"required and not available here: {seen}. Mend that, or take the name out of sandbox.require", op="probe"
        )
    cached(cache, mark.name, b"")


def _bait(place: Path, canary: str) -> Path:
    """A little project with a secret in it."""
    base = place.resolve()
    base.chmod(0o755)
    for folder in ("shown", "draft"):
        (base / folder).mkdir()
        (base / folder / "file").write_text(canary)
    (base / "draft" / "secret").write_text(canary)
    if os.getuid() == 0:
        for one in (base / "draft", *(base / "draft").iterdir()):  # a project of root's would be copied, whatever is possible
            os.chown(one, AGENT_UID, AGENT_UID)
    return base


def _intact(base: Path, canary: str) -> bool:
    return all((base / f / "file").read_text() == canary for f in ("shown", "draft"))


def _outside_cache() -> Path | None:
    """The default temporary folder, unless it lies in our own cache."""
    default = Path(tempfile.gettempdir()).resolve()
    return scratch.HOME if default.is_relative_to(cache_folder()) else None
