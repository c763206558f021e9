"""What an agent can put where a snapshot looks: nothing of the host comes out, nothing hangs, nothing is lost."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from sandbox import Engine, Entry, Mount, Sandbox, SandboxSpec, Snapshot, SnapshotError, Store
from tests.security.attack import MIB, SMALL, report
from tests.security.conftest import own

pytestmark = pytest.mark.docker

LIMITS = replace(SMALL, memory_bytes=256 * MIB, workspace_bytes=64 * MIB, inodes=150_000, command_timeout_s=60)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A draft's source."""
    top = tmp_path_factory.mktemp("project").resolve()
    (top / "src/inner").mkdir(parents=True)
    for name in ("src/a", "src/inner/b", "c"):
        (top / name).write_text(name)
    os.utime(top / "c", (-5_000_000_000, -5_000_000_000))
    own(top)
    return top


@pytest.fixture
async def hostile(engine: Engine, image: str, project: Path) -> AsyncIterator[Sandbox]:
    """A fresh sandbox with a draft."""
    mounts = (Mount(source=project, mode="draft"),)
    async with Sandbox.open(SandboxSpec(image=image, mounts=mounts, limits=LIMITS), engine=engine) as opened:
        yield opened


def found(snapshot: Snapshot) -> dict[str, Entry]:
    """Entries by path."""
    return {entry.path: entry for entry in snapshot.entries}


@pytest.mark.probe("73", "75")
async def test_a_link_is_followed_out_of_a_draft(hostile: Sandbox, project: Path, store: Store) -> None:
    """Links to files, folders, the guest's /proc and themselves are kept as text; hard links come as bytes (73, 75)."""
    await report(
        hostile,
        r"""
top = sys.argv[1]
os.chdir(top)
for name, target in {"passwd": "/etc/passwd", "etc": "/etc", "hop": "/proc/self", "one": "/proc/1/environ", "loop": "loop",
                     "up": "../../../../etc/shadow", "long": "x" * 4000, "nothing": "nowhere"}.items():
    os.symlink(target, name)
os.system("mv src moved"); os.symlink("/etc", "src")  # rename(2) of a folder is refused in an overlay draft
os.link("c", "hard")
attempt("far", lambda: os.link("/etc/passwd", "linked"))
""",
        str(project),
    )
    snapshot = await hostile.snapshot(store)
    entries = found(snapshot)
    assert {n: e.target for n, e in entries.items() if e.kind == "link"} == {
        "passwd": "/etc/passwd", "etc": "/etc", "hop": "/proc/self", "one": "/proc/1/environ", "loop": "loop",
        "up": "../../../../etc/shadow", "long": "x" * 4000, "nothing": "nowhere", "src": "/etc",
    }  # fmt: skip
    assert {n for n in entries if n.startswith(("etc/", "hop/", "src/")) and entries[n].kind != "gone"} == set()
    assert store.get(entries["hard"].sha256) == b"c"
    blobs = [store.get(e.sha256) for e in snapshot.entries if e.kind == "file"]
    assert not any(b"root:" in blob or b"agent:" in blob for blob in blobs)


@pytest.mark.probe("74", "81")
async def test_a_folder_is_swapped_for_a_link_while_it_is_read(hostile: Sandbox, store: Store) -> None:
    """Exchanging a folder with a link to /etc in a loop, or rewriting a file, gets no foreign or torn byte in (74, 81)."""
    program = r"""
import ctypes, os, threading
libc = ctypes.CDLL(None)
os.makedirs("/workspace/d/ssl"); os.symlink("/etc", "/workspace/l")
for name in ("passwd", "hostname"):
    open("/workspace/d/" + name, "w").write("mine")
open("/workspace/ready", "w").close()
fd = os.open("/workspace/torn", os.O_CREAT | os.O_RDWR)
def rewrite():
    while True:
        for byte in (b"a", b"b"):
            os.pwrite(fd, byte * (1 << 20), 0)
threading.Thread(target=rewrite).start()
print("go", flush=True)
while True:
    libc.syscall(316 if os.uname().machine == "x86_64" else 276, -100, b"/workspace/d", -100, b"/workspace/l", 2)
"""
    async with hostile.spawn(["python3", "-c", program]) as swapper:
        await swapper.receive()
        shapes: set[str] = set()
        for _ in range(12):
            snapshot = await hostile.snapshot(store)
            entries = found(snapshot)
            folder = next(name for name in ("d", "l") if entries[name].kind == "dir")
            shapes.add(folder)
            assert store.get(entries[f"{folder}/passwd"].sha256) == b"mine"
            assert {n for n in entries if "/" in n} == {f"{folder}/{n}" for n in ("passwd", "hostname", "ssl")}
            torn = store.get(entries["torn"].sha256)
            assert len(torn) == entries["torn"].size
            await anyio.sleep(0.01)
        assert shapes == {"d", "l"}  # the control: it did swap meanwhile


