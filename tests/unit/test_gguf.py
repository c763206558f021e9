"""What a model file says of itself, how much of it the machine holds, and calls that small models write as text."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from massgen.errors import ConfigError
from massgen.messages import Reply, ToolSpec
from massgen.models.fenced import with_calls
from massgen.models.gguf import MOST_CONTEXT, context_tokens, free_memory_bytes, shape
from tests.support.gguf import gguf_head

GIB = 1024**3
SHELL = ToolSpec(name="shell", description="", parameters={"type": "object"})


def test_the_context_is_what_the_machine_can_hold(tmp_path: Path) -> None:
    """Half of what is left beside the file, never more than the model was trained for, and an error when that is nothing."""
    path = tmp_path / "small.gguf"
    path.write_bytes(gguf_head())
    small = shape(path)
    assert (small.name, small.trained_tokens, small.cache_bytes_per_token) == ("Small", 65_536, 2 * 10 * 5 * 64 * 2)
    assert context_tokens(small, free_bytes=64 * GIB) == MOST_CONTEXT
    assert context_tokens(small, free_bytes=small.file_bytes + 2 * 5000 * 12_800) == 4864
    with pytest.raises(ConfigError, match=r"Small needs .* GB of memory"):
        context_tokens(small, free_bytes=10**6)
    path.write_bytes(gguf_head(llama__context_length=4096))
    assert context_tokens(shape(path), free_bytes=64 * GIB) == 4096


def test_a_group_with_less_memory_than_the_machine_counts(tmp_path: Path) -> None:
    """A limit of the control group is the machine to us."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    4096 kB\n")
    assert free_memory_bytes(tmp_path) == 4096 * 1024
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("3000000\n")
    (tmp_path / "sys/fs/cgroup/memory.current").write_text("1000000\n")
    assert free_memory_bytes(tmp_path) == 2_000_000
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("max\n")
    assert free_memory_bytes(tmp_path) == 4096 * 1024


@given(st.binary(max_size=200), st.integers(0, 300))
def test_a_strange_file_is_an_error_with_its_name(tmp_path_factory: pytest.TempPathFactory, noise: bytes, cut: int) -> None:
    """Whatever stands in it: a ConfigError at worst, no crash, no gigabyte read."""
    path = tmp_path_factory.getbasetemp() / "strange.gguf"
    whole = gguf_head()
    path.write_bytes(whole[:cut] + noise)
    with contextlib.suppress(ConfigError):
        shape(path)


@pytest.mark.parametrize(
    ("text", "said", "calls"),
    [
        ('Look:\n```json\n{"name": "shell", "arguments": {"command": "ls"}}\n```\n', "Look:", [{"command": "ls"}]),
        ('<tool_call>{"name": "shell", "parameters": {"a": 1}}</tool_call>', "", [{"a": 1}]),
        ('{"name": "shell", "arguments": {}}', "", [{}]),
        ('```json\n{"name": "rm", "arguments": {}}\n```', None, []),
        ('```json\n{"name": "shell", "arguments": "ls"}\n```', None, []),
        ("```python\nprint(1)\n```", None, []),
        ('The file says {"name": "shell", "arguments": {}} somewhere.', None, []),
    ],
)
def test_a_call_written_as_text_is_a_call_only_when_it_is_one(text: str, said: str | None, calls: list[object]) -> None:
    """Of a tool that was offered, with arguments, marked or alone; anything else stays text."""
    reply = with_calls(Reply(text=text), (SHELL,))
    assert [dict(call.args) for call in reply.calls] == calls
    assert reply.text == (text if said is None else said)
    assert reply.stop == ("tools" if calls else "end")
    assert with_calls(Reply(text=text), ()) == Reply(text=text)
