"""Running commands: one in the foreground, several in the background, while the host may interrupt at any time.

One thread, one selector: the host's lines, the commands' output and SIGCHLD all wake the same loop. Threads would
need locks around the reaper, and a fork in a threaded process is a lottery.
"""

from __future__ import annotations

import fcntl
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping
from typing import Any

from massgen.body.family import JOB_MARK, Member, become_subreaper, family, job_mark, kill_family, signal_all
from massgen.body.hostline import HostLine
from massgen.body.result import Kept, Refused, Result

GRACE_S = 2.0
"""Between TERM and KILL."""

MAX_JOBS = 16

PIECE = 65536


class Command:
    """One started process: its output so far and, once reaped, its status."""

    def __init__(self, text: str, process: subprocess.Popen[bytes], pipe: int) -> None:
        self.text = text
        self.process = process
        self.pid = process.pid
        self.pipe: int | None = pipe
        self.kept = Kept()
        self.started = time.monotonic()

    @property
    def code(self) -> int | None:
        """Exit code, negative for a signal; None while it runs."""
        code: int | None = self.process.returncode
        return code

    def running(self) -> bool:
        """Not reaped yet."""
        return self.code is None

    def drain(self) -> None:
        """Take what is there now; never waits."""
        while self.pipe is not None:
            try:
                data = os.read(self.pipe, PIECE)
            except BlockingIOError:
                return
            if not data:
                os.close(self.pipe)
                self.pipe = None
                return
            self.kept.add(data)


