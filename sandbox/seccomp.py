"""Which system calls a sandbox may make: our own allow-list, because nobody can add a refusal to the engine's.

An engine takes one profile and puts nothing beside it, so ours replaces its default, and says no to more. What is not named
here is refused:
EPERM for what the filter knows of, which reads as the refusal that it is; ENOSYS for calls newer than the newest name here
(runc's doing), on which C libraries fall back to the older call, while EPERM would break them.

Every condition is a positive one on the bits that the kernel looks at. "Any family but vsock" compares 64 bits where the
kernel takes 32, and is passed by a family with a bit set above; "any process but 1" is therefore spelled as bits, too.

Whoever wants to debug in a sandbox misses ptrace: gdb, strace and the leak sanitizer of ASan (`detect_leaks=0`) do not work.
A file that replaces this list is no option anywhere: nobody could tell a stricter one from one that opens everything.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

ALLOWED = {
    "open, read, write": """open openat openat2 creat close close_range read write readv writev pread64 pwrite64 preadv pwritev
        preadv2 pwritev2 lseek dup dup2 dup3 pipe pipe2 fcntl flock ioctl sendfile splice tee vmsplice copy_file_range readahead
        fadvise64 fallocate truncate ftruncate fsync fdatasync sync syncfs sync_file_range""",
    "names and attributes": """stat lstat fstat newfstatat statx statfs fstatfs access faccessat faccessat2 readlink readlinkat
        getdents getdents64 getcwd chdir fchdir mkdir mkdirat rmdir rename renameat renameat2 link linkat unlink unlinkat symlink
        symlinkat mknod mknodat chmod fchmod fchmodat fchmodat2 chown lchown fchown fchownat utime utimes futimesat utimensat
        umask setxattr lsetxattr fsetxattr getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr removexattr lremovexattr
        fremovexattr setxattrat getxattrat listxattrat removexattrat inotify_init inotify_init1 inotify_add_watch
        inotify_rm_watch""",
    "memory": """brk mmap munmap mremap mprotect madvise msync mincore mlock mlock2 mlockall munlock munlockall membarrier
        memfd_create mseal pkey_alloc pkey_free pkey_mprotect map_shadow_stack shmget shmat shmdt shmctl""",
    "processes and threads": """fork vfork execve execveat exit exit_group wait4 waitid getpid getppid gettid getpgid getpgrp
        getsid setpgid setsid set_tid_address set_robust_list rseq futex futex_waitv futex_wake futex_wait futex_requeue
        arch_prctl prctl restart_syscall getrusage times sched_yield sched_getaffinity sched_getattr sched_getparam
        sched_getscheduler sched_get_priority_max sched_get_priority_min sched_rr_get_interval getcpu getpriority ioprio_get
        getrlimit setrlimit pidfd_open""",
    # pidfd_open and pidfd_send_signal are what asyncio and Go wait and kill with; they reach whom `kill` reaches.
    "signals": """kill tkill tgkill pidfd_send_signal rt_sigaction rt_sigprocmask rt_sigpending rt_sigqueueinfo rt_tgsigqueueinfo
        rt_sigreturn rt_sigsuspend rt_sigtimedwait sigaltstack signalfd signalfd4 pause""",
    "identity": """getuid geteuid getgid getegid getresuid getresgid getgroups setuid setgid setreuid setregid setresuid
        setresgid setfsuid setfsgid setgroups capget capset""",
    "waiting": """select pselect6 poll ppoll epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 eventfd
        eventfd2""",
    "time": """time gettimeofday clock_gettime clock_getres clock_nanosleep nanosleep alarm getitimer setitimer timer_create
        timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime""",
    "talking": """bind listen accept accept4 connect shutdown getsockname getpeername getsockopt setsockopt sendto recvfrom
        sendmsg recvmsg sendmmsg recvmmsg semget semop semtimedop semctl msgget msgsnd msgrcv msgctl mq_open mq_unlink
        mq_timedsend mq_timedreceive mq_notify mq_getsetattr""",
    "asking the system": "uname sysinfo getrandom",
    # A program may lock itself in further; none of these opens anything.
    "self-restraint": "seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self",
}
"""Calls without a condition, by purpose. Names that an architecture does not have are ignored by the engine."""

FALLBACK = {
    "its flags lie in memory, where no filter sees them; C libraries go on with clone": "clone3",
    "runs other calls on the program's behalf, past every filter": "io_uring_setup io_uring_enter io_uring_register",
    "its contexts come out of one count for the whole machine": """io_setup io_submit io_getevents io_pgetevents io_cancel
        io_destroy""",
}
"""Refused with ENOSYS, by reason: callers have another way, and take it only when the kernel seems not to know the call."""

REFUSED = {
    "a new or another namespace": "unshare setns",
    "mounts and roots": """mount umount2 pivot_root chroot open_tree open_tree_attr move_mount fsopen fsconfig fsmount fspick
        mount_setattr statmount listmount""",
    "files by handle, past every folder above them": "name_to_handle_at open_by_handle_at",
    "other people's files": "fanotify_init fanotify_mark quotactl quotactl_fd acct lookup_dcookie",
    "another process's memory, descriptors and limits": """ptrace process_vm_readv process_vm_writev process_madvise
        process_mrelease pidfd_getfd kcmp get_robust_list move_pages migrate_pages""",
    "placement of memory (NUMA), which is the machine's": "mbind get_mempolicy set_mempolicy set_mempolicy_home_node",
    "keyrings, which know no namespace": "add_key request_key keyctl",
    "programs in the kernel, and a hold on its page faults": "bpf perf_event_open userfaultfd memfd_secret modify_ldt",
    "the kernel itself": """init_module finit_module delete_module kexec_load kexec_file_load reboot syslog swapon swapoff
        iopl ioperm vhangup sethostname setdomainname nfsservctl""",
    "the machine's clock": "settimeofday clock_settime adjtimex clock_adjtime",
}
"""Refused with EPERM, by reason. Not part of the filter, whose default says the same: it is here to be read, and for tests."""

NEW_NAMESPACE = 0x7E02_0000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET; all that clone takes (NEWTIME is for clone3 alone)."""
PERSONALITIES = (0x0, 0x8, 0x2_0000, 0x2_0008, 0xFFFF_FFFF)
"""Linux, 32-bit addresses, an old version number, both, "just tell me". Not: addresses that are the same each time."""
AF_UNIX, AF_INET, AF_INET6, AF_NETLINK = 1, 2, 10, 16
TYPE_BITS, STREAM, DGRAM = 0xF, 1, 2
TCP, UDP = 6, 17
NETLINK_ROUTE = 0
PID_BITS = 22
"""The kernel gives no higher process id than 2 to the 22nd."""

