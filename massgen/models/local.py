"""The embedded model: no key, no network. One server process for all agents and runs that use the same file (`local_keeper.py`).

Agents take turns. The server has one slot, because on a laptop's processor two answers at once take longer than one
after the other, and because a slot remembers the prompt it saw last: agents that ask with the same beginning are
answered several times faster (`Usage.cached_tokens` says how much of a prompt was not processed again).
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final, Self

import anyio
import anyio.lowlevel
import anyio.to_thread

from massgen.errors import ConfigError, ModelUnavailable
from massgen.messages import Message, Reply, Request
from massgen.models import gguf
from massgen.models.base import OnPiece, OnUsage
from massgen.models.chat import ChatModel
from massgen.models.fenced import with_calls
from massgen.models.local_shared import LINGER_S, Joined, Wanted, join, runtime_folder
from massgen.models.openai_sdk import OpenAIClient
from massgen.models.pinned import QWEN_CODER, usable
from massgen.models.translate import Endpoint

PINNED_CONTEXT: Final = 4096
"""What the workflow for the pinned model needs; a larger one would take memory from what the agents run."""
SILENCE_S: Final = 900.0
"""Also the time that others, in runs beside ours, may take for their answers."""
NEWS_S: Final = 5.0
"""How long to wait, after a broken call, for the keeper's word that the server is gone."""
UNSEEN: Final = 1.0
"""How much less likely than the least likely word shown we take a word that is not shown to be."""


class LocalModel:
    """A model file behind the shared server. Made by `open`."""

    key_source = ""

    def __init__(self, name: str, wanted: Wanted, joined: Joined) -> None:
        self.name = name
        self.context_tokens = joined.context
        self._wanted = wanted
        self._joined = joined
        self._chat = self._client(joined)
        self._turn = anyio.Lock()

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        weights: Path,
        *,
        threads: int | None = None,
        context: int | None = None,
        linger_s: float = LINGER_S,
        free_bytes: int | None = None,
    ) -> AsyncGenerator[Self]:
        """Join the server of this file, started if nobody has; leaving the block lets go of it.

        `weights`: the accepted file in the user's cache, or any GGUF file. `threads`, `context` (tokens of prompt and answer
        together) None: as the server has them that runs, else from the machine. `linger_s`: how long the server stays for the
        next one, from its starter. `free_bytes`: the memory that there is for a server; None: what the machine has left.

        Raises: ConfigError (the library or the file is missing, or the machine too small: says what to do), ModelUnavailable.
        """
        wanted = await anyio.to_thread.run_sync(_wanted, weights, threads, context, linger_s, free_bytes)
        joined = await join(wanted)
        name = QWEN_CODER.alias if weights.name == QWEN_CODER.file_name else weights.stem
        model = cls(name, wanted, joined)
        try:
            yield model
        finally:
            model._joined.close()
            with anyio.CancelScope(shield=True):
                await model._chat.aclose()

    @property
    def server_pid(self) -> int:
        """Of llama.cpp's process."""
        return self._joined.pid

    @property
    def endpoint(self) -> Endpoint:
        """Where the server listens, and its key: it speaks other protocols, too."""
        return self._chat.endpoint

    async def complete(self, request: Request, *, on_piece: OnPiece | None = None) -> Reply:
        """One completion, when it is this caller's turn. Raises: ModelError."""
        async with self._turn:
            chat = await self._ready()
            try:
                reply = await chat.complete(request, on_piece=on_piece)
                return replace(with_calls(reply, request.tools), cost_usd=0.0)
            except ModelUnavailable as error:
                raise await self._explained(error) from error

    async def score(
        self, messages: tuple[Message, ...], *, yes: str = "yes", no: str = "no", on_usage: OnUsage | None = None
    ) -> float:
        """logprob(yes) - logprob(no) of the first word of the answer. Raises: ModelError."""
        async with self._turn:
            chat = await self._ready()
            try:
                words, usage = await chat.first_words(messages)
            except ModelUnavailable as error:
                raise await self._explained(error) from error
        if on_usage:
            on_usage(usage)
        unseen = min(words.values(), default=0.0) - UNSEEN
        return words.get(yes.lower(), unseen) - words.get(no.lower(), unseen)

    async def aclose(self) -> None:
        """Nothing: agents share the model, and the block that opened it ends it."""

    async def _ready(self) -> ChatModel:
        """A server that died since the last call is started again."""
        if self._joined.end():
            self._joined.close()
            await self._chat.aclose()
            self._joined = await join(self._wanted)
            self._chat = self._client(self._joined)
        return self._chat

    async def _explained(self, error: ModelUnavailable) -> ModelUnavailable:
        end = await self._joined.ended_within(NEWS_S)
        what = f"{end}; the next call starts it again" if end else str(error)
        return ModelUnavailable(what, unbilled=bool(end) or error.unbilled)

    def _client(self, joined: Joined) -> ChatModel:
        url = f"http://127.0.0.1:{joined.port}/v1"
        return ChatModel(OpenAIClient(model=self.name, base_url=url, api_key=joined.key, silence_s=SILENCE_S, loopback=True))


def _wanted(weights: Path, threads: int | None, context: int | None, linger_s: float, free_bytes: int | None) -> Wanted:
    if importlib.util.find_spec("xllamacpp") is None:
        raise ConfigError("the local model needs the package xllamacpp, which is not installed: pip install 'massgen[local]'")
    if weights.name == QWEN_CODER.file_name:
        if not usable(weights):
            size = f"{QWEN_CODER.size_bytes / 1e9:.1f} GB"
            raise ConfigError(
                f"the local model's weights are not at {weights}, or were not checked; "
                f"fetch them ({size}, once): massgen models pull"
            )
        context = context or PINNED_CONTEXT
    else:
        gguf.shape(weights)  # what is no model is said here, not in a server's log
    return Wanted(
        weights=weights,
        threads=threads,
        context=context,
        folder=runtime_folder(os.environ),
        linger_s=linger_s,
        free_bytes=free_bytes,
    )