class Commands:
    """Everything that this body has started."""

    def __init__(self, host: HostLine, *, max_timeout_s: float) -> None:
        self._host = host
        self._max_timeout_s = max_timeout_s
        self._shell = "/bin/bash" if os.path.exists("/bin/bash") else "/bin/sh"
        self._jobs: dict[str, Command] = {}
        self._numbers = 0
        self._front: Command | None = None
        become_subreaper()
        wake_in, self._wake_out = os.pipe()
        for end in (wake_in, self._wake_out):
            os.set_blocking(end, False)
        self._wake = wake_in
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_out, warn_on_full_buffer=False)

    # -- foreground ------------------------------------------------------------------------------------------

    def run(self, text: str, *, cwd: str, timeout_s: float | None, env: Mapping[str, str] | None = None) -> Result:
        """Run to the end, the deadline or an interrupt; then nothing that it started is left (jobs stay)."""
        limit = min(timeout_s or self._max_timeout_s, self._max_timeout_s)
        return self._run([self._shell, "-c", text], text, cwd, limit, env)

    def run_program(self, argv: list[str], *, cwd: str) -> Result:
        """The same for one of our own programs (ripgrep), without a shell in between."""
        return self._run(argv, argv[0], cwd, self._max_timeout_s, None)

    def _run(self, argv: list[str], text: str, cwd: str, limit_s: float, env: Mapping[str, str] | None) -> Result:
        command = self._start(argv, text, cwd, env)
        self._front = command
        why = ""
        hard = 0.0
        try:
            while command.running():
                now = time.monotonic()
                if not why:
                    if self._host.stop_wanted:
                        why = "interrupted: " + self._host.stop_wanted
                    elif now - command.started >= limit_s:
                        why = f"timed out after {limit_s:g} s"
                    if why:
                        self._signal_session(command.pid, signal.SIGTERM)
                        hard = now + GRACE_S
                elif now >= hard:
                    kill_family(self._spared, self.reap)
                self._pump((hard if why else command.started + limit_s) - now)
        finally:
            self._front = None
            command.drain()
            left = kill_family(self._spared, self.reap)
            command.drain()
            if command.pipe is not None:
                os.close(command.pipe)
        return _finished(command, why, left)

    def _signal_session(self, leader: int, number: int) -> None:
        signal_all([m.pid for m in family(os.getpid()) if m.session == leader], number)

    # -- background ------------------------------------------------------------------------------------------

    def start_job(self, text: str, *, cwd: str) -> Result:
        """Start and return at once."""
        if sum(job.running() for job in self._jobs.values()) >= MAX_JOBS:
            msg = f"{MAX_JOBS} background jobs run already. Kill one with job(action='kill', id=…) first."
            raise Refused(msg)
        self._numbers += 1
        name = f"job{self._numbers}"
        self._jobs[name] = self._start([self._shell, "-c", text], text, cwd, {JOB_MARK: name})
        how = f"Read it with job(action='read', id='{name}'); it ends with this turn."
        return Result(f"started {name} (pid {self._jobs[name].pid}). {how}")

    def read_job(self, name: str, *, wait_s: float = 0.0) -> Result:
        """Its output since the last read, waiting for news up to `wait_s`."""
        job = self._job(name)
        deadline = time.monotonic() + wait_s
        while job.running() and not self._host.stop_wanted and time.monotonic() < deadline:
            self._pump(deadline - time.monotonic())
        self.reap()
        job.drain()
        text, cut = job.kept.take()
        state = _how(job.code)
        return Result(f"{text}\n[{name} {state}]".lstrip("\n"), exit_code=_shell_code(job.code), truncated_bytes=cut)

    def kill_job(self, name: str) -> Result:
        """End it and all it started; the rest of its output."""
        job = self._job(name)
        if job.running():
            self._signal_session(job.pid, signal.SIGTERM)
            deadline = time.monotonic() + GRACE_S
            while job.running() and time.monotonic() < deadline:
                self._pump(deadline - time.monotonic())
        kill_family(lambda member: not self._of_job(member, name), self.reap)
        result = self.read_job(name)
        if job.pipe is not None:
            os.close(job.pipe)
        del self._jobs[name]
        return Result(result.text, exit_code=result.exit_code, truncated_bytes=result.truncated_bytes)

    def list_jobs(self) -> Result:
        """One line for each."""
        self.reap()
        lines = [
            f"{name}: {_how(job.code)}, started {time.monotonic() - job.started:.0f} s ago: {job.text[:100]}"
            for name, job in self._jobs.items()
        ]
        return Result("\n".join(lines) or "no background jobs")

    def _job(self, name: str) -> Command:
        if name not in self._jobs:
            msg = f"there is no background job {name!r}; there are: {', '.join(self._jobs) or 'none'}."
            raise Refused(msg)
        return self._jobs[name]

    def close(self) -> None:
        """Kill everything."""
        kill_family(lambda _member: False, self.reap)

    # -- the loop --------------------------------------------------------------------------------------------

    def wait_for_line(self) -> bytes | None:
        """The host's next line, jobs being drained meanwhile; None at its end."""
        while True:
            line = self._host.next_line()
            if line is not None or self._host.ended:
                return line
            self._pump(None)

    def reap(self) -> None:
        """Collect every ended child; adopted ones too. Popen must never wait by itself, or it would lose statuses."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for command in [*self._jobs.values(), *([self._front] if self._front else [])]:
                if command.pid == pid:
                    command.process.returncode = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)

    def _pump(self, wait_s: float | None) -> None:
        """Sleep until something happens (at most `wait_s`), then take what came."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake, selectors.EVENT_READ)
            if not self._host.ended:
                selector.register(self._host.fd, selectors.EVENT_READ)
            commands = [*self._jobs.values(), *([self._front] if self._front else [])]
            for command in commands:
                if command.pipe is not None:
                    selector.register(command.pipe, selectors.EVENT_READ)
            ready = {key.fd for key, _ in selector.select(None if wait_s is None else max(0.0, wait_s))}
        if self._wake in ready:
            _empty(self._wake)
        self.reap()
        if self._host.fd in ready:
            self._host.fill()
        for command in commands:
            if command.pipe in ready:
                _take_one(command)

    def _start(self, argv: list[str], text: str, cwd: str, env: Mapping[str, str] | None) -> Command:
        ours, theirs = os.pipe()
        fcntl.fcntl(ours, fcntl.F_SETFL, fcntl.fcntl(ours, fcntl.F_GETFL) | os.O_NONBLOCK)
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=theirs,
                stderr=theirs,
                cwd=cwd,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            os.close(ours)
            msg = f"could not start in {cwd}: {error}. Check that the folder exists (list) and the text has no NUL."
            raise Refused(msg) from None
        finally:
            os.close(theirs)
        return Command(text, process, ours)

    def _of_job(self, member: Member, name: str) -> bool:
        job = self._jobs[name]
        return member.session == job.pid or job_mark(member.pid) == name

    def _spared(self, member: Member) -> bool:
        return any(job.running() and self._of_job(member, name) for name, job in self._jobs.items())


def _take_one(command: Command) -> None:
    """One piece only: a command that floods must not keep us from the clock and the host."""
    try:
        data = os.read(command.pipe, PIECE) if command.pipe is not None else b""
    except BlockingIOError:
        return
    if data:
        command.kept.add(data)
    elif command.pipe is not None:
        os.close(command.pipe)
        command.pipe = None


def _empty(fd: int) -> None:
    try:
        while os.read(fd, 4096):
            pass
    except BlockingIOError:
        return


def _how(code: int | None) -> str:
    if code is None:
        return "still running"
    return f"exited with code {code}" if code >= 0 else f"ended by signal {-code}"


def _shell_code(code: int | None) -> int | None:
    return code if code is None or code >= 0 else 128 - code


def _finished(command: Command, why: str, left: int) -> Result:
    notes: list[str] = []
    code = command.code
    if why:
        notes.append(f"[{why}; the command was stopped, this is its output so far]")
    elif code:
        notes.append(f"[{_how(code)}]")
    if left and not why:
        notes.append(f"[{left} processes it left were ended; use background: true for what must stay]")
    text = command.kept.text()
    if notes:
        text = text + ("" if not text or text.endswith("\n") else "\n") + "\n".join(notes)
    extra: dict[str, Any] = {"exit_code": 124 if why.startswith("timed") else _shell_code(code)}
    return Result(text or "[no output]", ok=not why, truncated_bytes=command.kept.cut_bytes, **extra)
