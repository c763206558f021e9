"""What a snapshot costs by the size of the tree and the number of changes, against `find -printf` and `shutil.copytree`.

The store is a fresh one each time, so that contents cross every time. Overlay drafts need a project that is not root's: for root
the trees are given to the uid that runs inside.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Literal

from benchmarks.ratios import IMAGE, Row, p50, p95, quietly, since, timed
from sandbox import AGENT_UID, DockerEngine, Limits, Mount, Sandbox, SandboxSpec, Store
from sandbox.spec import GIB

Draft = Literal["copy", "overlay"]
CHANGES = (0, 10, 1000)
IN_FOLDER = 100
LIMITS = Limits(memory_bytes=2 * GIB, inodes=1_000_000)
CHANGE = "import sys; [open(f'{i // 100}/{i}', 'a').write('changed') for i in range(int(sys.argv[1]))]"


async def measure(engine: DockerEngine, *, quick: bool) -> list[Row]:
    """All rows about snapshots."""
    rows: list[Row] = []
    sizes = (1000, 10_000) if quick else (1000, 10_000, 100_000)
    with tempfile.TemporaryDirectory(prefix="massgen-bench-", dir="/var/tmp") as name:
        base = Path(name)
        trees = {files: _tree(base / f"tree{files}", files) for files in sizes}
        os.sync()  # their blocks on the way to the disk would be in the way of the first blobs
        rows.append(await _by_size(engine, trees, base))
        for files, tree in trees.items():
            finds, copied = _baselines(tree, base, 1 if files > 10_000 else 3)
            copies = await _taken(engine, tree, base, "copy", finds)
            laid = await _taken(engine, tree, base, "overlay", finds)
            find = p50(finds)
            for changes in CHANGES:
                what = f"{files:,} files, {changes:,} changed"
                promise = 4.0 if not changes else None
                rows += [
                    Row(
                        what=f"snapshot of a copy draft: {what}",
                        ours=copies[changes],
                        baseline="`find -printf`",
                        base=find,
                        limit=promise,
                    ),
                    Row(what=f"snapshot of an overlay draft: {what}", ours=laid[changes], baseline="`copytree`", base=copied),
                ]
    return rows


async def _by_size(engine: DockerEngine, trees: dict[int, Path], base: Path) -> Row:
    """Ten changes in the smallest and in the largest tree, in turn: what both wait for is the disk that keeps the contents."""
    least, most = min(trees), max(trees)
    found: dict[int, list[float]] = {least: [], most: []}
    async with (
        Sandbox.open(_spec(trees[least], "overlay"), engine=engine) as small,
        Sandbox.open(_spec(trees[most], "overlay"), engine=engine) as large,
    ):
        boxes = {least: small, most: large}
        for box in boxes.values():
            outcome = await box.run(["python3", "-c", CHANGE, "10"])
            assert outcome.ok, outcome
        for _ in range(31):
            for files, box in boxes.items():
                found[files].append(await _snapshot(box, base / "store", 10))
    return Row(
        what=f"snapshot of an overlay draft, 10 changed: {most:,} files",
        ours=p50(found[most]),
        p95=p95(found[most]),
        baseline=f"{least:,} files",
        base=p50(found[least]),
        limit=1.3,
    )


def _spec(tree: Path, draft: Draft) -> SandboxSpec:
    uid = os.getuid() or AGENT_UID
    mount = Mount(source=tree, mode="draft", draft=draft)
    return SandboxSpec(image=IMAGE, mounts=(mount,), limits=LIMITS, cwd=str(tree), uid=uid, gid=uid)


async def _snapshot(box: Sandbox, folder: Path, changes: int) -> float:
    """Milliseconds of one into a new store."""
    store = Store(folder)
    began = time.perf_counter()
    snapshot = await box.snapshot(store)
    took = since(began)
    assert len(snapshot.entries) == changes, len(snapshot.entries)
    shutil.rmtree(store.folder)
    return took


def _tree(root: Path, files: int) -> Path:
    root.parent.chmod(0o755)
    for number in range(files):
        if number % IN_FOLDER == 0:
            (root / str(number // IN_FOLDER)).mkdir(parents=True)
        (root / str(number // IN_FOLDER) / str(number)).write_text(f"{number}\n", encoding="ascii")
    if os.getuid() == 0:
        quietly("chown", "-R", f"{AGENT_UID}:{AGENT_UID}", str(root))
    return root


def _baselines(tree: Path, base: Path, rounds: int) -> tuple[list[float], float]:
    copied = []
    for _ in range(rounds):
        copied.append(timed(lambda: shutil.copytree(tree, base / "copied")))
        shutil.rmtree(base / "copied")
    return [_find(tree) for _ in range(3)], p50(copied)


def _find(tree: Path) -> float:
    return timed(lambda: quietly("find", str(tree), "-printf", r"%s %T@ %C@ %i %m %p\n"))


async def _taken(engine: DockerEngine, tree: Path, base: Path, draft: Draft, finds: list[float]) -> dict[int, float]:
    """Medians of snapshots, by the number of changes; `find` is timed in between."""
    found: dict[int, float] = {}
    async with Sandbox.open(_spec(tree, draft), engine=engine) as box:
        for changes in CHANGES:
            outcome = await box.run(["python3", "-c", CHANGE, str(changes)])
            assert outcome.ok, outcome
            times = []
            for _ in range(6):
                times.append(await _snapshot(box, base / "store", changes))
                finds.append(_find(tree))
            found[changes] = p50(times[1:])
    return found