@pytest.mark.probe("76", "85")
async def test_a_pipe_or_a_device_hangs_a_snapshot(hostile: Sandbox, store: Store) -> None:
    """FIFOs, sockets and whiteouts are not entries, do not block, and delete nothing; `.wh.` names are plain names (76, 85)."""
    await report(
        hostile,
        r"""
os.chdir("/workspace")
os.mkfifo("fifo")
socket.socket(socket.AF_UNIX).bind("socket")
attempt("whiteout", lambda: os.mknod("whiteout", stat.S_IFCHR, os.makedev(0, 0)))
for name in (".wh.src", ".wh..wh..opq", "real"):
    open(name, "w").close()
attempt("opaque", lambda: os.setxattr("real", b"user.overlay.opaque", b"y"))
attempt("trusted", lambda: os.setxattr("real", b"trusted.overlay.opaque", b"y"))
""",
    )
    with anyio.fail_after(10):
        snapshot = await hostile.snapshot(store)
    assert {(e.path, e.kind) for e in snapshot.entries} == {(n, "file") for n in (".wh.src", ".wh..wh..opq", "real")}


@pytest.mark.probe("58", "77")
async def test_a_file_that_claims_to_be_huge_fills_the_host(hostile: Sandbox, store: Store) -> None:
    """Files of 3 GiB without a block are refused at once, and the sandbox goes on; one of 32 MiB is taken, as a hole (77, 58).

    One alone of 1 TiB ends who makes it, where drafts are overlays, and else is refused like the many.
    """
    await hostile.run(["truncate", "-s", "1T", "/workspace/huge"])
    many = "for n in $(seq 100); do truncate -s 32M huge$n; done"
    assert (await hostile.run(["sh", "-c", many])).ok
    async with hostile.spawn(["sh", "-c", "while sleep 0.1; do echo alive; done"]) as alive:
        with pytest.raises(SnapshotError, match=r"not taken.*/workspace/huge"):
            await hostile.snapshot(store)
        with anyio.fail_after(5):  # whoever was stopped for the refused snapshot goes on
            for _ in range(3):
                assert (await alive.receive())[0] == 1
    assert list((store.folder / "blobs").rglob("?*/*")) == []
    await hostile.run(["sh", "-c", "rm huge*; truncate -s 32M /workspace/sparse"])
    (entry,) = (await hostile.snapshot(store)).entries
    assert (entry.size, store.get(entry.sha256).count(0)) == (32 * MIB, 32 * MIB)
    assert store.path(entry.sha256).stat().st_blocks == 0, "nothing travelled, nothing was written"


@pytest.mark.probe("78")
async def test_a_tree_without_end_takes_the_host_down(hostile: Sandbox, store: Store) -> None:
    """More paths than the budget, or longer ones in all, are a typed error; what lies too deep is named as left out (78)."""
    seen = await report(
        hostile,
        r"""
deep = 0
os.chdir("/workspace")
try:
    while deep < 3000:
        os.mkdir("d" * 50); os.chdir("d" * 50); deep += 1
except OSError:
    pass
seen["deep"] = deep
""",
        timeout_s=60,
    )
    assert seen["deep"] > 1000
    with anyio.fail_after(30):
        snapshot = await hostile.snapshot(store)
    assert 3900 < max(len(e.path) for e in snapshot.entries) <= 4096
    (deep,) = snapshot.left_out
    assert deep.startswith("/workspace/ddd")
    long = (
        "import os\nos.chdir('/workspace')\n"
        "for n in range(70): os.chdir('d' * 50)\n"
        "for n in range(9_500): os.symlink('x' * 4000, str(n))"
    )
    assert (await hostile.run(["python3", "-c", long])).ok
    with anyio.fail_after(60), pytest.raises(SnapshotError, match="names of what changed"):
        await hostile.snapshot(store)
    many = "import os\nos.mkdir('/tmp/m')\nos.chdir('/workspace')\nfor n in range(101_000): os.close(os.open(str(n), os.O_CREAT))"
    assert (await hostile.run(["python3", "-c", many])).ok
    with anyio.fail_after(60), pytest.raises(SnapshotError, match="more than 100000"):
        await hostile.snapshot(store)
    assert (await hostile.run(["true"])).ok


