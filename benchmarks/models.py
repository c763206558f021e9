"""What the relay costs beyond the providers' own SDKs, and what `massgen --help` loads.

    python benchmarks/models.py [--quick]       a table, and JSON in benchmarks/results/models.json; exit 1 when a limit is missed

Side by side in one process on one core: the SDK's bare loop over a stream, and the same stream through adapter, retries,
circuit, budget, events and the log on disk. The server is a process of its own on the other cores. Figures per token are
processor time, which a busy machine does not change; those per call are the clock's.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import ratios

STREAMS = 10
MOST_PER_TOKEN_MS = 0.2
MOST_PER_CALL_MS = 5.0
MOST_HELP_MS = 300.0
SDKS = ("openai", "anthropic", "google.genai", "httpx2", "docker", "pydantic", "mcp")
KINDS = ("chat", "responses", "claude", "gemini")


@dataclass(frozen=True)
class Pair:
    """One call, bare and through the relay; both return when the reply is whole."""

    bare: Callable[[], Awaitable[object]]
    ours: Callable[[], Awaitable[object]]


@asynccontextmanager
async def pair(kind: str, url: str, folder: Path) -> AsyncIterator[Pair]:
    """The two ways of asking one server."""
    from massgen.agent.calls import Caller
    from massgen.agent.metered import MeteredModel
    from massgen.budget import Cap, Ledger, Price
    from massgen.display.story import Story
    from massgen.events.log import EventLog
    from massgen.messages import Message, Request

    model = opened(kind, url)
    price = Price(input=1.0, output=2.0)
    metered = MeteredModel(model, agent="a", ledger=Ledger(run=Cap(cost_usd=1e6)), price=price, spent=lambda: None)
    folder.mkdir()  # noqa: ASYNC240  (nothing else runs yet)
    with EventLog(folder, "bench", readers=[Story().feed]) as log:
        caller = Caller(label="agent1", model=metered, emit=lambda event: void(log.emit(event)))
        ask = Request(messages=(Message(role="user", text="Say something."),))
        bare, close = sdk(kind, url)
        try:
            yield Pair(bare, lambda: caller.complete(ask))
        finally:
            await close()
            await model.aclose()


def void(_: object) -> None:
    """Sessions report; where it lands is no business of theirs."""


def opened(kind: str, url: str) -> Any:  # noqa: ANN401  # one of four adapters
    """Our adapter."""
    from massgen.models.chat import ChatModel
    from massgen.models.claude import ClaudeModel
    from massgen.models.gemini import GeminiModel
    from massgen.models.openai_sdk import OpenAIClient
    from massgen.models.responses import ResponsesModel

    if kind in ("chat", "responses"):
        client = OpenAIClient(model="m", base_url=f"{url}/v1", api_key="k")
        return ChatModel(client) if kind == "chat" else ResponsesModel(client)
    return (ClaudeModel if kind == "claude" else GeminiModel)(model="m", base_url=url, api_key="k")


def sdk(kind: str, url: str) -> tuple[Callable[[], Awaitable[object]], Callable[[], Awaitable[None]]]:
    """The vendor's own client, asked as its manual says, and how to close it."""
    said = [{"role": "user", "content": "Say something."}]
    if kind in ("chat", "responses"):
        import openai

        client: Any = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0)

        async def openai_call() -> None:
            asked = (
                client.chat.completions.create(model="m", messages=said, stream=True, stream_options={"include_usage": True})
                if kind == "chat"
                else client.responses.create(model="m", input=said, stream=True)
            )
            async for _ in await asked:
                pass

        return openai_call, client.close
    if kind == "claude":
        import anthropic

        other: Any = anthropic.AsyncAnthropic(base_url=url, api_key="k", max_retries=0)

        async def claude_call() -> None:
            async for _ in await other.messages.create(model="m", messages=said, max_tokens=16_384, stream=True):
                pass

        return claude_call, other.close
    from google import genai
    from google.genai import types

    third: Any = genai.Client(enterprise=False, api_key="k", http_options=types.HttpOptions(base_url=url)).aio

    async def gemini_call() -> None:
        async for _ in await third.models.generate_content_stream(model="m", contents="Say something."):
            pass

    return gemini_call, third.aclose


