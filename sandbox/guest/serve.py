"""The one loop of the guest: frames in, children's pipes, frames out.

It never waits for a write: what the host does not take stays in a queue that credit bounds, and stdin is still read, so
the end of the host is always seen. A second thread only watches the clock.
"""

from __future__ import annotations

import os
import select
import threading
import time
from typing import Any, Callable

from sandbox.guest import commit, files, recover, upper, walk
from sandbox.guest.command import Command
from sandbox.guest.outlet import Outlet
from sandbox.guest.pipes import widen
from sandbox.guest.port import Connection, Port
from sandbox.guest.task import Task, Work
from sandbox.wire import (
    CLOSE,
    CREDIT,
    DATA,
    END,
    HELLO,
    OPEN,
    RESET,
    VERSION,
    Decoder,
    Frame,
    WireError,
    control_frame,
    credit_of,
    data_of,
    object_of,
)

Ready = Callable[[int], None]
CHUNK = 256 * 1024
MAX_COMMANDS = 64
ABANDON_S = 30.0
LONGEST_WAIT_S = 3600.0
"""Of one turn of the loop: a system call takes no number of seconds that a float can be."""
STALL_S = 3
"""How long the loop may stand still before everything else is killed; twice that, and the guest ends itself."""

WORK: dict[str, Work] = {
    "list": files.list_folder,
    "reach": files.reach,
    "read": files.read,
    "mark": files.mark,
    "layers": upper.know,
    "pack": files.pack,
    "apply": files.apply,
    "commit": commit.commit,
    "recover": recover.recover,
}


