"""The embedded model: no key, no network. One server process per run, shared by all its agents.

Agents take turns. The server has one slot, because on a laptop's processor two answers at once take longer than one
after the other, and because a slot remembers the prompt it saw last: agents that ask with the same beginning are
answered several times faster.
"""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Self

import anyio
import anyio.abc
from anyio.streams.buffered import BufferedByteReceiveStream

from massgen.errors import ConfigError, ModelUnavailable
from massgen.messages import Message, Reply, Request
from massgen.models.base import OnPiece
from massgen.models.chat import ChatModel
from massgen.models.openai_sdk import OpenAIClient
from massgen.models.pinned import QWEN_CODER, usable

CONTEXT_TOKENS: Final = 4096
LOAD_S: Final = 120.0
"""Loading takes 2 to 4 s; a cold disk and a busy machine take longer."""
SILENCE_S: Final = 300.0
STOP_S: Final = 5.0
UNSEEN: Final = 1.0
"""How much less likely than the least likely word shown we take a word that is not shown to be."""


class LocalModel:
    """The pinned small model behind its own server. Made by `open`."""

    name = "qwen2.5-coder-1.5b"
    key_source = ""

    def __init__(self, chat: ChatModel, process: anyio.abc.Process, log: Path) -> None:
        self._chat = chat
        self._process = process
        self._log = log
        self._turn = anyio.Lock()

    @classmethod
    @asynccontextmanager
    async def open(cls, weights: Path, *, log: Path = Path(os.devnull), threads: int | None = None) -> AsyncGenerator[Self]:
        """Start the server and load the model; leaving the block ends it.

        `weights`: the accepted file in the user's cache. `threads`: None means as many as the processor has, at most 8.
        `log`: takes what llama.cpp prints.

        Raises: ConfigError (the library or the weights are missing: says how to get them), ModelUnavailable (it did not start).
        """
        _require(weights)
        key = secrets.token_urlsafe(24)
        # Not `local_server.Settings`: a module that runs as a program should not be imported by its own package first.
        settings = {
            "model": str(weights),
            "key": key,
            "threads": threads or min(8, len(os.sched_getaffinity(0))),
            "context": CONTEXT_TOKENS,
            "log": str(log),
        }
        command = [sys.executable, "-m", "massgen.models.local_server"]
        # Its own session: Ctrl-C in the terminal is for the host, which ends the server when it is done with it.
        process = await anyio.open_process(command, stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            port = await _port(process, settings, log)
            client = OpenAIClient(
                model=cls.name, base_url=f"http://127.0.0.1:{port}/v1", api_key=key, silence_s=SILENCE_S, loopback=True
            )
            chat = ChatModel(client)
            try:
                yield cls(chat, process, log)
            finally:
                with anyio.CancelScope(shield=True):
                    await chat.aclose()
        finally:
            with anyio.CancelScope(shield=True):
                await _end(process)

    async def complete(self, request: Request, *, on_piece: OnPiece | None = None) -> Reply:
        """One completion, when it is this caller's turn. Raises: ModelError."""
        async with self._turn:
            try:
                return await self._chat.complete(request, on_piece=on_piece)
            except ModelUnavailable as error:
                raise self._explained(error) from error

    async def score(self, messages: tuple[Message, ...], *, yes: str = "yes", no: str = "no") -> float:
        """logprob(yes) - logprob(no) of the first word of the answer. Raises: ModelError."""
        async with self._turn:
            try:
                words = await self._chat.first_words(messages)
            except ModelUnavailable as error:
                raise self._explained(error) from error
        unseen = min(words.values(), default=0.0) - UNSEEN
        return words.get(yes.lower(), unseen) - words.get(no.lower(), unseen)

    async def aclose(self) -> None:
        """Nothing: agents share the model, and the block that opened it ends it."""

    def _explained(self, error: ModelUnavailable) -> ModelUnavailable:
        if self._process.returncode is None:
            return error
        return ModelUnavailable(_ended(self._process.returncode, self._log))


def _require(weights: Path) -> None:
    if importlib.util.find_spec("xllamacpp") is None:
        raise ConfigError("the local model needs the package xllamacpp, which is not installed: pip install 'massgen[local]'")
    if not usable(weights):
        size = f"{QWEN_CODER.size_bytes / 1e9:.1f} GB"
        raise ConfigError(
            f"the local model's weights are not at {weights}, or were not checked; fetch them ({size}, once): massgen models pull"
        )


async def _port(process: anyio.abc.Process, settings: dict[str, object], log: Path) -> int:
    """Tell the server what to load; wait until it has. Raises: ModelUnavailable."""
    if process.stdin is None or process.stdout is None:
        raise AssertionError("anyio.open_process gives pipes unless told otherwise")
    try:
        with anyio.fail_after(LOAD_S):
            await process.stdin.send(json.dumps(settings).encode() + b"\n")
            line = await BufferedByteReceiveStream(process.stdout).receive_until(b"\n", 65536)
        said = json.loads(line)
    except TimeoutError as error:
        raise ModelUnavailable(f"the local model did not load within {LOAD_S:g} s; its log: {log}") from error
    except (anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError, ValueError) as error:
        raise ModelUnavailable(_ended(await process.wait(), log)) from error
    if "port" not in said:
        raise ModelUnavailable(f"the local model did not load: {said.get('error', 'no reason given')}; its log: {log}")
    return int(said["port"])


def _ended(code: int, log: Path) -> str:
    killed = f"was killed by signal {-code}, perhaps for want of memory (it needs 2.2 GB)" if code < 0 else f"ended with {code}"
    return f"the local model's server {killed}; its log: {log}"


async def _end(process: anyio.abc.Process) -> None:
    """Kill it: it has nothing to save, and while it loads it would not hear a polite word for seconds."""
    if process.returncode is None:
        process.kill()
    with anyio.move_on_after(STOP_S):
        await process.aclose()
