"""What cannot work is refused before anything starts, with what it is and what next: by the library, the commands, a run."""

from __future__ import annotations

import io
import json
import os
import secrets
import socket
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sandbox import (
    DockerEngine,
    ImageMissing,
    Limits,
    Mount,
    Sandbox,
    SandboxSpec,
    SpecError,
    StartFailed,
    cache_folder,
    state_folder,
)
from tests.docker.engine_view import client
from tests.docker.test_exec import run as run_command
from tests.docker.test_probe import Counting
from tests.support import imagefile
from tests.support.user import User, agent, events, say

pytestmark = pytest.mark.docker

OLD = """#!/bin/sh
shift 2
exec python3.real -I -S -c 'import runpy, sys; sys.version_info = (3, 8, 20, "final", 0); runpy.run_path(sys.argv[1])' "$@"
"""


def imported(files: dict[str, str], base: str = "") -> str:
    """An image of these files alone, or of them on top of another."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for name, text in files.items():
            about = tarfile.TarInfo(name)
            about.size, about.mode = len(text), 0o755
            tar.addfile(about, io.BytesIO(text.encode()))
    tag = f"massgen-test-bad:{secrets.token_hex(6)}"
    if not base:
        subprocess.run(["docker", "import", "-", tag], input=layer.getvalue(), capture_output=True, check=True, timeout=60)
        return tag
    moved = "cp $(readlink -f /usr/bin/python3) /usr/bin/python3.real && rm /usr/bin/python3"
    dockerfile = f"FROM {base}\nRUN {moved}\nADD layer.tar /\n"
    return imagefile.built(tag, dockerfile.encode(), layer.getvalue())


@pytest.fixture(scope="module")
def images(image: str) -> Iterator[dict[str, str]]:
    """Images that no guest can live in."""
    made = {"empty": imported({"hello": "x"}), "old": imported({"usr/bin/python3": OLD}, image)}
    yield made
    subprocess.run(["docker", "image", "rm", "--force", *made.values()], capture_output=True, check=True, timeout=60)


@pytest.fixture
def bad(tmp_path: Path) -> dict[str, Path]:
    """Paths that cannot be meant."""
    base = tmp_path.resolve()
    (base / "project/inner").mkdir(parents=True)
    (base / "link").symlink_to(base / "project")
    (base / "out").symlink_to(Path.home())
    os.mkfifo(base / "fifo")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(base / "socket"))
    places = {
        "home": Path.home(),
        "root": Path("/"),
        "state": state_folder(),
        "cache": cache_folder(),
        "device": Path("/dev/null"),
    }
    named = {name: base / name for name in ("project", "link", "out", "fifo", "socket", "nowhere")}
    return named | {"inner": base / "project/inner"} | places


WRONG: dict[str, tuple[str, ...]] = {
    "nowhere": ("does not exist", "create it"),
    "socket": ("neither a folder nor a regular file", "name what"),
    "fifo": ("neither a folder nor a regular file", "name what"),
    "device": ("neither a folder nor a regular file", "name what"),
    "link": ("a link", "name what it points to"),
    "out": ("a link", "name what it points to"),
    "root": ("home folder, or holds it", "name the project folder"),
    "home": ("home folder, or holds it", "name the project folder"),
    "state": ("overlaps", "move one of them"),
    "cache": ("overlaps", "move one of them"),
}


@pytest.mark.parametrize("mode", ["ro", "draft"])
@pytest.mark.parametrize("name", WRONG)
async def test_a_mount_that_cannot_be_meant_starts_a_container(image: str, bad: dict[str, Path], name: str, mode: str) -> None:
    """In the library, by the path itself: nothing is started."""
    spec = SandboxSpec(image=image, mounts=(Mount(source=bad[name], mode=mode, target="/data"),))
    await refused(spec, SpecError, str(bad[name]), *WRONG[name])


async def refused(spec: SandboxSpec, kind: type[Exception], *words: str) -> None:
    """The error says all this, and no container was even asked for."""
    engine = Counting(await DockerEngine.connect())
    with pytest.raises(kind) as told:
        async with Sandbox.open(spec, engine=engine):
            pass
    assert [word for word in words if word not in str(told.value)] == [], told.value
    assert engine.started == 0


Spec = Callable[[SandboxSpec, dict[str, Path]], SandboxSpec]


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (lambda s, _: replace(s, image="no-such-image"), ImageMissing, ("no-such-image", "docker pull")),
        (
            lambda s, p: replace(s, mounts=(draft(p["project"]), draft(p["inner"]))),
            SpecError,
            ("overlap", "name only the outer one"),
        ),
        (
            lambda s, p: replace(s, mounts=(draft(p["project"]), Mount(source=p["inner"], mode="ro"))),
            SpecError,
            ("name only one",),
        ),
        (lambda s, p: replace(s, mounts=(draft(p["project"]), draft(p["project"]))), SpecError, ("overlap",)),
        (lambda s, _: replace(s, limits=Limits(memory_bytes=0)), SpecError, ("memory_bytes", "above zero")),
        (lambda s, _: replace(s, limits=Limits(pids=0)), SpecError, ("pids", "above zero")),
        (lambda s, _: replace(s, limits=Limits(cpus=4096)), SpecError, ("cpus", "processors", "at most")),
        (lambda s, _: replace(s, limits=Limits(memory_bytes=2**50)), SpecError, ("memory_bytes", "MiB", "at most")),
    ],
)
async def test_a_request_that_cannot_be_kept_starts_a_container(
    image: str, bad: dict[str, Path], change: Spec, kind: type[Exception], words: tuple[str, ...]
) -> None:
    """Images, overlaps and limits, in the library."""
    await refused(change(SandboxSpec(image=image), bad), kind, *words)


def draft(path: Path) -> Mount:
    return Mount(source=path, mode="draft")


@pytest.mark.parametrize(("name", "words"), [("empty", ("has no python3", "3.9 or newer")), ("old", ("3.8", "3.9 or newer"))])
async def test_an_image_without_a_usable_python_is_a_riddle(images: dict[str, str], name: str, words: tuple[str, ...]) -> None:
    """None at all, or an older one: the image is named, and what would do; no container stays."""
    with pytest.raises(StartFailed) as told:
        async with Sandbox.open(SandboxSpec(image=images[name]), engine=await DockerEngine.connect()):
            pass
    assert [word for word in (images[name], *words) if word not in str(told.value)] == [], told.value
    with client() as engine:
        assert engine.containers(all=True, filters={"ancestor": images[name]}) == []


@pytest.fixture
def user(tmp_path: Path, bad: dict[str, Path]) -> User:
    user = User(tmp_path / "home")
    (user.home / ".local/state/massgen").mkdir(parents=True)
    user.cwd = bad["project"]
    return user


@pytest.mark.parametrize("option", ["--read", "--write"])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("~", ("home folder", "name a folder in it")),
        ("/", ("home folder", "name a folder in it")),
        ("~/.local/state/massgen", ("its own files", "name another folder")),
        ("/usr/share", ("its own system", "copy what you need")),
    ],
)
def test_exec_shows_what_cannot_be_meant(
    user: User, bad: dict[str, Path], option: str, name: str, words: tuple[str, ...]
) -> None:
    """On the command line: exit code 2, one sentence, no traceback."""
    path = name.replace("~", str(user.home)) if name[0] in "~/" else str(bad[name])
    done = run_command(user, option, path, "--", "true")
    told = done.stderr.decode()
    assert (done.returncode, done.stdout) == (2, b""), told
    assert [word for word in (path, *words) if word not in told] == [], told
    assert "Traceback" not in told


@pytest.mark.parametrize("program", ["massgen", "sandbox"])
def test_exec_takes_overlapping_folders_or_an_unusable_image(user: User, images: dict[str, str], program: str) -> None:
    """What only the plan and the engine can tell: 2 for the request, 125 for the sandbox."""
    overlap = run_command(user, "--write", str(user.cwd), "--write", str(user.cwd / "inner"), "--", "true", program=program)
    assert (overlap.returncode, b"overlap" in overlap.stderr) == (2, True), overlap.stderr
    for name, word in (("empty", b"no python3"), ("old", b"3.8")):
        done = run_command(user, "--image", images[name], "--", "true", program=program)
        assert (done.returncode, word in done.stderr) == (125, True), done.stderr


@pytest.mark.parametrize(
    ("sandbox", "code", "words"),
    [
        ({"image": "no-such-image"}, 125, ("no-such-image", "massgen images build")),
        ({"image": "EMPTY"}, 125, ("has no python3",)),
        ({"cpus": 900}, 2, ("cpus", "at most")),
        ({"memory": "900t"}, 2, ("memory", "at most")),
        ({"runtime": "nosuch"}, 125, ("no runtime nosuch", "daemon.json")),
        ({"require": ["disk_quota"], "draft": "overlay"}, 125, ("disk_quota", "sandbox.require", "draft: copy")),
    ],
)
def test_a_run_begins_where_its_sandbox_cannot_be_had(
    user: User, images: dict[str, str], sandbox: dict[str, object], code: int, words: tuple[str, ...]
) -> None:
    """The exit code says whose move it is, the sentence what to do; no run was recorded, no agent started."""
    user.write("s.yaml", [say(answer="done"), *[say(vote="$own")] * 4, say(final="done")])
    sandbox = {key: images["empty"] if value == "EMPTY" else value for key, value in sandbox.items()}
    user.write("t.yaml", {"agents": [agent("a", "s.yaml")], "sandbox": sandbox})
    done = user.massgen("run", "q", "--config", "t.yaml", "--json", "--no-logs")
    assert (done.returncode, events(done)) == (code, []), done.stderr + done.stdout
    assert [word for word in words if word not in done.stderr] == [], done.stderr
    assert "Traceback" not in done.stderr
    assert not list((user.home / ".local/state/massgen").glob("runs/*"))


def test_doctor_says_twice_what_one_row_is_about(user: User) -> None:
    """A missing image is the fact, and the remedy is another sentence; a name that is none has its own."""
    for image, words in (("no-such-image:1", "docker pull no-such-image:1"), ("a b", "")):
        done = user.massgen("doctor", "--json", "--image", image)
        row = next(f for f in json.loads(done.stdout)["findings"] if f["name"] == "image")
        assert (done.returncode, row["state"], image in row["detail"]) == (1, "failed", True), row
        assert "massgen images build" not in row["detail"]
        assert words in row["remedy"]


def test_a_diff_of_nothing_is_silence(user: User) -> None:
    """On stderr, as stdout is a patch; exit code 0."""
    user.write("s.yaml", [say(answer="done"), *[say(vote="$own")] * 4, say(final="done")])
    user.write("t.yaml", {"agents": [agent("a", "s.yaml")]})
    assert user.massgen("run", "q", "--config", "t.yaml", "--no-logs").returncode == 0
    for options in ((), ("--stat",)):
        done = user.massgen("diff", *options)
        assert (done.returncode, done.stdout, "changed nothing" in done.stderr) == (0, "", True), done.stderr
