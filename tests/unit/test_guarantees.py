"""How a report from inside is judged: what is merely missing is told from what has failed, by the kernel's own words."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.engines.base import EngineFacts
from sandbox.guarantees import TITLES, Expected, Guarantee, judge
from sandbox.spec import MIB, Limits

LIMITS = Limits(memory_bytes=128 * MIB, cpus=0.5, pids=64, workspace_bytes=8 * MIB, tmp_bytes=8 * MIB)
GOOD: dict[str, Any] = {
    "net": "ENETUNREACH", "links": ["lo"], "root": "EROFS", "ro": "EROFS", "draft": "", "secret": False, "uid": 65532,
    "caps": ["0000000000000000"] * 5, "nnp": "1", "seccomp": "2", "vsock": "EPERM", "unshare": "EPERM", "io_uring": "ENOSYS",
    "pid1": ["EACCES", "EACCES", "EACCES"], "pids_seen": 2, "sockets": [], "env": ["HOME", "LANG", "PATH"],
    "memory": str(128 * MIB), "pids": "64", "cpu": "50000 100000", "sizes": [8 * MIB] * 3, "full": "ENOSPC", "files": "ENOSPC",
    "draft_full": "ENOSPC", "kernel": "6.1", "mac": "",
}  # fmt: skip


def facts(**more: Any) -> EngineFacts:
    given = {"name": "d", "version": "26", "api": "1.45", "kernel": "6.1", "cgroups": "v2", "cpus": 2, "memory_bytes": 2**33}
    return EngineFacts(**{**given, "security": ("name=seccomp",), "recursive_ro": True, **more})


def judged(name: str, about: EngineFacts | None = None, *, gone_s: float | None = 0.1, **seen: Any) -> Guarantee:
    """One row for a report that is good but for `seen`."""
    expected = Expected(
        limits=LIMITS, memory_bytes=128 * MIB, intact=True, facts=about or facts(), runtime="", draft="copy", gone_s=gone_s
    )
    rows = {g.name: g for g in judge({**GOOD, **seen}, expected)}
    assert list(rows) == list(TITLES)
    assert all(bool(g.remedy) == (g.state != "proven") for g in rows.values())
    return rows[name]


@pytest.mark.parametrize("name", [n for n in TITLES if n != "mandatory_access_control"])
def test_a_good_report_is_not_believed(name: str) -> None:
    """Everything that can be seen from inside is proven by it."""
    assert judged(name).state == "proven"


@pytest.mark.parametrize(
    ("security", "context", "state"),
    [
        ("name=apparmor", "docker-default (enforce)", "proven"),
        ("name=apparmor", "docker-default (complain)", "unavailable"),
        ("name=apparmor", "unconfined", "unavailable"),
        ("name=selinux", "system_u:system_r:container_t:s0:c1,c2", "proven"),
        ("name=selinux", "system_u:system_r:spc_t:s0", "unavailable"),
        ("name=selinux", "", "unavailable"),
        ("name=seccomp", "docker-default (enforce)", "unavailable"),
    ],
)
def test_an_engines_word_for_its_second_wall_is_enough(security: str, context: str, state: str) -> None:
    """AppArmor and SELinux count where the kernel says of a process inside that it is confined."""
    assert judged("mandatory_access_control", facts(security=(security,)), mac=context).state == state


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("no_network", {"net": ""}),
        ("no_network", {"links": ["eth0", "lo"]}),
        ("read_only_root", {"root": ""}),
        ("read_only_mounts", {"ro": "EACCES"}),
        ("private_drafts", {"draft": "EROFS"}),
        ("withheld_absent", {"secret": True}),
        ("environment", {"env": ["HOME", "AWS_SECRET"]}),
        ("no_engine_socket", {"sockets": ["/run/docker.sock"]}),
        ("own_uid", {"uid": 0}),
        ("no_capabilities", {"caps": ["0", "0", "0", "20", "0"]}),
        ("no_new_privileges", {"nnp": "0"}),
        ("seccomp", {"seccomp": "0"}),
        ("seccomp", {"vsock": ""}),
        ("guest_unreachable", {"pid1": ["EACCES", "", "EACCES"]}),
        ("own_processes", {"pids_seen": 300}),
        ("memory_limit", {"memory": "max"}),
        ("pid_limit", {"pids": "max"}),
        ("cpu_limit", {"cpu": "max 100000"}),
        ("tmpfs_caps", {"full": ""}),
        ("tmpfs_caps", {"sizes": [0, 0, 0]}),
    ],
)
def test_a_broken_promise_counts_as_missing(name: str, seen: dict[str, Any]) -> None:
    """Failed, not merely unavailable, and with what to do."""
    assert judged(name, **seen).state == "failed"


def test_a_container_that_outlives_its_host_passes() -> None:
    """It has failed, however well everything else is."""
    assert judged("dies_with_host", gone_s=None).state == "failed"


def test_a_cap_on_single_files_passes_for_a_quota() -> None:
    """EFBIG ends one file, not the draft; ENOSPC or EDQUOT end it."""
    assert judged("disk_quota", draft_full="EFBIG").state == "unavailable"
    assert judged("disk_quota", draft_full="EDQUOT").state == "proven"


NONE, SOME = "0000000000000000", "0000000000000400"


@pytest.mark.parametrize(
    ("caps", "state"),
    [
        ([NONE] * 4 + ["?"], "proven"),
        ([NONE] * 4 + [SOME], "failed"),
        ([NONE, NONE, SOME, NONE, NONE], "failed"),
        ([NONE, "?", NONE, NONE, NONE], "failed"),
        (["?"] * 5, "failed"),
    ],
)
def test_a_kernel_that_tells_less_breaks_the_probe(caps: list[str], state: str) -> None:
    """GVisor has no line for the ambient set; a set that all kernels tell must be there, and empty."""
    assert judged("no_capabilities", caps=caps).state == state
