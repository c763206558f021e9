"""What a command does against its own deadline and limits, against its neighbours, and over time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sandbox import Engine, Lease, Mount, Sandbox, SandboxSpec
from tests.security.attack import SMALL, report
from tests.security.conftest import own
from tests.support.boxes import processes, until

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
async def tight(engine: Engine, image: str) -> AsyncIterator[Sandbox]:
    """A sandbox whose limits are reached in a moment."""
    async with Sandbox.open(SandboxSpec(image=image, limits=SMALL), engine=engine) as opened:
        yield opened


@pytest.mark.probe("71")
async def test_a_poisoned_path_or_clock_moves_a_deadline(tight: Sandbox) -> None:
    """With `timeout`, `sh`, `kill` and `python3` replaced in PATH and the clock out of reach, the deadline still holds."""
    fakes = "mkdir -p /tmp/bin; cd /tmp/bin; printf '#!/bin/bash\\nexec /bin/sleep 600\\n' > sh; chmod +x sh; "
    assert (await tight.run(["bash", "-c", fakes + "for n in timeout kill env python3 sleep; do cp sh $n; done"])).ok
    for command in (["python3", "-c", "pass"], ["bash", "-c", "timeout 1 true"]):
        outcome = await tight.run(command, env={"PATH": "/tmp/bin:/usr/bin:/bin"}, timeout_s=0.7)
        assert (outcome.reason, outcome.wall_s < 5) == ("timeout", True)
    seen = await report(
        tight,
        r"""
for clock in (0, 1, 7, 11):
    attempt("clock %d" % clock, lambda: time.clock_settime(clock, 0) if clock < 2 else call("clock_settime", clock, 0))
attempt("settimeofday", lambda: call("settimeofday", 0, 0))
attempt("adjtimex", lambda: call("adjtimex", 0))
attempt("rtc", lambda: os.open("/dev/rtc", os.O_RDWR))
attempt("time namespace", lambda: call("unshare", 0x80))
""",
    )
    assert {name: end for name, end in seen.items() if end not in ("EPERM", "ENOENT")} == {}
    assert (await tight.run(["true"])).ok


@pytest.mark.probe("72")
async def test_endless_work_or_an_archive_bomb_outgrows_the_limits(tight: Sandbox) -> None:
    """A regular expression that backtracks for ever meets the deadline, an archive that unpacks to gigabytes the full disk."""
    regexp = await tight.run(["python3", "-c", "import re; re.match(r'(a+)+$', 'a' * 64 + 'b')"], timeout_s=0.7)
    assert (regexp.reason, regexp.signal) == ("timeout", 9)
    bomb = r"""
import shutil, tarfile, zipfile
with zipfile.ZipFile("/tmp/bomb.zip", "w", zipfile.ZIP_DEFLATED) as made, made.open("zeros", "w") as zeros:
    for _ in range(256):
        zeros.write(bytes(1 << 20))
seen["packed"] = os.stat("/tmp/bomb.zip").st_size
attempt("unpack", lambda: zipfile.ZipFile("/tmp/bomb.zip").extractall("/workspace"))
os.unlink("/workspace/zeros")
seen["free"] = shutil.disk_usage("/workspace").free
"""
    seen = await report(tight, bomb)
    assert seen["unpack"] == "ENOSPC"
    assert seen["packed"] < 1 << 20
    assert seen["free"] > SMALL.workspace_bytes // 2
    in_memory = "import zlib; packed = zlib.compress(bytes(1 << 28)); zlib.decompress(packed)"
    assert (await tight.run(["python3", "-c", in_memory])).reason == "oom"
    assert (await tight.run(["true"])).ok


@pytest.mark.probe("58")
async def test_space_that_is_reserved_or_pretended_is_had(tight: Sandbox) -> None:
    """Reserving more than the cap is refused in every writable place; claiming a petabyte costs and gains nothing."""
    seen = await report(
        tight,
        r"""
for place in ("/workspace", "/tmp", "/home/agent", "/dev/shm"):
    path = place + "/big"
    fd = os.open(path, os.O_CREAT | os.O_RDWR)
    attempt("reserve " + place, lambda: os.posix_fallocate(fd, 0, 1 << 30))
    attempt("pretend " + place, lambda: os.ftruncate(fd, 1 << 50))
    seen["blocks " + place] = os.fstat(fd).st_blocks
    attempt("map " + place, lambda: __import__("mmap").mmap(fd, 1 << 44).close())
    os.close(fd); os.unlink(path)
