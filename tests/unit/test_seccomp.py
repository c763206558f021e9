"""The system call filter, judged as the kernel judges it: 64 bits are compared, of which the call takes 32."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox import seccomp

PROFILE = json.loads(seccomp.profile())
WORDS = st.integers(0, 2**64 - 1)
HIGH = st.integers(0, 2**32 - 1).map(lambda high: high << 32)


def holds(condition: dict[str, Any], arguments: tuple[int, ...]) -> bool:
    """One comparison of a rule."""
    value = arguments[condition["index"]]
    match condition["op"]:
        case "SCMP_CMP_EQ":
            return bool(value == condition["value"])
        case "SCMP_CMP_MASKED_EQ":
            return bool(value & condition["value"] == condition["valueTwo"])
        case other:
            pytest.fail(f"{other} can be passed by a bit that the kernel does not look at")


def allowed(name: str, *arguments: int) -> bool:
    """Whether any rule lets the call through."""
    words = (*arguments, *[0] * (6 - len(arguments)))
    rules = (r for r in PROFILE["syscalls"] if name in r["names"] and r["action"] == "SCMP_ACT_ALLOW")
    return any(all(holds(c, words) for c in rule.get("args", ())) for rule in rules)


def names(*tables: dict[str, str]) -> list[str]:
    """Every name in them."""
    return [name for table in tables for group in table.values() for name in group.split()]


def test_a_call_is_allowed_and_refused_at_once() -> None:
    """Each call stands in one table, once, and what is refused by name is in no rule that allows."""
    conditional = {name for rule in PROFILE["syscalls"] if rule.get("args") for name in rule["names"]}
    every = Counter([*names(seccomp.ALLOWED, seccomp.FALLBACK, seccomp.REFUSED), *conditional])
    assert [name for name, count in every.items() if count > 1] == []
    assert [name for name in names(seccomp.REFUSED, seccomp.FALLBACK) if allowed(name)] == []


def test_the_default_lets_a_call_through() -> None:
    """What nobody named is refused, on both architectures, and neither has a second set of numbers beside it."""
    assert PROFILE["defaultAction"] == "SCMP_ACT_ERRNO"
    assert {(a["architecture"], tuple(a["subArchitectures"])) for a in PROFILE["archMap"]} == {
        ("SCMP_ARCH_X86_64", ()),
        ("SCMP_ARCH_AARCH64", ()),
    }
    assert {r["action"] for r in PROFILE["syscalls"]} == {"SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"}
    assert [r["names"] for r in PROFILE["syscalls"] if r["action"] == "SCMP_ACT_ERRNO"] == [sorted(names(seccomp.FALLBACK))]


@given(family=WORDS, kind=WORDS, protocol=WORDS)
def test_a_bit_above_hides_a_socket_family(family: int, kind: int, protocol: int) -> None:
    """Whatever the 64 bits are, no family, type or protocol gets through that the kernel would read as another one."""
    if allowed("socket", family, kind, protocol):
        assert family in (1, 2, 10, 16)
        assert family == 1 or protocol in (0, 6, 17)
        assert family in (1, 16) or kind & 0xF in (1, 2)


@given(high=HIGH, family=st.sampled_from([3, 15, 17, 29, 31, 38, 40, 44]), kind=st.integers(1, 10))
def test_vsock_or_crypto_opens_in_disguise(high: int, family: int, kind: int) -> None:
    """The families that reach beyond the sandbox or into rarely used kernel code stay closed under every spelling."""
    assert not allowed("socket", high | family, kind)
    assert not allowed("socketpair", high | family, kind)


@given(high=HIGH, flag=st.sampled_from([1 << n for n in (17, 25, 26, 27, 28, 29, 30)]), others=WORDS)
def test_clone_makes_a_namespace(high: int, flag: int, others: int) -> None:
    """Any of the namespace flags, among whatever others, is refused; a thread and a process are not."""
    assert not allowed("clone", high | flag | others)
    assert allowed("clone", 0x3D0F00)
    assert allowed("clone", 17)


@given(high=HIGH, other=st.integers(2, 2**22))
def test_the_guest_is_reached_in_disguise(high: int, other: int) -> None:
    """Process 1 cannot be given less of anything, under any spelling of its number; oneself and others can."""
    for name in ("sched_setaffinity", "sched_setscheduler", "sched_setparam", "sched_setattr"):
        assert not allowed(name, high | 1)
        assert allowed(name, 0)
        assert allowed(name, other)
    for name, process, group, user in (("setpriority", 0, 1, 2), ("ioprio_set", 1, 2, 3)):
        assert not any(allowed(name, which, high | 1) for which in (process, group, user, high | user))
        assert not allowed(name, user, 0)
        assert allowed(name, process, other)
    assert not allowed("prlimit64", high | 1, 7)
    assert allowed("prlimit64", 0, 7)
