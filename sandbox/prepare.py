"""Bring what a project needs into an image, once: the one step with network.

    name = await prepare(engine, "massgen-agent", commands=["pip install -r requirements.txt"], files={"requirements.txt": b"…"})

The commands run as root in a container made from the image; what they leave is kept as `massgen-prepared:<hash>`, and the
next call with the same commands, files, base and recipe finds it there. In go the named files, the proxy variables that the
caller hands over, and what the caller names in `Surroundings`; neither keys nor a project. Files, certificates and
variables live in a mount and in the commands' environment, so no layer and no history of the image has them.

A build by two processes at once happens in one of them: the other waits for a lock of the cache folder. When a command fails,
the deadline passes or the caller is cancelled, the container is removed and no image is made.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import anyio
import anyio.to_thread

from sandbox.engines.base import Engine, Link
from sandbox.engines.images import BASE_LABEL, FOLDER, PREPARED_LABEL, ImageRow, Network, Preparing
from sandbox.errors import EngineError, ImageMissing, SpecError, StartFailed
from sandbox.facts import own_cache
from sandbox.spec import MIB, Limits
from sandbox.zipped import in_cache

REPOSITORY = "massgen-prepared"
DEADLINE_S = 1800.0
MAX_FILES_BYTES = 256 * MIB
SPARE_BYTES = 64 * MIB
"""For what commands write beside the files, which is not kept."""
LAST_LINES = 15
LOCK_POLL_S = 0.25
MAX_MESSAGE_BYTES = 64 * 1024
PROXIES = ("http_proxy", "https_proxy", "no_proxy", "ftp_proxy", "all_proxy")
_START = "import sys;i=sys.stdin.buffer;exec(i.read(int(i.readline())))"
"""The program comes over stdin: an argument would stand in the image's history."""
_CERTIFICATES = (
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "NODE_EXTRA_CA_CERTS",
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_FILE",
    "npm_config_cafile",
)
_ENVIRONMENT = {
    "DEBIAN_FRONTEND": "noninteractive",
    "HOME": "/root",
    "PIP_BREAK_SYSTEM_PACKAGES": "1",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_NO_CACHE_DIR": "1",
    "PIP_NO_INPUT": "1",
    "PIP_ROOT_USER_ACTION": "ignore",
    "XDG_CACHE_HOME": "/tmp/massgen-cache",
    "npm_config_cache": "/tmp/massgen-cache/npm",
}
"""The image has one user and one purpose: its system python is where packages belong. Caches are not kept."""

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What of the caller's machine a preparation may know. None of it is part of the hash, and none stays in the image."""

    network: Network = "bridge"
    """`host` reaches what listens on the machine itself, too."""
    environment: Mapping[str, str] = field(default_factory=dict)
    certificates: bytes = b""
    """A PEM bundle to trust instead of the image's own; empty: the image's own."""

    @classmethod
    def of(cls, env: Mapping[str, str]) -> Surroundings:
        """The proxy variables of an environment, and what its `MASSGEN_BUILD_*` say.

        `MASSGEN_BUILD_NETWORK` bridge, host or none; `MASSGEN_BUILD_CA` a bundle's path; `MASSGEN_BUILD_ENV` names of more
        variables, with commas. Raises SpecError.
        """
        named = [n.strip() for n in env.get("MASSGEN_BUILD_ENV", "").split(",") if n.strip()]
        missing = [n for n in named if n not in env]
        if missing:
            raise SpecError(
                f"MASSGEN_BUILD_ENV names {', '.join(missing)}, not set here; export it, or leave it out", op="prepare"
            )
        network = env.get("MASSGEN_BUILD_NETWORK") or "bridge"
        if network not in ("bridge", "host", "none"):
            raise SpecError(f"MASSGEN_BUILD_NETWORK is {network[:40]!r}; use bridge, host or none", op="prepare")
        bundle, path = b"", env.get("MASSGEN_BUILD_CA")
        if path:
            try:
                bundle = Path(path).read_bytes()
            except OSError as error:
                raise SpecError(f"MASSGEN_BUILD_CA: {path} cannot be read: {error.strerror}", op="prepare") from error
        proxies = {n: env[n] for name in PROXIES for n in (name, name.upper()) if env.get(n)}
        return cls(network=network, environment=proxies | {n: env[n] for n in named}, certificates=bundle)  # type: ignore[arg-type]


class PrepareFailed(EngineError):
    """A command of the preparation failed. `command`, `exit_code` and the last `lines` say which and why."""

    fault = "caller"

    def __init__(self, message: str, *, command: str, exit_code: int, lines: tuple[str, ...]) -> None:
        super().__init__(message, op="prepare")
        self.command = command
        self.exit_code = exit_code
        self.lines = lines


