"""What one command takes is bounded, whatever it wants, and the next command finds the sandbox as it was."""

from __future__ import annotations

import os
import resource
from collections.abc import AsyncIterator
from dataclasses import replace

import anyio
import pytest

from sandbox import Engine, GuestError, Sandbox, SandboxSpec
from tests.security.attack import MIB, SMALL, report

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
async def tight(engine: Engine, image: str) -> AsyncIterator[Sandbox]:
    """A sandbox whose limits are reached in a moment."""
    async with Sandbox.open(SandboxSpec(image=image, limits=SMALL), engine=engine) as opened:
        yield opened


async def usable(box: Sandbox, *, beside: int = 0) -> bool:
    """A command works, a file can be written, and in a moment only the guest, that command and `beside` others are there."""
    script = "echo fine > /workspace/fine && rm /workspace/fine && ls /proc | grep -c '^[0-9]*$'"
    for _ in range(20):  # what was killed may still be on its way out
        outcome = await box.run(["sh", "-c", script])
        if outcome.ok and int(outcome.stdout.text) <= 4 + beside:
            return True
        await anyio.sleep(0.05)
    return False


@pytest.mark.parametrize("kind", ["processes", "threads"])
@pytest.mark.probe("51", "52")
async def test_a_bomb_of_processes_or_threads_takes_the_machine(tight: Sandbox, kind: str) -> None:
    """It meets EAGAIN at the pids limit, dies at the deadline, and leaves nothing (51, 52)."""
    program = {
        "processes": "import os\nos.setsid() if os.getpid() != os.getsid(0) else None\nn = 0\nwhile True:\n"
        "    try:\n        n += os.fork() > 0\n    except OSError as e:\n        n < 0 or print(e.errno, flush=True)\n"
        "        n = -9**9\n",
        "threads": "import threading, time\nn = 0\ntry:\n    while True:\n        threading.Thread(target=time.sleep, args=(60,),"
        " daemon=True).start()\n        n += 1\nexcept RuntimeError:\n    print(n, flush=True)\ntime.sleep(60)\n",
    }[kind]
    outcome = await tight.run(["python3", "-c", program], timeout_s=1.5)
    assert outcome.reason == "timeout"
    seen = {int(word) for word in outcome.stdout.text.split()}
    assert seen == {11} if kind == "processes" else max(seen) < SMALL.pids
    assert await usable(tight)


@pytest.mark.probe("51")
async def test_a_command_beside_a_fork_bomb_suffers_for_good(tight: Sandbox, engine: Engine, image: str) -> None:
    """While a bomb fills the process table, file operations are refused and the guest lives; afterwards all is well (51).

    Another sandbox works all the while, and a program that was there before the bomb is still there after it.
    """
    fill = (
        "import os, time\nwhile True:\n    try:\n        os.fork() or time.sleep(60)\n"
        "    except OSError:\n        print(end='!', flush=True)\n        time.sleep(60)\n"
    )
    async with Sandbox.open(SandboxSpec(image=image, limits=SMALL), engine=engine) as other, tight.spawn(["cat"]) as old:
        async with tight.spawn(["python3", "-c", fill]) as bomb:
            await bomb.receive()
            refused = await tight.run(["true"])
            assert refused.reason in ("refused", "exited")
            with pytest.raises(GuestError):
                await tight.read("/etc/hostname")
            assert (await other.run(["true"])).ok
        assert await usable(tight, beside=1)
        await old.send(b"still here")
        assert await old.receive() == (1, b"still here")
    assert await usable(tight)


@pytest.mark.probe("53")
async def test_memory_beyond_the_limit_is_taken_or_unlabelled(tight: Sandbox) -> None:
    """Too much anonymous or locked memory ends the command as `oom`, never the guest (53)."""
    for grab in (
        "x = []\nwhile True: x.append(b'x' * (1 << 20))",
        "import mmap\nm = mmap.mmap(-1, 1 << 30)\nfor i in range(0, 1 << 30, 4096): m[i] = 1",
    ):
        outcome = await tight.run(["python3", "-c", grab])
        assert (outcome.reason, outcome.signal) == ("oom", 9)
        assert "memory_bytes" in outcome.why
        assert await usable(tight)
    killed = await tight.run(["sh", "-c", "kill -9 $$"])
    assert killed.reason == "signalled"  # the control: a SIGKILL that is not the kernel's is not called oom


