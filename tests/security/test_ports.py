"""The one port that the host answers, abused by everything that can connect to it."""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import pytest

from sandbox import Connection, Sandbox
from tests.security.attack import report
from tests.support.boxes import until

pytestmark = pytest.mark.docker

MIB = 1024 * 1024


def resident_bytes() -> int:
    """Memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Echo:
    """Sends back what it hears, and counts."""

    def __init__(self) -> None:
        self.now = self.most = self.served = self.bytes = 0

    async def __call__(self, connection: Connection) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            while True:
                chunk = await connection.receive()
                self.bytes += len(chunk)
                await connection.send(chunk[:16])
        finally:
            self.now -= 1
            self.served += 1


async def still_served(box: Sandbox, port: int) -> None:
    """An ordinary program is answered, and commands run."""
    program = (
        "import socket,sys; c=socket.create_connection(('127.0.0.1',int(sys.argv[1])),10); c.sendall(b'hi'); print(c.recv(9))"
    )
    outcome = await box.run(["python3", "-I", "-c", program, str(port)], timeout_s=15)
    assert outcome.stdout.text.strip() == "b'hi'", outcome


@pytest.mark.probe("47")
async def test_ten_thousand_connections_exhaust_the_host(box: Sandbox) -> None:
    """However many are made and left open, the host has at most as many as it wanted, and none when they are gone."""
    echo = Echo()
    before = resident_bytes()
    async with box.serve(echo, max_connections=4) as port:
        seen = await report(
            box,
            r"""
port, held, made = int(sys.argv[1]), [], 0
served = [socket.create_connection(("127.0.0.1", port), 10) for _ in range(4)]
for one in served:
    one.sendall(b"x")
seen["served"] = [one.recv(1).decode() for one in served]
for _ in range(10_000):
    one = socket.socket()
    one.setblocking(False)
    try:
        one.connect(("127.0.0.1", port))
    except BlockingIOError:
        pass
    held.append(one)
    made += 1
    if len(held) > 200:
        held.pop(0).close()
seen["made"] = made
""",
            str(port),
            timeout_s=20,
        )
        assert seen == {"served": ["x"] * 4, "made": 10_000}
        await until(lambda: echo.now == 0, timeout_s=20)
        await still_served(box, port)
    assert echo.most == 4
    assert resident_bytes() - before < 64 * MIB


@pytest.mark.probe("47")
async def test_a_gibibyte_fills_the_hosts_memory(box: Sandbox) -> None:
    """A handler that takes its time holds the sender back; what waits is bounded, whatever is offered."""
    taken = 0
    slow = anyio.Event()

    async def sip(connection: Connection) -> None:
        nonlocal taken
        while not slow.is_set():
            if taken < MIB:
                taken += len(await connection.receive())
            else:
                await slow.wait()

    before = resident_bytes()
    async with box.serve(sip) as port:
        seen = await report(
            box,
            r"""
one = socket.create_connection(("127.0.0.1", int(sys.argv[1])), 10)
one.settimeout(2)
block, sent = bytes(1 << 20), 0
try:
    while sent < 1 << 30:
        sent += one.send(block)
except TimeoutError:
    pass
seen["sent"] = sent
""",
            str(port),
        )
        assert 2 * MIB < seen["sent"] < 32 * MIB  # the handler's, one window, the kernel's buffers
        assert resident_bytes() - before < 32 * MIB
        slow.set()


@pytest.mark.probe("47")
async def test_half_open_and_broken_connections_are_kept(box: Sandbox) -> None:
    """Reset, half-closed, silent, or full of garbage: each ends by itself or with its program, and holds up nobody."""
    echo = Echo()
    async with box.serve(echo) as port:
        seen = await report(
            box,
            r"""
import struct
port = int(sys.argv[1])
def connect():
    return socket.create_connection(("127.0.0.1", port), 10)
def reset():
    one = connect()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.sendall(b"x")
    one.close()
def half():
    one = connect()
    one.shutdown(socket.SHUT_WR)
    return one.recv(9).decode()
def deaf():
    one = connect()
    one.shutdown(socket.SHUT_RD)
    one.sendall(b"x" * 100_000)
    one.close()
def garbage():
    one = connect()
    one.sendall(os.urandom(500_000))
    one.shutdown(socket.SHUT_WR)
    while one.recv(65536):
        pass
for _ in range(20):
    attempt("reset", reset)
    attempt("half", half)
    attempt("deaf", deaf)
    attempt("garbage", garbage)
silent = [connect() for _ in range(8)]
seen["out of band"] = connect().send(b"!", socket.MSG_OOB)
""",
            str(port),
        )
        assert seen == {"reset": "done", "half": "", "deaf": "done", "garbage": "done", "out of band": 1}
        await until(lambda: echo.now == 0, timeout_s=20)
        await still_served(box, port)
    assert echo.served > 80


@pytest.mark.probe("44", "47")
async def test_the_port_is_taken_over_or_leads_elsewhere(box: Sandbox) -> None:
    """Nobody inside can listen in its place; it answers on the loopback alone; everything else stays unreachable."""
    async with box.serve(Echo()) as port:
        seen = await report(
            box,
            r"""
port = int(sys.argv[1])
def listen(address, *options):
    with socket.socket() as one:
        for option in options:
            one.setsockopt(socket.SOL_SOCKET, option, 1)
        one.bind((address, port))
        one.listen()
for address in ("127.0.0.1", "0.0.0.0"):
    attempt("plain " + address, lambda: listen(address))
    attempt("reuse " + address, lambda: listen(address, socket.SO_REUSEADDR, socket.SO_REUSEPORT))
for address in ("1.1.1.1", "172.17.0.1", "169.254.169.254"):
    attempt(address, lambda: socket.create_connection((address, port), 2))
seen["interfaces"] = sorted(os.listdir("/sys/class/net"))
""",
            str(port),
        )
        await still_served(box, port)
    assert seen.pop("interfaces") == ["lo"]
    taken = {name: seen.pop(name) for name in list(seen) if name[0] in "pr"}
    assert set(taken.values()) == {"EADDRINUSE"}
    assert set(seen.values()) == {"ENETUNREACH"}
