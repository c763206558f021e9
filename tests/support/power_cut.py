"""A power cut: what a file system on a device of its own still holds when everything that was not on the disk is gone.

    unshare -m python -m tests.support.power_cut writes|runs FOLDER EVERY

A host dies at a step or an event, as in `killed_host.py`; then the device is copied as it is, without what only the kernel's
memory knows, and the copy is mounted. SIGKILL is milder: whatever was written is there for the next process. Mounts are
private to the process, so that whoever kills it leaves none.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import anyio

from massgen import app
from massgen.config.load import Flags, load
from massgen.coordination import later
from massgen.coordination.risks import CLASSES
from massgen.errors import ConfigError
from massgen.events.replay import read
from massgen.events.types import AnswerGiven, Applied, RunFinished, Selected
from sandbox.testing import FakeEngine
from tests.support.boxes import picture
from tests.support.killed_host import Hosts, hosts
from tests.support.scene import Scene
from tests.support.user import agent, say

SIZE = "96M"


class Disk:
    """ext4 in a file, mounted at `place`."""

    def __init__(self, folder: Path) -> None:
        self.place = folder / "disk"
        self.place.mkdir()
        self._folder, self._kept, self._count = folder, folder / "kept", 0
        subprocess.run(["truncate", "-s", SIZE, self._kept], check=True)
        subprocess.run(["mkfs.ext4", "-q", self._kept], check=True)
        self._mount(self._kept)

    def keep(self) -> None:
        """All of it onto the device, to come back to."""
        subprocess.run(["sync", "-f", self.place], check=True)
        _copy(self._device, self._kept)

    def rewind(self) -> None:
        """As it was kept."""
        self._unmount()
        self._mount(self._kept)

    def cut(self) -> None:
        """As the device is at this moment."""
        now = self._folder / "now"
        _copy(self._device, now)
        self._unmount()
        self._mount(now)

    def _unmount(self) -> None:
        # Lazily: what a host started notices in its own time that it is dead. So each copy is another device.
        subprocess.run(["umount", "--lazy", self.place], check=True)
        self._device.unlink()

    def _mount(self, image: Path) -> None:
        self._count += 1
        self._device = self._folder / f"device{self._count}"
        _copy(image, self._device)
        subprocess.run(["mount", "-o", "loop", self._device, self.place], check=True)


def _copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "--sparse=always", source, target], check=True)


async def writes(disk: Disk, processes: Hosts, every: int) -> Mapping[str, object]:
    """`apply` and `undo`, cut off at every nth step and event: old or new, nothing left, and the way back works."""
    scene = Scene(disk.place, FakeEngine(disk.place / "boxes"), "fake", processes)
    old = picture(scene.project)
    ends: dict[str, list[bool]] = {}
    for what in ("apply", "undo"):
        disk.keep()
        assert scene.act(what).said == ""
        before, after = (old, picture(scene.project)) if what == "apply" else (picture_of_kept(disk, scene), old)
        for kind in ("at_step", "at_event"):
            done = ends[f"{what} {kind}"] = []
            for number in range(1, 1000, every if kind == "at_step" else every // 6 or 1):
                disk.rewind()
                death = scene.act(what, **{kind: number})
                assert death.killed or not death.said, death.said
                disk.cut()
                await scene.next_start()
                now, where = picture(scene.project), f"{what}, {kind} {number}"
                assert now in (before, after), where
                assert scene.left() == [], where
                done.append(now == after)
                assert (scene.record().written is not None) is (now != old), where
                if now != old:
                    await later.undo(scene.state, "r1", engine=scene.engine)
                    assert picture(scene.project) == old, where
                else:
                    await later.apply(scene.state, "r1", engine=scene.engine, allowed=frozenset(CLASSES))
                    assert picture(scene.project) != old, where
                if not death.killed:
                    break
            assert done[-1], "what ended is on the disk"
        disk.rewind()
        assert scene.act(what).said == ""
    return {name: [len(done), sum(done)] for name, done in ends.items()}


def picture_of_kept(disk: Disk, scene: Scene) -> object:
    """The project as it was kept."""
    disk.rewind()
    return picture(scene.project)


async def runs(disk: Disk, processes: Hosts, every: int) -> Mapping[str, object]:
    """A run in mode `apply`, cut off at every nth event: resumed, it ends as if nothing had been, or it had never answered."""
    folder, project, state = disk.place, disk.place / "project", disk.place / "state"
    project.mkdir()
    (project / "code.txt").write_text("old\n")
    works = [say(shell="echo new > code.txt; mkdir d; echo x > d/x"), say(answer="fixed")]
    for entry in works:
        entry["when"]["answers"] = 0  # one that goes on with a run reads its script from the top
    works += [say(vote="agent1")] * 3
    (folder / "one.json").write_text(json.dumps([*works, say(final="done")]))
    (folder / "two.json").write_text(json.dumps([*[say(vote="agent1")] * 3]))
    paths = {"context_paths": [{"path": str(project), "permission": "write"}], "verify": "grep -q new code.txt"}
    team = {"agents": [agent("one", str(folder / "one.json")), agent("two", str(folder / "two.json"))], "orchestrator": paths}
    (folder / "team.json").write_text(json.dumps(team))
    disk.keep()
    before, ends = picture(project), Counter[str]()
    job = {"state": state, "boxes": str(folder / "boxes"), "config": str(folder / "team.json"), "write_mode": "apply"}
    for number in range(1, 1000, every):
        disk.rewind()
        death = processes.act("run", at_event=number, cwd=str(folder), **job)
        assert death.killed or not death.said, death.said
        before_the_cut = log_of(state)
        disk.cut()
        answered, written = (any(isinstance(e, kind) for e in before_the_cut) for kind in (AnswerGiven, Applied))
        config = load(Flags(config=str(folder / "team.json"), write_mode="apply"))
        where = f"event {number}, {type(before_the_cut[-1]).__name__ if before_the_cut else 'none'}"
        assert picture(project) == before or written or "LeaseGranted" in map(name, before_the_cut), where
        try:
            done = await app.resume(config, "", engine=FakeEngine(folder / "boxes"), state_dir=state)
        except ConfigError:
            ends["ended" if not death.killed else "lost"] += 1
            assert not answered or isinstance(before_the_cut[-1], RunFinished), where
            assert death.killed or picture(project)["code.txt"][2] == "new\n"
        else:
            assert (done.outcome, done.winner) == ("applied", "one"), (where, done)
            counts = Counter(map(name, log_of(state)))
            once = {kind.__name__: 1 for kind in (AnswerGiven, Selected, Applied, RunFinished)}
            assert {kind: counts[kind] for kind in once} == once, where
            assert [picture(project)[path][2] for path in ("code.txt", "d/x")] == ["new\n", "x\n"], where
            ends["resumed"] += 1
        if not death.killed:
            return {**ends, "events": number}
    raise AssertionError("it never ended")


def name(event: object) -> str:
    """Of its type."""
    return type(event).__name__


def log_of(state: Path) -> list[object]:
    """What the one run said."""
    return [envelope.event for log in state.glob("runs/*/events.jsonl") for envelope in read(log)]


STORIES: dict[str, Callable[[Disk, Hosts, int], object]] = {"writes": writes, "runs": runs}


def main() -> None:
    """One story."""
    story, folder, every = sys.argv[1:]
    subprocess.run(["mount", "-t", "tmpfs", "none", folder], check=True)  # the machine's own disk has nothing to flush then
    disk = Disk(Path(folder))
    with hosts() as processes:
        said = anyio.run(STORIES[story], disk, processes, int(every))  # type: ignore[arg-type]
    sys.stdout.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    main()
