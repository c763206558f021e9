"""What a program inside can reach of the kernel, of the engine and of the process that started it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox import Engine, Sandbox, SandboxSpec
from tests.security.attack import SMALL, report

pytestmark = pytest.mark.docker

CANARY = "canary-of-the-host-environment"
REFUSED = {"EPERM", "EACCES", "ENOSYS"}


@pytest.fixture(scope="module", autouse=True)
def _canary() -> Iterator[None]:
    """A secret in the environment of the process that opens the sandboxes."""
    os.environ["MASSGEN_TEST_API_KEY"] = CANARY
    yield
    del os.environ["MASSGEN_TEST_API_KEY"]


@pytest.mark.probe("26", "30", "34")
async def test_a_privileged_system_call_is_let_through(box: Sandbox) -> None:
    """Everything that needs a capability or a namespace of one's own is refused (10, 11, 18, 26, 29-32, 34)."""
    seen = await report(
        box,
        r"""
for name, arguments in {
    "mount": (b"none", b"/tmp", b"cgroup", 0, None), "umount2": (b"/tmp", 0), "pivot_root": (b"/", b"/"), "chroot": (b"/tmp",),
    "setns": (0, 0), "keyctl": (0, -3, 0), "add_key": (b"user", b"x", b"y", 1, -3), "request_key": (b"user", b"x", None, -3),
    "bpf": (0, None, 0), "perf_event_open": (None, 0, -1, -1, 0), "userfaultfd": (0,),
    "init_module": (None, 0, b""), "finit_module": (0, b"", 0), "kexec_load": (0, 0, None, 0), "swapon": (b"/tmp/x", 0),
    "reboot": (0xFEE1DEAD, 672274793, 0, None), "settimeofday": (None, None), "acct": (None,), "quotactl": (0, None, 0, None),
    "syslog": (3, None, 0), "fanotify_init": (0, 0), "open_tree": (-100, b"/", 1), "move_mount": (-100, b"/", -100, b"/tmp", 0),
    "fsopen": (b"cgroup2", 0), "mount_setattr": (-100, b"/", 0, None, 0), "open_by_handle_at": (-100, None, 0),
    "sethostname": (b"x", 1),
}.items():
    attempt(name, lambda: call(name, *arguments))
for flag in ("10000000", "00020000", "40000000", "20000000", "08000000", "04000000", "02000000"):
    attempt("unshare " + flag, lambda: call("unshare", int(flag, 16)))
attempt("control", lambda: call("pidfd_open", os.getpid(), 0))
""",
    )
    assert seen.pop("control") == "done"
    assert {name: end for name, end in seen.items() if end not in REFUSED} == {}


@pytest.mark.probe("29", "36")
async def test_the_guest_is_traced_read_or_written(box: Sandbox) -> None:
    """PID 1 cannot be attached to; its memory, descriptors, environment and folders cannot be opened (29, 36).

    The control: a program's own child can be traced or at least its memory map read.
    """
    seen = await report(
        box,
        r"""
import ctypes, struct
buffer = ctypes.create_string_buffer(8)
here, there = struct.pack("QQ", ctypes.addressof(buffer), 8), struct.pack("QQ", 0x400000, 8)
for name, work in {
    "attach": lambda: call("ptrace", 16, 1, 0, 0), "seize": lambda: call("ptrace", 0x4206, 1, 0, 0),
    "readv": lambda: call("process_vm_readv", 1, here, 1, there, 1, 0),
    "writev": lambda: call("process_vm_writev", 1, here, 1, there, 1, 0),
    "getfd": lambda: call("pidfd_getfd", os.pidfd_open(1), 0, 0),
    "mem": lambda: write("/proc/1/mem", os.O_RDWR), "read mem": lambda: read("/proc/1/mem", 1),
    "environ": lambda: read("/proc/1/environ"), "maps": lambda: read("/proc/1/maps"), "auxv": lambda: read("/proc/1/auxv"),
    "fds": lambda: os.listdir("/proc/1/fd"), "stdin": lambda: write("/proc/1/fd/0"), "cwd": lambda: os.readlink("/proc/1/cwd"),
    "root": lambda: os.listdir("/proc/1/root"), "exe": lambda: write("/proc/1/exe"),
    "score": lambda: write("/proc/1/oom_score_adj"), "task": lambda: read("/proc/1/task/1/environ"),
}.items():
    attempt(name, work)
child = os.fork()
if not child:
    time.sleep(60)
    os._exit(0)
attempt("control", lambda: "done" if read("/proc/%d/maps" % child) else "empty")
os.kill(child, signal.SIGKILL)
""",
    )
    assert seen.pop("control") == "done"
    assert {name: end for name, end in seen.items() if end not in REFUSED} == {}


