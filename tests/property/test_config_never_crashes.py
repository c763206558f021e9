"""Whatever a config file holds: a Config comes out, or a ConfigError does."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from massgen.config.load import Flags, load
from massgen.config.model import Config
from massgen.config.resolved import resolved_yaml
from massgen.config.sizes import duration_s, size_bytes
from massgen.errors import ConfigError

KEYS = st.sampled_from(
    """
    agent agents id backend type model api_key base_url cwd temperature max_tokens extra_body script context_paths path
    permission protected_paths system_message backend_params orchestrator verify write coordination max_new_answers_per_agent
    sandbox image memory cpus pids disk timeout_settings orchestrator_timeout_seconds ui display_type logging_enabled consensus
    """.split()  # noqa: SIM905  (forty quoted words would be harder to read)
)
WORDS = [
    "local",
    "claude",
    "chatcompletion",
    "scripted",
    "gemini",
    "write",
    "read",
    "/",
    "~",
    ".",
    "apply",
    "${HOME}",
    "4g",
    "http://[::1",
]
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.sampled_from(WORDS))
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=5), inner, max_size=4),
    max_leaves=25,
)
BACKEND = st.fixed_dictionaries(
    {"type": LEAVES}, optional={"model": LEAVES, "cwd": LEAVES, "temperature": LEAVES, "context_paths": VALUES}
)
AGENT = st.fixed_dictionaries(
    {"id": st.sampled_from(["a", "b", "agent1"]) | VALUES, "backend": BACKEND}, optional={"system_message": LEAVES}
)
CONFIGS = VALUES | st.fixed_dictionaries(
    {"agents": st.lists(AGENT, max_size=3)},
    optional={"orchestrator": VALUES, "sandbox": VALUES, "ui": VALUES, "timeout_settings": VALUES},
)


def check(text: str | bytes, folder: Path) -> None:
    path = folder / "c.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    try:
        found = load(Flags(config=str(path)), {"HOME": str(folder / "home")}, cwd=folder)
    except ConfigError:
        return
    assert isinstance(found, Config)
    assert found.agents
    assert resolved_yaml(found)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("config")


QUIET = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@QUIET
@given(CONFIGS)
def test_any_values_in_the_shape_of_a_config(folder: Path, value: Any):
    """Right keys with wrong values, in all combinations."""
    check(json.dumps(value), folder)


@QUIET
@given(st.text(alphabet=st.sampled_from("ab:-{}[]&*!|>%@`'\"#, \n\t\0\x1b<=~?é\ud800"), max_size=60))
@example("? a\n: b")
@example("a: !!float '1_0:'")
@example("a: 1e999999")
@example("a: " + "9" * 5000)
@example("a: !!timestamp x")
@example("a: !!set {x}")
@example("a: 0b")
@example("= : 1")
@example("a: =")
def test_any_text(folder: Path, text: str):
    """YAML's own corners."""
    check(text, folder)


@QUIET
@given(st.binary(max_size=60))
def test_any_bytes(folder: Path, data: bytes):
    """Other encodings, broken ones, images."""
    check(data, folder)


@QUIET
@given(st.text(max_size=30) | st.from_regex(r"\d{1,400}(\.\d+)?[kmgth]?", fullmatch=True))
def test_sizes_and_durations_are_finite_or_refused(text: str):
    """There is no unlimited."""
    for parse, most in ((size_bytes, 1024**5), (duration_s, 7 * 24 * 3600)):
        with suppress(ConfigError):
            assert 0 <= parse(text) <= most
