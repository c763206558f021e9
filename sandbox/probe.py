"""Prove the guarantees from inside a real container, instead of believing the options that were passed.

One sandbox of the ordinary kind is opened; a program inside reports what it can see and do, and each report is judged
here. `doctor` shows the table; a run refuses to start when any guarantee is not proven.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sandbox import owner, seccomp
from sandbox.box import Sandbox
from sandbox.engines.base import Engine
from sandbox.errors import SandboxError, StartFailed
from sandbox.facts import cache_folder, guest_zip
from sandbox.spec import Limits, Mount, SandboxSpec

State = Literal["proven", "unavailable", "failed"]

_LIMITS = Limits(memory_bytes=128 * 1024**2, pids=64, workspace_bytes=8 * 1024**2, tmp_bytes=8 * 1024**2, command_timeout_s=20)

_PROGRAM = r"""
import errno, json, os, socket, sys
ro, draft = sys.argv[1:3]
def attempt(work):
    try:
        work()
        return ""
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error.errno))
def text(*paths):
    for path in paths:
        try:
            return open(path).read().strip()
        except OSError:
            pass
    return ""
def write(path):
    with open(path, "w") as file:
        file.write("x")
def fill(path):
    with open(path, "wb") as file:
        for _ in range(64):
            file.write(bytes(1 << 20))
