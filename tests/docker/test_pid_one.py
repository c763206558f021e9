"""The guest outlives whatever runs beside it, and nothing that runs beside it outlives its command."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest

from sandbox import DockerEngine, Sandbox, SandboxSpec
from tests.security.attack import SMALL, report

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
async def engine() -> DockerEngine:
    """The real one."""
    return await DockerEngine.connect()


@pytest.fixture(scope="module")
async def box(engine: DockerEngine, image: str) -> AsyncIterator[Sandbox]:
    """One for all."""
    async with Sandbox.open(SandboxSpec(image=image, limits=SMALL), engine=engine) as opened:
        yield opened


@pytest.mark.probe("68")
async def test_the_guest_is_killed_or_stopped_by_a_signal(box: Sandbox) -> None:
    """No signal to PID 1, nor SIGKILL and SIGSTOP to everybody, ends or halts the guest (68; design 2.4).

    The control: the same signals end the sender's own child.
    """
    seen = await report(
        box,
        r"""
for number in sorted(signal.valid_signals()):
    try:
        os.kill(1, number)
    except OSError as error:
        seen[str(number)] = name_of(error)
child = os.fork()
if not child:
    time.sleep(60)
os.kill(child, 9)
seen["child"] = os.waitstatus_to_exitcode(os.wait()[1])
""",
    )
    assert seen == {"child": -9}
    for command in ("kill -9 1", "kill -STOP 1", "kill -STOP -1", "kill -9 -1"):
        outcome = await box.run(["sh", "-c", f"{command}; true"], timeout_s=5)
        assert outcome.reason in ("exited", "signalled", "timeout")
        assert (await box.run(["echo", "here"])).stdout.text == "here\n"


@pytest.mark.probe("66")
async def test_a_process_that_asks_to_be_traced_halts_the_guest(box: Sandbox) -> None:
    """A command that makes PID 1 its tracer, itself or as an orphan, is ended and reaped; the guest goes on (66; design 11)."""
    for orphan in (False, True):
        program = "import ctypes, os, time\n"
        program += "if os.fork(): os._exit(0)\nwhile os.getppid() != 1: pass\n" if orphan else ""
        program += "ctypes.CDLL(None).ptrace(0, 0, 0, 0)\nos.kill(os.getpid(), 15)\ntime.sleep(60)\n"
        with anyio.fail_after(10):
            outcome = await box.run(["python3", "-c", program], timeout_s=5)
        assert outcome.reason in ("exited", "signalled")
        assert (await box.run(["true"])).ok


async def test_zombies_fill_the_process_table(box: Sandbox) -> None:
    """Orphans that end while another program lives are reaped, four times more of them than there is room for."""
    program = (
        "import os, time\n"
        "def fork():\n"  # on a busy machine it is faster than whoever reaps; without any reaping it would wait for ever
        "    while True:\n"
        "        try: return os.fork()\n"
        "        except BlockingIOError: time.sleep(0.01)\n"
        "for n in range(256):\n    if fork() == 0:\n        fork()\n        os._exit(0)\n    os.wait()\n"
    )
    async with box.spawn(["cat"]):
        outcome = await box.run(["python3", "-c", program], timeout_s=20)
        assert (outcome.ok, outcome.stderr.text) == (True, "")
        listed = await box.run(["sh", "-c", "cut -d' ' -f3 /proc/[0-9]*/stat | grep -c Z"])
        assert listed.stdout.text == "0\n"


@pytest.mark.probe("65")
async def test_what_a_command_leaves_lives_on_beside_another(box: Sandbox) -> None:
    """While one program lives, everything another left in the background is gone at its end, the living one untouched (65)."""
    leave = "sleep 600 & setsid sleep 600 & (setsid sh -c 'sleep 600 & sleep 600' &) ; nohup sleep 600 >/dev/null 2>&1 & exit 3"
    async with box.spawn(["sh", "-c", "sleep 500 & cat"]) as living:
        outcome = await box.run(["sh", "-c", leave])
        assert (outcome.reason, outcome.exit_code) == ("exited", 3)
        left = "-"
        for _ in range(20):  # killed, and in a moment reaped
            left = (await box.run(["sh", "-c", "grep -l 'sleep[^.]600' /proc/[0-9]*/cmdline"])).stdout.text
            if not left:
                break
            await anyio.sleep(0.05)
        assert left == ""
        kept = await box.run(["sh", "-c", "grep -c 'sleep[^.]500' /proc/[0-9]*/cmdline | grep -c ':1'"])
        assert int(kept.stdout.text) >= 1
        await living.send(b"here")
        assert await living.receive() == (1, b"here")


@pytest.mark.probe("66", "68")
async def test_a_child_that_is_stopped_at_birth_halts_the_guest(box: Sandbox) -> None:
    """Whoever stops every process in a loop, also those just born, loses them all within seconds; the guest goes on (66, 68).

    Stopped between its birth and its exec, a child keeps the guest waiting; the guest's clock must not wait with it.
    """
    stop = (
        "import os\nprint('up', flush=True)\nwhile True:\n    try:\n        os.kill(-1, 19)\n    except OSError:\n        pass\n"
    )
    with anyio.fail_after(25):
        async with box.spawn(["python3", "-c", stop]) as stopper:
            await stopper.receive()
            reasons = {(await box.run(["true"], timeout_s=0.5)).reason for _ in range(10)}
        assert reasons <= {"exited", "signalled", "timeout"}
        assert (await box.run(["echo", "here"])).stdout.text == "here\n"


@pytest.mark.parametrize("limit", ["RLIMIT_CPU", "RLIMIT_NOFILE", "RLIMIT_DATA"])
async def test_a_guest_that_its_agent_starves_ends(box: Sandbox, limit: str) -> None:
    """Nobody inside can lower the limits of PID 1, although all share one uid; one's own limits can be lowered (68)."""
    lower = "import resource, sys; resource.prlimit(int(sys.argv[1]), getattr(resource, sys.argv[2]), (9, 9)); print('lowered')"
    refused = await box.run(["python3", "-c", lower, "1", limit])
    assert "PermissionError" in refused.stderr.text
    assert (await box.run(["python3", "-c", lower, "0", limit])).stdout.text == "lowered\n"
    assert (await box.run(["true"])).ok
    assert await box.read("/etc/hostname") == b"sandbox\n"