def name_for(image_id: str, commands: Sequence[str], files: Mapping[str, bytes]) -> str:
    """The prepared image's name: a hash of everything that decides what is in it."""
    contents = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}
    whole = json.dumps([_recipe(), image_id, list(commands), contents])
    return f"{REPOSITORY}:{hashlib.sha256(whole.encode()).hexdigest()[:24]}"


async def prepare(
    engine: Engine,
    image: str,
    *,
    commands: Sequence[str],
    files: Mapping[str, bytes] | None = None,
    limits: Limits | None = None,
    surroundings: Surroundings | None = None,
    deadline_s: float = DEADLINE_S,
    say: Say = lambda _text: None,
) -> str:
    """The name of an image in which the commands have run; made now when it is not there yet.

    `files`: contents by relative path; the commands start in a folder that has them. `say` gets lines of progress, the
    commands' output among them, which is foreign text. Cancelled: stops, removes the container, makes no image.

    Raises PrepareFailed (a command), StartFailed (no container, the deadline), ImageMissing, EngineUnavailable, and SpecError
    for a request that is refused.
    """
    given = dict(files or {})
    _check(commands, given)
    base = await engine.image(image)
    name = name_for(base.id, commands, given)
    async with _alone(name):
        if not await _exists(engine, name):
            say(f"preparing {image} once, with network: {len(commands)} command{'s' if len(commands) > 1 else ''}")
            try:
                with anyio.fail_after(deadline_s):
                    job = _Job(base_id=base.id, base=image, name=name, commands=commands, files=given, limits=limits or Limits())
                    await _make(engine, job, surroundings or Surroundings(), say)
            except TimeoutError as error:
                what = f"preparing {image} took longer than {deadline_s:.0f} s and was stopped; nothing was kept"
                raise StartFailed(what, op="prepare") from error
        _mark(name).touch()
    return name


def last_used(name: str) -> float:
    """When `prepare` last gave this image out here, in seconds since the epoch; 0 when it is not known."""
    try:
        return _mark(name).stat().st_mtime
    except OSError:
        return 0.0


async def forget(engine: Engine, *, unused_s: float, now: float, dry_run: bool = False) -> tuple[ImageRow, ...]:
    """Remove prepared images that nobody used for so long, and untagged leftovers of ours. Returns what was removed.

    What a container uses stays, and so does everything that has no label of ours. Raises EngineError.
    """
    gone: list[ImageRow] = []
    for row in await engine.images().ours():
        prepared = PREPARED_LABEL in row.labels
        since = max([row.created, *(last_used(t) for t in row.tags)])
        if row.in_use or (row.tags and not (prepared and now - since >= unused_s)):
            continue
        foreign = [t for t in row.tags if not t.startswith(REPOSITORY + ":")]
        if foreign:
            continue
        targets = row.tags or (row.id,)
        if dry_run or all([await engine.images().remove(t) for t in targets]):
            gone.append(row)
            for tag in () if dry_run else row.tags:
                _mark(tag).unlink(missing_ok=True)
    return tuple(gone)


# -- pieces -----------------------------------------------------------------------------------------------------


def _recipe() -> str:
    return hashlib.sha256((_program() + json.dumps(_ENVIRONMENT)).encode()).hexdigest()


def _program() -> str:
    return (Path(__file__).parent / "guest" / "preparer.py").read_text(encoding="utf-8")


def _check(commands: Sequence[str], files: Mapping[str, bytes]) -> None:
    if not commands or not all(c.strip() for c in commands):
        raise SpecError("nothing to prepare: give at least one command, and none that is empty", op="prepare")
    for name in files:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts or path.parts[0] == ".massgen" or "\0" in name:
            raise SpecError(f"{name!r} cannot be a file of the preparation; give a relative path", op="prepare")
    total = sum(map(len, files.values()))
    if total > MAX_FILES_BYTES:
        raise SpecError(f"the files are {total // MIB} MiB; at most {MAX_FILES_BYTES // MIB}", op="prepare")


async def _exists(engine: Engine, name: str) -> bool:
    try:
        await engine.image(name)
    except ImageMissing:
        return False
    return True


def _mark(name: str) -> Path:
    folder = own_cache() / "prepared"
    with in_cache(folder):
        folder.mkdir(exist_ok=True)
    return folder / name.rpartition(":")[2]


