"""Commands: what they say and how they end is reported exactly, and nothing of them is left."""

from __future__ import annotations

import dataclasses
import secrets

import anyio
import pytest

from tests.support.boxes import SMALL, Boxes, processes, state, until

FLOOD = "import sys\nblock = b'x' * 65536\nwhile True:\n    sys.stdout.buffer.write(block)\n"


async def test_streams_are_not_mixed_up(boxes: Boxes) -> None:
    """Both streams arrive apart, byte for byte, with the exit code."""
    async with boxes.open() as box:
        outcome = await box.run(["sh", "-c", r"printf 'out\000\377'; printf err >&2; exit 7"])
    assert (outcome.reason, outcome.exit_code, outcome.signal) == ("exited", 7, None)
    assert (outcome.stdout.head, outcome.stderr.head) == (b"out\0\xff", b"err")
    assert not outcome.ok
    assert outcome.shell_code == 7


async def test_death_by_signal_is_not_an_exit_code(boxes: Boxes) -> None:
    """A command that a signal ended says which; no exit code is invented."""
    async with boxes.open() as box:
        outcome = await box.run(["sh", "-c", "kill -TERM $$"])
    assert (outcome.reason, outcome.exit_code, outcome.signal) == ("signalled", None, 15)
    assert outcome.shell_code == 143


async def test_kill_by_itself_is_not_reported_as_out_of_memory(boxes: Boxes) -> None:
    """137 alone is no proof of the memory killer."""
    async with boxes.open() as box:
        assert (await box.run(["sh", "-c", "kill -KILL $$"])).reason == "signalled"
        assert (await box.run(["sh", "-c", "exit 137"])).reason == "exited"


async def test_stdin_does_not_arrive_torn(boxes: Boxes) -> None:
    """What is sent to stdin is what the program reads, and then end of file."""
    text = bytes(range(256)) * 100
    async with boxes.open() as box:
        outcome = await box.run(["cat"], stdin=text)
    assert outcome.ok
    assert outcome.stdout.head == text


async def test_large_stdin_through_a_filter_does_not_deadlock(boxes: Boxes) -> None:
    """A program that answers while it is still fed gets all of its input: nobody waits for the other."""
    size = 8 * 1024**2
    async with boxes.open(limits=dataclasses.replace(SMALL, output_bytes=1024)) as box:
        outcome = await box.run(["cat"], stdin=bytes(size), timeout_s=20)
    assert outcome.reason == "exited"
    assert len(outcome.stdout.head) + len(outcome.stdout.tail) + outcome.stdout.cut_bytes == size


async def test_program_that_ignores_its_stdin_does_not_hang_the_caller(boxes: Boxes) -> None:
    """More input than anybody will ever read is dropped when the program ends."""
    async with boxes.open() as box:
        outcome = await box.run(["true"], stdin=bytes(4 * 1024**2), timeout_s=20)
    assert outcome.ok


async def test_program_without_stdin_does_not_wait_for_it(boxes: Boxes) -> None:
    """No stdin is an end of file at once, not a terminal that never answers."""
    async with boxes.open() as box:
        outcome = await box.run(["cat"], timeout_s=10)
    assert outcome.ok
    assert outcome.stdout.text == ""


@pytest.mark.parametrize(
    ("argv", "more"),
    [
        (["no-such-program-anywhere"], {}),
        (["true"], {"cwd": "/workspace/missing"}),
        (["sh", "-c", "echo \0"], {}),
        (["echo", "\ud800"], {}),
        (["true"], {"env": {"A": "x\0y"}}),
        (["true"], {"env": {"A=B": "x"}}),
        (["true"], {"cwd": "/workspace/\0"}),
        ([], {}),
        (["echo", "x" * 3_000_000], {}),
    ],
    ids=["program", "folder", "nul", "surrogate", "env-nul", "env-name", "cwd-nul", "no-argv", "too-long"],
)
async def test_command_that_cannot_start_does_not_cost_the_sandbox(boxes: Boxes, argv: list[str], more: dict) -> None:
    """It is refused with a reason, and the next command runs."""
    async with boxes.open() as box:
        outcome = await box.run(argv, **more)
        assert outcome.reason == "refused", outcome.why
        assert outcome.why
        assert outcome.shell_code == 127
        assert (await box.run(["true"])).ok