@pytest.mark.probe("25", "26", "27")
async def test_the_kernel_is_configured_from_inside(box: Sandbox) -> None:
    """/proc/sys, sysrq, cgroup files and release agents cannot be written; what tells of the host is masked (25, 26, 27)."""
    seen = await report(
        box,
        r"""
import glob
for path in ("/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sys/vm/overcommit_memory",
             "/proc/sysrq-trigger",
             "/sys/kernel/uevent_helper", "/sys/power/state", "/sys/kernel/mm/transparent_hugepage/enabled"):
    attempt("write " + path, lambda: write(path))
for path in glob.glob("/sys/fs/cgroup/**/*", recursive=True)[:2000]:
    if path.rpartition("/")[2] in ("release_agent", "notify_on_release", "cgroup.procs", "tasks", "memory.max", "pids.max",
                                   "memory.limit_in_bytes", "devices.allow", "cgroup.subtree_control"):
        attempt("write " + path, lambda: write(path))
attempt("new cgroup", lambda: os.mkdir("/sys/fs/cgroup/evil"))
for path in ("/proc/kcore", "/proc/kmsg", "/dev/kmsg", "/dev/mem", "/proc/keys", "/proc/timer_list", "/proc/sched_debug",
             "/proc/scsi"):
    attempt("read " + path, lambda: read(path, 64) if not os.path.isdir(path) else ",".join(os.listdir(path)))
attempt("firmware", lambda: ",".join(os.listdir("/sys/firmware")))
seen["cgroup files"] = sum(name.startswith("write /sys/fs/cgroup") for name in seen)
""",
    )
    assert seen.pop("cgroup files") > 0
    assert {n: e for n, e in seen.items() if e not in {"EACCES", "EPERM", "EROFS", "ENOENT", ""}} == {}
    assert {n: e for n, e in seen.items() if n.startswith("write") and e == ""} == {}


@pytest.mark.probe("28", "40")
async def test_a_device_of_the_host_is_there(box: Sandbox) -> None:
    """/dev is the engine's minimum, and there is no terminal to type into (28, 40)."""
    seen = await report(
        box,
        r"""
import fcntl
seen["dev"] = sorted(os.listdir("/dev"))
seen["pts"] = sorted(os.listdir("/dev/pts"))
attempt("tty", lambda: fcntl.ioctl(os.open("/dev/tty", os.O_RDWR), 0x5412, b"x"))
attempt("made", lambda: write("/dev/made", os.O_WRONLY | os.O_CREAT))
seen["terminals"] = [fd for fd in range(3) if os.isatty(fd)]
""",
    )
    expected = "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero"
    assert seen == {"dev": expected.split(), "pts": ["ptmx"], "tty": "ENXIO", "made": "EACCES", "terminals": []}


@pytest.mark.probe("23", "24")
async def test_a_socket_of_the_engine_or_the_host_is_reachable(box: Sandbox) -> None:
    """No engine socket, no socket file anywhere, and the host's abstract sockets are in another namespace (23, 24)."""
    import socket

    with socket.socket(socket.AF_UNIX) as host:
        host.bind("\0massgen-test-abstract")
        host.listen()
        seen = await report(
            box,
            r"""
def connect(name):
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(name)
attempt("abstract", lambda: connect("\0massgen-test-abstract"))
for path in ("/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock", "/run/podman/podman.sock"):
    attempt(path, lambda: connect(path))
found = []
for base, folders, names in os.walk("/"):
    if base == "/":
        folders[:] = [f for f in folders if f not in ("proc", "sys")]
    found += [os.path.join(base, n) for n in names if stat.S_ISSOCK(os.lstat(os.path.join(base, n)).st_mode)]
seen["sockets"] = found
own = socket.socket(socket.AF_UNIX); own.bind("\0own"); own.listen()
attempt("control", lambda: connect("\0own"))
""",
        )
    assert (seen.pop("control"), seen.pop("sockets"), seen.pop("abstract")) == ("done", [], "ECONNREFUSED")
    assert set(seen.values()) == {"ENOENT"}


@pytest.mark.probe("33")
async def test_a_dangerous_socket_family_opens(box: Sandbox) -> None:
    """Raw, packet, kernel-crypto and vsock sockets do not open, with or without a bit set that the kernel overlooks (33).

    Of netlink one protocol opens, which lists the loopback; a route cannot be added over it.
    """
    seen = await report(
        box,
        r"""
for family, kind, protocol in ((38, 5, 0), (17, 3, 0), (17, 2, 0), (2, 3, 1), (2, 10, 0), (10, 3, 58), (2, 2, 1), (2, 1, 132),
                               (2, 2, 136), (2, 6, 33), (15, 3, 0), (31, 3, 0), (29, 3, 0), (44, 3, 0), (40, 1, 0), (40, 2, 0),
                               (16, 3, 9), (16, 3, 12), (16, 3, 16), (16, 3, 6), (30, 5, 0), (21, 5, 0), (24, 1, 0)):
    attempt("%d/%d/%d" % (family, kind, protocol), lambda: call("socket", family, kind, protocol))
    attempt("disguised %d/%d/%d" % (family, kind, protocol), lambda: call("socket", 1 << 32 | family, kind, protocol))
def route():
    message = bytes([28, 0, 0, 0, 24, 0, 5, 6, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0])
    with socket.socket(16, 3, 0) as one:
        one.send(message)
        error = int.from_bytes(one.recv(4096)[16:20], "little", signed=True)
        if error:
            raise OSError(-error, "")
attempt("route", route)
attempt("control", lambda: socket.socket(2, 1).close())
""",
    )
    assert seen.pop("control") == "done"
    assert {n: e for n, e in seen.items() if e != "EPERM"} == {}