@pytest.mark.probe("53")
async def test_memory_that_outlives_a_command_ends_the_guest_silently(engine: Engine, image: str) -> None:
    """System V segments stay after their process; whatever that ends up killing, the outcome is typed and nothing hangs (53)."""
    program = (
        "import ctypes\nc = ctypes.CDLL(None)\nc.shmat.restype = ctypes.c_void_p\nwhile True:\n"
        "    i = c.shmget(0, 4 << 20, 0o1666)\n    ctypes.memset(c.shmat(i, None, 0), 1, 4 << 20)\n"
    )
    async with Sandbox.open(SandboxSpec(image=image, limits=SMALL), engine=engine) as box:
        with anyio.fail_after(20):
            outcomes = [(await box.run(["python3", "-c", program])).reason for _ in range(3)]
    assert set(outcomes) <= {"oom", "lost", "refused"}


@pytest.mark.probe("55", "56", "57")
async def test_a_disk_is_filled_beyond_its_size(tight: Sandbox) -> None:
    """Every writable place ends with ENOSPC at its own size, in bytes and in files; all full at once kill nobody (55-57)."""
    seen = await report(
        tight,
        r"""
def fill(path):
    with open(path, "wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 20))
def litter(folder):
    os.mkdir(folder)
    for number in range(1 << 20):
        os.close(os.open("%s/%d" % (folder, number), os.O_CREAT | os.O_WRONLY))
places = ("/workspace", "/tmp", "/home/agent", "/dev/shm")
for place in places:
    attempt("bytes " + place, lambda: fill(place + "/full"))
    seen["size " + place] = os.stat(place + "/full").st_size
for place in places:
    os.unlink(place + "/full")
    if place != "/dev/shm":
        attempt("files " + place, lambda: litter(place + "/many"))
for place in ("/", "/usr", "/etc", "/var/tmp", "/run", "/opt", "/dev", "/dev/mqueue", "/.sandbox", "/sys", "/proc", "/home"):
    attempt("other " + place, lambda: fill(place + "/evil"))
for place in places[:3]:
    for name in os.listdir(place + "/many"):
        os.unlink(place + "/many/" + name)
    os.rmdir(place + "/many")
""",
    )
    sizes = {name.removeprefix("size "): seen.pop(name) for name in list(seen) if name.startswith("size")}
    expected = {
        "/workspace": SMALL.workspace_bytes,
        "/tmp": SMALL.tmp_bytes,
        "/home/agent": SMALL.tmp_bytes,
        "/dev/shm": SMALL.tmp_bytes,
    }
    assert sizes == expected
    assert {n: e for n, e in seen.items() if n.startswith(("bytes", "files")) and e != "ENOSPC"} == {}
    # "/dev/mqueue" takes queues, not files; the rest is read-only or not ours
    assert {
        n: e for n, e in seen.items() if n.startswith("other") and e not in ("EROFS", "EACCES", "ENOENT", "EINVAL", "EPERM")
    } == {}
    assert await usable(tight)


@pytest.mark.probe("59")
async def test_descriptors_are_taken_without_end(tight: Sandbox) -> None:
    """A command meets EMFILE at `open_files`; the guest, which has the same limit, goes on (59)."""
    seen = await report(tight, "attempt('open', lambda: [os.open('/dev/null', 0) for _ in range(1 << 16)])")
    assert seen == {"open": "EMFILE"}
    assert await usable(tight)


