"""A sandbox: a container that lives exactly as long as an `async with` block.

Everything goes through one stream to the guest: no exec, no archive API. Leaving the block, by any path, hangs up, kills
the container and waits until it is gone, shielded from cancellation and bounded in time.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager

import anyio

from sandbox import ports, transaction, transfer, views, wire
from sandbox.channels import Channel, Mux
from sandbox.engines.base import Engine
from sandbox.errors import LeaseError, SandboxLost, SpecError, StartFailed
from sandbox.facts import look
from sandbox.outcome import Outcome
from sandbox.plan import Plan, plan
from sandbox.plan_checks import check_machine
from sandbox.process import Kept, Process, outcome_of
from sandbox.snapshot import Snapshot
from sandbox.spec import Lease, SandboxSpec
from sandbox.store import Store
from sandbox.waiting import GRACE_S, give_up, listened, talked, unwrapped

START_S = 60.0
"""From the container's start to the guest's hello; a busy machine needs seconds, a broken image never answers."""
CLOSE_S = 30.0
MAX_WORDS_BYTES = wire.MAX_PAYLOAD - 64 * 1024
"""A request is one frame; what is spared is for the spec's own environment."""

_burned: set[str] = set()


class Sandbox:
    """One running container. Use `Sandbox.open`."""

    def __init__(self, spec: SandboxSpec, planned: Plan, mux: Mux, container: str) -> None:
        self.spec = spec
        self.plan = planned
        self.container = container
        """The engine's id."""
        self.start_s = 0.0
        """Seconds from the request until commands can run, drafts filled."""
        self._mux = mux
        self._committed = False

    @property
    def mounts(self) -> tuple[Mapping[str, str], ...]:
        """{path, mode} of everything shown, as in the label `massgen.mounts`."""
        return self.plan.mounts

    @classmethod
    @asynccontextmanager
    async def open(cls, spec: SandboxSpec, *, engine: Engine, lease: Lease | None = None) -> AsyncGenerator[Sandbox]:
        """A container that is up, its drafts filled.

        Cancellation at any moment leaves no container. Raises: SpecError (refused, the caller's move),
        EngineUnavailable, ImageMissing, StartFailed, LeaseError (the token was used before).
        """
        if lease is not None:
            if lease.token in _burned:
                raise LeaseError("this lease was used already; a new write needs a new lease", op="open")
            _burned.add(lease.token)
        began = time.monotonic()
        image = await engine.image(spec.image)
        machine = await engine.facts()
        check_machine(spec.limits, cpus=machine.cpus, memory_bytes=machine.memory_bytes)
        async with views.prepared(spec, engine, lease) as prepared:
            facts = await anyio.to_thread.run_sync(
                lambda: look(
                    spec,
                    lease=lease,
                    image_volumes=image.volumes,
                    image_env=image.env,
                    views=prepared,
                    recursive_ro=machine.recursive_ro,
                )
            )
            async with cls._opened(spec, plan(spec, facts, lease), engine, began) as box:
                yield box

    @classmethod
    @asynccontextmanager
    async def _opened(cls, spec: SandboxSpec, planned: Plan, engine: Engine, began: float) -> AsyncGenerator[Sandbox]:
        with unwrapped():
            async with anyio.create_task_group() as tasks:
                link = await engine.start(planned)
                mux = Mux(link, alive=engine.alive)
                # Not cancelled with the caller: what it leaves is ended over this very stream, and waits for answers.
                serving = anyio.CancelScope(shield=True)

                async def serve() -> None:
                    with serving, unwrapped():
                        async with anyio.create_task_group() as both:
                            both.start_soon(mux.read_forever)
                            both.start_soon(mux.heartbeat, spec.limits.silence_s)

                try:
                    tasks.start_soon(serve)
                    with anyio.move_on_after(START_S) as patience:
                        await mux.greet(spec.limits.silence_s, image=spec.image)
                    if patience.cancelled_caught:
                        raise StartFailed(f"the guest of {spec.image} did not answer within {START_S:.0f} s", op="start")
                    box = cls(spec, planned, mux, link.container)
                    await transfer.fill(mux, planned)
                    box.start_s = time.monotonic() - began
                    yield box
                finally:
                    mux.leave()
                    with anyio.move_on_after(CLOSE_S, shield=True):
                        await link.aclose()
                    serving.cancel()
                    tasks.cancel_scope.cancel()

    async def run(
        self,
        argv: Sequence[str],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes | AsyncIterable[bytes] = b"",
        timeout_s: float | None = None,
        idle_timeout_s: float | None = None,
        max_output_bytes: int | None = None,
        on_output: Callable[[int, bytes], Awaitable[None] | None] | None = None,
    ) -> Outcome:
        """Run one command to its end. Never raises for what the command or the sandbox does: see `Outcome.reason`.

        `timeout_s` None means the spec's command timeout. The deadline is kept by the guest and, with some grace, by the host.
        `idle_timeout_s` without a word, on either stream, ends it as `idle`; more than `max_output_bytes` of both streams
        together end it as `output`, with the first so many delivered; None means no such limit. Time in which the host takes no
        output, or in which everything is stopped, is not silence. `on_output` may be slow when it returns something to wait for:
        the command then waits, too. Cancellation kills the command and all it started. Raises
        LeaseError under a lease to apply or undo: nothing but the guest runs there.
        """
        limit_s = self.spec.limits.command_timeout_s if timeout_s is None else timeout_s
        stdout, stderr = Kept(self.spec.limits.output_bytes), Kept(self.spec.limits.output_bytes)
        if why := _unusable(argv, cwd, env):
            return Outcome(reason="refused", why=why)
        ends = {"timeout_s": limit_s, "idle_timeout_s": idle_timeout_s, "max_output_bytes": max_output_bytes}
        channel = None
        try:
            if on_output is None and not stdin and not self._mux.busy:
                channel = await self._start(argv, cwd=cwd, env=env, ends=ends, stdin=False)
                await listened(self._mux, channel, stdout, stderr, limit_s + GRACE_S)
            else:
                with anyio.move_on_after(limit_s + GRACE_S) as patience:
                    channel = await self._start(argv, cwd=cwd, env=env, ends=ends, stdin=bool(stdin))
                    await talked(self._mux, channel, stdout, stderr, patience, stdin=stdin, on_output=on_output)
        except SandboxLost as error:
            return Outcome(reason=error.cause, why=str(error), stdout=stdout.output(), stderr=stderr.output())
        verdict = channel.verdict if channel is not None else None
        if verdict is None:
            verdict = {"message": "the sandbox did not end the command at its deadline"}
        return outcome_of(verdict, stdout.output(), stderr.output())

    @asynccontextmanager
    async def spawn(
        self, argv: Sequence[str], *, cwd: str | None = None, env: Mapping[str, str] | None = None
    ) -> AsyncIterator[Process]:
        """A program that is talked to; leaving the block kills it and everything it started. Raises SpecError, SandboxLost."""
        if why := _unusable(argv, cwd, env):
            raise SpecError(why, op="spawn")
        channel = await self._start(argv, cwd=cwd, env=env, ends={}, stdin=True)
        try:
            yield Process(channel)
        finally:
            if channel.verdict is None:
                await give_up(channel)

    @asynccontextmanager
    async def serve(
        self, handler: ports.Handler, *, port: int = 0, max_connections: int = ports.MAX_CONNECTIONS
    ) -> AsyncGenerator[int]:
        """A loopback port inside whose connections `handler` answers on the host; gives its number. 0: any free one.

        Anything that runs inside can connect, with up to `max_connections` at a time; others wait. `handler` is called for each
        with a byte stream, which is closed when it returns; what it raises, but for the connection's own end, leaves the block.
        Leaving cancels the handlers and closes port and connections. Raises GuestError (a port that is taken), LeaseError,
        SandboxLost.
        """
        self._check_programs("serve")
        with unwrapped():
            async with ports.serve(self._mux, handler, port=port, max_connections=max_connections) as number:
                yield number

    def _check_programs(self, op: str) -> None:
        lease = self.plan.lease
        if lease is not None and lease.purpose != "direct":
            raise LeaseError("only the guest works in a container with this lease; no program runs beside it", op=op)

    async def _start(
        self,
        argv: Sequence[str],
        *,
        cwd: str | None,
        env: Mapping[str, str] | None,
        ends: Mapping[str, float | None],
        stdin: bool,
    ) -> Channel:
        self._check_programs("spawn")
        return await self._mux.open(
            "spawn",
            argv=list(argv),
            cwd=cwd or self.spec.cwd,
            env={**self.plan.env, **(env or {})},
            stdin=stdin,
            **ends,
        )

    async def read(self, path: str, *, max_bytes: int = 16 * 1024 * 1024) -> bytes:
        """One regular file, as a program inside would read it. Raises GuestError (missing, larger), SandboxLost."""
        channel = await self._mux.open("read", path=path, max_bytes=max_bytes)
        content = io.BytesIO()  # whose value is not one more copy
        room = max_bytes
        async with transfer.operation(channel):
            with contextlib.suppress(anyio.EndOfStream):
                while True:
                    room -= content.write((await channel.take())[1])
                    if room < 0:
                        raise self._mux.broken(f"more than {max_bytes} bytes of a file were sent")
        channel.check()
        return content.getvalue()

    async def list(self, path: str) -> tuple[transfer.Change, ...]:
        """Everything below a folder of the sandbox, on its own file system. Raises GuestError, SandboxLost."""
        return await transfer.listing(self._mux, path)

    async def snapshot(
        self, store: Store, *, keep: Callable[[Sequence[transfer.Change]], Collection[int]] | None = None
    ) -> Snapshot:
        """All that changed in `/workspace` and the drafts since the sandbox opened; contents go into `store`.

        Every process inside is stopped meanwhile. `keep` picks, from the changes, the indexes that belong in it. Raises
        SnapshotError (too much, too many, hostile), GuestError, SandboxLost.
        """
        return await transfer.snapshot(self._mux, self.plan.roots, store, keep)

    async def apply(self, snapshot: Snapshot, store: Store) -> None:
        """Make `/workspace` and the drafts look like a snapshot. Raises GuestError, LeaseError, SandboxLost."""
        lease = self.plan.lease
        if lease is not None and lease.purpose != "direct":
            raise LeaseError("the roots of this sandbox are the project itself; only commit writes there", op="apply")
        await transfer.restore(self._mux, self.plan.roots, snapshot, store)

    async def commit(
        self,
        snapshot: Snapshot,
        store: Store,
        *,
        expected: Mapping[tuple[str, str], str],
        ready: transaction.Ready | None = None,
    ) -> Snapshot:
        """Write a snapshot into the leased paths: all of it or nothing; returns the snapshot that takes it back.

        `expected` says, per (root, path), what must be there now: a SHA-256, `link:TARGET`, `dir`, or "" for nothing. The
        returned snapshot's contents are in `store` before the first byte of the project changes; `ready` is called then.
        Killed at any moment, guest or host, `recover` with what `ready` was given makes the project whole. Raises Drift (nothing
        written), LeaseError.
        """
        lease = self.plan.lease
        if lease is None:
            raise LeaseError("this sandbox holds no lease, so nothing can be written through it", op="commit")
        if lease.purpose == "recover":
            raise LeaseError("this lease may only recover a write that was killed", op="commit")
        if self._committed:
            raise LeaseError("this lease was used already; a new write needs a new lease", op="commit")
        self._committed = True
        if lease.snapshot_id not in ("", snapshot.id):
            raise LeaseError(f"the lease is for snapshot {lease.snapshot_id[:12]}, not for {snapshot.id[:12]}", op="commit")
        mounts = [b.target for b in self.plan.binds if not b.read_only]
        return await transaction.commit(self._mux, lease, snapshot, store, expected, mounts=mounts, ready=ready)

    async def recover(
        self, store: Store, *, stage: str, journal: str, snapshot: Snapshot, undo: Snapshot | None
    ) -> transaction.Recovered:
        """After a write that was killed: finish it if everything was in its place, else take it back; no stage folder stays.

        `stage` is that lease's, `undo` and `journal` what `ready` was given, None and "" when it never was. May itself be killed
        and be done again. Raises LeaseError (not a lease to recover), GuestError, SandboxLost.
        """
        lease = self.plan.lease
        if lease is None or lease.purpose != "recover":
            raise LeaseError("only a lease to recover can end a write that was killed", op="recover")
        mounts = [b.target for b in self.plan.binds if not b.read_only]
        return await transaction.recover(
            self._mux, lease, store, stage=stage, journal=journal, snapshot=snapshot, undo=undo, mounts=mounts
        )

    async def let_go(self, patience_s: float) -> float | None:
        """Let go of the container as the end of this process would: seconds until it was gone by itself, None when it was not.

        It is the last use of this sandbox; leaving the block removes what is left all the same.
        """
        return await self._mux.let_go(patience_s)

    async def stop(self) -> None:
        """Stop every process but the guest, until `go`. Raises SandboxLost."""
        await (await self._mux.open("stop")).finish()

    async def go(self) -> None:
        """Let them go on. Raises SandboxLost."""
        await (await self._mux.open("go")).finish()


def _unusable(argv: Sequence[str], cwd: str | None, env: Mapping[str, str] | None) -> str:
    """Why no program could ever be started like this; empty when one might. A model's text can hold anything."""
    if not argv:
        return "there is no program to start; give at least its name"
    words = [*argv, cwd or "", *(env or {}), *(env or {}).values()]
    text = "".join(words)
    if "\0" in text:
        return "an argument, a variable or the folder holds a NUL byte, which no program can be given"
    if any(not name or "=" in name for name in env or {}):
        return "a variable's name is empty or holds an equals sign"
    try:
        os.fsencode(text)
    except UnicodeEncodeError as error:
        return f"an argument is not text that a program can be given: {error}"
    if len(text) * 12 + len(words) * 4 > MAX_WORDS_BYTES and len(json.dumps(words)) > MAX_WORDS_BYTES:
        return f"arguments and variables of more than {MAX_WORDS_BYTES} bytes; use stdin or a file"
    return ""