status = dict(line.split(":\t") for line in text("/proc/self/status").splitlines() if ":\t" in line)
sockets = [p for p in ("/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock") if os.path.exists(p)]
print(json.dumps({
    "uid": os.getuid(),
    "caps": [status.get(k, "?").strip() for k in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")],
    "nnp": status.get("NoNewPrivs", "?").strip(), "seccomp": status.get("Seccomp", "?").strip(),
    "vsock": attempt(lambda: socket.socket(40, 1).close()),
    "root": attempt(lambda: write("/probe")), "ro": attempt(lambda: write(ro + "/file")),
    "draft": attempt(lambda: write(draft + "/file")),
    "net": attempt(lambda: socket.create_connection(("192.0.2.1", 9), 2)),
    "links": sorted(os.listdir("/sys/class/net")) if os.path.isdir("/sys/class/net") else ["lo"],
    "pid1": [attempt(lambda: os.listdir("/proc/1/fd")), attempt(lambda: open("/proc/1/environ").read()),
             attempt(lambda: open("/proc/1/mem"))],
    "pids_seen": len([p for p in os.listdir("/proc") if p.isdigit()]),
    "sockets": sockets,
    "memory": text("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"),
    "pids": text("/sys/fs/cgroup/pids.max", "/sys/fs/cgroup/pids/pids.max"),
    "full": attempt(lambda: fill("/workspace/full")),
    "env": sorted(os.environ),
    "secret": os.path.exists(draft + "/secret"),
}))
"""


@dataclass(frozen=True, kw_only=True)
class Guarantee:
    """One promise, and what was seen of it."""

    name: str
    state: State
    detail: str
    remedy: str = ""


async def probe(engine: Engine, image: str) -> tuple[Guarantee, ...]:
    """Open a sandbox and judge it. Raises SandboxError when none can be opened; that is the first thing to repair."""
    canary = secrets.token_hex(8)
    with tempfile.TemporaryDirectory(prefix="massgen-probe-", dir=_outside_cache()) as name:
        base = _bait(name, canary)
        mounts = (Mount(source=base / "shown", mode="ro"), Mount(source=base / "draft", mode="draft", withhold=("secret",)))
        spec = SandboxSpec(image=image, mounts=mounts, limits=_LIMITS)
        async with Sandbox.open(spec, engine=engine) as box:
            outcome = await box.run(["python3", "-I", "-c", _PROGRAM, str(base / "shown"), str(base / "draft")])
            memory = box.plan.memory_bytes
        try:
            seen = json.loads(outcome.stdout.text)
        except ValueError as error:
            raise SandboxError(
                f"the probe did not report ({outcome.reason}): {outcome.stderr.text[-400:]}", op="probe"
            ) from error
        intact = _intact(base, canary)
    return _judge(seen, memory=memory, intact=intact) + _engine_facts((await engine.facts()).security)


async def require(engine: Engine, image: str) -> None:
    """Refuse to go on when a guarantee does not hold here. Asked once per engine, boot, image, guest and filter, then remembered.

    Raises StartFailed naming what is not proven, and what `probe` raises.
    """
    about = await engine.facts()
    if not about.isolates:
        return
    cache = cache_folder() / "sandbox"
    cache.mkdir(parents=True, exist_ok=True)
    profile = seccomp.identity()
    identity = (about.id, about.version, owner.boot(), (await engine.image(image)).id, guest_zip(cache).name, profile)
    mark = cache / f"proven-{hashlib.sha256(repr(identity).encode()).hexdigest()[:24]}"
    if mark.exists():
        return
    failed = [g for g in await probe(engine, image) if g.state == "failed"]
    if failed:
        seen = "; ".join(f"{g.name}: {g.detail}" for g in failed)
        raise StartFailed(f"this engine does not keep what is promised ({seen}); `massgen doctor` shows all of it", op="probe")
    mark.touch()


def _bait(name: str, canary: str) -> Path:
    """A little project with a secret in it."""
    base = Path(name).resolve()
    base.chmod(0o755)
    for folder in ("shown", "draft"):
        (base / folder).mkdir()
        (base / folder / "file").write_text(canary)
    (base / "draft" / "secret").write_text(canary)
    return base


def _intact(base: Path, canary: str) -> bool:
    return all((base / f / "file").read_text() == canary for f in ("shown", "draft"))


def _outside_cache() -> str | None:
    """The default temporary folder, unless it lies in our own cache."""
    default = Path(tempfile.gettempdir()).resolve()
    return "/var/tmp" if default.is_relative_to(cache_folder()) else None


def _judge(seen: dict[str, Any], *, memory: int, intact: bool) -> tuple[Guarantee, ...]:
    def check(
        name: str, detail: object, *, good: bool, remedy: str = "see SECURITY.md; report it with `massgen doctor --json`"
    ) -> Guarantee:
        return Guarantee(name=name, state="proven" if good else "failed", detail=str(detail), remedy="" if good else remedy)

    limited = str(seen["memory"]) == str(memory // 4096 * 4096) and str(seen["pids"]) == str(_LIMITS.pids)
    return (
        check(
            "no network",
            f"{seen['net']}, interfaces {', '.join(seen['links'])}",
            good=bool(seen["net"]) and seen["links"] in (["lo"], []),
        ),
        check("root file system read-only", seen["root"], good=seen["root"] in ("EROFS", "EACCES")),
        check("read paths read-only", seen["ro"], good=seen["ro"] == "EROFS" and intact),
        check("write paths are private drafts", "the project did not change", good=seen["draft"] == "" and intact),
        check("withheld files absent", "not there", good=seen["secret"] is False),
        check("unprivileged user", f"uid {seen['uid']}", good=seen["uid"] != 0),
        check("no capabilities", seen["caps"][2], good=all(int(c, 16) == 0 for c in seen["caps"])),
        check("no new privileges", seen["nnp"], good=seen["nnp"] == "1"),
        check(
            "system calls filtered",
            f"seccomp mode {seen['seccomp']}, a vsock socket {seen['vsock'] or 'opens'}",
            # Engines' own profiles let this socket family through to the kernel, which says something else, or opens it.
            good=(seen["seccomp"], seen["vsock"]) == ("2", "EPERM"),
            remedy="enable seccomp in the engine, and let it take a profile from its client",
        ),
        check("guest out of reach", ", ".join(seen["pid1"]), good=all(e in ("EACCES", "EPERM") for e in seen["pid1"])),
        check("own process table", f"{seen['pids_seen']} processes", good=seen["pids_seen"] <= 8),
        check("no engine socket", ", ".join(seen["sockets"]) or "none", good=not seen["sockets"]),
        check(
            "memory and process limits",
            f"{seen['memory']} bytes, {seen['pids']} processes",
            good=limited,
            remedy="enable the memory and pids cgroups",
        ),
        check("disk of the workspace limited", seen["full"], good=seen["full"] == "ENOSPC"),
        check(
            "environment from an allow-list",
            ", ".join(seen["env"]),
            good=not set(seen["env"]) - {"PATH", "LANG", "HOME", "LC_CTYPE"},
        ),
    )


def _engine_facts(security: tuple[str, ...]) -> tuple[Guarantee, ...]:
    """What only the engine can have; absent is said, not failed."""
    layer = next((s for s in security if "apparmor" in s or "selinux" in s), "")
    state: State = "proven" if layer else "unavailable"
    remedy = "" if layer else "a kernel with AppArmor or SELinux adds a second wall"
    return (
        Guarantee(
            name="mandatory access control",
            state=state,
            detail=layer or "the engine has neither AppArmor nor SELinux",
            remedy=remedy,
        ),
    )