@pytest.mark.probe("79")
async def test_a_name_that_is_not_text_is_lost_or_mangled(hostile: Sandbox, store: Store, engine: Engine, image: str) -> None:
    """Newlines, escapes, bidi marks, dashes, stars and bytes that are no UTF-8 come out as they are and go back in (79)."""
    names = [
        b"new\nline",
        b"\x1b]52;c;evil\x07",
        "\u202etxt.exe".encode(),
        b"-rf",
        b"*",
        b" ",
        b"\xff\xfe",
        b"\xed\xa0\x80",
        b"n" * 255,
        b"\\",
    ]
    await report(
        hostile,
        "os.chdir('/workspace')\nfor n in json.loads(sys.argv[1]): open(bytes.fromhex(n), 'wb').write(bytes.fromhex(n))",
        str([n.hex() for n in names]).replace("'", '"'),
    )
    snapshot = await hostile.snapshot(store)
    assert {os.fsencode(e.path) for e in snapshot.entries} == set(names)
    assert all(store.get(e.sha256) == os.fsencode(e.path) for e in snapshot.entries)
    assert Snapshot.from_json(snapshot.to_json()).id == snapshot.id
    async with Sandbox.open(SandboxSpec(image=image, limits=LIMITS), engine=engine) as other:
        await other.apply(snapshot, store)
        seen = await report(other, "seen['names'] = sorted(n.hex() for n in os.listdir(b'/workspace'))")
    assert seen["names"] == sorted(n.hex() for n in names)


@pytest.mark.probe("80")
async def test_a_git_folder_in_another_spelling_gets_out(hostile: Sandbox, store: Store, project: Path) -> None:
    """`.git` in any case, with ignorable characters or as a DOS name, is in no snapshot; a `.gitignore` is (80, 92)."""
    spellings = (".git", ".GIT", ".Git", ".g\u200cit", ".git.", ".git ", "GIT~1", "git~1")
    await report(
        hostile,
        r"""
os.chdir(sys.argv[1])
for name in sys.argv[2:]:
    os.makedirs("src/" + name + "/hooks"); open("src/" + name + "/hooks/pre-commit", "w").close()
open(".gitignore", "w").close(); open("src/digit", "w").close()
""",
        str(project),
        *spellings,
    )
    assert {e.path for e in (await hostile.snapshot(store)).entries} == {".gitignore", "src/digit"}


@pytest.mark.parametrize("mode", [0o000, 0o444, 0o111, 0o555])
@pytest.mark.probe("83")
async def test_a_closed_folder_looks_like_a_deleted_one(hostile: Sandbox, store: Store, project: Path, mode: int) -> None:
    """What an agent made unreadable is not reported as gone, so a lease would not delete it; the snapshot still works (83).

    The control: a file that is really gone is reported.
    """
    script = f"rm c; echo new > /workspace/new; chmod {mode:o} src/inner src; chmod 000 /workspace/new"
    assert (await hostile.run(["sh", "-c", script], cwd=str(project))).ok
    snapshot = await hostile.snapshot(store)
    assert {e.path for e in snapshot.entries if e.kind == "gone"} == {"c"}
    assert snapshot.left_out == ("/workspace/new", *((f"{project}/src",) if mode != 0o555 else ()))


@pytest.mark.probe("16", "86")
async def test_a_strange_mode_or_time_gets_through(hostile: Sandbox, store: Store, project: Path) -> None:
    """Setuid, setgid and sticky bits are dropped; times before 1970 and after 2500 crash nobody (16, 86)."""
    await report(
        hostile,
        r"""
os.chdir(sys.argv[1])
seen["mtime"] = os.stat("c").st_mtime
for number, (name, mode) in enumerate({"u": 0o4755, "g": 0o2755, "t": 0o1755}.items()):
    open(name, "w").write(name); os.chmod(name, mode)
    os.utime(name, ns=((-1) ** number * 17_000_000_000 * 10**9,) * 2)
os.mkdir("shared"); os.chmod("shared", 0o3777)
""",
        str(project),
    )
    entries = found(await hostile.snapshot(store))
    assert {n: oct(e.mode) for n, e in entries.items()} == {"u": "0o755", "g": "0o755", "t": "0o755", "shared": "0o777"}


@pytest.mark.probe("84")
async def test_a_link_in_a_store_leads_the_host_elsewhere(hostile: Sandbox, store: Store) -> None:
    """Applying a snapshot over planted links replaces the links; nothing is written or removed through them (84)."""
    await report(
        hostile,
        r"""
os.chdir("/workspace")
os.mkdir("t"); open("t/keep", "w").write("keep")
""",
    )
    snapshot = await hostile.snapshot(store)
    await hostile.run(
        ["sh", "-c", "mkdir /tmp/target; echo mine > /tmp/target/keep; rm -r t; ln -s /tmp/target t"], cwd="/workspace"
    )
    await hostile.apply(snapshot, store)
    outcome = await hostile.run(["cat", "/tmp/target/keep", "t/keep"])
    assert outcome.stdout.text == "mine\nkeep"
