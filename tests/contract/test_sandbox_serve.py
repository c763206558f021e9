"""A port inside that the host answers: bytes both ways, bounded, and nobody waits for a stranger's connection."""

from __future__ import annotations

import hashlib
import json
import secrets

import anyio
import pytest

from sandbox import Connection, GuestError, LeaseError, Sandbox
from tests.support.boxes import Boxes, sha, until

CONNECT = "import socket, sys; one = socket.create_connection(('127.0.0.1', int(sys.argv[1])), 10); "
GREET = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 10) as one:
    one.sendall(sys.argv[2].encode())
    one.shutdown(socket.SHUT_WR)
    said = b""
    while chunk := one.recv(65536):
        said += chunk
    print(said.decode())
"""


async def shout(connection: Connection) -> None:
    """What is said, in capitals, once all of it was said."""
    said = b""
    try:
        while True:
            said += await connection.receive()
    except anyio.EndOfStream:
        await connection.send(said.upper())


async def greet(box: Sandbox, port: int, words: str) -> str:
    """A program inside says something and prints the answer."""
    outcome = await box.run(["python3", "-I", "-c", GREET, str(port), words], timeout_s=20)
    assert outcome.ok, outcome.stderr.text
    return outcome.stdout.text.strip()


async def test_a_program_inside_does_not_reach_the_host(boxes: Boxes) -> None:
    """Bytes arrive both ways, with the end of each; many connections at once keep their streams apart."""
    async with boxes.open() as box, box.serve(shout) as port:
        assert await greet(box, port, "hello") == "HELLO"
        answers: dict[str, str] = {}

        async def one(word: str) -> None:
            answers[word] = await greet(box, port, word)

        async with anyio.create_task_group() as tasks:
            for number in range(12):
                tasks.start_soon(one, f"number {number}")
    assert answers == {f"number {n}": f"NUMBER {n}" for n in range(12)}


async def test_a_port_does_not_outlive_its_block(boxes: Boxes) -> None:
    """Leaving closes the port and what is connected to it, and cancels the handlers; the number can be had again."""
    ended = anyio.Event()
    began = anyio.Event()

    async def forever(_: Connection) -> None:
        began.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    wait = CONNECT + "print(one.recv(9))"
    async with boxes.open() as box:
        async with anyio.create_task_group() as tasks:
            outcomes = []

            async def waits(port: int) -> None:
                outcomes.append(await box.run(["python3", "-c", wait, str(port)]))

            with anyio.fail_after(20):
                async with box.serve(forever) as port:
                    tasks.start_soon(waits, port)
                    await began.wait()
        assert ended.is_set()
        assert outcomes[0].stdout.text.strip() in ("b''", "")  # an end, or a reset
        assert (await box.run(["python3", "-c", wait, str(port)])).exit_code == 1
        async with box.serve(shout, port=port) as again:
            assert (again, await greet(box, port, "again")) == (port, "AGAIN")


async def test_a_taken_port_is_not_answered_by_another(boxes: Boxes) -> None:
    """A port that somebody has is refused with its reason, not replaced."""
    async with boxes.open() as box, box.serve(shout) as port:
        with pytest.raises(GuestError, match="in use"):
            async with box.serve(shout, port=port):
                pass
        assert await greet(box, port, "still") == "STILL"


async def test_an_error_of_the_handler_is_not_swallowed(boxes: Boxes) -> None:
    """A bug on the host is heard of on the host, as itself."""

    async def broken(_: Connection) -> None:
        raise ZeroDivisionError

    async with boxes.open() as box:
        with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is what is tested
            async with box.serve(broken) as port:
                await greet(box, port, "hello")
                await anyio.sleep(10)


async def test_a_peer_that_hangs_up_is_not_an_error(boxes: Boxes) -> None:
    """The handler's next word to it ends the handler, and nothing else."""
    over = anyio.Event()

    async def talk(connection: Connection) -> None:
        try:
            while True:
                await connection.send(bytes(65536))
        finally:
            over.set()

    leave = CONNECT + "one.recv(9); one.close()"
    async with boxes.open() as box, box.serve(talk) as port:
        assert (await box.run(["python3", "-c", leave, str(port)])).ok
        with anyio.fail_after(10):
            await over.wait()
        assert (await box.run(["true"])).ok


