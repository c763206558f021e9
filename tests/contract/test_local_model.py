"""The embedded model. What only real weights can show needs them; what the server around them does is tried with a tiny model."""

from __future__ import annotations

import contextlib
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
from massgen.messages import Message, Piece, Request, ToolSpec, Usage
from massgen.models import LocalModel, ScoringModel, open_model
from massgen.models.gguf import shape
from massgen.models.pinned import QWEN_CODER, models_folder
from tests.support.gguf import gguf_head
from tests.support.tiny_model import FOR_EVER, tiny_model

WEIGHTS = models_folder(os.environ) / QWEN_CODER.file_name
CHECKER = "You check a bug fix by its test result. PASS means approve. FAIL means reject. Answer with one word: yes or no."
DIES_WITHIN_MS = 3000


def asking(text: str, **more: int) -> Request:
    """One question, always answered alike."""
    return Request(messages=(Message(role="user", text=text),), temperature=0.0, **more)


PLAIN = "A tiny model says all that it knows."
REPLIES = {"plain": PLAIN, "endless": f"and on and on it goes, until somebody stops it{FOR_EVER}"}
CHOOSE = "{% if 'forever' in messages[-1].content %}endless{% else %}plain{% endif %}"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file of a megabyte."""
    pytest.importorskip("xllamacpp")
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf", REPLIES, CHOOSE)


@pytest.fixture(scope="module")
async def shared(tiny: Path) -> AsyncIterator[LocalModel]:
    """It, loaded once for this file."""
    async with LocalModel.open(tiny, context=4096, linger_s=0.1) as opened:
        yield opened


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
    assert reply.cost_usd == 0.0
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


async def test_agents_who_ask_at_once_take_turns(shared: LocalModel) -> None:
    """Two at once both get their answer, and closing what one agent was given leaves the model to the others."""
    answers: list[str] = []

    async def ask() -> None:
        async with open_model(backend="local", local=shared) as own:
            answers.append((await own.complete(asking("Say hi."))).text)

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        group.start_soon(ask)
    assert answers == [PLAIN, PLAIN]
    assert (await shared.complete(asking("Say hi."))).text == PLAIN


async def test_a_prompt_that_is_too_long_is_told_as_such(shared: LocalModel) -> None:
    """A prompt past the 4,096 tokens is a context overflow, not a dead server."""
    with pytest.raises(ContextOverflow, match="4096"):
        await shared.complete(asking("x " * 5000))


async def test_other_users_of_the_machine_cannot_ask(shared: LocalModel) -> None:
    """Without the key the server answers 401, and the key is not on its command line or in its environment."""
    endpoint = shared.endpoint
    body = json.dumps({"messages": [{"role": "user", "content": "hi"}]}).encode()
    request = urllib.request.Request(f"{endpoint.base_url}/chat/completions", body, {"Content-Type": "application/json"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        await anyio.to_thread.run_sync(urllib.request.urlopen, request)
    refused.value.close()
    assert refused.value.code == 401
    process = Path(f"/proc/{shared.server_pid}")
    assert endpoint.key.encode() not in (process / "cmdline").read_bytes() + (process / "environ").read_bytes()


async def test_a_dead_server_is_told_as_such_and_started_again(tiny: Path) -> None:
    """A server that was killed, as the kernel does for want of memory, gives an error that says so; the next call works."""
    async with LocalModel.open(tiny, context=8192, linger_s=0.1) as opened:
        killed = opened.server_pid

        def kill(_: Piece) -> None:
            with contextlib.suppress(ProcessLookupError):  # more of what it had said may arrive when it is gone
                os.kill(killed, signal.SIGKILL)

        with pytest.raises(ModelUnavailable, match=r"killed by signal 9.*starts it again"):
            await opened.complete(asking("Talk forever."), on_piece=kill)
        assert (await opened.complete(asking("Say hi."))).text == PLAIN
        assert opened.server_pid != killed


async def test_runs_share_one_server_and_the_last_one_ends_it(tiny: Path) -> None:
    """Two at once start one; the second reuses what the first one's prompt cost; when both have left it is gone."""
    opened: list[LocalModel] = []
    usages: list[Usage] = []
    ready, over = anyio.Event(), anyio.Event()

    async def run(who: str) -> None:
        async with LocalModel.open(tiny, context=1536, linger_s=0.1) as model:
            opened.append(model)
            messages = (Message(role="system", text="You are brief. " * 60), Message(role="user", text=f"I am {who}."))
            usages.append((await model.complete(Request(messages=messages, max_tokens=4))).usage)
            if len(usages) == 2:
                ready.set()
            await over.wait()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, "one")
        tasks.start_soon(run, "two")
        await ready.wait()
        assert opened[0].server_pid == opened[1].server_pid
        over.set()
    assert usages[1].cached_tokens > 0.8 * usages[1].input_tokens
    assert await anyio.to_thread.run_sync(dies, opened[0].server_pid)


async def test_a_server_that_lingers_is_there_for_the_next_run(tiny: Path) -> None:
    """It stays for a moment after its last user, and knows none of the variables of whoever started it."""
    async with LocalModel.open(tiny, context=1280, linger_s=5) as first:
        pid = first.server_pid
    async with LocalModel.open(tiny, context=1280, linger_s=5) as second:
        assert second.server_pid == pid
        assert "PYTEST_CURRENT_TEST" not in environ(pid)
        os.kill(pid, signal.SIGTERM)