@pytest.mark.probe("35")
async def test_an_inherited_descriptor_leads_to_the_host(engine: Engine, image: str, tmp_path: Path) -> None:
    """A command has three descriptors, all made for it, although the host process holds a file and a folder open (35)."""
    (tmp_path / "open").write_text(CANARY)
    with (tmp_path / "open").open() as file:
        os.set_inheritable(file.fileno(), True)
        folder = os.open(tmp_path, os.O_RDONLY)
        try:
            async with Sandbox.open(SandboxSpec(image=image, limits=SMALL), engine=engine) as box:
                seen = await report(
                    box,
                    r"""
names = ["/proc/self/fd/" + name for name in os.listdir("/proc/self/fd")]
seen["fds"] = {name[-1]: os.readlink(name).split(":")[0] for name in names if os.path.lexists(name)}
seen["cwd"] = os.getcwd()
""",
                )
        finally:
            os.close(folder)
    assert seen == {"fds": {"0": "/dev/null", "1": "pipe", "2": "pipe"}, "cwd": "/workspace"}


@pytest.mark.probe("37", "38")
async def test_the_agent_keeps_a_privilege_or_a_namespace_of_the_host(box: Sandbox) -> None:
    """No capability in any set, no new privileges, seccomp on, not root, no extra group, its own namespaces (37, 38)."""
    seen = await report(
        box,
        r"""
fields = dict(line.split(":\t", 1) for line in read("/proc/self/status").splitlines() if ":\t" in line)
for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Uid", "Gid", "Groups"):
    seen[name] = fields[name].split()
seen["namespaces"] = {n: os.readlink("/proc/self/ns/" + n) for n in ("pid", "ipc", "uts", "mnt", "net", "cgroup")}
seen["pids"] = sorted(int(p) for p in os.listdir("/proc") if p.isdigit())[:1]
""",
    )
    uid = {str(box.plan.uid)}
    assert box.plan.uid != 0
    assert {int(value, 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb") for value in seen[name]} == {0}
    assert (seen["NoNewPrivs"], seen["Seccomp"]) == (["1"], ["2"])
    assert set(seen["Uid"]) == uid
    assert set(seen["Gid"]) | set(seen["Groups"]) == {str(box.plan.gid)}
    namespaces = {n: str(Path(f"/proc/self/ns/{n}").readlink()) for n in seen["namespaces"]}  # noqa: ASYNC240 - no disk
    shared = [n for n, inside in seen["namespaces"].items() if inside == namespaces[n]]
    assert shared == []


async def test_a_variable_of_the_host_leaks_into_a_command(box: Sandbox) -> None:
    """The environment is an allow-list; the host's secret is in no environment, file or command line inside (49)."""
    seen = await report(
        box,
        r"""
seen["env"] = sorted(os.environ)
text = []
for pid in (p for p in os.listdir("/proc") if p.isdigit()):
    for name in ("environ", "cmdline"):
        try:
            text.append(read("/proc/%s/%s" % (pid, name)))
        except OSError:
            pass
needle = sys.argv[1][::-1]
seen["found"] = [t for t in text if needle in t]
seen["looked"] = len(text)
""",
        CANARY[::-1],
    )
    assert (seen["env"], seen["found"]) == (["HOME", "LANG", "PATH"], [])
    assert seen["looked"] >= 3
    outcome = await box.run(["env"], env={"GIVEN": "1"})
    assert outcome.stdout.text.split() == ["PATH=" + box.plan.env["PATH"], "LANG=C.UTF-8", "HOME=/home/agent", "GIVEN=1"]


async def test_a_secret_of_the_host_is_shown_by_the_engine(box: Sandbox) -> None:
    """`docker inspect` of a sandbox holds no variable of the host (49)."""
    import docker
    from docker.utils import kwargs_from_env

    client = docker.APIClient(version="auto", timeout=30, **kwargs_from_env())
    try:
        assert CANARY not in str(client.inspect_container(box.container))
    finally:
        client.close()
