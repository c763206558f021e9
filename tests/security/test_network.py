"""No packet leaves a sandbox: there is no interface to leave by."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from sandbox import Sandbox
from tests.security.attack import report

pytestmark = pytest.mark.docker

UNREACHABLE = {"ENETUNREACH", "EADDRNOTAVAIL", "EPERM", "EPROTONOSUPPORT"}


@pytest.fixture
def listening() -> Iterator[int]:
    """A port of the host, open on every address."""
    with socket.create_server(("", 0)) as server:
        yield int(server.getsockname()[1])


@pytest.mark.probe("41", "43", "44", "45")
async def test_a_host_on_the_internet_or_the_machine_answers(box: Sandbox, listening: int) -> None:
    """TCP and UDP to public, private, metadata and link-local addresses, IPv4 and IPv6, are unreachable at once (41, 43, 45).

    The control: a server of the sandbox's own, on its own loopback, answers.
    """
    seen = await report(
        box,
        r"""
def reach(family, kind, address, port):
    with socket.socket(family, kind) as one:
        one.settimeout(3)
        one.connect((address, port))
        if kind == socket.SOCK_DGRAM:
            one.send(b"secret")
began = time.monotonic()
for address in ("1.1.1.1", "8.8.8.8", "169.254.169.254", "100.100.100.200", "172.17.0.1", "10.0.0.1", "192.168.0.1", "224.0.0.1",
                "255.255.255.255"):
    for kind, name in ((socket.SOCK_STREAM, "tcp"), (socket.SOCK_DGRAM, "udp")):
        attempt(name + " " + address, lambda: reach(socket.AF_INET, kind, address, 443))
for address in ("2606:4700:4700::1111", "fd00:ec2::254", "fe80::1", "ff02::1", "::ffff:1.1.1.1"):
    for kind, name in ((socket.SOCK_STREAM, "tcp"), (socket.SOCK_DGRAM, "udp")):
        attempt(name + " " + address, lambda: reach(socket.AF_INET6, kind, address, 443))
attempt("ping", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP).connect(("1.1.1.1", 0)))
attempt("raw", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
seen["took"] = time.monotonic() - began
attempt("host port", lambda: reach(socket.AF_INET, socket.SOCK_STREAM, "127.0.0.1", int(sys.argv[1])))
server = socket.create_server(("127.0.0.1", 0))
attempt("control", lambda: reach(socket.AF_INET, socket.SOCK_STREAM, "127.0.0.1", server.getsockname()[1]))
""",
        str(listening),
        timeout_s=60,
    )
    assert (seen.pop("control"), seen.pop("host port")) == ("done", "ECONNREFUSED")
    assert seen.pop("took") < 3
    broadcast = {n: e for n, e in seen.items() if n.endswith("255.255.255.255")}
    assert set(broadcast.values()) <= UNREACHABLE | {"EACCES"}
    assert {n: e for n, e in seen.items() if e not in UNREACHABLE and n not in broadcast} == {"ping": "EACCES"} or seen[
        "ping"
    ] in UNREACHABLE
    assert {n for n, e in seen.items() if e == "done"} == set()


@pytest.mark.probe("42", "43")
async def test_a_name_is_resolved_or_leaks_data(box: Sandbox) -> None:
    """No name resolves and no query leaves, through the library or by hand; the host's own names are unknown (42, 43)."""
    seen = await report(
        box,
        r"""
servers = [line.split()[1] for line in read("/etc/resolv.conf").splitlines() if line.startswith("nameserver")]
for name in ("example.com", "data-in-a-name.example.com", "host.docker.internal", "metadata.google.internal"):
    try:
        seen[name] = str(socket.getaddrinfo(name, 443))
    except socket.gaierror:
        seen[name] = "unknown"
def ask(server):
    with socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.sendto(b"\0" * 12, (server, 53))
for server in {*servers, "8.8.8.8"} - {"127.0.0.11"}:
    attempt("ask " + server, lambda: ask(server))
seen["localhost"] = str(bool(socket.getaddrinfo("localhost", 80)))
""",
        timeout_s=60,
    )
    assert seen.pop("localhost") == "True"
    assert {n: e for n, e in seen.items() if e not in UNREACHABLE | {"unknown"}} == {}


@pytest.mark.probe("33", "42")
async def test_an_interface_or_a_route_can_be_made(box: Sandbox) -> None:
    """There is a loopback and nothing else: no interface, no route, no neighbour, and none can be added (42)."""
    seen = await report(
        box,
        r"""
import fcntl, struct
seen["interfaces"] = sorted(os.listdir("/sys/class/net"))
seen["routes"] = len(read("/proc/net/route").splitlines()) - 1
control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
name = struct.pack("16sH14s", b"lo", socket.AF_INET, socket.inet_aton("10.9.9.9") + bytes(10))
attempt("address", lambda: fcntl.ioctl(control, 0x8916, name))
attempt("tun", lambda: os.open("/dev/net/tun", os.O_RDWR))
attempt("bridge", lambda: fcntl.ioctl(control, 0x89A0, b"evil\0"))
""",
    )
    assert (seen["interfaces"], seen["routes"]) == (["lo"], 0)
    assert (seen["address"], seen["tun"], seen["bridge"]) == ("EPERM", "ENOENT", "EPERM")