@pytest.mark.probe("60")
async def test_a_flood_of_output_fills_the_host(tight: Sandbox) -> None:
    """Endless output on both streams, without one newline, costs the host what the spec says; the gap is counted (60)."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    program = "import os\nos.write(1, b'HEAD')\nwhile True: os.write(1, b'x' * 65536); os.write(2, b'y' * 65536)"
    outcome = await tight.run(["python3", "-c", program], timeout_s=1.5)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert outcome.reason == "timeout"
    for output in (outcome.stdout, outcome.stderr):
        assert len(output.head) + len(output.tail) <= SMALL.output_bytes
        assert output.cut_bytes > 10 * MIB
    assert outcome.stdout.head.startswith(b"HEAD")
    assert grown < 48 * MIB


@pytest.mark.probe("61")
async def test_bytes_that_are_not_text_are_lost_or_break_something(tight: Sandbox) -> None:
    """NUL, every other byte, and one long line arrive as they are (61)."""
    blob = bytes(range(256)) * 64
    outcome = await tight.run(["cat"], stdin=blob)
    assert outcome.stdout.head + outcome.stdout.tail == blob
    assert outcome.ok
    line = await tight.run(["head", "-c", str(8 * MIB), "/dev/zero"])
    assert line.ok
    assert line.stdout.cut_bytes + len(line.stdout.head) + len(line.stdout.tail) == 8 * MIB


@pytest.mark.probe("62")
async def test_a_program_that_asks_waits_for_an_answer(tight: Sandbox) -> None:
    """Whoever reads stdin finds its end at once (62)."""
    outcome = await tight.run(["python3", "-c", "import sys; print(repr(sys.stdin.read())); input()"], timeout_s=5)
    assert outcome.reason == "exited"
    assert "EOFError" in outcome.stderr.text


@pytest.mark.probe("63")
async def test_a_program_that_says_nothing_stays(tight: Sandbox) -> None:
    """Silence for longer than was granted ends it, children too, with what it had said; one that speaks lives on (63)."""
    silent = await tight.run(["sh", "-c", "echo first; sleep 60 & exec sleep 60"], idle_timeout_s=0.5)
    assert (silent.reason, silent.signal, silent.stdout.text) == ("idle", 9, "first\n")
    assert "idle_timeout_s" in silent.why
    talker = "import time\nfor n in range(8): print(n, flush=True); time.sleep(0.2)"
    assert (await tight.run(["python3", "-c", talker], idle_timeout_s=1)).ok
    assert await usable(tight)


async def test_a_failure_at_the_process_limit_has_no_name(tight: Sandbox) -> None:
    """Who fails because one more process was refused is told so; who copes with it, or fails without it, is not."""
    bomb = "import os, time\ntry:\n    while True:\n        os.fork() or time.sleep(60)\nexcept OSError:\n    os._exit(CODE)\n"
    failed = await tight.run(["python3", "-c", bomb.replace("CODE", "3")])
    assert (failed.reason, failed.exit_code) == ("pids", 3)
    assert str(SMALL.pids) in failed.why
    assert (await tight.run(["python3", "-c", bomb.replace("CODE", "0")])).ok
    assert (await tight.run(["false"])).reason == "exited"
    assert await usable(tight)


@pytest.mark.parametrize(
    "full", ["head -c 64m /dev/zero > /tmp/full", "mkdir /tmp/many && seq 5000 | (cd /tmp/many && xargs touch)"]
)
async def test_a_failure_on_a_full_disk_has_no_name(tight: Sandbox, full: str) -> None:
    """Who fails while no block or no inode is left is told where; success there is success, failure elsewhere a failure."""
    try:
        failed = await tight.run(["sh", "-c", full])
        assert (failed.reason, failed.ok) == ("disk", False)
        assert "/tmp" in failed.why
        assert (await tight.run(["true"])).ok
    finally:
        await tight.run(["sh", "-c", "rm -rf /tmp/full /tmp/many"])
    assert (await tight.run(["false"])).reason == "exited"


async def test_what_a_command_took_stays_unknown(tight: Sandbox) -> None:
    """Memory and processes of the whole sandbox are sampled while a command runs; a short one has its largest process."""
    program = (
        "import os, time\nfor _ in range(5):\n    if not os.fork():\n        x = bytearray(8 << 20)\n        time.sleep(60)\n"
        "x = bytearray(8 << 20)\ntime.sleep(2.5)"
    )
    outcome = await tight.run(["python3", "-c", program])
    assert (outcome.ok, outcome.peak_of) == (True, "samples")
    assert 48 * MIB <= outcome.peak_memory_bytes <= SMALL.memory_bytes + 64 * MIB
    assert 7 <= outcome.peak_pids <= 12
    short = await tight.run(["true"])
    assert short.peak_memory_bytes >= short.max_rss_bytes > 0


@pytest.mark.probe("64", "66")
async def test_a_program_that_ignores_signals_outlives_its_deadline(tight: Sandbox) -> None:
    """Ignoring, blocking or stopping does not help: it is gone at its deadline, and says nothing more (64, 66)."""
    for trick in (
        "import signal\nfor n in set(signal.Signals) - {9, 19}: signal.signal(n, signal.SIG_IGN)",
        "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))",
        "import os\nos.kill(os.getpid(), 19)",
        "import os\nos.fork() or os.setsid()",
    ):
        outcome = await tight.run(["python3", "-c", f"{trick}\nimport time\ntime.sleep(60)"], timeout_s=0.7)
        assert (outcome.reason, outcome.signal) == ("timeout", 9)
        assert outcome.wall_s < 5
    assert await usable(tight)


@pytest.mark.probe("65", "67")
async def test_a_daemon_survives_or_holds_up_the_caller(tight: Sandbox) -> None:
    """A double-forked daemon in its own session, holding the pipe, neither hangs the caller nor lives on (65, 67)."""
    program = (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        "        open('/workspace/daemon', 'w').write(str(os.getpid()))\n        time.sleep(600)\n    os._exit(0)\n"
        "while not os.path.exists('/workspace/daemon') or not os.path.getsize('/workspace/daemon'): time.sleep(0.01)\n"
        "print('bye', flush=True)"
    )
    for timeout_s, tail, reason in ((20, "", "exited"), (1, "\nwhile True: time.sleep(1)", "timeout")):
        outcome = await tight.run(["python3", "-c", program + tail], timeout_s=timeout_s)
        assert (outcome.reason, outcome.stdout.text) == (reason, "bye\n")
        assert outcome.wall_s < 5
        pid = (await tight.run(["cat", "/workspace/daemon"])).stdout.text
        assert pid.isdigit()
        assert not (await tight.run(["test", "-e", f"/proc/{pid}"])).ok
        await tight.run(["rm", "/workspace/daemon"])
    with_nohup = await tight.run(["sh", "-c", "nohup sleep 600 >/dev/null 2>&1 & (sleep 600 &) ; exec true"])
    assert with_nohup.ok
    assert await usable(tight)


QUOTA = "cd /sys/fs/cgroup; cat cpu.max 2>/dev/null || cat cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us"


@pytest.mark.probe("54")
async def test_processors_are_taken_beyond_the_share(engine: Engine, image: str) -> None:
    """Two spinning processes get no more than the share of one processor that the spec gives (54)."""
    if (os.cpu_count() or 1) < 2:
        pytest.skip("one processor cannot show it")
    limits = replace(SMALL, cpus=0.5)
    spin = "import os, time\nos.fork()\nend = time.monotonic() + 1.5\nwhile time.monotonic() < end: pass\n"
    async with Sandbox.open(SandboxSpec(image=image, limits=limits), engine=engine) as box:
        outcome = await box.run(["python3", "-c", spin])
        quota = await box.run(["sh", "-c", QUOTA])
    assert int(quota.stdout.text.split()[0]) * 2 == int(quota.stdout.text.split()[1])
    # Not the kernel's count of throttlings: on a machine that is full anyway nobody needs to be held back.
    assert 0 < outcome.cpu_user_s + outcome.cpu_sys_s < 0.5 * outcome.wall_s + 0.3
