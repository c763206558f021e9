"""The embedded model: real weights where they are there; what can go wrong without them everywhere."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from massgen.errors import ConfigError, ContextOverflow, ModelUnavailable
from massgen.messages import Message, Piece, Request
from massgen.models import LocalModel, ScoringModel, open_model
from massgen.models.pinned import QWEN_CODER, models_folder, stamp_file, stamp_text

WEIGHTS = models_folder(os.environ) / QWEN_CODER.file_name
CHECKER = "You check a bug fix by its test result. PASS means approve. FAIL means reject. Answer with one word: yes or no."
DIES_WITHIN_MS = 3000


def asking(text: str, **more: int) -> Request:
    """One question, always answered alike."""
    return Request(messages=(Message(role="user", text=text),), temperature=0.0, **more)


@pytest.fixture(scope="module")
async def model() -> AsyncIterator[LocalModel]:
    """The local model, loaded once for this file."""
    async with LocalModel.open(WEIGHTS) as opened:
        yield opened


@pytest.mark.model
async def test_a_model_that_does_not_write_code_is_noticed(model: LocalModel) -> None:
    """A small function comes back as streamed text, with the server's own token counts."""
    pieces: list[Piece] = []
    reply = await model.complete(asking("Write a Python function add(a, b). Code only.", max_tokens=60), on_piece=pieces.append)
    assert "return a + b" in reply.text
    assert "".join(piece.text for piece in pieces) == reply.text
    assert reply.usage.input_tokens > 10
    assert reply.usage.output_tokens > 5


@pytest.mark.model
async def test_a_score_that_ignores_the_test_result_is_noticed(model: LocalModel) -> None:
    """The same fix is approved when its tests pass and rejected when they fail."""
    assert isinstance(model, ScoringModel)
    scores = []
    for result in ("PASS (5 passed)", "FAIL (2 failed, 3 passed)"):
        question = f"Fix of a.py:\n```\n-append\n+extend\n```\nTest result: {result}\nApprove this fix? Answer yes or no."
        scores.append(await model.score((Message(role="system", text=CHECKER), Message(role="user", text=question))))
    assert scores[0] > 0 > scores[1]


@pytest.mark.model
async def test_agents_who_ask_at_once_take_turns(model: LocalModel) -> None:
    """Two at once both get their answer, and closing what one agent was given leaves the model to the others."""
    answers: list[str] = []

    async def ask() -> None:
        async with open_model(backend="local", local=model) as shared:
            answers.append((await shared.complete(asking("Say hi.", max_tokens=8))).text)

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        group.start_soon(ask)
    assert len(answers) == 2
    assert (await model.complete(asking("Say hi.", max_tokens=8))).text == answers[0]


@pytest.mark.model
async def test_a_prompt_that_is_too_long_is_told_as_such(model: LocalModel) -> None:
    """A prompt past the 4,096 tokens is a context overflow, not a dead server."""
    with pytest.raises(ContextOverflow, match="4096"):
        await model.complete(asking("x " * 5000))


@pytest.mark.model
async def test_other_users_of_the_machine_cannot_ask(model: LocalModel) -> None:
    """Without the key the server answers 401, and the key is not on its command line or in its environment."""
    endpoint = model._chat._endpoint
    body = json.dumps({"messages": [{"role": "user", "content": "hi"}]}).encode()
    request = urllib.request.Request(f"{endpoint.base_url}/chat/completions", body, {"Content-Type": "application/json"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        await anyio.to_thread.run_sync(urllib.request.urlopen, request)
    refused.value.close()
    assert refused.value.code == 401
    process = Path(f"/proc/{model._process.pid}")
    assert endpoint.key.encode() not in (process / "cmdline").read_bytes() + (process / "environ").read_bytes()


@pytest.mark.model
async def test_a_dead_server_is_told_as_such(tmp_path: Path) -> None:
    """A server that was killed, as the kernel does for want of memory, gives an error that says so."""
    async with LocalModel.open(WEIGHTS, log=tmp_path / "log") as opened:
        opened._process.kill()
        await opened._process.wait()
        with pytest.raises(ModelUnavailable, match="killed by signal 9"):
            await opened.complete(asking("Say hi."))
    assert (tmp_path / "log").stat().st_size > 0


@contextmanager
def parent(code: str) -> Iterator[subprocess.Popen[str]]:
    """A Python program whose output we read."""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def dies(pid: int) -> bool:
    """Whether the process ends in time."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        return bool(poll.poll(DIES_WITHIN_MS))
    finally:
        os.close(handle)


SERVING = f"""
import anyio, pathlib
from massgen.models import LocalModel
async def main():
    async with LocalModel.open(pathlib.Path({str(WEIGHTS)!r})) as model:
        print(model._process.pid, flush=True)
        await anyio.sleep_forever()
anyio.run(main)
"""
LOADING = f"""
import json, subprocess, sys
server = subprocess.Popen([sys.executable, "-m", "massgen.models.local_server"], stdin=subprocess.PIPE)
settings = dict(model={str(WEIGHTS)!r}, key="k", threads=1, context=512, log="/dev/null")
server.stdin.write(json.dumps(settings).encode() + b"\\n")
server.stdin.flush()
print(server.pid, flush=True)
server.wait()
"""


@pytest.mark.model
@pytest.mark.parametrize("code", [SERVING, LOADING], ids=["serving", "loading"])
def test_a_killed_host_leaves_no_server(code: str) -> None:
    """SIGKILL of the host: two gigabytes are free again within 3 s, also when it came while the model was loading."""
    with parent(code) as host:
        assert host.stdout is not None
        server = int(host.stdout.readline())
        host.send_signal(signal.SIGKILL)
        assert dies(server)


async def test_missing_weights_are_told_with_the_command(tmp_path: Path) -> None:
    """What is missing, how big it is, and what to type."""
    pytest.importorskip("xllamacpp")
    with pytest.raises(ConfigError, match=r"1\.1 GB.*massgen models pull"):
        async with LocalModel.open(tmp_path / "nothing.gguf"):
            pass


async def test_a_missing_library_is_told_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra that brings it is named."""
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(ConfigError, match=r"pip install 'massgen\[local\]'"):
        async with LocalModel.open(WEIGHTS):
            pass


async def test_a_model_that_does_not_load_is_not_waited_for(tmp_path: Path) -> None:
    """A file that llama.cpp refuses ends in an error that names the log."""
    pytest.importorskip("xllamacpp")
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"no model")
    stamp_file(broken).write_text(stamp_text(broken, QWEN_CODER))
    with pytest.raises(ModelUnavailable, match=r"local model.*log"):
        async with LocalModel.open(broken, log=tmp_path / "log"):
            pass
    assert "broken.gguf" in (tmp_path / "log").read_text()