Condition = dict[str, Any]


def _equal(index: int, value: int) -> Condition:
    return {"index": index, "value": value, "op": "SCMP_CMP_EQ"}


def _bits(index: int, mask: int, value: int) -> Condition:
    return {"index": index, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}


def _rule(names: str, *conditions: Condition) -> dict[str, Any]:
    return {"names": names.split(), "action": "SCMP_ACT_ALLOW", "args": list(conditions)}


def _not_the_guest(names: str, index: int, *conditions: Condition) -> Iterator[dict[str, Any]]:
    """The id at `index` is not 1: its lowest bit is clear, or another one is set."""
    yield _rule(names, *conditions, _bits(index, 1, 0))
    for bit in range(1, PID_BITS + 1):
        yield _rule(names, *conditions, _bits(index, 1 << bit, 1 << bit))


def _sockets() -> Iterator[dict[str, Any]]:
    """Local ones, TCP and UDP. No raw, packet, crypto, vsock or Bluetooth socket, nor a protocol whose module nobody loaded yet.

    Of netlink the one protocol that lists interfaces: getifaddrs, Go's `net` and Node's `os` fail without, and there is but a
    loopback to list; changing anything takes a capability.
    """
    yield _rule("socket socketpair", _equal(0, AF_UNIX))
    for family in (AF_INET, AF_INET6):
        for kind, protocol in ((STREAM, TCP), (DGRAM, UDP)):
            for number in (0, protocol):
                yield _rule("socket", _equal(0, family), _bits(1, TYPE_BITS, kind), _equal(2, number))
    yield _rule("socket", _equal(0, AF_NETLINK), _equal(2, NETLINK_ROUTE))


def _conditional() -> Iterator[dict[str, Any]]:
    yield _rule("clone", _bits(0, NEW_NAMESPACE, 0))
    yield from (_rule("personality", _equal(0, persona)) for persona in PERSONALITIES)
    yield from _sockets()
    # Everyone inside shares a uid with PID 1, so the kernel would let them take its memory, processors and turns away.
    yield _rule("prlimit64", _equal(0, 0))
    yield from _not_the_guest("sched_setaffinity sched_setscheduler sched_setparam sched_setattr", 0)
    for names, process, group in (("setpriority", 0, 1), ("ioprio_set", 1, 2)):  # not: all of a user's, which the guest is
        yield from _not_the_guest(names, 1, _equal(0, process))
        yield _rule(names, _equal(0, group), _equal(1, 0))


def _names(groups: Iterable[str]) -> list[str]:
    return sorted(name for group in groups for name in group.split())


@cache
def profile() -> str:
    """The profile as JSON, in the form that Docker and Podman take.

    The engine picks its own machine's architecture. None has a second one beside it: 32-bit and x32 calls, whose numbers mean
    something else (`socketcall` hides a family behind a pointer), kill the program.
    """
    architectures = [{"architecture": f"SCMP_ARCH_{name}", "subArchitectures": []} for name in ("X86_64", "AARCH64")]
    calls = [
        {"names": _names(ALLOWED.values()), "action": "SCMP_ACT_ALLOW"},
        {"names": _names(FALLBACK.values()), "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
        *_conditional(),
    ]
    made = {"defaultAction": "SCMP_ACT_ERRNO", "archMap": architectures, "syscalls": calls}
    return json.dumps(made, separators=(",", ":"))


@cache
def identity() -> str:
    """Changes whenever the profile does."""
    return hashlib.sha256(profile().encode()).hexdigest()[:16]
