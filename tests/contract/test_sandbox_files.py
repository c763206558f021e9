"""What a sandbox shows and what can be read out of it: drafts are private, withheld things are nowhere, reads are bounded."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandbox import GuestError, ImageMissing, Limits, Mount, SpecError
from sandbox.spec import MIB
from tests.support.boxes import SMALL, Boxes, picture

SECRETS = {".env": "canary", "keys/id_rsa": "canary", "src/a.py": "a", ".git/config": "canary", "sub/.git/HEAD": "canary"}


async def test_read_does_not_return_less_or_other_bytes(boxes: Boxes) -> None:
    """A file of several windows arrives whole; an empty one is empty."""
    async with boxes.open() as box:
        await box.run(["python3", "-c", "open('big', 'wb').write(bytes(range(256)) * 20000); open('empty', 'w')"])
        assert await box.read("/workspace/big") == bytes(range(256)) * 20000
        assert await box.read("/workspace/empty") == b""


async def test_read_of_what_is_no_file_is_refused_and_the_sandbox_goes_on(boxes: Boxes) -> None:
    """Missing, too big, a folder, a FIFO, a name that cannot exist: an error that names it, and nothing hangs."""
    async with boxes.open() as box:
        await box.run(["sh", "-c", "mkdir folder; mkfifo fifo; head -c 1001 /dev/zero > big"])
        with pytest.raises(GuestError, match=r"No such file.*missing"):
            await box.read("/workspace/missing")
        for name in ("folder", "fifo"):
            with pytest.raises(GuestError, match="not a regular file"):
                await box.read(f"/workspace/{name}")
        with pytest.raises(GuestError, match="1001 bytes"):
            await box.read("/workspace/big", max_bytes=1000)
        with pytest.raises(GuestError):
            await box.read("/workspace/\0")
        assert len(await box.read("/workspace/big", max_bytes=1001)) == 1001


async def test_list_does_not_follow_links_or_forget_empty_folders(boxes: Boxes) -> None:
    """Kinds, sizes and targets of everything below; a link to a folder is one entry."""
    async with boxes.open() as box:
        await box.run(
            ["sh", "-c", "mkdir -p d/e .git; printf abc > d/f; ln -s d link; ln -s missing dangling; mkfifo fifo; echo > .git/x"]
        )
        found = {c.path: (c.kind, c.size, c.target) for c in await box.list("/workspace")}
        assert found == {
            ".git": ("dir", 0, ""),
            ".git/x": ("file", 1, ""),
            "d": ("dir", 0, ""),
            "d/e": ("dir", 0, ""),
            "d/f": ("file", 3, ""),
            "dangling": ("link", 0, "missing"),
            "link": ("link", 0, "d"),
        }
        with pytest.raises(GuestError):
            await box.list("/workspace/nowhere")


async def test_list_of_many_files_is_not_cut(boxes: Boxes) -> None:
    """More rows than one record holds."""
    async with boxes.open() as box:
        await box.run(["python3", "-c", "for i in range(1700): open('f%04d' % i, 'w')"])
        assert [c.path for c in await box.list("/workspace")] == [f"f{i:04}" for i in range(1700)]


async def test_draft_does_not_change_the_project(boxes: Boxes) -> None:
    """An agent writes, deletes and chmods as it likes; the project is the same, down to modes."""
    root = boxes.project(files={"a.txt": "a", "d/b.txt": "b", "run.sh": "#!/bin/sh\necho ran\n"})
    (root / "run.sh").chmod(0o755)
    (root / "link").symlink_to("a.txt")
    before = picture(root)
    async with boxes.open(Mount(source=root, mode="draft"), cwd=str(root)) as box:
        assert (await box.run(["./run.sh"])).stdout.text == "ran\n"
        outcome = await box.run(
            ["sh", "-c", "cat link && echo changed > a.txt && rm -r d && chmod 000 run.sh && echo new > new && ls"]
        )
        assert outcome.stdout.text == "aa.txt\nlink\nnew\nrun.sh\n", outcome.stderr.text
    assert picture(root) == before


async def test_draft_keeps_times_and_modes(boxes: Boxes) -> None:
    """`make` would rebuild the world and git would see changes everywhere, were they new."""
    root = boxes.project(files={"old": "x", "ro/inner": "y"})
    os.utime(root / "old", ns=(10**18, 10**18 + 123_456_789))
    (root / "old").chmod(0o640)
    (root / "ro").chmod(0o555)
    async with boxes.open(Mount(source=root, mode="draft"), cwd=str(root)) as box:
        out = (await box.run(["stat", "-c", "%a %.9Y", "old"])).stdout.text
        assert out == "640 1000000000.123456789\n"
        assert (await box.run(["stat", "-c", "%a", "ro"])).stdout.text == "555\n"


async def test_withheld_files_and_git_are_not_in_a_draft(boxes: Boxes) -> None:
    """Neither name nor content of what is withheld, nor any `.git`, however deep."""
    root = boxes.project(files=SECRETS)
    async with boxes.open(Mount(source=root, mode="draft", withhold=(".env", "keys/")), cwd=str(root)) as box:
        assert (await box.run(["find", ".", "-type", "f"])).stdout.text == "./src/a.py\n"
        assert (await box.run(["grep", "-r", "canary", "."])).stdout.text == ""


@pytest.mark.docker
async def test_withheld_files_are_empty_in_a_read_mount(boxes: Boxes) -> None:
    """Masked where they lie, as the repository always is: no content, and no way to write.

    Links and things below withheld folders do not stop the start.
    """
    if boxes.fake:
        pytest.skip("masks are mounts")
    root = boxes.project(files=SECRETS)
    (root / ".netrc").symlink_to("/nowhere/netrc")
    withhold = (".env", "keys", "keys/id_rsa", ".netrc", "sub/.git")
    async with boxes.open(Mount(source=root, mode="ro", withhold=withhold), cwd=str(root)) as box:
        assert (await box.run(["grep", "-rl", "canary", "."])).stdout.text == ""
        assert (await box.run(["cat", "src/a.py"])).stdout.text == "a"
        assert not (await box.run(["sh", "-c", "echo x > src/a.py"])).ok
        assert not (await box.run(["sh", "-c", "echo x > .env"])).ok
    assert picture(root)["src/a.py"][2] == "a"


async def test_single_file_draft_does_not_show_its_neighbours(boxes: Boxes) -> None:
    """A write path that is one file is there, alone, and private."""
    root = boxes.project(files={"notes.md": "old", "secret": "canary"})
    async with boxes.open(Mount(source=root / "notes.md", mode="draft"), cwd=str(root)) as box:
        assert (await box.run(["sh", "-c", "ls; cat notes.md; echo new > notes.md"])).stdout.text == "notes.md\nold"
        assert await box.read(str(root / "notes.md")) == b"new\n"
    assert (root / "notes.md").read_text() == "old"


async def test_read_path_inside_a_write_path_is_refused_before_the_start(boxes: Boxes) -> None:
    """Filling it would fail half way through the start; so it is refused, by name."""
    root = boxes.project(files={"a": "a", "docs/b": "b"})
    with pytest.raises(SpecError, match="docs"):
        async with boxes.open(Mount(source=root, mode="draft"), Mount(source=root / "docs", mode="ro")):
            pass


async def test_project_larger_than_the_draft_is_refused_with_a_remedy(boxes: Boxes) -> None:
    """Not a full disk in the middle, but a sentence before anything runs."""
    root = boxes.project()
    (root / "big").write_bytes(bytes(65 * 1024**2))
    with pytest.raises(SpecError, match="more than 64 MiB"):
        async with boxes.open(Mount(source=root, mode="draft")):
            pass


async def test_holes_of_a_project_do_not_fill_a_draft(boxes: Boxes) -> None:
    """A disk image of 10 GiB that holds 5 bytes fits into a draft of 64 MiB, and is the same there."""
    root = boxes.project()
    size = 10 * 1024**3
    with (root / "image").open("wb") as file:
        file.truncate(size)
        file.seek(size // 2)
        file.write(b"inner")
    look = (
        "import os; f = open('image', 'rb'); f.seek(5 << 30); about = os.stat('image')\n"
        "print(f.read(5), about.st_size, about.st_blocks < 999)"
    )
    async with boxes.open(Mount(source=root, mode="draft"), cwd=str(root)) as box:
        assert (await box.run(["python3", "-c", look])).stdout.text == f"b'inner' {size} True\n"


async def test_odd_names_do_not_break_a_draft(boxes: Boxes) -> None:
    """Newlines, bytes that are not UTF-8, quotes, leading dashes: all arrive."""
    root = boxes.project()
    names = [b"new\nline", b"\xff\xfe", b"-rf", b"' \"", "ä☃".encode(), b"x" * 255]
    for name in names:
        (root / os.fsdecode(name)).write_bytes(name)
    async with boxes.open(Mount(source=root, mode="draft"), cwd=str(root)) as box:
        outcome = await box.run(
            [
                "python3",
                "-c",
                "import os; print(sorted(os.listdir(b'.')) == sorted(open(n, 'rb').read() for n in os.listdir(b'.')))",
            ]
        )
        assert outcome.stdout.text == "True\n", outcome.stderr.text
        assert {os.fsencode(c.path) for c in await box.list(str(root))} == set(names)


async def test_missing_path_and_missing_image_are_the_callers_errors(boxes: Boxes, tmp_path: Path) -> None:
    """Typed, before any container exists."""
    with pytest.raises(SpecError, match="does not exist"):
        async with boxes.open(Mount(source=tmp_path / "nowhere", mode="ro")):
            pass
    if not boxes.fake:
        missing = Boxes(boxes.engine, "massgen-no-such-image:none", tmp_path)
        with pytest.raises(ImageMissing):
            async with missing.open():
                pass


@pytest.mark.docker
async def test_many_small_files_outgrow_the_copy_that_counted_their_bytes(boxes: Boxes) -> None:
    """Each takes a page there, and some of the memory: 5,000 of a byte each still leave what a command may use."""
    if boxes.fake:
        pytest.skip("the fake has no limits")
    root = boxes.project(files={f"d{number % 50}/{number}": "x" for number in range(5000)})
    limits = Limits(memory_bytes=64 * MIB, memory_covers_files=True, workspace_bytes=2 * MIB, tmp_bytes=MIB)
    async with boxes.open(Mount(source=root, mode="draft", draft="copy"), limits=limits, cwd=str(root)) as box:
        assert (await box.run(["sh", "-c", "find . -type f | wc -l"])).stdout.text.strip() == "5000"
        assert (await box.run(["python3", "-c", "len(bytearray(30 << 20))"])).ok


@pytest.mark.docker
async def test_a_project_that_does_not_fit_is_an_error_without_a_name(boxes: Boxes) -> None:
    """Too many files for the copy: which project, and what next."""
    if boxes.fake:
        pytest.skip("the fake has no limits")
    root = boxes.project(files={str(number): "x" for number in range(100)})
    limits = Limits(memory_bytes=SMALL.memory_bytes, inodes=50)
    with pytest.raises(SpecError, match=f"{root} does not fit into a copy of at most .* 50 files .*name a smaller folder"):
        async with boxes.open(Mount(source=root, mode="draft", draft="copy"), limits=limits):
            pass


@pytest.mark.docker
async def test_full_workspace_is_the_commands_problem_alone(boxes: Boxes) -> None:
    """ENOSPC inside; the sandbox and the host go on."""
    if boxes.fake:
        pytest.skip("the fake has no limits")
    limits = Limits(memory_bytes=SMALL.memory_bytes, workspace_bytes=4 * 1024**2, tmp_bytes=1024**2)
    async with boxes.open(limits=limits) as box:
        outcome = await box.run(["sh", "-c", "head -c 16M /dev/zero > full"])
        assert not outcome.ok
        assert "No space left" in outcome.stderr.text
        assert (await box.run(["echo", "alive"])).ok