async def test_timeout_does_not_lose_what_was_said(boxes: Boxes) -> None:
    """At its deadline a command and its children are dead; their output up to then is there."""
    marker = f"300.{secrets.randbelow(10**9)}"
    async with boxes.open() as box:
        outcome = await box.run(["sh", "-c", f"echo before; sleep {marker} & sleep {marker}; echo after"], timeout_s=0.5)
        assert (outcome.reason, outcome.shell_code) == ("timeout", 124)
        assert outcome.stdout.text == "before\n"
        assert 0.4 < outcome.wall_s < 10
        assert "0.5 s" in outcome.why
        await until(lambda: not processes(marker))


async def test_silence_does_not_last_longer_than_granted(boxes: Boxes) -> None:
    """Without a word for `idle_timeout_s` a command ends as `idle`; the wait for a host that takes nothing is no silence."""
    async with boxes.open() as box:
        outcome = await box.run(["sh", "-c", "echo before; exec sleep 60"], idle_timeout_s=0.3)
        assert (outcome.reason, outcome.shell_code, outcome.stdout.text) == ("idle", 124, "before\n")
        assert "0.3 s" in outcome.why
        assert (await box.run(["sh", "-c", "sleep 0.1; echo after"], idle_timeout_s=20)).ok


async def test_output_does_not_exceed_what_was_granted(boxes: Boxes) -> None:
    """One byte more than `max_output_bytes` on both streams together ends a command; the first so many are delivered."""
    async with boxes.open() as box:
        flood = await box.run(["python3", "-c", FLOOD], max_output_bytes=100_000, timeout_s=20)
        assert (flood.reason, flood.exit_code, len(flood.stdout.text)) == ("output", None, 100_000)
        assert "100000 bytes" in flood.why
        quick = await box.run(["sh", "-c", "printf abc; printf def >&2"], max_output_bytes=5)
        assert (quick.reason, len(quick.stdout.text + quick.stderr.text)) == ("output", 5)
        assert quick.shell_code != 0
        exact = await box.run(["sh", "-c", "printf abc; printf def >&2"], max_output_bytes=6)
        assert (exact.ok, exact.why) == (True, "")


async def test_command_that_catches_every_signal_does_not_survive_its_deadline(boxes: Boxes) -> None:
    """The deadline is not a request."""
    async with boxes.open() as box:
        outcome = await box.run(["sh", "-c", "trap '' TERM INT HUP; while :; do sleep 0.05; done"], timeout_s=0.3)
    assert outcome.reason == "timeout"


async def test_cancellation_does_not_leave_the_command_running(boxes: Boxes) -> None:
    """Whoever cancels `run` gets back control after the command and its children are dead."""
    marker = f"301.{secrets.randbelow(10**9)}"
    async with boxes.open() as box:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(box.run, ["sh", "-c", f"sleep {marker} & sleep {marker}"])
            await until(lambda: len(processes(marker)) >= 2)
            tasks.cancel_scope.cancel()
        await until(lambda: not processes(marker))
        assert (await box.run(["echo", "still here"])).stdout.text == "still here\n"


async def test_flood_does_not_fill_the_hosts_memory(boxes: Boxes) -> None:
    """Head and tail are kept, the gap is counted, and both ends are the right ones."""
    lines = 400_000
    program = f"for i in range({lines}): print('%09d' % i)"
    async with boxes.open(limits=dataclasses.replace(SMALL, output_bytes=2000)) as box:
        out = (await box.run(["python3", "-c", program])).stdout
    assert len(out.head) == len(out.tail) == 1000
    assert len(out.head) + len(out.tail) + out.cut_bytes == lines * 10
    assert out.head.startswith(b"000000000\n000000001\n")
    assert out.tail.endswith(b"%09d\n" % (lines - 1))
    assert "bytes cut" in out.text


async def test_output_is_not_swallowed_when_it_exceeds_every_buffer(boxes: Boxes) -> None:
    """With room for all of it, all of it arrives, on both streams."""
    size = 5_000_000
    program = f"import sys; sys.stdout.write('o' * {size}); sys.stderr.write('e' * {size})"
    async with boxes.open(limits=dataclasses.replace(SMALL, output_bytes=2 * size)) as box:
        outcome = await box.run(["python3", "-c", program])
    assert outcome.stdout.text == "o" * size
    assert outcome.stderr.text == "e" * size


