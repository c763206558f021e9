"""The names of what is promised, and how a report from inside is judged: proven, not available here, or failed.

The names are stable: configs demand them (`sandbox.require`), `doctor --json` prints them. What cannot be seen from inside
(a second wall of the kernel, what the engine does below a mount) is taken from what the engine says, and said so. "Not
available" is only what a run is safe without; anything else that is missing has failed.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sandbox import seccomp
from sandbox.engines.base import EngineFacts
from sandbox.errors import SpecError
from sandbox.spec import Limits

State = Literal["proven", "unavailable", "failed"]

TITLES: Mapping[str, str] = {
    "no_network": "no network",
    "read_only_root": "root file system read-only",
    "read_only_mounts": "read paths read-only",
    "recursive_ro": "also what is mounted below them",
    "private_drafts": "write paths are private drafts",
    "withheld_absent": "withheld files absent",
    "own_uid": "unprivileged user",
    "no_capabilities": "no capabilities",
    "no_new_privileges": "no new privileges",
    "seccomp": "system calls filtered",
    "mandatory_access_control": "mandatory access control",
    "guest_unreachable": "guest out of reach",
    "own_processes": "own process table",
    "no_engine_socket": "no engine socket",
    "memory_limit": "memory limited",
    "pid_limit": "processes limited",
    "cpu_limit": "processors limited",
    "tmpfs_caps": "workspace limited, files too",
    "disk_quota": "drafts limited in size",
    "environment": "environment from an allow-list",
    "runtime": "the runtime that was asked for",
}
"""Every guarantee by its name; the title is for people."""

REPORT = "see SECURITY.md; report it with `massgen doctor --json`"


@dataclass(frozen=True, kw_only=True)
class Guarantee:
    """One promise, and what was seen of it."""

    name: str
    """One of `TITLES`."""
    state: State
    detail: str
    remedy: str = ""
    """What to do; empty when it is proven."""

    @property
    def title(self) -> str:
        """The name, for people."""
        return TITLES[self.name]


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the report is held against."""

    limits: Limits
    memory_bytes: int
    """As told to the engine."""
    intact: bool
    """The host's own files are what they were."""
    facts: EngineFacts
    runtime: str


def known(name: str) -> str:
    """The name itself. Raises SpecError with the nearest one."""
    if name in TITLES:
        return name
    near = difflib.get_close_matches(name, TITLES, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(TITLES)}"
    raise SpecError(f"{name[:60]!r} is not a guarantee; {hint}")


def judge(seen: Mapping[str, Any], expected: Expected) -> tuple[Guarantee, ...]:
    """The report of `inside.PROGRAM`, judged, in the order of `TITLES`."""
    found = {g.name: g for part in (_walls(seen, expected), _limits(seen, expected), _optional(seen, expected)) for g in part}
    return tuple(found[name] for name in TITLES)


def _check(name: str, detail: object, *, good: bool, remedy: str = REPORT) -> Guarantee:
    return Guarantee(name=name, state="proven" if good else "failed", detail=str(detail), remedy="" if good else remedy)