def environ(pid: int) -> str:
    """Of a process of ours."""
    return Path(f"/proc/{pid}/environ").read_text()


async def test_a_second_run_does_not_load_a_large_model_again(tiny: Path) -> None:
    """The first one has left too little memory for another: it joins, with the context that there is. Alone it is told so."""
    size = shape(tiny).file_bytes
    little, enough = size + 100_000, size + 1_500_000
    with pytest.raises(ConfigError, match=r"needs .* GB of memory"):
        async with LocalModel.open(tiny, linger_s=0.1, free_bytes=little):
            pass
    async with LocalModel.open(tiny, linger_s=0.1, free_bytes=enough) as first:
        assert 2048 <= first.context_tokens < 32_768
        async with LocalModel.open(tiny, linger_s=0.1, free_bytes=little) as second:
            assert (second.server_pid, second.context_tokens) == (first.server_pid, first.context_tokens)


@pytest.mark.model
@pytest.mark.slow
async def test_a_file_by_its_path_can_call_tools(tmp_path: Path) -> None:
    """Any GGUF file says how large it is, and a call that its model writes as text is a call."""
    path = tmp_path / "mine.gguf"
    path.symlink_to(WEIGHTS)
    schema = {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]}
    shell = ToolSpec(name="shell", description="Run a command.", parameters=schema)
    assert shape(path).trained_tokens == 32_768
    async with LocalModel.open(path, context=2048, linger_s=0.1) as opened:
        ask = Message(role="user", text="List the files in the current folder with the tool.")
        reply = await opened.complete(Request(messages=(ask,), tools=(shell,), max_tokens=100, temperature=0.0))
    assert [call.name for call in reply.calls] == ["shell"]
    assert "ls" in reply.calls[0].args["command"]
    assert reply.stop == "tools"


@contextmanager
def parent(code: str, weights: Path) -> Iterator[subprocess.Popen[str]]:
    """A Python program whose output we read."""
    with subprocess.Popen([sys.executable, "-c", code, str(weights)], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def dies(pid: int, within_ms: int = DIES_WITHIN_MS) -> bool:
    """Whether the process ends in time."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        return bool(poll.poll(within_ms))
    finally:
        os.close(handle)


SERVING = """
import anyio, pathlib, sys
from massgen.models import LocalModel
async def main():
    async with LocalModel.open(pathlib.Path(sys.argv[1]), context=768, linger_s=0.1) as model:
        print(model.server_pid, flush=True)
        await anyio.sleep_forever()
anyio.run(main)
"""
LOADING = """
import json, subprocess, sys
server = subprocess.Popen([sys.executable, "-m", "massgen.models.local_server"], stdin=subprocess.PIPE)
settings = dict(model=sys.argv[1], key="k", threads=1, context=512, log="/dev/null")
server.stdin.write(json.dumps(settings).encode() + b"\\n")
server.stdin.flush()
print(server.pid, flush=True)
server.wait()
"""


def test_users_that_are_killed_leave_no_server(tiny: Path) -> None:
    """SIGKILL of one of two: it stays for the other; of both: its memory is free again within 3 s."""
    with parent(SERVING, tiny) as first, parent(SERVING, tiny) as second:
        assert first.stdout is not None
        assert second.stdout is not None
        server = int(first.stdout.readline())
        assert int(second.stdout.readline()) == server
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert not dies(server, within_ms=500)
        second.send_signal(signal.SIGKILL)
        assert dies(server)


@pytest.mark.model
def test_a_keeper_that_is_killed_leaves_no_server() -> None:
    """Also when it comes while the model is loading."""
    with parent(LOADING, WEIGHTS) as keeper:
        assert keeper.stdout is not None
        server = int(keeper.stdout.readline())
        keeper.send_signal(signal.SIGKILL)
        assert dies(server)


async def test_missing_weights_are_told_with_the_command(tmp_path: Path) -> None:
    """What is missing, how big it is, and what to type."""
    pytest.importorskip("xllamacpp")
    with pytest.raises(ConfigError, match=r"1\.1 GB.*massgen models pull"):
        async with LocalModel.open(tmp_path / QWEN_CODER.file_name):
            pass


async def test_a_missing_library_is_told_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra that brings it is named."""
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(ConfigError, match=r"pip install 'massgen\[local\]'"):
        async with LocalModel.open(WEIGHTS):
            pass


def named_log(said: str) -> str:
    """What the log holds that an error names."""
    return Path(said.rpartition("log: ")[2]).read_text()


async def test_a_model_that_does_not_load_is_not_waited_for(tmp_path: Path) -> None:
    """A file that llama.cpp refuses ends in an error that names the log; one that is no model file is not even tried."""
    pytest.importorskip("xllamacpp")
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(gguf_head() + b"no tensors")
    with pytest.raises(ModelUnavailable, match=r"local model.*log") as caught:
        async with LocalModel.open(broken, context=512, linger_s=0.1):
            pass
    assert "broken.gguf" in named_log(str(caught.value))
    broken.write_bytes(b"no model")
    with pytest.raises(ConfigError, match="not a GGUF model file"):
        async with LocalModel.open(broken):
            pass