@asynccontextmanager
async def _alone(name: str) -> AsyncIterator[None]:
    """One process at a time for one image. Waiting can be cancelled; a dead holder's lock is gone with it."""
    fd = os.open(_mark(name).with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await anyio.sleep(LOCK_POLL_S)
        yield
    finally:
        os.close(fd)


@dataclass(frozen=True, kw_only=True)
class _Job:
    base_id: str
    base: str
    name: str
    commands: Sequence[str]
    files: Mapping[str, bytes]
    limits: Limits


async def _make(engine: Engine, job: _Job, surroundings: Surroundings, say: Say) -> None:
    images = engine.images()
    inside, environment = _inside(job.files, surroundings)
    size = sum(map(len, inside.values())) + SPARE_BYTES
    preparing = Preparing(image=job.base_id, limits=job.limits, network=surroundings.network, folder_bytes=size)
    link = await images.open(preparing, program=_START)
    try:
        await link.send(_request(job.commands, inside, environment))
        await _follow(link, job.commands, say)
        labels = {PREPARED_LABEL: job.name.rpartition(":")[2], BASE_LABEL: job.base}
        await images.keep(link, tag=job.name, labels=labels, comment="prepared: " + "; ".join(job.commands))
    finally:
        with anyio.CancelScope(shield=True):
            await link.aclose()


def _inside(files: Mapping[str, bytes], surroundings: Surroundings) -> tuple[dict[str, bytes], dict[str, str]]:
    """The files and the variables as the container gets them."""
    inside, environment = dict(files), dict(_ENVIRONMENT)
    if surroundings.certificates:
        bundle = f"{FOLDER}/.massgen/ca.pem"
        inside[".massgen/ca.pem"] = surroundings.certificates
        inside[".massgen/apt.conf"] = f'Acquire::https::CaInfo "{bundle}";\n'.encode()
        environment |= dict.fromkeys(_CERTIFICATES, bundle) | {"APT_CONFIG": f"{FOLDER}/.massgen/apt.conf"}
    return inside, environment | dict(surroundings.environment)


def _request(commands: Sequence[str], files: Mapping[str, bytes], environment: Mapping[str, str]) -> bytes:
    program = _program().encode()
    header = {
        "folder": FOLDER,
        "commands": list(commands),
        "environment": dict(environment),
        "files": [[name, len(content)] for name, content in files.items()],
    }
    return b"%d\n%s%s\n" % (len(program), program, json.dumps(header).encode()) + b"".join(files.values())


async def _follow(link: Link, commands: Sequence[str], say: Say) -> None:
    """Until the commands have ended. Raises PrepareFailed, StartFailed."""
    progress = _Progress(commands, say)
    with contextlib.suppress(_Over):
        await link.pump(progress.take)
    if progress.ended_well:
        return
    words = link.last_words()
    hint = f": {words[-400:]}" if words else "; perhaps its memory (sandbox.memory) was too little"
    raise StartFailed(f"the container in which the image was prepared ended before its commands did{hint}", op="prepare")


class _Over(Exception):
    """There is nothing more to hear."""


class _Progress:
    """What the container tells, line by line; anything else than that ends it."""

    def __init__(self, commands: Sequence[str], say: Say) -> None:
        self.ended_well = False
        self._commands = commands
        self._say = say
        self._buffer = b""
        self._tail: deque[str] = deque(maxlen=LAST_LINES)

    def take(self, piece: bytes | memoryview) -> None:
        """More of it. Raises PrepareFailed, _Over."""
        *lines, self._buffer = (self._buffer + bytes(piece)).split(b"\n")
        if len(self._buffer) > MAX_MESSAGE_BYTES:
            raise _Over
        for line in lines:
            try:
                message = json.loads(line)
            except ValueError:
                raise _Over from None
            self._told(message)

    def _told(self, message: object) -> None:
        commands = self._commands
        match message:
            case {"step": int(step)} if 0 < step <= len(commands):
                self._tail.clear()
                self._say(f"{step}/{len(commands)} {commands[step - 1]}")
            case {"line": str(text)}:
                self._tail.append(text)
                self._say(f"  {text}")
            case {"end": [int(), 0]}:
                self.ended_well = True
                raise _Over
            case {"end": [int(step), int(code)]} if 0 < step <= len(commands):
                raise _failed(commands[step - 1], code, tuple(self._tail))
            case _:
                raise _Over


def _failed(command: str, code: int, lines: tuple[str, ...]) -> PrepareFailed:
    why = {137: " (killed; perhaps sandbox.memory is too little)", 127: " (the image has no such program)"}.get(code, "")
    said = "".join(f"\n  | {line}" for line in lines) or "\n  (no output)"
    return PrepareFailed(
        f"preparing the image failed: `{command}` ended with exit code {code}{why}; nothing was kept. Its last lines:{said}",
        command=command,
        exit_code=code,
        lines=lines,
    )