async def test_a_peer_that_does_not_read_holds_up_others(boxes: Boxes) -> None:
    """A connection whose peer takes nothing stops at its credit; others, commands too, go on at their own pace."""
    stuck = anyio.Event()

    async def pour(connection: Connection) -> None:
        if await connection.receive(1) == b"p":
            with anyio.move_on_after(1):
                while True:
                    await connection.send(bytes(65536))
            stuck.set()
            await anyio.sleep_forever()
        await connection.send(b"QUICK")

    idle = CONNECT + "import time; one.sendall(b'p'); time.sleep(60)"
    async with boxes.open() as box, box.serve(pour) as port, box.spawn(["python3", "-c", idle, str(port)]):
        with anyio.fail_after(20):
            await stuck.wait()
            assert await greet(box, port, "q") == "QUICK"
            assert (await box.run(["true"])).ok


async def test_a_megabyte_is_not_torn(boxes: Boxes) -> None:
    """Large transfers in both directions at once arrive as they were sent."""
    size = 5_000_000
    content = secrets.token_bytes(size)
    heard: dict[str, str] = {}
    over = anyio.Event()

    async def both(connection: Connection) -> None:
        async def read() -> None:
            digest, left = hashlib.sha256(), size
            while left:
                chunk = await connection.receive()
                digest.update(chunk)
                left -= len(chunk)
            heard["host"] = digest.hexdigest()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            await connection.send(content)
        over.set()

    program = """
import hashlib, json, os, socket, sys, threading
one = socket.create_connection(("127.0.0.1", int(sys.argv[1])), 30)
mine = os.urandom(int(sys.argv[2]))
sender = threading.Thread(target=one.sendall, args=(mine,))
sender.start()
said = bytearray()
while len(said) < len(mine):
    said += one.recv(65536)
sender.join()
print(json.dumps([hashlib.sha256(mine).hexdigest(), hashlib.sha256(said).hexdigest()]))
"""
    async with boxes.open() as box, box.serve(both) as port:
        outcome = await box.run(["python3", "-c", program, str(port), str(size)], timeout_s=30)
        assert outcome.ok, outcome.stderr.text
        with anyio.fail_after(10):
            await over.wait()
    assert json.loads(outcome.stdout.text) == [heard["host"], sha(content)]


async def test_more_connections_than_wanted_are_not_taken(boxes: Boxes) -> None:
    """`max_connections` at a time, the others wait in the kernel and are served later; none is lost."""
    now = most = 0
    release = anyio.Event()

    async def count(connection: Connection) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await release.wait()
        await connection.send(b"served")
        now -= 1

    program = """
import socket, sys
ones = [socket.create_connection(("127.0.0.1", int(sys.argv[1])), 10) for _ in range(20)]
print("connected", flush=True)
print(sum(one.recv(9) == b"served" for one in ones))
"""
    async with boxes.open() as box, box.serve(count, max_connections=3) as port:
        with anyio.fail_after(30):
            async with box.spawn(["python3", "-c", program, str(port)]) as process:
                assert (await process.receive())[1] == b"connected\n"
                await until(lambda: now == 3)
                assert (await box.run(["true"])).ok
                assert now == 3
                release.set()
                assert (await process.receive())[1] == b"20\n"
                assert (await process.wait()).ok
    assert most == 3


async def test_the_port_is_not_open_where_nothing_runs(boxes: Boxes) -> None:
    """Under a lease to write no program runs, so nobody is served."""
    project = boxes.project(files={"a": "1"})
    async with boxes.open(lease=boxes.lease("", project)) as box:
        with pytest.raises(LeaseError):
            async with box.serve(shout):
                pass