def _walls(seen: Mapping[str, Any], expected: Expected) -> Iterator[Guarantee]:
    good = bool(seen["net"]) and seen["links"] in (["lo"], [])
    yield _check("no_network", f"{seen['net'] or 'connected'}; {', '.join(seen['links'])}", good=good)
    yield _check("read_only_root", seen["root"] or "written", good=seen["root"] in ("EROFS", "EACCES"))
    yield _check("read_only_mounts", seen["ro"] or "written", good=seen["ro"] == "EROFS" and expected.intact)
    detail = "the project did not change" if expected.intact else "the project changed"
    yield _check("private_drafts", detail, good=seen["draft"] == "" and expected.intact)
    yield _check("withheld_absent", "there" if seen["secret"] else "not there", good=seen["secret"] is False)
    yield _check("own_uid", f"uid {seen['uid']}", good=seen["uid"] != 0)
    yield _check("no_capabilities", seen["caps"][2], good=all(int(c, 16) == 0 for c in seen["caps"]))
    yield _check("no_new_privileges", f"NoNewPrivs {seen['nnp']}", good=seen["nnp"] == "1")
    # Engines' own profiles let these through to the kernel, which says something else, or does it.
    refused = seen["vsock"] == seen["unshare"] == "EPERM" and seen["io_uring"] in ("EPERM", "ENOSYS")
    yield _check(
        "seccomp",
        f"profile {seccomp.identity()[:12]}; vsock {seen['vsock']}, io_uring {seen['io_uring']}, unshare {seen['unshare']}",
        good=seen["seccomp"] == "2" and refused,
        remedy="enable seccomp in the engine, and let it take a profile from its client",
    )
    yield _check("guest_unreachable", ", ".join(seen["pid1"]), good=all(e in ("EACCES", "EPERM") for e in seen["pid1"]))
    yield _check("own_processes", f"{seen['pids_seen']} seen", good=seen["pids_seen"] <= 8)
    yield _check("no_engine_socket", ", ".join(seen["sockets"]) or "none", good=not seen["sockets"])
    extra = sorted(set(seen["env"]) - {"PATH", "LANG", "HOME", "LC_CTYPE"})
    yield _check("environment", ", ".join(extra or seen["env"]), good=not extra)


def _limits(seen: Mapping[str, Any], expected: Expected) -> Iterator[Guarantee]:
    limits = expected.limits
    remedy = "enable the engine's memory, pids and cpu control groups"
    good = str(seen["memory"]) == str(expected.memory_bytes // 4096 * 4096)
    yield _check("memory_limit", f"{seen['memory']} bytes", good=good, remedy=remedy)
    yield _check("pid_limit", f"{seen['pids']} processes", good=str(seen["pids"]) == str(limits.pids), remedy=remedy)
    share = _share(seen["cpu"])
    wanted = min(limits.cpus, expected.facts.cpus)
    yield _check("cpu_limit", f"{share:g} processors", good=0 < share <= wanted + 0.01, remedy=remedy)
    sizes_good = all(
        0 < size <= cap for size, cap in zip(seen["sizes"], (limits.workspace_bytes, *[limits.tmp_bytes] * 2), strict=True)
    )
    ends = f"{seen['full'] or 'no end'}, {seen['files'] or 'files without end'}"
    yield _check("tmpfs_caps", ends, good=sizes_good and seen["full"] == seen["files"] == "ENOSPC")


def _share(text: str) -> float:
    """Processors, from `QUOTA PERIOD`; 0 when unlimited or unknown."""
    quota, _, period = text.partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else 0.0


def _optional(seen: Mapping[str, Any], expected: Expected) -> Iterator[Guarantee]:
    def available(name: str, detail: str, missing: str, remedy: str, *, there: bool) -> Guarantee:
        state: State = "proven" if there else "unavailable"
        return Guarantee(name=name, state=state, detail=detail if there else missing, remedy="" if there else remedy)

    facts = expected.facts
    yield available(
        "recursive_ro",
        "the engine forces it, or starts nothing",
        "left out of the view instead, which is safe",
        "an engine from version 25 on shows it, read-only",
        there=facts.recursive_ro,
    )
    layer = next((s for s in facts.security if "apparmor" in s or "selinux" in s), "")
    yield available(
        "mandatory_access_control",
        layer,
        "neither AppArmor nor SELinux",
        "a kernel with one of them adds a second wall",
        there=bool(layer),
    )
    yield available(
        "disk_quota",
        "a draft ends with ENOSPC",
        "drafts lie on the disk, watched and not capped",
        "copy drafts are capped; so are disks with quotas",
        there=seen["draft_full"] in ("ENOSPC", "EDQUOT"),
    )
    named = expected.runtime or "the engine's own"
    other_kernel = seen["kernel"] != facts.kernel
    good = other_kernel or not expected.runtime.startswith(("runsc", "kata"))
    yield _check("runtime", f"{named}; kernel {seen['kernel']}", good=good, remedy="the commands meet this machine's own kernel")
