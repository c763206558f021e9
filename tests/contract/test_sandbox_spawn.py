"""Long-lived programs: a conversation works both ways, and nothing outlives its block."""

from __future__ import annotations

import secrets

import anyio
import pytest

from sandbox import Process, SpecError
from tests.support.boxes import Boxes, processes, until


async def line(process: Process) -> bytes:
    """What arrives up to the end of a line."""
    text = b""
    while not text.endswith(b"\n"):
        text += (await process.receive())[1]
    return text


async def test_answers_do_not_wait_for_the_end(boxes: Boxes) -> None:
    """Each line is answered before the next is sent."""
    program = "import sys\nfor line in sys.stdin:\n    print('got', line.strip(), flush=True)\n"
    async with boxes.open() as box, box.spawn(["python3", "-u", "-c", program]) as process:
        with anyio.fail_after(15):
            for word in (b"one", b"two", b"three"):
                await process.send(word + b"\n")
                assert await line(process) == b"got " + word + b"\n"
            assert process.outcome is None
            await process.end_stdin()
            outcome = await process.wait()
    assert (outcome.reason, outcome.exit_code) == ("exited", 0)
    assert process.outcome == outcome


async def test_spawned_program_that_cannot_start_does_not_hang(boxes: Boxes) -> None:
    """A missing program is an outcome; what no program can be given is the caller's error."""
    async with boxes.open() as box:
        async with box.spawn(["no-such-program-anywhere"]) as process:
            with pytest.raises(anyio.EndOfStream):
                await process.receive()
            assert (await process.wait()).reason == "refused"
        with pytest.raises(SpecError):
            async with box.spawn(["echo", "\0"]):
                pass


async def test_kill_is_not_mistaken_for_an_exit(boxes: Boxes) -> None:
    """`kill` ends the program and its children, and `wait` says that we did it."""
    marker = f"310.{secrets.randbelow(10**9)}"
    async with boxes.open() as box, box.spawn(["sh", "-c", f"sleep {marker} & sleep {marker}"]) as process:
        await until(lambda: len(processes(marker)) >= 2)
        await process.kill()
        assert (await process.wait()).reason == "killed"
        await until(lambda: not processes(marker))


async def test_leaving_the_block_does_not_leave_the_program(boxes: Boxes) -> None:
    """By its end, by an exception or by cancellation: when the block is left, the program is dead."""
    marker = f"311.{secrets.randbelow(10**9)}"
    argv = ["sh", "-c", f"sleep {marker} & sleep {marker}"]
    async with boxes.open() as box:
        async with box.spawn(argv):
            await until(lambda: len(processes(marker)) >= 2)
        await until(lambda: not processes(marker))
        with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is what is tested
            async with box.spawn(argv):
                await until(lambda: len(processes(marker)) >= 2)
                raise ZeroDivisionError
        await until(lambda: not processes(marker))
        with anyio.CancelScope() as scope:
            async with box.spawn(argv):
                await until(lambda: len(processes(marker)) >= 2)
                scope.cancel()
                await anyio.sleep_forever()
        await until(lambda: not processes(marker))


async def test_leaving_the_sandbox_does_not_leave_its_programs(boxes: Boxes) -> None:
    """The container's end is the end of everything in it."""
    marker = f"312.{secrets.randbelow(10**9)}"
    async with boxes.open() as box, anyio.create_task_group() as tasks:
        tasks.start_soon(box.run, ["sh", "-c", f"sleep {marker} & sleep {marker}"])
        await until(lambda: len(processes(marker)) >= 2)
        tasks.cancel_scope.cancel()
    await until(lambda: not processes(marker))


async def test_output_is_not_lost_on_a_slow_reader(boxes: Boxes) -> None:
    """A program that has ended long ago still gives up every byte it wrote, however late the reader comes."""
    size = 1_900_000
    async with boxes.open() as box:
        async with box.spawn(["sh", "-c", f"head -c {size} /dev/zero; echo ended >&2"]) as process:
            await until(lambda: process._channel._granted <= 0)
            await anyio.sleep(2.5)  # beyond the guest's DRAIN_S, on its own clock: nothing to poll for
            count = 0
            with anyio.fail_after(10):
                try:
                    while True:
                        stream, chunk = await process.receive()
                        count += len(chunk) if stream == 1 else 0
                except anyio.EndOfStream:
                    pass
        assert process.outcome is not None
        assert process.outcome.ok
        assert count == size


async def test_send_to_a_dead_program_does_not_hang(boxes: Boxes) -> None:
    """Input for nobody is dropped."""
    async with boxes.open() as box, box.spawn(["true"]) as process:
        with anyio.fail_after(15):
            await process.wait()
            await process.send(bytes(4 * 1024**2))
            await process.end_stdin()


async def test_program_that_closes_its_stdin_does_not_stall_the_sender(boxes: Boxes) -> None:
    """Bytes that a living program refuses to read are dropped too."""
    async with boxes.open() as box, box.spawn(["sh", "-c", "exec 0<&-; echo closed; exec sleep 60"]) as process:
        assert await line(process) == b"closed\n"
        with anyio.fail_after(15):
            await process.send(bytes(4 * 1024**2))


async def test_whoever_is_cancelled_with_the_whole_sandbox_waits_in_vain(boxes: Boxes) -> None:
    """A cancellation from outside of the sandbox: leaving a program still ends it and hears so, over a stream that is read."""
    with anyio.CancelScope() as outside:
        async with boxes.open() as box, box.spawn(["sleep", "600"]) as process:
            outside.cancel()
            await anyio.sleep_forever()
    assert outside.cancelled_caught
    assert process.outcome is not None
    assert process.outcome.signal == 9


async def test_many_programs_at_once_do_not_mix_their_streams(boxes: Boxes) -> None:
    """Thirty conversations over one stream stay thirty."""

    async def talk(number: int) -> None:
        async with box.spawn(["cat"]) as process:
            for turn in range(5):
                await process.send(b"%d-%d\n" % (number, turn))
                assert await line(process) == b"%d-%d\n" % (number, turn)

    async with boxes.open() as box:
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                for number in range(30):
                    tasks.start_soon(talk, number)