""",
    )
    assert {e for n, e in seen.items() if n.startswith("reserve")} == {"ENOSPC"}
    assert {e for n, e in seen.items() if n.startswith("blocks")} == {0}
    assert (await tight.run(["true"])).ok


@pytest.mark.probe("24", "44")
async def test_a_neighbour_is_reached(tight: Sandbox, engine: Engine, image: str) -> None:
    """A port and an abstract socket of one sandbox are unknown in another, and so are its processes and shared memory (44)."""
    serve = r"""
import os, socket, time
abstract = socket.socket(socket.AF_UNIX); abstract.bind("\0neighbour"); abstract.listen()
port = socket.create_server(("127.0.0.1", 50044)); everywhere = socket.create_server(("0.0.0.0", 50045))
open("/dev/shm/neighbour", "w").close(); open("/tmp/neighbour", "w").close()
print(os.getpid(), flush=True); time.sleep(60)
"""
    look = r"""
def connect(family, address):
    with socket.socket(family) as one:
        one.settimeout(3); one.connect(address)
attempt("port", lambda: connect(socket.AF_INET, ("127.0.0.1", 50044)))
attempt("port everywhere", lambda: connect(socket.AF_INET, ("127.0.0.1", 50045)))
attempt("abstract", lambda: connect(socket.AF_UNIX, "\0neighbour"))
seen["files"] = [p for p in ("/dev/shm/neighbour", "/tmp/neighbour") if os.path.exists(p)]
seen["processes"] = sum(b"neighbour" in open("/proc/%s/cmdline" % p, "rb").read() for p in os.listdir("/proc") if p.isdigit()) - 1
"""
    spec = SandboxSpec(image=image, limits=SMALL)
    async with Sandbox.open(spec, engine=engine) as other, other.spawn(["python3", "-c", serve]) as server:
        await server.receive()
        inside = await report(other, look)
        beside = await report(tight, look)
    assert inside == {
        "port": "done", "port everywhere": "done", "abstract": "done",
        "files": ["/dev/shm/neighbour", "/tmp/neighbour"], "processes": 1,
    }  # fmt: skip
    assert beside == {
        "port": "ECONNREFUSED", "port everywhere": "ECONNREFUSED", "abstract": "ECONNREFUSED", "files": [], "processes": 0,
    }  # fmt: skip


@pytest.mark.probe("22")
async def test_a_descriptor_outlives_its_container(engine: Engine, image: str, tmp_path: Path) -> None:
    """Whoever wrote in a draft or under a lease, without pause, in daemons too, writes nothing once its container is gone."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "file").write_text("original")
    own(project)
    hold = (
        "import os, sys\nfd = os.open(sys.argv[1], os.O_RDWR)\nif os.fork() == 0:\n    os.setsid()\n    os.fork()\n"
        "print(flush=True)\nwhile True:\n    os.pwrite(fd, os.urandom(8), 0); os.fsync(fd)\n"
    )
    command = ["python3", "-c", hold, str(project / "file")]
    lease = Lease.grant(run_id="run", agent="agent1", snapshot_id="", purpose="direct", paths=(project,))
    for mounts, right in (((Mount(source=project, mode="draft"),), None), ((), lease)):
        spec = SandboxSpec(image=image, mounts=mounts, limits=SMALL)
        async with Sandbox.open(spec, engine=engine, lease=right) as box, box.spawn(command) as holder:
            assert (await holder.receive())[0] == 1
            if right:
                await until(lambda: (project / "file").read_bytes() != b"original")  # the control: it does write
        left = (project / "file").read_bytes()
        assert (left == b"original") is (right is None)
        assert processes(str(project / "file")) == []
        after = SandboxSpec(image=image, mounts=(Mount(source=project, mode="ro"),), limits=SMALL)
        async with Sandbox.open(after, engine=engine) as next_one:
            assert (await next_one.run(["true"])).ok
        assert (project / "file").read_bytes() == left
