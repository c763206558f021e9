"""Which engine is meant: as the docker command understands it, and always one that sees this machine's files."""

from __future__ import annotations

import hashlib
import json
import socket
from pathlib import Path

import pytest

from sandbox import EngineUnavailable
from sandbox.engines.docker_address import USUAL, address, others


def context(home: Path, name: str, host: str) -> None:
    """As `docker context create` leaves it."""
    folder = home / ".docker/contexts/meta" / hashlib.sha256(name.encode()).hexdigest()
    folder.mkdir(parents=True)
    (folder / "meta.json").write_text(json.dumps({"Name": name, "Endpoints": {"docker": {"Host": host}}}))


@pytest.mark.parametrize(
    "host", ["tcp://10.0.0.1:2376", "tcp://localhost:2375", "ssh://me@host", "https://h", "npipe://x", "fd://", "host:2375"]
)
def test_an_engine_behind_a_network_fails_as_a_missing_mount(host: str, tmp_path: Path) -> None:
    """TLS or not: refused with its address, the reason, and what to do; from a context, with the context's name, too."""
    tls = {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(tmp_path)}
    with pytest.raises(EngineUnavailable, match=r"DOCKER_HOST names.*through a network.*DOCKER_HOST=unix://") as caught:
        address({"DOCKER_HOST": host, **tls})
    assert host in str(caught.value)
    context(tmp_path, "far", host)
    with pytest.raises(EngineUnavailable, match=r"DOCKER_CONTEXT \(far\) names"):
        address({"HOME": str(tmp_path), "DOCKER_CONTEXT": "far"})


def test_a_docker_context_is_ignored(tmp_path: Path) -> None:
    """DOCKER_HOST before DOCKER_CONTEXT before the current context before the usual socket; a missing context is said."""
    env = {"HOME": str(tmp_path)}
    assert address(env) == {}
    context(tmp_path, "mine", "unix:///run/user/7/docker.sock")
    context(tmp_path, "other", "unix:///other.sock")
    assert address({**env, "DOCKER_CONTEXT": "mine"}) == {"base_url": "unix:///run/user/7/docker.sock"}
    (tmp_path / ".docker/config.json").write_text('{"currentContext": "other"}')
    assert address(env) == {"base_url": "unix:///other.sock"}
    assert address({**env, "DOCKER_CONTEXT": "default"}) == {}
    assert address({**env, "DOCKER_CONTEXT": "mine"}) == {"base_url": "unix:///run/user/7/docker.sock"}
    assert address({**env, "DOCKER_HOST": "unix:///a.sock"}) == address({**env, "DOCKER_HOST": "/a.sock"})
    assert address({"DOCKER_CONFIG": str(tmp_path / ".docker")}) == {"base_url": "unix:///other.sock"}
    with pytest.raises(EngineUnavailable, match=r"'gone', which is not there; see `docker context ls`"):
        address({**env, "DOCKER_CONTEXT": "gone"})


@pytest.mark.parametrize("text", ["", "[]", "{", '{"currentContext": 5}', '{"currentContext": null}', "\ud800"])
def test_a_broken_docker_config_breaks_everything(tmp_path: Path, text: str) -> None:
    """It is the docker command's, not ours: what cannot be read chooses nothing, or is refused as a context that is not there."""
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker/config.json").write_text(text, encoding="utf-8", errors="surrogatepass")
    if "5" in text:
        with pytest.raises(EngineUnavailable):
            address({"HOME": str(tmp_path)})
    else:
        assert address({"HOME": str(tmp_path)}) == {}


@pytest.mark.parametrize(("place", "name"), [("docker.sock", "a rootless engine"), ("podman/podman.sock", "Podman")])
def test_an_engine_at_another_place_is_not_mentioned(tmp_path: Path, place: str, name: str) -> None:
    """A socket of a rootless engine or of Podman, where they put it, is suggested with the command to type."""
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    env = {"XDG_RUNTIME_DIR": str(tmp_path)}
    nowhere = {"base_url": f"unix://{tmp_path}/nowhere"}
    assert str(path) not in others(nowhere, env)
    path.write_text("not a socket")
    assert str(path) not in others(nowhere, env)
    path.unlink()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        words = others(nowhere, env)
        assert f"{name}'s socket at {path}" in words
        assert f"(asked: {tmp_path}/nowhere)" in words
        assert ("export DOCKER_HOST=unix:///" in words) is (name != "Podman" or Path(USUAL).is_socket())
        assert f"there is {name}" not in others({"base_url": f"unix://{path}"}, env)
    assert USUAL in others({}, {"XDG_RUNTIME_DIR": "/nonexistent"})
