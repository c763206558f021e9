"""Images are other people's: their settings are overridden, and links at the places where things are mounted lead nowhere."""

from __future__ import annotations

import io
import os
import secrets
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from sandbox import Engine, Mount, Sandbox, SandboxError, SandboxSpec, SpecError
from tests.security.attack import SMALL, portrait, report
from tests.security.conftest import own
from tests.support import imagefile

pytestmark = pytest.mark.docker

SETTINGS = """
USER root
ENV LD_PRELOAD=/evil.so PYTHONPATH=/evil
VOLUME /evil
HEALTHCHECK --interval=1s CMD touch /workspace/healthy
WORKDIR /usr
ENTRYPOINT ["sh", "-c", "touch /workspace/started; exec \\"$0\\" \\"$@\\""]
"""


def build(base: str, links: dict[str, str]) -> str:
    """An image with bad settings, and links in the place of folders."""
    return built(f"FROM {base}\nADD layer.tar /\n{SETTINGS}".encode(), links)


def built(dockerfile: bytes, links: dict[str, str]) -> str:
    """An image of a Dockerfile, which finds the links as `layer.tar`."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for name, target in links.items():
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            tar.addfile(link)
    return imagefile.built(f"massgen-hostile:{secrets.token_hex(6)}", dockerfile, layer.getvalue())


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A folder of the host that anybody may write, with a file in it."""
    folder = tmp_path / "victim"
    folder.mkdir()
    (folder / "file").write_text("original")
    own(folder)
    folder.chmod(0o777)
    return folder


@pytest.fixture
def hostile(image: str, victim: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """An image with links to `victim`; removed afterwards."""
    tag = build(image, {name: str(victim) for name in request.param.split()})
    yield tag
    subprocess.run(["docker", "image", "rm", "--force", tag], capture_output=True, check=True, timeout=60)


@pytest.mark.probe("39")
@pytest.mark.parametrize(
    "hostile", ["evil", "workspace peers .sandbox home/agent", "dev", "proc", "sys", "etc", "tmp run"], indirect=True
)
async def test_a_link_in_an_image_leads_a_mount_to_the_host(engine: Engine, hostile: str, victim: Path, tmp_path: Path) -> None:
    """Links in an image at the places of mounts are refused at the start, or stay inside: nothing on the host is made or read.

    What starts has the image's files alone: not its user, variables, entry point, health check or volumes.
    """
    (tmp_path / "read").mkdir()
    before = portrait(victim)
    mounts = (Mount(source=tmp_path / "read", mode="ro"),)
    spec = SandboxSpec(image=hostile, mounts=mounts, peers=tmp_path / "read", limits=SMALL)
    try:
        async with Sandbox.open(spec, engine=engine) as box:
            seen = await report(
                box,
                r"""
seen["uid"] = os.getuid()
seen["env"] = sorted(os.environ)
seen["ran"] = [n for n in ("started", "healthy") if os.path.lexists("/workspace/" + n)]
for name in ("/evil", "/workspace", "/peers", "/.sandbox", "/home/agent", "/dev", "/proc", "/sys", "/etc", "/tmp", "/run"):
    attempt("file of the host by " + name, lambda: read(name + "/file"))
attempt("file of the host", lambda: read(sys.argv[1] + "/file"))
attempt("made", lambda: write(sys.argv[1] + "/made", os.O_WRONLY | os.O_CREAT))
""",
                str(victim),
            )
    except SandboxError:
        assert portrait(victim) == before
        return
    assert portrait(victim) == before
    assert seen.pop("uid") == box.plan.uid
    assert (seen.pop("env"), seen.pop("ran")) == (["HOME", "LANG", "PATH"], [])
    assert {n: e for n, e in seen.items() if n.startswith("file") and e == "original"} == {}


def reachable(folder: Path) -> None:
    """Folders of tests are closed to others."""
    folder.chmod(0o755)


@pytest.mark.parametrize("where", ["of the image", "of a read path", "itself"])
async def test_a_path_that_nobody_inside_can_reach_is_shown(engine: Engine, image: str, tmp_path: Path, where: str) -> None:
    """A closed folder above a path, or the path itself, is named and refused with what to do: not shown as an empty one."""
    if os.getuid() != 0:
        pytest.skip("only root has folders that are closed to who runs inside")
    closed = tmp_path / "closed"
    (closed / "project").mkdir(parents=True)
    (closed / "project/file").write_text("x")
    closed.chmod(0o700)
    reachable(tmp_path)
    project = Mount(source=closed / "project", mode="draft")
    match where:
        case "of the image":
            named, mounts = "/srv/closed", (Mount(source=closed / "project", mode="ro", target="/srv/closed/project"),)
            tag = built(f"FROM {image}\nRUN mkdir -m 700 /srv/closed\n".encode(), {})
        case "of a read path":
            named, mounts, tag = str(closed), (Mount(source=tmp_path, mode="ro"), project), image
        case _:
            named, mounts, tag = str(closed), (Mount(source=closed, mode="ro"),), image
    try:
        with pytest.raises(SpecError, match=f"{named} is closed to uid 65532.*chmod"):
            async with Sandbox.open(SandboxSpec(image=tag, mounts=mounts, limits=SMALL), engine=engine):
                pass
    finally:
        if tag != image:
            await anyio.run_process(["docker", "image", "rm", "--force", tag])
