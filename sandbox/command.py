"""`python -m sandbox run` and `massgen exec`: one command under limits, its bytes and its exit code passed through.

Exit codes: the command's own; 124 out of time, 125 the sandbox could not start or was lost, 126 not executable, 127 not found,
128+n ended by a signal (137 also for memory), 2 a wrong option, 130 Ctrl-C, 143 SIGTERM. Nothing of ours goes to stdout but the
object of `--json`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandbox.errors import SpecError
from sandbox.measures import duration_s, size_bytes
from sandbox.spec import DEFAULT_IMAGE

if TYPE_CHECKING:
    from sandbox.execute import Done, Job
    from sandbox.outcome import Outcome
    from sandbox.spec import GitView

Withhold = Callable[[Path], tuple[str, ...]]
Git = Callable[[Path], "GitView"]
CHUNK = 64 * 1024


def main(args: Sequence[str], *, prog: str, withhold: Withhold | None = None, git: Git | None = None) -> int:
    """Run it; returns the exit code. `withhold` says what of a shown folder is never shown, `git` what of its repository is."""
    _fill_gaps()
    parser = _parser(prog)
    given = parser.parse_args(args)
    argv = given.argv[1:] if given.argv[:1] == ["--"] else given.argv
    if not argv or not argv[0]:
        parser.error(f"there is no command; put it after --, as in: {prog} --memory 512m -- python3 script.py")
    import anyio

    try:
        return anyio.run(_go, given, argv, prog, {"withhold": withhold, "git": git})
    except KeyboardInterrupt:
        return 130


def _fill_gaps() -> None:
    """A standard stream that was closed (`<&-`) would be the number of whatever is opened next, and be taken for that."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stdout is None or sys.stderr is None:
        nowhere = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
        sys.stdout, sys.stderr = sys.stdout or nowhere, sys.stderr or nowhere


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        usage="%(prog)s [OPTIONS] -- COMMAND [ARGUMENT …]",
        description="Run one command in a container: no network, no root, limits on everything. The folder you stand in, with "
        "the repository around it, is shown as a draft that is thrown away; an overlay draft has its git history, a copy (of "
        "root's folders, for one) has one commit of what is there, and --stats says which it was.",
        epilog="Exit code: the command's; 124 out of time, 125 no sandbox, 126 not executable, 127 not found, 137 out of memory.",
        allow_abbrev=False,
    )
    parser.add_argument("-m", "--memory", type=_size, default=_size("4g"), metavar="SIZE", help="all it may use: 512m, 4g (4g)")
    parser.add_argument("--cpus", type=_positive, default=2.0, metavar="N", help="processors (2)")
    parser.add_argument("--pids-limit", type=_count, default=512, metavar="N", help="processes and threads (512)")
    parser.add_argument("--disk", type=_size, metavar="SIZE", help="what it may write into a folder (a quarter of the memory)")
    parser.add_argument("-t", "--timeout", type=_seconds, default=3600.0, metavar="TIME", help="90, 10m, 1h (1h)")
    parser.add_argument("--idle-timeout", type=_seconds, metavar="TIME", help="how long it may write nothing (for ever)")
    parser.add_argument("--output", type=_size, metavar="SIZE", help="how much it may write to both streams (any amount)")
    parser.add_argument("--read", type=_word, action="append", default=[], metavar="PATH", help="show this read-only")
    parser.add_argument("--write", type=_word, action="append", default=[], metavar="PATH", help="show this as a draft")
    parser.add_argument("--no-cwd", action="store_true", help="do not show the folder you stand in")
    parser.add_argument("--workdir", type=_word, metavar="PATH", help="where it starts inside (the folder you stand in)")
    parser.add_argument("--env", action="append", default=[], metavar="NAME[=VALUE]", help="a variable; without a value: yours")
    image = os.environ.get("MASSGEN_IMAGE") or DEFAULT_IMAGE
    parser.add_argument("--image", type=_word, default=image, help=f"any with python3 3.9 or newer ({DEFAULT_IMAGE})")
    parser.add_argument("--runtime", type=_word, metavar="NAME", help="the engine's runtime, such as runsc")
    parser.add_argument("--keep-changes", type=_word, metavar="FILE", help="write what it changed as a patch for `git apply`")
    parser.add_argument("-i", "--interactive", action="store_true", help="pass a terminal's input on, too")
    parser.add_argument("--stats", action="store_true", help="figures on stderr at the end")
    parser.add_argument("--json", action="store_true", help="one object on stdout, with the output in it")
    parser.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- COMMAND …", help="the command and its arguments")
    return parser


