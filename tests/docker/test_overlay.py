"""Overlay drafts: the project stays as it is, what is withheld stays away, and nothing of one is left."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import anyio.to_thread
import docker
import pytest
from docker.utils import kwargs_from_env

from sandbox import AGENT_UID, WORKSPACE, DockerEngine, Limits, Link, Mount, SpecError, StartFailed, Store
from sandbox.engines.base import EngineFacts, ImageFacts
from sandbox.execute import Job, execute
from sandbox.facts import cache_folder
from sandbox.overlay import HOME, PREFIX
from sandbox.plan import Plan
from sandbox.views import bury, masked, unproven
from tests.support.boxes import OWNER, OverlayBoxes, picture
from tests.support.wrapped import Wrapped

pytestmark = pytest.mark.docker

SECRET = "canary-of-a-withheld-file"
WITHHELD = (".env", "deep/.env", ".git")


@pytest.fixture
async def boxes(image: str, tmp_path: Path) -> OverlayBoxes:
    """Overlay drafts of projects that belong to who runs inside."""
    return OverlayBoxes(await DockerEngine.connect(), image, tmp_path)


@pytest.fixture
def project(boxes: OverlayBoxes) -> Path:
    """A repository with withheld files, in its history too, and a token in its config."""
    root = boxes.project(files={".env": SECRET, "deep/.env": SECRET, "deep/shown": "x", "a": "a", "closed/in": "i"})
    for argv in (
        ("init", "-q"),
        ("add", "-A"),
        ("-c", "user.name=u", "-c", "user.email=u", "commit", "-qm", "with the secret"),
        ("remote", "add", "origin", f"https://user:{SECRET}@host.example/path"),
        ("config", "http.extraheader", SECRET),
    ):
        subprocess.run(["git", "-C", str(root), *argv], check=True, capture_output=True)
    (root / "closed").chmod(0o500)
    return root


def layers() -> set[Path]:
    """Folders of overlays that this process made."""
    mine = f"{os.getpid()}:"
    return {f.parent for f in HOME.glob(f"{PREFIX}*/owner") if f.read_text().startswith(mine)}


async def test_an_attack_from_inside_changes_the_project(boxes: OverlayBoxes, project: Path) -> None:
    """Whatever is done in a draft, marks of layers planted by hand included, the project is the same before and after."""
    attack = (
        "import os, stat, subprocess\n"
        "for work in (lambda: os.mknod('w', stat.S_IFCHR, 0), lambda: os.setxattr('deep', 'user.overlay.opaque', b'y'),\n"
        "             lambda: os.rename('deep', 'moved'), lambda: open('/.sandbox/layers/0/upper/x', 'w')):\n"
        "    try: work()\n"
        "    except OSError: pass\n"
        "subprocess.run('echo > .wh.a; rm -rf deep .git; mkdir deep; echo > a; chmod 700 closed; rm -r closed', shell=True)\n"
    )
    async with boxes.open(Mount(source=project, mode="draft", withhold=WITHHELD), cwd=str(project)) as box:
        before = picture(project)
        assert (await box.run(["python3", "-c", attack])).ok
        store = Store(boxes.folder / "store")
        kinds = {e.path: e.kind for e in (await box.snapshot(store)).without(WORKSPACE).entries}
    assert picture(project) == before
    assert kinds == {".wh.a": "file", "a": "file", "deep/shown": "gone", "closed": "gone", "closed/in": "gone"}


@pytest.mark.parametrize("git", ["hide", "fresh"])
async def test_withheld_content_is_reached_by_another_path(boxes: OverlayBoxes, project: Path, git: str) -> None:
    """No file that a walk of the whole container reaches, git's objects included, holds a withheld file's content."""
    look = (
        "import os, subprocess, sys\n"
        "word, found = sys.argv[1].encode(), []\n"
        "for base, _, names in os.walk('/'):\n"
        "    if base.startswith(('/proc', '/sys')): continue\n"
        "    for name in names:\n"
        "        place = os.path.join(base, name)\n"
        "        if os.path.isfile(place) and not os.path.islink(place):\n"
        "            try: found += [place] * (word in open(place, 'rb').read())\n"
        "            except OSError: pass\n"
        "done = subprocess.run('git cat-file --batch --batch-all-objects', shell=True, capture_output=True)\n"
        "print(found, word in done.stdout)\n"
    )
    for mode in ("draft", "ro"):
        mount = Mount(source=project, mode=mode, withhold=WITHHELD, git=git)
        async with boxes.open(mount, cwd=str(project)) as box:
            assert (await box.run(["python3", "-c", look, SECRET])).stdout.text.strip() == "[] False"
            log = await box.run(["git", "log", "--oneline"])
            assert log.ok == (git == "fresh")


async def test_a_clean_repository_shows_credentials(boxes: OverlayBoxes, project: Path) -> None:
    """History and status work inside; the config has neither the token of a URL nor a header, and no hook is there."""
    (project / ".git/hooks/pre-commit").write_text(SECRET)
    mount = Mount(source=project, mode="draft", withhold=(".git",), git="clean")
    async with boxes.open(mount, cwd=str(project)) as box:
        shown = (await box.run(["sh", "-c", "git status --short; cat .git/config; ls .git/hooks; git log --oneline"])).stdout.text
        assert "host.example/path" in shown
        assert "with the secret" in shown
        assert SECRET not in shown


async def test_two_drafts_of_one_project_see_each_other(boxes: OverlayBoxes, project: Path) -> None:
    """Each has layers of its own."""
    mount = Mount(source=project, mode="draft", withhold=WITHHELD)
    async with boxes.open(mount, cwd=str(project)) as one, boxes.open(mount, cwd=str(project)) as other:
        assert (await one.run(["sh", "-c", "echo 1 > a; echo > new"])).ok
        assert (await other.run(["sh", "-c", "cat a; ls new"])).stdout.text == "a"


async def test_a_mask_is_built_for_every_agent_or_outlives_the_run(boxes: OverlayBoxes, project: Path) -> None:
    """Sandboxes of a run share one mask, drafts and read paths alike; none can change it, and it goes last."""
    boxes.own(project)
    mount = Mount(source=project, mode="draft", withhold=WITHHELD, git="fresh")
    attack = f"rm -rf .git deep; git init -q; echo {SECRET} > .env; find . -name .env"
    given = {"engine": boxes.engine, "image": boxes.image, "uid": os.getuid() or OWNER}
    async with masked([mount, replace(mount, mode="ro", target="/read")], **given) as made:
        masks = {m.mask.folder for m in made if m.mask}
        before = {path: picture(path) for path in masks}
        assert [m.mask.git for m in made if m.mask] == ["fresh", "fresh"]
        async with boxes.open(made[0], cwd=str(project)) as one, boxes.open(*made, cwd=str(project)) as other:
            assert len(layers()) == 2 + 2
            assert (await one.run(["sh", "-c", attack])).stdout.text == "./.env\n"
            for place in (str(project), "/read"):
                assert (await other.run(["sh", "-c", "git log --oneline; ls .env"], cwd=place)).stdout.text.count("\n") == 1
        assert {path: picture(path) for path in masks} == before
        assert layers() == {path.parent for path in masks}
    assert not layers()


async def test_layers_stay_behind(boxes: OverlayBoxes, project: Path) -> None:
    """Deep trees, closed folders and what the kernel made as root go with the sandbox."""
    deep = "import os\nfor _ in range(1500): os.mkdir('d'); os.chdir('d')\n"
    async with boxes.open(Mount(source=project, mode="draft", withhold=WITHHELD), cwd=str(project)) as box:
        assert (await box.run(["python3", "-c", deep])).ok
        assert (await box.run(["sh", "-c", "rm a; mkdir shut; touch shut/in; chmod 0 shut"])).ok
        assert layers()
    assert not layers()


def killed(project: Path, image: str) -> str:
    """The owner's mark of a process that was killed inside of an open overlay draft."""
    uid = os.getuid() or OWNER
    if os.getuid() == 0:
        for place in (project, *project.rglob("*")):
            os.chown(place, uid, uid, follow_symlinks=False)
    program = (
        "import anyio, os, signal, sys\nfrom pathlib import Path\nfrom sandbox import *\nfrom sandbox import owner\n"
        "async def main():\n"
        "    mount = Mount(source=Path(sys.argv[1]), mode='draft', draft='overlay')\n"
        "    spec = SandboxSpec(image=sys.argv[2], mounts=(mount,), uid=int(sys.argv[3]), gid=int(sys.argv[3]))\n"
        "    async with Sandbox.open(spec, engine=await DockerEngine.connect()) as box:\n"
        "        await box.run(['rm', sys.argv[1] + '/a'])\n"
        "        print(owner.me(), flush=True)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "anyio.run(main)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(project), image, str(uid)], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return done.stdout.decode().strip()