async def test_flooding_command_does_not_starve_the_other(boxes: Boxes) -> None:
    """While one command floods, another one answers in its own time."""
    async with boxes.open(limits=dataclasses.replace(SMALL, output_bytes=1000)) as box, anyio.create_task_group() as tasks:
        seen = anyio.Event()
        tasks.start_soon(lambda: box.run(["python3", "-c", FLOOD], on_output=lambda _stream, _chunk: seen.set()))
        await seen.wait()
        with anyio.fail_after(15):
            for number in range(5):
                assert (await box.run(["echo", str(number)])).stdout.text == f"{number}\n"
        tasks.cancel_scope.cancel()


async def test_unread_flood_does_not_starve_the_other(boxes: Boxes) -> None:
    """A program whose output nobody takes holds up itself alone."""
    async with boxes.open() as box, box.spawn(["python3", "-c", FLOOD]) as process:
        await process.receive()
        with anyio.fail_after(15):
            assert (await box.run(["echo", "hello"])).stdout.text == "hello\n"


async def test_background_child_that_holds_the_pipe_does_not_hang_the_caller(boxes: Boxes) -> None:
    """A command is over when its leader is; what it left behind dies with it."""
    marker = f"302.{secrets.randbelow(10**9)}"
    async with boxes.open() as box:
        with anyio.fail_after(20):
            outcome = await box.run(["sh", "-c", f"sleep {marker} & echo started"])
        assert outcome.ok
        assert outcome.stdout.text == "started\n"
        await until(lambda: not processes(marker))


async def test_daemon_of_a_finished_command_does_not_stay(boxes: Boxes) -> None:
    """Leaving the session and the process group is no way out of a container."""
    if boxes.fake:
        pytest.skip("what leaves its session gets away from the fake, as it says")
    marker = f"303.{secrets.randbelow(10**9)}"
    async with boxes.open() as box, box.spawn(["cat"]):
        outcome = await box.run(
            ["sh", "-c", f"setsid sh -c 'setsid sleep {marker} & sleep {marker}' >/dev/null 2>&1 & sleep 0.2"]
        )
        assert outcome.ok
        await until(lambda: not processes(marker))


async def test_output_is_reported_while_the_command_runs(boxes: Boxes) -> None:
    """`on_output` hears of a chunk before the command has ended."""
    heard = anyio.Event()
    async with boxes.open() as box, anyio.create_task_group() as tasks:
        argv = ["sh", "-c", "echo now; exec sleep 60"]
        tasks.start_soon(
            lambda: box.run(argv, on_output=lambda stream, chunk: heard.set() if (stream, chunk) == (1, b"now\n") else None)
        )
        with anyio.fail_after(15):
            await heard.wait()
        tasks.cancel_scope.cancel()


async def test_environment_of_the_host_does_not_leak_in(boxes: Boxes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command sees the allow-list, what the spec adds and what the call adds; nothing is inherited."""
    monkeypatch.setenv("A_SECRET", "canary")
    async with boxes.open(env={"FROM_SPEC": "1"}) as box:
        out = (await box.run(["env"], env={"FROM_CALL": "2"})).stdout.text
    names = {line.partition("=")[0] for line in out.splitlines()}
    assert names == {"PATH", "LANG", "HOME", "FROM_SPEC", "FROM_CALL"}


async def test_default_folder_is_not_the_image_s(boxes: Boxes) -> None:
    """Without `cwd` a command starts in the spec's, and may write there."""
    async with boxes.open() as box:
        assert (await box.run(["sh", "-c", "echo x > made; ls"])).stdout.text == "made\n"
        assert await box.read("/workspace/made") == b"x\n"


async def test_stopped_processes_do_not_run_and_go_on_afterwards(boxes: Boxes) -> None:
    """Between `stop` and `go` nothing inside makes progress."""
    name = f"n_{secrets.token_hex(6)}"
    ticker = f"import time\n{name} = 0\nwhile True:\n    {name} += 1\n    print({name}, flush=True)\n    time.sleep(0.01)\n"
    async with boxes.open() as box, box.spawn(["python3", "-c", ticker]) as process:
        await process.receive()
        pids = processes(name)
        assert pids
        await box.stop()
        await until(lambda: all(state(p) == "T" for p in pids))
        await box.go()
        await until(lambda: all(state(p) != "T" for p in pids))
        with anyio.fail_after(10):
            for _ in range(20):
                await process.receive()


async def test_stopped_command_does_not_outlive_its_deadline(boxes: Boxes) -> None:
    """SIGSTOP on oneself is no way to stay."""
    async with boxes.open() as box:
        assert (await box.run(["sh", "-c", "kill -STOP $$"], timeout_s=0.3)).reason == "timeout"
