"""The system call filter from inside: every refusal is attempted by number, past the C library."""

from __future__ import annotations

import pytest

from sandbox import Sandbox, seccomp
from tests.security.attack import report
from tests.security.syscalls import NUMBERS

pytestmark = pytest.mark.docker


@pytest.mark.probe("10", "17", "18", "30", "31", "32", "34")
async def test_a_refused_call_reaches_the_kernel(box: Sandbox) -> None:
    """Every call of the two tables of refusals answers EPERM or ENOSYS as its table says (10, 11, 17, 18, 29-32, 34).

    Most of them need no capability: without the filter the kernel would answer EFAULT or EINVAL to these empty arguments.
    """
    seen = await report(
        box,
        r"""
for name in sys.argv[1:]:
    if NUMBERS[name][COLUMN] is not None:
        attempt(name, lambda: call(name, 0, 0, 0, 0, 0, 0))
attempt("control", lambda: call("pidfd_open", os.getpid(), 0))
""",
        *(n for table in (seccomp.REFUSED, seccomp.FALLBACK) for g in table.values() for n in g.split() if n in NUMBERS),
    )
    assert seen.pop("control") == "done"
    expected = {n: "ENOSYS" for g in seccomp.FALLBACK.values() for n in g.split()}
    # Answered by kernel or runc, before or after the filter: calls that are gone, or newer than the filter's newest name.
    newer = {"lookup_dcookie", "statmount", "listmount", "memfd_secret", "set_mempolicy_home_node"}
    wrong = {n: e for n, e in seen.items() if e != expected.get(n, "EPERM") and not (n in newer and e == "ENOSYS")}
    assert (wrong, len(seen) > 60) == ({}, True)


async def test_a_new_call_is_refused_so_that_programs_break(box: Sandbox) -> None:
    """A call that this filter does not know yet is "not implemented", which makes C libraries take the older one."""
    assert await report(box, "attempt('new', lambda: checked(libc.syscall(ctypes.c_long(9999))))") == {"new": "ENOSYS"}


@pytest.mark.probe("29")
async def test_the_guest_is_starved_by_a_neighbour(box: Sandbox) -> None:
    """Nobody inside takes memory, descriptors, processors or turns from PID 1; the same calls on oneself work (29)."""
    seen = await report(
        box,
        r"""
import struct
limit = ctypes.create_string_buffer(struct.pack("QQ", 1 << 30, 1 << 30))
mask, none = ctypes.create_string_buffer(b"\1" + bytes(127)), ctypes.create_string_buffer(4)
def raw(name, *words):
    words = [w if isinstance(w, ctypes.Array) else ctypes.c_long(w) for w in words]
    checked(libc.syscall(ctypes.c_long(NUMBERS[name][COLUMN]), *words))
for who, pid in (("guest", 1), ("disguised", 1 << 32 | 1), ("self", 0)):
    for number in (0, 7, 9):
        attempt("limit %d of %s" % (number, who), lambda: raw("prlimit64", pid, number, limit if number == 9 else 0, 0))
    attempt("affinity of " + who, lambda: raw("sched_setaffinity", pid, 128, mask))
    attempt("scheduler of " + who, lambda: raw("sched_setscheduler", pid, 3, none))
    attempt("priority of " + who, lambda: raw("setpriority", 0, pid, 19))
    attempt("disk priority of " + who, lambda: raw("ioprio_set", 1, pid, 3 << 13))
attempt("priority of all", lambda: raw("setpriority", 2, 0, 19))
attempt("priority of the guest's group", lambda: raw("setpriority", 1, 1, 19))
attempt("affinity of a child", lambda: raw("sched_setaffinity", os.getpid(), 128, mask))
""",
    )
    assert {n: e for n, e in seen.items() if n.endswith(("self", "child")) and e != "done"} == {}
    assert {n: e for n, e in seen.items() if not n.endswith(("self", "child")) and e != "EPERM"} == {}


@pytest.mark.probe("33")
async def test_another_call_table_is_a_way_around(box: Sandbox) -> None:
    """32-bit calls (int 0x80: `socketcall`, `mount`) and x32 numbers end the program (33). The control: the 64-bit number."""
    seen = await report(
        box,
        r"""
import mmap, subprocess
CODE = {
    "socketcall": b"\xb8\x66\0\0\0\xbb\1\0\0\0\x31\xc9\xcd\x80\xc3", "getpid by int 0x80": b"\xb8\x14\0\0\0\xcd\x80\xc3",
    "mount by int 0x80": b"\xb8\x15\0\0\0\xcd\x80\xc3", "getpid as x32": b"\xb8\x27\0\0\x40\x0f\x05\xc3",
    "socket as x32": b"\xb8\x29\0\0\x40\x0f\x05\xc3", "control": b"\xb8\x27\0\0\0\x0f\x05\xc3",
}
for name, code in CODE.items() if COLUMN == 0 else ():
    child = os.fork()
    if not child:
        page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        page.write(code)
        ended = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
        os._exit(0 if ended == os.getpid() else 100 + min(abs(ended), 99))
    seen[name] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
seen.setdefault("control", 0)
""",
    )
    assert seen.pop("control") == 0
    assert {name: end for name, end in seen.items() if end != -31} == {}


async def test_a_program_takes_the_addresses_that_it_wants(box: Sandbox) -> None:
    """`personality` may ask, and set Linux or 32-bit addresses; it cannot switch address randomisation off."""
    seen = await report(
        box,
        r"""
for name, value in {"ask": 0xFFFFFFFF, "linux": 0, "fixed addresses": 0x40000, "fixed, disguised": 1 << 32 | 0x40000,
                    "null page": 0x100000, "executable data": 0x400000}.items():
    attempt(name, lambda: call("personality", value))
""",
    )
    assert {n for n, e in seen.items() if e == "done"} == {"ask", "linux"}
    assert {e for e in seen.values() if e != "done"} == {"EPERM"}