async def per_token(one: Pair, words: int, rounds: int) -> tuple[float, float]:
    """Processor milliseconds of a token in ten streams at once: bare, ours. In turn, medians."""
    import anyio

    async def ten(call: Callable[[], Awaitable[object]]) -> float:
        began = time.process_time()
        async with anyio.create_task_group() as tasks:
            for _ in range(STREAMS):
                tasks.start_soon(call)
        return (time.process_time() - began) * 1000 / (STREAMS * words)

    taken = [(await ten(one.bare), await ten(one.ours)) for _ in range(rounds + 1)][1:]
    return ratios.p50([bare for bare, _ in taken]), ratios.p50([ours for _, ours in taken])


async def per_call(one: Pair, rounds: int) -> tuple[float, float, float]:
    """Milliseconds of a call with a short reply: bare, ours, and ours at the 95th of a hundred."""
    bare: list[float] = []
    ours: list[float] = []
    for _ in range(rounds):
        for call, taken in ((one.bare, bare), (one.ours, ours)):
            began = time.perf_counter()
            await call()
            taken.append(ratios.since(began))
    return ratios.p50(bare), ratios.p50(ours), ratios.p95(ours)


async def relay(*, quick: bool) -> list[ratios.Row]:
    """Each protocol."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    words, rounds, calls = (200, 3, 20) if quick else (500, 9, 100)
    rows: list[ratios.Row] = []
    with tempfile.TemporaryDirectory(prefix="massgen-bench-") as folder, server(words) as long, server(1) as short:
        for kind in KINDS:
            async with pair(kind, long, Path(folder) / f"{kind}-long") as one:
                bare, ours = await per_token(one, words, rounds)
            text = f"{kind}: a token beyond the SDK's, {STREAMS} streams on a core"
            note = f"{ours:.3f} ms with us, {bare:.3f} ms bare"
            rows.append(ratios.Row(what=text, ours=ours - bare, limit=MOST_PER_TOKEN_MS, note=note))
            async with pair(kind, short, Path(folder) / f"{kind}-short") as one:
                bare, ours, high = await per_call(one, calls)
            note = f"{ours:.2f} ms with us, {bare:.2f} ms bare"
            what = f"{kind}: a call beyond the SDK's"
            rows.append(ratios.Row(what=what, ours=ours - bare, limit=MOST_PER_CALL_MS, p95=high - bare, note=note))
    return rows


class server:  # noqa: N801  # a context manager, named as what it gives
    """A provider in a process of its own that says so many words."""

    def __init__(self, words: int) -> None:
        code = (
            "import sys\n"
            "from tests.support.fake_provider import fake_provider\n"
            "from tests.support.fake_wires import Script\n"
            "with fake_provider() as provider:\n"
            f"    provider.think = lambda _: Script(words=['word '] * {words})\n"
            "    print(provider.url, flush=True)\n"
            "    sys.stdin.read()\n"
        )
        pipe = subprocess.PIPE
        self._process = subprocess.Popen([sys.executable, "-c", code], cwd=ratios.ROOT, stdin=pipe, stdout=pipe, text=True)
        os.sched_setaffinity(self._process.pid, set(range(os.cpu_count() or 1)))

    def __enter__(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def __exit__(self, *_: object) -> None:
        self._process.communicate()


def start(*, quick: bool) -> list[ratios.Row]:
    """`massgen --help`, and what it loads."""
    command = [sys.executable, "-m", "massgen", "--help"]
    taken = [ratios.timed(lambda: ratios.quietly(*command)) for _ in range(4 if quick else 16)][1:]
    code = (
        "import sys, contextlib\n"
        "from massgen.cli.main import main\n"
        "with contextlib.suppress(SystemExit):\n"
        "    main(['--help'])\n"
        f"print(*[name for name in {SDKS!r} if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ratios.ROOT)
    loaded = done.stderr.split()
    return [
        ratios.Row(what="massgen --help", ours=ratios.p50(taken), limit=MOST_HELP_MS, p95=ratios.p95(taken)),
        ratios.Row(what="SDKs and engines that it loads", ours=float(len(loaded)), unit="", limit=0.0, note=" ".join(loaded)),
    ]


def main() -> int:
    """Measure, print, write; returns the exit code."""
    import anyio

    parser = argparse.ArgumentParser(description="What the relay costs beyond the SDKs.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, shorter streams")
    quick = parser.parse_args().quick
    ratios.as_installed()
    sections = {"start": start(quick=quick)}

    async def measure() -> list[ratios.Row]:
        return await relay(quick=quick)

    sections["relay"] = anyio.run(measure)
    return ratios.report("models", sections, ratios.machine())


if __name__ == "__main__":
    sys.exit(main())
