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
    "read_only_root": "root read-only",
    "read_only_mounts": "read paths read-only",
    "recursive_ro": "and mounts below them",
    "private_drafts": "drafts private",
    "withheld_absent": "withheld files absent",
    "environment": "environment listed",
    "no_engine_socket": "no engine socket",
    "own_uid": "unprivileged user",
    "no_capabilities": "no capabilities",
    "no_new_privileges": "no new privileges",
    "seccomp": "system calls filtered",
    "mandatory_access_control": "AppArmor or SELinux",
    "guest_unreachable": "guest out of reach",
    "own_processes": "own process table",
    "dies_with_host": "ends with its host",
    "memory_limit": "memory limited",
    "pid_limit": "processes limited",
    "cpu_limit": "processors limited",
    "tmpfs_caps": "workspace limited",
    "disk_quota": "disk quota of drafts",
    "runtime": "runtime as asked",
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
    draft: str
    """How the draft was made."""
    gone_s: float | None
    """How long the container outlived the loss of its host; None: longer than we waited."""


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
    found = f"interfaces: {', '.join(seen['links']) or 'none'}; a connection {_went(seen['net'])}"
    yield _check("no_network", found, good=good)
    yield _check("read_only_root", f"writing {_went(seen['root'])}", good=seen["root"] in ("EROFS", "EACCES"))
    yield _check("read_only_mounts", f"writing {_went(seen['ro'])}", good=seen["ro"] == "EROFS" and expected.intact)
    changed = "stayed as it was" if expected.intact else "changed"
    detail = f"written inside ({expected.draft}), and the project {changed}"
    yield _check("private_drafts", detail, good=seen["draft"] == "" and expected.intact)
    yield _check("withheld_absent", "there" if seen["secret"] else "not there", good=seen["secret"] is False)
    extra = sorted(set(seen["env"]) - {"PATH", "LANG", "HOME", "LC_CTYPE"})
    yield _check("environment", ", ".join(extra or seen["env"]), good=not extra)
    yield _check("no_engine_socket", ", ".join(seen["sockets"]) or "none is there", good=not seen["sockets"])
    yield _check("own_uid", f"uid {seen['uid']}", good=seen["uid"] != 0)
    *sets, ambient = seen["caps"]  # which came later than the others: a kernel that does not tell it has none
    empty = all(c and not c.strip("0") for c in sets) and ambient.strip("0") in ("", "?")
    yield _check("no_capabilities", "every set is empty" if empty else ", ".join(seen["caps"]), good=empty)
    yield _check("no_new_privileges", f"NoNewPrivs {seen['nnp']}", good=seen["nnp"] == "1")
    # Engines' own profiles let these through to the kernel, which says something else, or does it.
    refused = seen["vsock"] == seen["unshare"] == "EPERM" and seen["io_uring"] in ("EPERM", "ENOSYS")
    yield _check(
        "seccomp",
        f"profile {seccomp.identity()[:12]}; vsock {seen['vsock']}, io_uring {seen['io_uring']}, unshare {seen['unshare']}",
        good=seen["seccomp"] == "2" and refused,
        remedy="enable seccomp in the engine, and let it take a profile from its client",
    )
    parts = zip(("descriptors", "environment", "memory"), seen["pid1"], strict=True)
    closed = ", ".join(f"{what} {errno or 'open'}" for what, errno in parts)
    yield _check("guest_unreachable", closed, good=all(e in ("EACCES", "EPERM") for e in seen["pid1"]))
    yield _check("own_processes", f"{seen['pids_seen']} processes are seen", good=seen["pids_seen"] <= 8)
    gone = expected.gone_s is not None
    yield _check(
        "dies_with_host",
        f"gone {expected.gone_s:.1f} s after its host let go" if gone else "still there after its host let go",
        good=gone,
        remedy="is there a proxy before the engine that keeps connections open? `massgen gc` removes what is left",
    )


def _went(errno: str) -> str:
    return f"fails ({errno})" if errno else "works"


def _limits(seen: Mapping[str, Any], expected: Expected) -> Iterator[Guarantee]:
    limits = expected.limits
    remedy = "enable the engine's memory, pids and cpu control groups"
    good = str(seen["memory"]) == str(expected.memory_bytes // 4096 * 4096)
    yield _check("memory_limit", _mebibytes(seen["memory"]), good=good, remedy=remedy)
    yield _check("pid_limit", f"{seen['pids']} at most", good=str(seen["pids"]) == str(limits.pids), remedy=remedy)
    share = _share(seen["cpu"])
    wanted = min(limits.cpus, expected.facts.cpus)
    yield _check("cpu_limit", f"{share:g} at most" if share else "no limit", good=0 < share <= wanted + 0.01, remedy=remedy)
    sizes_good = all(
        0 < size <= cap for size, cap in zip(seen["sizes"], (limits.workspace_bytes, *[limits.tmp_bytes] * 2), strict=True)
    )
    ends = f"a byte too many {_went(seen['full'])}, a file too many {_went(seen['files'])}"
    yield _check("tmpfs_caps", ends, good=sizes_good and seen["full"] == seen["files"] == "ENOSPC")


def _mebibytes(text: object) -> str:
    return f"{int(str(text)) / 1024**2:g} MiB" if str(text).isdigit() else f"{text or 'no limit'}"


def _second_wall(context: str, facts: EngineFacts) -> tuple[str, str, str]:
    """What confines a process inside, by the kernel's own word; else what is missing, and what to do."""
    said = " ".join(facts.security)
    if "apparmor" in said:
        if context.endswith("(enforce)"):
            return f"AppArmor: {context}", "", ""
        found = f"AppArmor is on, and containers are {context or 'unconfined'}"
        return "", found, "restart the engine, so that it loads its profile"
    if "selinux" in said:
        if ":container_t:" in context or ":svirt_" in context:
            return f"SELinux: {context}", "", ""
        found = f"SELinux is on, and containers are {context or 'unconfined'}"
        return "", found, "is it enforcing (getenforce), and does the engine know it (selinux-enabled in its daemon.json)?"
    return "", "neither is offered by this engine and kernel", "a kernel with one of them adds a second wall"


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
        "an engine from version 25 on shows them, read-only",
        there=facts.recursive_ro,
    )
    confined, missing, remedy = _second_wall(seen["mac"], facts)
    yield available("mandatory_access_control", confined, missing, remedy, there=bool(confined))
    yield available(
        "disk_quota",
        f"a draft ({expected.draft}) that is full says so",
        "overlays lie on the disk: watched, each file capped, the sum only twice a second",
        "`sandbox.draft: copy` caps them, in memory",
        there=seen["draft_full"] in ("ENOSPC", "EDQUOT"),
    )
    named = expected.runtime or "the engine's own"
    other_kernel = seen["kernel"] != facts.kernel
    good = other_kernel or not expected.runtime.startswith(("runsc", "kata"))
    yield _check("runtime", f"{named}; kernel {seen['kernel']}", good=good, remedy="the commands meet this machine's own kernel")