class Guest:
    """Serves one host over two descriptors until the host is gone."""

    def __init__(self, stdin: int, stdout: int, world: Any, on_silence: Callable[[], None] | None = None) -> None:
        self.world = world
        self.baselines: dict[str, walk.Baseline] = {}
        self.overlays: dict[str, upper.Layers] = {}
        """The roots that are overlay drafts."""
        self.disk_full = False
        """A layer has outgrown its limit: the loop ends what runs."""
        os.set_blocking(stdin, False)
        os.set_blocking(stdout, False)
        for fd in (stdin, stdout):
            widen(fd)
        self._decoder = Decoder()
        self._greeted = False
        self._last_channel = 0
        self._channels: dict[int, Command | Task | Port | Connection] = {}
        self._commands: dict[int, Command] = {}
        """Those whose leader lives, by pid."""
        self._counters: tuple[int, int] | None = None
        self._epoll = select.epoll()
        self._ready: dict[int, Ready] = {}
        self._buffer = memoryview(bytearray(CHUNK))
        self._wake_in, self._wake_out = os.pipe()
        os.set_blocking(self._wake_in, False)
        os.set_blocking(self._wake_out, False)
        self.wake_fd = self._wake_out
        """Whatever is written here makes the loop look around: also the interpreter itself, at a signal."""
        self.watch_read(self._wake_in, self._woken)
        self.watch_read(stdin, self._readable)
        self._heard = time.monotonic()
        self._silence_s = 0.0
        self._on_silence = on_silence
        self.outlet = Outlet(stdout, self.watch_write, self.forget, self.wake)
        self.send = self.outlet.send
        self._closed = False
        self.over = threading.Event()
        self._clock = threading.Thread(target=self._watch_clock, daemon=True)
        self._turns = 0
        self.births = threading.Lock()
        """Held while a child is born: whoever stopped it before its exec would stop us too, who wait for that."""
        self.stopped = False
        """The host asked for it: a snapshot in between does not let anything go on."""

    # -- descriptors -----------------------------------------------------------------------------------------

    def watch_read(self, fd: int, ready: Ready) -> None:
        """Call `ready(fd)` whenever there is something to read."""
        self._epoll.register(fd, select.EPOLLIN)
        self._ready[fd] = ready

    def watch_write(self, fd: int, ready: Ready) -> None:
        """Call `ready(fd)` whenever it takes bytes."""
        if fd not in self._ready:
            self._epoll.register(fd, select.EPOLLOUT)
            self._ready[fd] = ready

    def forget(self, fd: int) -> None:
        """Stop watching."""
        if self._ready.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def wake(self) -> None:
        """Make the loop look around; from any thread."""
        try:
            os.write(self._wake_out, b"!")
        except OSError:
            pass  # full: it will wake anyway

    def _woken(self, fd: int) -> None:
        try:
            os.read(fd, 4096)
        except BlockingIOError:
            pass
        self.outlet.go_on()

    # -- frames in -------------------------------------------------------------------------------------------

    def _readable(self, fd: int) -> None:
        try:
            count = os.readv(fd, (self._buffer,))
        except BlockingIOError:
            return
        if not count:
            self._closed = True
            return
        self._heard = time.monotonic()
        for frame in self._decoder.feed(self._buffer[:count]):
            self._take(frame)

    def _take(self, frame: Frame) -> None:
        kind, number, payload = frame
        if not self._greeted:
            if kind != HELLO or number != 0:
                raise WireError("the first frame is not hello")
            self._hello(object_of(payload))
        elif kind == OPEN:
            if number <= self._last_channel:
                raise WireError(f"channel {number} was used before")
            self._last_channel = number
            self._open(number, object_of(payload))
        elif kind == CREDIT and number == 0:
            pass  # heartbeat
        else:
            self._pass_on(kind, number, payload)

    def _pass_on(self, kind: int, number: int, payload: bytes | bytearray) -> None:
        channel = self._channels.get(number)
        if channel is None:
            if number > self._last_channel or number == 0:
                raise WireError(f"a frame for channel {number} that was never opened")
            return  # it just ended
        if kind == DATA:
            channel.data(data_of(payload))
        elif kind == END:
            channel.end()
        elif kind == CREDIT:
            channel.granted(credit_of(payload))
        elif kind == RESET:
            channel.reset()
        else:
            raise WireError(f"a frame of kind {kind} from the host")

    def _hello(self, body: dict[str, Any]) -> None:
        if body.get("v") != VERSION:
            raise WireError(f"host speaks version {body.get('v')!r}, this guest speaks {VERSION}")
        silence_s = body.get("silence_s") or 0
        if not isinstance(silence_s, (int, float)) or not silence_s >= 0:
            raise WireError(f"a silence of {silence_s!r} seconds")
        self._greeted = True
        self._silence_s = silence_s
        about = {"v": VERSION, "pid": os.getpid(), "uid": os.getuid(), "gid": os.getgid()}
        self.send(control_frame(HELLO, 0, about))

    def _open(self, number: int, request: dict[str, Any]) -> None:
        try:
            self._begin(request.get("op"), number, request)
        except OSError as error:
            message = f"{error.strerror or error}: {error.filename or ''}"
            verdict = {"reason": "refused", "message": message.rstrip(": "), "errno": error.errno or 0}
            self.send(control_frame(CLOSE, number, verdict))
        except (TypeError, ValueError, OverflowError) as error:
            raise WireError(f"a malformed request: {error}") from None
        except RuntimeError as error:  # no thread for a file operation: the sandbox is at its process limit
            self.send(control_frame(CLOSE, number, {"reason": "refused", "message": str(error)}))

    def _begin(self, op: Any, number: int, request: dict[str, Any]) -> None:
        if op == "spawn":
            if sum(isinstance(c, (Command, Task)) for c in self._channels.values()) >= MAX_COMMANDS:
                raise OSError(11, f"{MAX_COMMANDS} commands run already")
            command = Command(self, number, request)
            self._channels[number] = self._commands[command.pid] = command
        elif op in ("stop", "go"):
            self.stopped = op == "stop"
            (self.world.stop_all if self.stopped else self.world.go_all)()
            for stopped in self._commands.values():
                stopped.heard = time.monotonic()  # who is stopped cannot speak
            self.send(control_frame(CLOSE, number, {"reason": "ok"}))
        elif op == "listen":
            self._channels[number] = Port(self, number, request)
        elif op == "accept":
            self._accept(number, request)
        elif isinstance(op, str) and op in WORK:
            self._channels[number] = Task(self, number, WORK[op], request)
        else:
            raise WireError(f"unknown operation {op!r}")

    def _accept(self, number: int, request: dict[str, Any]) -> None:
        port = self._channels.get(request.get("port", 0))
        if not isinstance(port, Port):
            raise OSError(9, "this port is closed")
        self._channels[number] = connection = Connection(self, number, port)
        port.await_connection(connection)

    # -- the loop --------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Until the host is gone. Raises WireError when it does not speak our protocol."""
        self._clock.start()
        try:
            while not (self._closed or self.outlet.broken):
                self._turns += 1
                batch = [(fd, self._ready.get(fd)) for fd, _ in self._epoll.poll(self._patience())]
                for fd, ready in batch:
                    if ready is not None and self._ready.get(fd) is ready:  # an earlier one of this batch may have closed it
                        ready(fd)
                self._settle()
        finally:
            self.over.set()
            self._abandon()

    def _abandon(self) -> None:
        """The host is gone: what waits for it gives up; a transaction that was told to go ends first, else it would be torn."""
        tasks = [c for c in self._channels.values() if isinstance(c, Task)]
        for task in tasks:
            task.reset()
        for task in tasks:
            task.join(ABANDON_S)

    def _patience(self) -> float | None:
        soonest: float | None = None
        for channel in self._channels.values():
            if isinstance(channel, Command):
                at = channel.expires()
                if at is not None and (soonest is None or at < soonest):
                    soonest = at
        return None if soonest is None else min(max(0.0, soonest - time.monotonic()) + 0.001, LONGEST_WAIT_S)

    def _settle(self) -> None:
        """Reap, sweep, expire, and let finished channels go."""
        if self._commands:
            now = time.monotonic()
            for command in self._commands.values():
                command.expire(now)
        if self.disk_full:
            self._free_disk()
        ended = self.world.reap(self._commands)
        for pid, status, usage in ended:
            self._commands.pop(pid).leader_ended(status, usage)
        if ended:
            self.world.sweep(self._commands)
        for number in [n for n, c in self._channels.items() if c.finished()]:
            del self._channels[number]
        if ended and not self._commands:
            self._counters = self.world.counters()  # now, while nobody waits

    def counters(self) -> tuple[int, int]:
        """What the kernel counted so far. With nothing running it is what it was."""
        if self._commands or self._counters is None:
            self._counters = self.world.counters()
        return self._counters

    def _free_disk(self) -> None:
        """Commands with a deadline end for it; of the others (an agent's body) what they started does."""
        self.disk_full = False
        for command in self._commands.values():
            if command.timed:
                command.kill("disk")
        self.world.kill_others(c.pid for c in self._commands.values() if not c.timed)

    def _watch_clock(self) -> None:
        """A dead engine gives no end of file: without a word from the host for `silence_s` the guest ends by itself.

        The same when the loop stands still, which agents can bring about: by stopping a child between its birth and its exec
        (then killing everything helps), or by taking memory away from PID 1 with prlimit (then nothing does).
        """
        stalled, turns = 0, -1
        while not self.over.wait(1.0):
            stalled = stalled + 1 if turns == self._turns else 0
            turns = self._turns
            self._sample()
            self.wake()
            if self._on_silence is None:
                continue
            if stalled == STALL_S:
                self.world.kill_all()
            silent = self._silence_s and time.monotonic() - self._heard > self._silence_s
            if silent or stalled >= 2 * STALL_S:
                self._on_silence()

    def _sample(self) -> None:
        """Keep the peaks of what runs: no kernel keeps them for one command of a container."""
        running = list(self._commands.values())
        if running:
            memory, pids = self.world.in_use()
            for command in running:
                command.peaks = (max(command.peaks[0], memory), max(command.peaks[1], pids))

    def end(self) -> None:
        """Stop serving, from any thread: a fake guest that is killed."""
        self._closed = True
        self.wake()

    def close(self) -> None:
        """Release descriptors (a guest that is PID 1 just exits) when nobody is left who writes to them: numbers return."""
        self.over.set()
        self._clock.join()
        for channel in self._channels.values():
            if isinstance(channel, (Port, Connection)):
                channel.reset()
        self._epoll.close()
        for fd in (self._wake_in, self._wake_out):
            os.close(fd)