async def test_a_killed_owner_leaves_layers_or_volumes(boxes: OverlayBoxes, project: Path, image: str) -> None:
    """After SIGKILL both are still there; the next start removes them."""
    mark = await anyio.to_thread.run_sync(killed, project, image)
    client = docker.APIClient(**kwargs_from_env())
    try:

        def left() -> tuple[int, int]:
            volumes = client.volumes(filters={"label": f"massgen.owner={mark}"})["Volumes"] or []
            return len(volumes), sum(f.read_text().startswith(mark) for f in HOME.glob(f"{PREFIX}*/owner"))

        assert await anyio.to_thread.run_sync(left) == (2, 1)
        await boxes.engine.reap()
        await bury(boxes.engine)
        assert await anyio.to_thread.run_sync(left) == (0, 0)
    finally:
        client.close()


async def test_an_impossible_overlay_is_silently_something_else(boxes: OverlayBoxes) -> None:
    """`draft: overlay` where the project belongs to somebody else is refused with the reason."""
    root = boxes.project("foreign", {"a": "a"})
    mount = Mount(source=root, mode="draft", draft="overlay")
    with pytest.raises(SpecError, match="belongs to uid"):
        async with super(OverlayBoxes, boxes).open(mount, uid=os.getuid() + 1):
            pass