def _word(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("it is empty; give it a value, or leave the option out")
    return text


def _size(text: str) -> int:
    try:
        return size_bytes(text)
    except SpecError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _seconds(text: str) -> float:
    try:
        return duration_s(text)
    except SpecError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above zero (there is no unlimited)")
    return value


def _count(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 10**7:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above zero (there is no unlimited)")
    return int(text)


async def _go(given: Any, argv: list[str], prog: str, rules: Mapping[str, Any]) -> int:  # noqa: ANN401 - argparse's own namespace
    from sandbox.command_job import job_of
    from sandbox.errors import SandboxError

    try:
        return await _until_signalled(job_of(given, argv, rules, tell=lambda text: _tell(f"{prog}: {text}")), given, prog)
    except (SandboxError, OSError, BaseExceptionGroup) as error:
        first = _first(error)
        if isinstance(first, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the reader left; Python would complain at exit
            return 141
        if not isinstance(first, SandboxError | OSError):
            raise first from None
        _tell(f"{prog}: {first if isinstance(first, SandboxError) else _of_the_host(first)}")
        return 2 if isinstance(first, SpecError) else 125


async def _until_signalled(job: Job, given: Any, prog: str) -> int:  # noqa: ANN401 - same
    import anyio

    from sandbox.engines.docker import DockerEngine
    from sandbox.views import bury

    ended = 0
    code = 125
    engine = await DockerEngine.connect()
    await engine.reap()
    await bury(engine)
    async with anyio.create_task_group() as tasks:

        async def listen() -> None:
            nonlocal ended
            with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGHUP) as signals:
                async for number in signals:
                    ended = 128 + number
                    tasks.cancel_scope.cancel()

        tasks.start_soon(listen)
        code = await _run(job, given, engine, prog)
        tasks.cancel_scope.cancel()
    return ended or code


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _of_the_host(error: OSError) -> str:
    """Whatever of ours did not find its place there."""
    which, why = error.filename or "this machine", error.strerror or error
    return f"{which}: {why}; make room, or name another folder (TMPDIR, --keep-changes)"


def _tell(text: str) -> None:
    safe = "".join(c if c == "\n" or c.isprintable() else f"\\x{ord(c):02x}" for c in text)
    sys.stderr.write(safe + "\n")
    sys.stderr.flush()


async def _run(job: Job, given: Any, engine: Any, prog: str) -> int:  # noqa: ANN401 - same
    import anyio
    import anyio.to_thread

    from sandbox.execute import execute

    async def passed(stream: int, chunk: bytes) -> None:
        await anyio.to_thread.run_sync(_write, stream, chunk)

    done = await execute(job, engine=engine, stdin=_stdin(given), on_output=None if given.json else passed)
    if given.keep_changes:
        await anyio.to_thread.run_sync(Path(given.keep_changes).write_bytes, done.patch.encode("utf-8", "surrogateescape"))
    if done.left_out:
        more = f" and {len(done.left_out) - 1} more" if len(done.left_out) > 1 else ""
        _tell(f"{prog}: not in {given.keep_changes}: {done.left_out[0]!r}{more}, too large for a patch or not to be read")
    outcome = done.outcome
    why = _why(outcome, given)
    code = 2 if outcome.reason == "refused" and "--workdir" in why else outcome.shell_code
    if given.json:
        sys.stdout.write(json.dumps(_object(done) | {"code": code, "why": why}) + "\n")
        sys.stdout.flush()
    if why:
        _tell(f"{prog}: {outcome.reason}: {why}")
    if given.stats:
        _tell(_stats(done))
    return code


def _why(outcome: Outcome, given: Any) -> str:  # noqa: ANN401 - same
    from sandbox.guest.birth import NO_START

    match outcome.reason:
        case "idle":
            return f"it wrote nothing for {given.idle_timeout:g} s and was stopped; raise --idle-timeout"
        case "output":
            return f"it wrote more than {given.output} bytes and was stopped; raise --output"
        case "oom":
            return f"it needed more than its memory of {given.memory // 1024**2} MiB and was killed; raise --memory"
        case "timeout":
            return f"it was stopped after {given.timeout:g} s; raise --timeout"
        case "pids":
            return f"it failed after a process or thread beyond {given.pids_limit} was refused; raise --pids-limit"
        case "disk":
            return f"{outcome.why.partition(';')[0]}; raise --disk, or --memory for /tmp and the home inside"
        case "refused" if outcome.why.startswith(NO_START):
            return f"{outcome.why}; give --workdir a folder of the image, or show this one (--read, --write)"
        case "exited" | "signalled":
            return "a shell says 153 when a file grew beyond what it may; raise --disk" if outcome.exit_code == 153 else ""
        case _:
            return outcome.why or "no more is known"


def _write(stream: int, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[os.write(stream, view) :]


def _stdin(given: Any) -> bytes | AsyncIterator[bytes]:  # noqa: ANN401 - same
    try:
        mode = os.fstat(0).st_mode
    except OSError:
        return b""
    if os.isatty(0) and not given.interactive:
        return b""
    return _read(waits=stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(0))


async def _read(*, waits: bool) -> AsyncIterator[bytes]:
    import anyio

    while True:
        if waits:
            await anyio.wait_readable(0)
        chunk = os.read(0, CHUNK)
        if not chunk:
            return
        yield chunk


def _object(done: Done) -> dict[str, Any]:
    outcome = done.outcome
    plain = {key: value for key, value in asdict(outcome).items() if key not in ("stdout", "stderr")}
    texts = {"stdout": outcome.stdout.text, "stderr": outcome.stderr.text, "cut_bytes": outcome.cut_bytes}
    return {**plain, **texts, "start_s": round(done.start_s, 4), "mounts": list(done.mounts)}


def _stats(done: Done) -> str:
    outcome = done.outcome
    rows = {
        "ended": outcome.reason + (f" {outcome.exit_code}" if outcome.exit_code is not None else ""),
        "wall": f"{outcome.wall_s:.3f} s (and {done.start_s:.3f} s to start)",
        "processor": f"{outcome.cpu_user_s:.3f} s user, {outcome.cpu_sys_s:.3f} s system",
        "largest process": f"{outcome.max_rss_bytes / 1024**2:.1f} MiB",
    }
    if outcome.peak_of == "sandbox":
        rows["peak memory"] = f"{outcome.peak_memory_bytes / 1024**2:.1f} MiB charged to the sandbox, files in memory included"
    if outcome.peak_pids:
        rows["peak processes"] = f"{outcome.peak_pids}, threads and our own included"
    told = [f"  {name:<16} {value}" for name, value in rows.items()]
    told += [f"  {'shown':<16} {_shown_as(mount)}" for mount in done.mounts]
    return "\n".join(told)


def _shown_as(mount: Mapping[str, str]) -> str:
    kind = {"ro": "read-only", "draft": "a draft"}.get(mount["mode"], mount["mode"])
    how = f", {mount['draft']}" if "draft" in mount else ""
    git = {"clean": ", with its git history", "fresh": ", git history replaced by one commit"}.get(mount.get("git", ""), "")
    return f"{mount['path']}: {kind}{how}{git}"