class Unknown(Wrapped):
    """The engine as nobody has met it yet, with one image in which no guest can live."""

    def __init__(self, inner: DockerEngine) -> None:
        super().__init__(inner)
        self._id = f"unknown-{secrets.token_hex(8)}"

    async def facts(self) -> EngineFacts:
        return replace(await self.inner.facts(), id=self._id)

    async def image(self, name: str) -> ImageFacts:
        return ImageFacts(id="barren") if name == "barren" else await self.inner.image(name)

    async def start(self, plan: Plan) -> Link:
        if plan.image == "barren":
            raise StartFailed("image barren has no python3", op="start")
        return await self.inner.start(plan)


async def test_an_image_without_a_guest_takes_overlays_away_from_all_others(image: str) -> None:
    """What failed because of an image is not said of the engine afterwards, in this process or any other."""
    marks = cache_folder() / "sandbox"
    before = set(marks.glob("overlay-*"))
    engine = Unknown(await DockerEngine.connect())
    try:
        assert "has no python3" in await unproven(engine, "barren")
        assert set(marks.glob("overlay-*")) == before
        assert await unproven(engine, image) == ""
        assert await unproven(engine, "barren") == "", "once proven, of any image"
    finally:
        for mark in set(marks.glob("overlay-*")) - before:
            mark.unlink()


async def test_a_memory_limit_is_looser_than_said(boxes: OverlayBoxes, image: str) -> None:
    """One command over a large project: only a copy's content comes on top of its memory, never that of an overlay."""
    root = boxes.project("large", {"blob": "x" * 2**24})
    look = ["sh", "-c", "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null"]
    job = Job(argv=look, image=image, limits=Limits(memory_bytes=2**27), write=(root,))

    async def limit() -> int:
        return int((await execute(job, engine=boxes.engine)).outcome.stdout.text)

    own = os.getuid() or AGENT_UID
    for owner, expected in ((own, 2**27), (own + 1, 2**27 + 2**24)):
        if os.getuid() == 0:
            for place in (root, *root.iterdir()):
                os.chown(place, owner, owner)
            assert await limit() == expected
        elif owner == own:
            assert await limit() == expected


async def test_one_file_outgrows_the_limit_between_two_looks(boxes: OverlayBoxes, project: Path) -> None:
    """A single file is ended by the kernel at the limit, however fast it is written, and the reason is the disk; others live."""
    fill = "head -c 300000000 /dev/zero > huge"
    mount = Mount(source=project, mode="draft", withhold=WITHHELD)
    async with boxes.open(mount, cwd=str(project)) as box, box.spawn(["sleep", "600"]) as process:
        outcome = await box.run(["sh", "-c", f"exec {fill}"])
        assert (outcome.reason, "workspace_bytes" in outcome.why) == ("disk", True)
        size = await box.run(["python3", "-c", "import os; print(os.path.getsize('huge')); os.truncate('huge', 1 << 40)"])
        assert 0 < int(size.stdout.text) <= box.plan.limits.workspace_bytes
        assert "File too large" in size.stderr.text
        assert (await box.run(["rm", "huge"])).ok
        await process.kill()


async def test_a_layer_outgrows_its_limit(boxes: OverlayBoxes, project: Path) -> None:
    """A command that fills a draft is ended with the reason; the next one can clean up."""
    fill = "n=0; while :; do n=$((n+1)); head -c 1000000 /dev/zero > fill$n; done"
    async with boxes.open(Mount(source=project, mode="draft", withhold=WITHHELD), cwd=str(project)) as box:
        assert (await box.run(["sh", "-c", fill])).reason == "disk"
        assert (await box.run(["sh", "-c", "rm fill*"])).ok
